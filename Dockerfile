# Two images: `server` (API, dashboard, migrations) and `agent` (what a GPU host needs). BuildKit builds them, which is
# Docker's default. Wheels are made in stages that are thrown away: the images hold neither sources nor build tools.
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY gigawatch gigawatch
COPY collector collector
COPY api api
COPY dashboard dashboard
COPY migrations migrations

FROM build AS build-server
RUN pip wheel --no-cache-dir --constraint requirements.lock --wheel-dir /wheels '.[server,dashboard]'

FROM build AS build-agent
RUN pip wheel --no-cache-dir --constraint requirements.lock --wheel-dir /wheels '.[collector,kubernetes,meters]'

FROM python:3.13-slim AS run
# The number is known, so that a host can give it a folder or a token.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/gigawatch --shell /usr/sbin/nologin gigawatch \
    && install --directory --owner gigawatch --group gigawatch --mode 700 /var/lib/gigawatch
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /var/lib/gigawatch

FROM run AS server
RUN --mount=type=bind,from=build-server,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels 'gigawatch[server,dashboard]'
USER 10001
EXPOSE 8600 8601
CMD ["gigawatch", "serve", "--host", "0.0.0.0"]

FROM run AS agent
RUN --mount=type=bind,from=build-agent,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels 'gigawatch[collector,kubernetes,meters]'
USER 10001
CMD ["gigawatch", "collect"]

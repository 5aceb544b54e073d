# Two images: `server` (API, dashboard, migrations) and `agent` (what a GPU host needs).
FROM python:3.13-slim AS base
RUN useradd --create-home --uid 10001 gigawatch \
    && install --directory --owner gigawatch --mode 700 /var/lib/gigawatch
WORKDIR /src
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY gigawatch gigawatch
COPY collector collector
COPY api api
COPY dashboard dashboard
COPY migrations migrations

FROM base AS server
RUN pip install --no-cache-dir --constraint requirements.lock '.[server,dashboard]'
USER gigawatch
WORKDIR /var/lib/gigawatch

FROM base AS agent
RUN pip install --no-cache-dir --constraint requirements.lock '.[collector]'
USER gigawatch
WORKDIR /var/lib/gigawatch
CMD ["gigawatch", "collect"]

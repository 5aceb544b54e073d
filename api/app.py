"""The HTTP service: takes batches in, answers reads."""

import gc
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import sqlalchemy
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response

from api.access import Access, require
from api.alerts import login
from api.alerts import routes as alert_routes
from api.alerts.configured import rules_in_force
from api.alerts.keeper import Keeper
from api.alerts.telling import Telling
from api.counts import Counts
from api.documents import Greeting, Problem, answers, describe, known_parameters
from api.factors import routes as factor_routes
from api.ingest import RETRY_SOON, Ingest
from api.metrics import CONTENT_TYPE, Metrics
from api.reads import router
from api.reports import routes as report_routes
from api.retention import HOURS_MARGIN, WINDOWS_MARGIN, taken
from api.scheduler import Scheduler
from api.topology import routes as topology_routes
from api.writer import Writer
from gigawatch import __version__, database, settings
from gigawatch.errors import GigawatchError
from gigawatch.known import Unknown
from gigawatch.readings import TooMany
from gigawatch.schema import require_revision
from gigawatch.serving import handed_down
from gigawatch.settings import Settings
from gigawatch.tokens import Role
from gigawatch.units import BYTES_PER_MIB, MILLISECONDS_PER_SECOND

DESCRIPTION = """Batches of GPU telemetry in, figures out. Every endpoint but the health checks needs a token: header
`Authorization: Bearer …`. Agents' tokens may send, viewers' may read, operators' may read, and silence and
acknowledge alerts; admins' may do all that, send and remove prices, carbon intensities and configured PUE, and bring
topologies and configurations of alerts into force. Times are UTC."""
SWITCH_S = 0.0005
GARBAGE = 50_000
"""Objects made before cycles are looked for."""
QUERY_CANCELED = "57014"
log = logging.getLogger(__name__)


def create() -> Ingest:
    """The application, as a server imports it: settings come from the environment."""
    loaded = settings.load()
    app = build(loaded)
    return Ingest(app, loaded.server, app.state)


def build(loaded: Settings) -> FastAPI:
    """The application but for the way in.

    Raises:
        GigawatchError: store.database_url is not set.
    """
    url = handed_down(loaded.store)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        engine = database.engine(url, pool_size=loaded.store.pool_size, application="gigawatch serve")
        report_engine = database.engine(
            url,
            pool_size=loaded.store.pool_size,
            statement_timeout_s=loaded.store.statement_timeout_s,
            role=database.REPORT_ROLE,
            application="gigawatch serve, reads",
        )
        counts = Counts.of_environment()
        writer = Writer(
            engine,
            loaded.server.gather_ms / MILLISECONDS_PER_SECOND,
            loaded.server.max_waiting_mib * BYTES_PER_MIB,
            taken(loaded.retention.windows_d, WINDOWS_MARGIN),
            taken(loaded.retention.hours_d, HOURS_MARGIN),
            counts,
        )
        rules_engine = login.rules_engine(engine, loaded.alerts)

        def keeper() -> Keeper:
            telling = Telling(engine, loaded.alerts)
            return Keeper(engine, rules_engine, loaded.alerts, rules_in_force, telling)

        scheduler = None
        if loaded.server.scheduler:
            scheduler = Scheduler(engine, loaded.retention, loaded.alerts, keeper if loaded.alerts.enabled else None)
        # The writer gives up the interpreter at each of its round trips, and the loop holds it for the usual 5 ms.
        sys.setswitchinterval(SWITCH_S)
        # Batches hold no cycles, and looking for some took a sixth of the time.
        gc.set_threshold(GARBAGE)
        writer.start()
        if scheduler is not None:
            scheduler.start()
        app.state.settings = loaded
        app.state.access = Access(engine)
        app.state.writer = writer
        app.state.metrics = Metrics(report_engine, counts)
        app.state.engine = engine
        app.state.report_engine = report_engine
        app.state.rules_engine = rules_engine
        yield
        if scheduler is not None:
            await run_in_threadpool(scheduler.stop)
        await run_in_threadpool(writer.stop)
        engine.dispose()
        report_engine.dispose()
        rules_engine.dispose()

    app = FastAPI(title="Gigawatch", version=__version__, description=DESCRIPTION, lifespan=life, redoc_url=None)
    for it in (router, factor_routes.router, topology_routes.router, report_routes.router, alert_routes.router):
        app.include_router(it, dependencies=[Depends(known_parameters)])
    app.openapi = lambda: describe(app)  # type: ignore[method-assign] # FastAPI's own way to extend it
    _add_hello(app)
    _add_health(app)
    _add_metrics(app)
    _add_errors(app)
    return app


def _add_hello(app: FastAPI) -> None:
    @app.get("/api/v1/hello", responses=answers(Greeting), tags=["ingest"])
    async def hello(
        request: Request, role: Annotated[Role, Depends(require("agent", "viewer", "operator"))]
    ) -> Response:
        """The server's time and version, and the role of the token."""
        loaded: Settings = request.app.state.settings
        greeting = Greeting(
            server_time=datetime.now(UTC),
            version=__version__,
            role=role,
            max_clock_offset_s=loaded.server.max_clock_offset_s,
        )
        return Response(msgspec.json.encode(greeting), media_type="application/json")


def _add_health(app: FastAPI) -> None:
    @app.get("/healthz", tags=["health"])
    async def healthz() -> dict[str, str]:
        """This process is alive."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["health"], responses={503: {"description": "The database is away or does not fit"}})
    def readyz(request: Request) -> dict[str, str]:
        """The database answers and has this version's schema."""
        with request.app.state.engine.connect() as connection:
            require_revision(connection)
            edition = database.capabilities(connection)
        return {"status": "ok", "database": str(edition)}


def _add_metrics(app: FastAPI) -> None:
    @app.get(
        "/metrics",
        responses={status: answers(Problem)[status] for status in (401, 403, 503)},
        response_class=PlainTextResponse,
        dependencies=[Depends(require("viewer", "operator"))],
        tags=["health"],
    )
    def metrics(request: Request) -> Response:
        """What the processes of this server counted, and how far the store is, for Prometheus."""
        found: Metrics = request.app.state.metrics
        return Response(found.text(), media_type=CONTENT_TYPE)


def _add_errors(app: FastAPI) -> None:
    """Every error is {"detail": "…"}, in words that name the field, the value and the remedy."""

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        return _problem(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def wrong_parameter(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][1:])
        return _problem(422, f"Parameter {name} = {str(first.get('input'))[:80]!r}: {first['msg']}")

    @app.exception_handler(GigawatchError)
    async def unfit(_: Request, error: GigawatchError) -> Response:
        return _problem(503, f"{error.problem}. {error.remedy}")

    @app.exception_handler(Unknown)
    async def unknown(_: Request, error: Unknown) -> Response:
        return _problem(404, f"{error.problem}. {error.remedy}")

    @app.exception_handler(TooMany)
    async def too_many(_: Request, error: TooMany) -> Response:
        return _problem(422, f"{error.problem}. {error.remedy}")

    @app.exception_handler(sqlalchemy.exc.DBAPIError)
    async def database_failed(request: Request, error: sqlalchemy.exc.DBAPIError) -> Response:
        if getattr(error.orig, "sqlstate", None) == QUERY_CANCELED:
            timeout_s = request.app.state.settings.store.statement_timeout_s
            return _problem(503, f"The read took longer than {timeout_s:g} s: ask for a shorter period or a filter")
        if isinstance(error, sqlalchemy.exc.DataError) and getattr(error.orig, "sqlstate", None) is None:
            # It did not get as far as the database.
            return _problem(422, f"One of the values cannot be: {error.orig}")
        log.warning("%s: %s", request.url.path, str(error.orig).partition("\n")[0])
        return _problem(503, "The database cannot be reached: try again soon", RETRY_SOON)


def _problem(status: int, detail: str, headers: dict[str, Any] | None = None) -> Response:
    return Response(msgspec.json.encode(Problem(detail=detail)), status, headers, "application/json")

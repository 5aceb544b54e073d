"""Taking prices, carbon intensities and configured PUE in over HTTP, and removing them: for admins."""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from msgspec import Struct
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response

from api.access import require
from api.documents import answers
from api.factors import files, store
from api.factors.intervals import Factors
from api.factors.layouts import Emissions
from api.factors.store import Conflict, FactorTable, Kind, Method, Removed, Taken
from api.received import received
from gigawatch.errors import GigawatchError
from gigawatch.known import Unknown
from gigawatch.units import BYTES_PER_MIB

T = TypeVar("T", bound=Struct)
router = APIRouter(prefix="/api/v1", dependencies=[Depends(require("admin"))], tags=["tariffs"])


class Given(Struct, frozen=True, kw_only=True):
    """What is said of a file beside what it holds."""

    site: str
    time_zone: str | None
    source: str | None
    version: str | None
    replace: bool
    dry_run: bool


def _given(
    site: Annotated[str, Query(max_length=200, description="Site that the values are of")],
    time_zone: Annotated[
        str | None, Query(max_length=60, description="Of times without offset, e.g. Europe/Berlin")
    ] = None,
    source: Annotated[
        str | None, Query(max_length=500, description="Where they come from; default as the file says")
    ] = None,
    version: Annotated[str | None, Query(max_length=500, description="Default the body's SHA-256, 12 digits")] = None,
    replace: Annotated[bool, Query(description="Retire what counts for that time already")] = False,
    dry_run: Annotated[bool, Query(description="Check everything, store nothing")] = False,
) -> Given:
    return Given(site=site, time_zone=time_zone, source=source, version=version, replace=replace, dry_run=dry_run)


GivenQuery = Annotated[Given, Depends(_given)]


def _body(*kinds: str) -> dict[str, Any]:
    content = {kind: {"schema": {"type": "string"}} for kind in kinds}
    return {"requestBody": {"required": True, "description": "A file: docs/tariffs.md", "content": content}}


@router.post(
    "/tariffs",
    responses=answers(Taken, 409, 413),
    openapi_extra=_body("text/csv", "application/json", "application/toml"),
)
async def take_tariff(
    request: Request,
    given: GivenQuery,
    currency: Annotated[str | None, Query(max_length=3, description="ISO 4217; where the file does not say")] = None,
) -> Response:
    """Take prices of energy in: CSV or JSON, or a time-of-use schedule in TOML or JSON; all of it or nothing."""

    def read(body: bytes) -> tuple[Kind, Factors]:
        found = files.prices(body, currency=currency, time_zone=given.time_zone)
        return store.price(found.currency or ""), found

    return await _take(request, read, given)


@router.post("/grid-intensity", responses=answers(Taken, 409, 413), openapi_extra=_body("text/csv", "application/json"))
async def take_intensity(
    request: Request,
    given: GivenQuery,
    method: Method,
    instrument: Annotated[str | None, Query(max_length=500, description="What was bought, for market")] = None,
    emissions: Annotated[Emissions, Query(description="Column of an export of Electricity Maps")] = "direct",
) -> Response:
    """Take carbon intensities in, as CSV or JSON; all of it or nothing."""

    def read(body: bytes) -> tuple[Kind, Factors]:
        kind = store.intensity(method, instrument)
        return kind, files.intensities(body, emissions=emissions, time_zone=given.time_zone)

    return await _take(request, read, given)


@router.post("/configured-pue", responses=answers(Taken, 409, 413), openapi_extra=_body("text/csv"))
async def take_pue(request: Request, given: GivenQuery) -> Response:
    """Take configured, not measured, PUE in, as CSV; all of it or nothing."""
    return await _take(request, lambda body: (store.CONFIGURED_PUE, files.pues(body, time_zone=given.time_zone)), given)


@router.delete("/tariffs/imports/{import_id}", responses=answers(Removed))
def remove_tariff(request: Request, import_id: int) -> Response:
    """Retire the prices of an import."""
    return _remove(request, "tariff", import_id)


@router.delete("/grid-intensity/imports/{import_id}", responses=answers(Removed))
def remove_intensity(request: Request, import_id: int) -> Response:
    """Retire the carbon intensities of an import."""
    return _remove(request, "grid_intensity", import_id)


@router.delete("/configured-pue/imports/{import_id}", responses=answers(Removed))
def remove_pue(request: Request, import_id: int) -> Response:
    """Retire the configured PUE of an import."""
    return _remove(request, "configured_pue", import_id)


async def _take(request: Request, read: Callable[[bytes], tuple[Kind, Factors]], given: Given) -> Response:
    most_bytes = request.app.state.settings.server.max_body_mib * BYTES_PER_MIB
    body = await received(request, most_bytes, "split the file by year")

    def take(connection: Connection) -> Taken:
        kind, factors = read(body)
        return store.take(
            connection, given.site, kind, factors, version=given.version, source=given.source,
            replace=given.replace, dry_run=given.dry_run,
        )  # fmt: skip

    return await run_in_threadpool(_answer, request, take)


def _remove(request: Request, table: FactorTable, import_id: int) -> Response:
    if not 1 <= import_id < 2**31:
        raise HTTPException(404, "There is no such thing")
    return _answer(request, lambda connection: store.remove(connection, table, import_id))


def _answer(request: Request, work: Callable[[Connection], Struct]) -> Response:
    try:
        with request.app.state.engine.begin() as connection:
            done = work(connection)
    except GigawatchError as error:
        status = 409 if isinstance(error, Conflict) else 404 if isinstance(error, Unknown) else 422
        raise HTTPException(status, f"{error.problem}. {error.remedy}") from error
    return Response(msgspec.json.encode(done), media_type="application/json")

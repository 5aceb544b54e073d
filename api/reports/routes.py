"""Reports over HTTP: what `gigawatch report` writes, for viewers."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Request
from sqlalchemy import Connection
from starlette.exceptions import HTTPException
from starlette.responses import Response

from api.access import require
from api.documents import Problem, answers
from api.factors import clocks
from api.reports import eu_eed, monthly
from api.reports.formats import FORMATS, file_name, snapshot
from api.reports.model import Report
from gigawatch.errors import GigawatchError
from gigawatch.known import Unknown

router = APIRouter(prefix="/api/v1/reports", dependencies=[Depends(require("viewer", "operator"))], tags=["reports"])
DOCUMENTED: dict[int | str, dict[str, Any]] = answers(Problem) | {
    200: {
        "description": "The report: docs/reports.md",
        "content": {
            it.media_type.partition(";")[0]: {"schema": {"type": "object" if name == "json" else "string"}}
            for name, it in FORMATS.items()
        },
    }
}
Site = Annotated[str, Query(max_length=200, description="Name of the site")]
Category = Annotated[
    int | None, Query(ge=1, le=3, description="Where IT is metered: 1 UPS output, 2 PDU output, 3 IT input")
]
FormatName = Annotated[
    Literal["csv", "json", "xlsx", "html"], Query(alias="format", description="csv, json, xlsx or html")
]


@router.get("/eu-eed", responses=DOCUMENTED)
def yearly(
    request: Request,
    site: Site,
    year: Annotated[
        int, Query(ge=eu_eed.FIRST_YEAR, le=eu_eed.LAST_YEAR, description="Calendar year of the figures, UTC")
    ],
    category: Category = None,
    written: FormatName = "json",
) -> Response:
    """A site's yearly report to the EU, with what is missing for it."""
    return _answer(request, written, lambda connection, now: eu_eed.make(connection, site, year, category, now))


@router.get("/monthly", responses=DOCUMENTED)
def of_month(
    request: Request,
    site: Site,
    month: Annotated[str, Query(max_length=20, description="The month, as 2026-01")],
    time_zone: Annotated[str, Query(max_length=60, description="Of month and days, e.g. Europe/Oslo")] = "UTC",
    category: Category = None,
    written: FormatName = "json",
) -> Response:
    """A site's monthly report."""
    return _answer(
        request, written,
        lambda connection, now: monthly.make(connection, site, month, clocks.zone(time_zone), category, now),
    )  # fmt: skip


def _answer(request: Request, written: str, make: Callable[[Connection, datetime], Report]) -> Response:
    try:
        with snapshot(request.app.state.report_engine) as connection:
            done = make(connection, datetime.now(UTC))
    except GigawatchError as error:
        status = 404 if isinstance(error, Unknown) else 422
        raise HTTPException(status, f"{error.problem}. {error.remedy}") from error
    form = FORMATS[written]
    named = {"Content-Disposition": f"inline; filename*=UTF-8''{quote(file_name(done, written))}"}
    return Response(form.write(done), media_type=form.media_type, headers=named)

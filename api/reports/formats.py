"""The formats that reports are written in, for files and over HTTP, and the snapshot that they are made from."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from msgspec import Struct
from sqlalchemy import Connection, Engine

from api.reports.model import Report
from api.reports.page import as_html
from api.reports.texts import as_csv, as_json
from api.reports.xlsx import as_xlsx


class Format(Struct, frozen=True):
    """How a report is written."""

    write: Callable[[Report], bytes]
    media_type: str
    is_text: bool = True


FORMATS = {
    "csv": Format(as_csv, "text/csv; charset=utf-8"),
    "json": Format(as_json, "application/json"),
    "xlsx": Format(as_xlsx, "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", is_text=False),
    "html": Format(as_html, "text/html; charset=utf-8"),
}
"""By the ending of a file's name."""


@contextmanager
def snapshot(engine: Engine) -> Iterator[Connection]:
    """A connection whose reads are all of one moment, so that a report's figures fit each other; it changes nothing."""
    options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with engine.connect().execution_options(**options) as connection:
        yield connection


def file_name(report: Report, ending: str) -> str:
    """Name of a report's file: what of the site's is no letter, digit, dot or dash becomes a dash."""
    site = re.sub(r"[^\w.-]+", "-", report.site).strip(".-") or "site"
    return f"gigawatch-{report.report}-{site[:100]}-{report.period}.{ending}"

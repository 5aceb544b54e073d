"""Reports as JSON and CSV."""

import csv
import io
from datetime import UTC, datetime
from typing import Any

import msgspec

from api.reports.model import Column, Fact, Report, Table, Value

COLUMNS = ("site", "period", "simulated", "table", "row", "column", "unit", "value")
"""Of CSV: a line for each value of each table."""
_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What a text begins with that spreadsheets would take for a formula."""


def as_json(report: Report) -> bytes:
    """JSON: tables by name, each with its columns and its rows as objects; moments are UTC."""
    said: dict[str, Any] = {
        name: getattr(report, name)
        for name in ("report", "title", "site", "period", "start", "stop", "time_zone", "made", "simulated")
    }
    for name in ("facts", "methods", "versions"):
        said[name] = {it.name: it.value for it in getattr(report, name)}
    said["missing"] = report.missing
    said["tables"] = {
        table.name: {
            "title": table.title,
            "about": table.about,
            "columns": table.columns,
            "rows": [dict(zip((it.key for it in table.columns), row, strict=True)) for row in table.rows],
        }
        for table in report.tables
    }
    return msgspec.json.format(msgspec.json.encode(said)) + b"\n"


def as_csv(report: Report) -> bytes:
    """CSV in one long form: table, row and column name each value, and an empty one is not known."""
    written = io.StringIO(newline="")
    lines = csv.writer(written)
    lines.writerow(COLUMNS)
    head = (_safe(report.site), report.period, _cell(report.simulated))
    for table in all_tables(report):
        for number, row in enumerate(table.rows, 1):
            for column, value in zip(table.columns, row, strict=True):
                lines.writerow((*head, table.name, number, column.key, column.unit, _cell(value)))
    return written.getvalue().encode()


def all_tables(report: Report) -> list[Table]:
    """The tables with what else a report says, as tables."""
    about = (
        Fact("Report", report.title),
        Fact("Time zone", report.time_zone),
        Fact("Start", moment(report.start)),
        Fact("Stop", moment(report.stop)),
        Fact("Made", moment(report.made)),
        *report.facts,
    )
    return [
        _facts("report", "Report", about),
        Table(
            name="missing_inputs",
            title="Missing inputs",
            columns=(Column("indicator", "Indicator"), Column("lacks", "What is missing"), Column("remedy", "Remedy")),
            rows=[(it.indicator, it.lacks, it.remedy) for it in report.missing],
            empty="None.",
        ),
        *report.tables,
        _facts("methods", "Methods", report.methods),
        _facts("versions", "Versions", report.versions),
    ]


def _facts(name: str, title: str, facts: tuple[Fact, ...]) -> Table:
    return Table(
        name=name,
        title=title,
        columns=(Column("name", "What"), Column("value", "Value")),
        rows=[(it.name, it.value) for it in facts],
        empty="",
    )


def moment(value: datetime) -> str:
    """A moment as 2026-01-31T13:00:00Z."""
    return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _cell(value: Value) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case datetime():
            return moment(value)
        case str():
            return _safe(value)
        case _:
            return str(value)


def _safe(text: str) -> str:
    """A text that spreadsheets take for one."""
    return f"'{text}" if text.startswith(_FORMULAS) else text

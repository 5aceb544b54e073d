"""Reports as workbooks: a sheet for each table, with numbers as numbers and times as times, and no formula."""

import io
from datetime import UTC, datetime

from xlsxwriter import Workbook
from xlsxwriter.format import Format
from xlsxwriter.worksheet import Worksheet

from api.reports.model import Kind, Report, Table, Value
from api.reports.texts import all_tables

_FORMATS: dict[Kind, str] = {
    "number": "#,##0.00####",
    "ratio": "0.000",
    "share": "0.00%",
    "integer": "#,##0",
    "time": "yyyy-mm-dd hh:mm",
    "date": "yyyy-mm-dd",
}
_A4 = 9
_LONGEST = 32_767
"""Characters that a cell holds."""
_LONGEST_TITLE = 80
"""Characters of a title that the head of a page has room for."""
_WIDEST = 480
"""Pixels."""
_SIGNED = ("Name", "Function", "Date", "Signature")
SIMULATED = "SIMULATED DATA"


def as_xlsx(report: Report) -> bytes:
    """A workbook; each printed page says whether data are simulated."""
    written = io.BytesIO()
    # Nothing that a cell holds is looked at: names that begin with = or http:// are texts.
    with Workbook(written, {"in_memory": True}) as book:
        made = report.made.astimezone(UTC).replace(tzinfo=None)
        book.set_properties({"title": report.title, "created": made, "comments": SIMULATED if report.simulated else ""})
        head = book.add_format({"bold": True, "bottom": 1, "text_wrap": True, "valign": "top"})
        formats = {kind: book.add_format({"num_format": form, "align": "right"}) for kind, form in _FORMATS.items()}
        for table in all_tables(report):
            sheet = book.add_worksheet(table.name)
            _page(sheet, report)
            _fill(sheet, table, head, formats)
            if table.name == "report":
                _close(sheet, report, len(table.rows) + 2, head)
    return written.getvalue()


def _page(sheet: Worksheet, report: Report) -> None:
    title = report.title[:_LONGEST_TITLE].replace("&", "&&")
    sheet.set_header(f"&L{title}&R{SIMULATED if report.simulated else ''}")
    sheet.set_footer(f"&L&A&C{report.made.astimezone(UTC):%Y-%m-%d %H.%M} UTC&RPage &P of &N")
    sheet.set_paper(_A4)
    sheet.set_landscape()
    sheet.fit_to_pages(1, 0)
    sheet.repeat_rows(0)
    sheet.freeze_panes(1, 0)
    if report.simulated:
        sheet.set_tab_color("orange")


def _fill(sheet: Worksheet, table: Table, head: Format, formats: dict[Kind, Format]) -> None:
    for place, column in enumerate(table.columns):
        sheet.write_string(0, place, f"{column.title} ({column.unit})" if column.unit else column.title, head)
    for number, row in enumerate(table.rows, 1):
        for place, (column, value) in enumerate(zip(table.columns, row, strict=True)):
            _write(sheet, number, place, value, formats.get(column.kind))
    if not table.rows:
        sheet.write_string(1, 0, table.empty)
    sheet.autofit(_WIDEST)


def _write(sheet: Worksheet, row: int, place: int, value: Value, form: Format | None) -> None:
    match value:
        case None:
            pass
        case bool():
            sheet.write_boolean(row, place, value)
        case str():
            sheet.write_string(row, place, value[:_LONGEST])
        case int() | float():
            sheet.write_number(row, place, value, form)
        case datetime():
            sheet.write_datetime(row, place, value.astimezone(UTC).replace(tzinfo=None), form)
        case _:
            sheet.write_datetime(row, place, value, form)


def _close(sheet: Worksheet, report: Report, row: int, head: Format) -> None:
    """What the sheets are, and where to sign."""
    if report.simulated:
        sheet.write_string(row, 0, SIMULATED, head)
        sheet.write_string(row, 1, "Some of this site's data come from a simulator.", head)
        row += 2
    for table in report.tables:
        sheet.write_string(row, 0, table.name)
        sheet.write_string(row, 1, f"{table.title}. {table.about}")
        row += 1
    for place, name in enumerate(_SIGNED):
        sheet.write_string(row + 1 + place, 0, name, head)
        sheet.write_blank(row + 1 + place, 1, None, head)

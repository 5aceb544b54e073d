"""Reports as one HTML page without scripts and outside resources, which prints on A4 and has room for signatures."""

import re
from collections.abc import Iterator
from html import escape
from pathlib import Path

from api.reports.charts import drawn
from api.reports.model import Fact, Report, Table
from api.reports.shown import shown

MOST_ROWS = 500
"""Of a table; the rest is in the other formats."""
SHORT = 15
"""Rows of a table that is not spread over two printed pages."""
LONGEST_WORD = 24
SIMULATED = "Simulated data"
_STYLE = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
_FIGURES = {"number", "ratio", "share", "integer"}
_SIGNED = ("Name", "Function", "Date", "Signature")


def as_html(report: Report) -> bytes:
    """A page; each printed one has the report's title, its own number, and says whether data are simulated."""
    return "".join(_page(report)).encode()


def _page(report: Report) -> Iterator[str]:
    yield (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(report.title)}</title>\n<style>\n{_STYLE}{_margins(report)}</style>\n</head>\n<body>\n"
    )
    if report.simulated:
        # Also behind each page's text: not all browsers print what @page says.
        yield f'<div class="watermark" aria-hidden="true">{SIMULATED.upper()}</div>\n'
        yield f'<p class="simulated">{SIMULATED}: some of what this report rests on comes from a simulator.</p>\n'
    yield f"<header>\n<h1>{escape(report.title)}</h1>\n"
    yield (
        f'<p class="made">Made {shown(report.made, "time")} UTC. Moments are UTC; days are of'
        f" {escape(report.time_zone)}.</p>\n"
    )
    yield f"{_facts(report.facts, 'facts')}{_facts(report.headline, 'headline')}</header>\n<main>\n"
    if report.missing:
        yield f'<section class="missing">\n<h2>Missing inputs: {len(report.missing)}</h2>\n<ul>\n'
        for it in report.missing:
            yield f"<li><b>{escape(it.indicator)}</b>: {escape(it.lacks)}. {escape(it.remedy)}</li>\n"
        yield "</ul>\n</section>\n"
    charts = [svg for place, chart in enumerate(report.charts) if (svg := drawn(chart, f"chart{place}"))]
    if charts:
        yield "<section>\n<h2>At a glance</h2>\n"
        yield "".join(f"<figure>{svg}</figure>\n" for svg in charts)
        yield "</section>\n"
    for table in report.tables:
        yield from _table(table)
    yield f"<section>\n<h2>Methods</h2>\n{_facts(report.methods, 'facts')}</section>\n"
    yield f"<section>\n<h2>Versions</h2>\n{_facts(report.versions, 'facts')}</section>\n"
    yield from _signatures()
    yield "</main>\n</body>\n</html>\n"


def _facts(facts: tuple[Fact, ...], look: str) -> str:
    said = "".join(f"<div><dt>{escape(it.name)}</dt><dd>{escape(it.value)}</dd></div>\n" for it in facts)
    if look == "facts":
        said = said.replace("<div>", "").replace("</div>", "")
    return f'<dl class="{look}">\n{said}</dl>\n'


def _table(table: Table) -> Iterator[str]:
    short = ' class="short"' if len(table.rows) <= SHORT else ""
    yield f'<section{short}>\n<div class="head">\n<h2 id="{table.name}">{escape(table.title)}</h2>\n'
    if table.about:
        yield f'<p class="about">{escape(table.about)}</p>\n'
    yield "</div>\n"
    if not table.rows:
        yield f"<p>{escape(table.empty)}</p>\n</section>\n"
        return
    looks = [_look(column.kind) for column in table.columns]
    yield f'<div class="scroll"><table aria-labelledby="{table.name}">\n<thead><tr>'
    for column, look in zip(table.columns, looks, strict=True):
        unit = f" ({escape(column.unit)})" if column.unit not in {"", "1"} else ""
        yield f'<th scope="col"{look}>{escape(column.title)}{unit}</th>'
    yield "</tr></thead>\n<tbody>\n"
    for row in table.rows[:MOST_ROWS]:
        words = [shown(value, column.kind) for value, column in zip(row, table.columns, strict=True)]
        cells = [f"<td{_wide(it) or look}>{escape(it)}</td>" for it, look in zip(words, looks, strict=True)]
        yield f"<tr>{''.join(cells)}</tr>\n"
    yield "</tbody>\n</table></div>\n"
    if len(table.rows) > MOST_ROWS:
        yield f"<p>{len(table.rows) - MOST_ROWS} more rows are in the report's CSV, JSON and XLSX.</p>\n"
    yield "</section>\n"


def _look(kind: str) -> str:
    if kind in _FIGURES:
        return ' class="n"'
    return ' class="t"' if kind in {"time", "date"} else ""


def _wide(text: str) -> str:
    """Of a text with a word that is too long for a column: it may be broken anywhere."""
    return ' class="w"' if any(len(word) > LONGEST_WORD for word in text.split()) else ""


def _signatures() -> Iterator[str]:
    yield '<section class="sign">\n<h2>Signatures</h2>\n<table>\n<thead><tr>'
    yield "".join(f'<th scope="col">{name}</th>' for name in _SIGNED)
    yield "</tr></thead>\n<tbody>\n"
    yield f"<tr>{'<td></td>' * len(_SIGNED)}</tr>\n" * 2
    yield "</tbody>\n</table>\n</section>\n"


def _margins(report: Report) -> str:
    """What stands around each printed page."""
    made = f"Gigawatch, made {shown(report.made, 'time')} UTC"
    notice = f"@top-right {{ content: {_quoted(SIMULATED.upper())}; color: #b45309; font: bold 9pt sans-serif; }} "
    return (
        "@page { size: A4; margin: 18mm 13mm 16mm; "
        f"@top-left {{ content: {_quoted(report.title)}; font: 8pt sans-serif; }} "
        f"{notice if report.simulated else ''}"
        f"@bottom-left {{ content: {_quoted(made)}; font: 8pt sans-serif; }} "
        '@bottom-right { content: "Page " counter(page) " of " counter(pages); font: 8pt sans-serif; } }\n'
    )


def _quoted(text: str) -> str:
    """A string of CSS: whatever is no letter, digit or space is written by its number, so that nothing ends it."""
    return '"' + re.sub(r"[^A-Za-z0-9 ]", lambda it: f"\\{ord(it[0]):x} ", text) + '"'

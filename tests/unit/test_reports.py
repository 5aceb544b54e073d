"""Reports' writers on reports made by hand: hostile names, nothing at all, gaps, and figures as people read them."""

import csv
import io
import json
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree
from zoneinfo import ZoneInfo

import msgspec
import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.reports import eu_eed, monthly, parts, periods
from api.reports.charts import described, drawn
from api.reports.formats import FORMATS, file_name
from api.reports.model import Chart, Column, Fact, Kind, Missing, Report, Series, Table, Value
from api.reports.page import MOST_ROWS
from api.reports.shown import shown
from gigawatch.errors import GigawatchError
from gigawatch.facility_readings import FacilityCarbon, FacilityCost, Heat, Water
from gigawatch.report_readings import Gap

NOW = datetime(2026, 2, 1, 12, tzinfo=UTC)
HOSTILE = (
    '=HYPERLINK("http://x")', "+1+1", "-2+3", "@SUM(1)", "\t=1", "\r=1", "</style><script>alert(1)</script>",
    "\"'><img src=x>", "http://example.org", "&R&P", "\\", "a" * 300, "æ 東京",
)  # fmt: skip
COLUMNS = (
    Column("name", "Name"), Column("energy_kwh", "Energy", "number", "kWh"), Column("pue", "PUE", "ratio", "1"),
    Column("coverage", "Coverage", "share"), Column("hours", "Hours", "integer", "h"),
    Column("at", "At", "time", "UTC"), Column("day", "Day", "date"), Column("virtual", "Virtual", "yes"),
)  # fmt: skip
ROW: tuple[Value, ...] = ("grid", -1.5, 1.25, 0.5, 24, NOW, date(2026, 1, 31), True)


def report(rows: list[tuple[Value, ...]], **values: Any) -> Report:
    table = Table(
        name="things", title="Things", about="What they are.", columns=COLUMNS, rows=rows, empty="There is none."
    )
    made = Report(
        report="monthly", title="Monthly report of oslo for 2026-01", site="oslo", period="2026-01",
        start=datetime(2026, 1, 1, tzinfo=UTC), stop=datetime(2026, 2, 1, tzinfo=UTC), time_zone="UTC", made=NOW,
        simulated=False, facts=(Fact("Boundary", "the whole site"),), headline=(Fact("PUE", "1.250"),), missing=(),
        charts=(), tables=(table,), methods=(Fact("PUE", "E_DC / E_IT"),), versions=(Fact("Gigawatch", "0"),),
    )  # fmt: skip
    return msgspec.structs.replace(made, **values)


def written(made: Report) -> dict[str, bytes]:
    return {name: it.write(made) for name, it in FORMATS.items()}


class Page(HTMLParser):
    """The elements and texts of a page."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(body.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


def test_each_format_has_the_same_values() -> None:
    of = written(report([ROW, (None,) * len(COLUMNS)]))
    rows = json.loads(of["json"])["tables"]["things"]["rows"]
    assert rows[0] == {
        "name": "grid", "energy_kwh": -1.5, "pue": 1.25, "coverage": 0.5, "hours": 24, "at": "2026-02-01T12:00:00Z",
        "day": "2026-01-31", "virtual": True,
    }  # fmt: skip
    assert set(rows[1].values()) == {None}
    lines = [it for it in csv.DictReader(io.StringIO(of["csv"].decode())) if it["table"] == "things"]
    assert [it["value"] for it in lines[:8]] == [
        "grid", "-1.5", "1.25", "0.5", "24", "2026-02-01T12:00:00Z", "2026-01-31", "true",
    ]  # fmt: skip
    assert [it["value"] for it in lines[8:]] == [""] * 8
    assert lines[1] == {
        "site": "oslo", "period": "2026-01", "simulated": "false", "table": "things", "row": "1",
        "column": "energy_kwh", "unit": "kWh", "value": "-1.5",
    }  # fmt: skip
    sheet = openpyxl.load_workbook(io.BytesIO(of["xlsx"]))["things"]
    head, first = sheet.iter_rows()
    assert [it.value for it in head][:3] == ["Name", "Energy (kWh)", "PUE (1)"]
    assert [it.value for it in first] == [
        "grid", -1.5, 1.25, 0.5, 24, NOW.replace(tzinfo=None), datetime(2026, 1, 31), True,  # noqa: DTZ001 # as sheets have it
    ]  # fmt: skip
    assert [it.is_date for it in first] == [False] * 5 + [True, True, False]
    page = Page(of["html"])
    for words in ("grid", "-1.5", "1.250", "50.00 %", "2026-02-01 12:00", "2026-01-31", "yes", "What they are."):
        assert words in page.words


def test_names_are_texts_whatever_they_are() -> None:
    facts = tuple(Fact(it, it) for it in HOSTILE)
    for name in HOSTILE:
        chart = Chart(title=name, kind="bars", unit=name, labels=[name], series=(Series(name=name, values=[1.0]),))
        made = report(
            [(name, *ROW[1:]) for name in HOSTILE], site=name, title=f"Report of {name}", facts=facts, methods=facts,
            versions=facts, headline=facts, charts=(chart,), simulated=True,
            missing=tuple(Missing(indicator=it, lacks=it, remedy=it) for it in HOSTILE),
        )  # fmt: skip
        of = written(made)
        for line in csv.reader(io.StringIO(of["csv"].decode(), newline="")):
            assert not any(
                cell.startswith(("=", "+", "@", "\t", "\r")) or re.match(r"-\D|-.*\+", cell) for cell in line
            )
        book = openpyxl.load_workbook(io.BytesIO(of["xlsx"]))
        cells = [cell for sheet in book for row in sheet.iter_rows() for cell in row]
        assert "f" not in {cell.data_type for cell in cells}
        assert not any(cell.hyperlink for cell in cells)
        # What XML knows no sign for is written by its number (ECMA-376, ST_Xstring).
        names = [str(row[0]).replace("_x000D_", "\r") for row in book["things"].iter_rows(min_row=2, values_only=True)]
        assert names == list(HOSTILE)
        page = Page(of["html"])
        assert not {"script", "img", "a", "link", "iframe"} & {tag for tag, _ in page.tags}
        assert [tag for tag, _ in page.tags].count("style") == 1
        assert not any(
            attribute.startswith("on") or attribute in {"src", "href"} for _, its in page.tags for attribute in its
        )
        assert "script>" not in of["html"].decode().partition("</style>")[0]
        assert json.loads(of["json"])["tables"]["things"]["rows"][0]["name"] == HOSTILE[0]
        # A file's name leads nowhere.
        assert re.fullmatch(r"gigawatch-monthly-[\w.-]+-2026-01\.csv", file_name(made, "csv"))
        assert ".." not in file_name(report([], site="../../etc/passwd"), "csv").replace("..-", "")


def test_a_page_needs_nothing_from_elsewhere_and_has_room_to_sign() -> None:
    page = FORMATS["html"].write(report([ROW])).decode()
    assert "Signature" in page
    assert not re.search(r"url\(\s*[^#]|@import|https?://", page)
    assert "default-src 'none'" in page


@pytest.mark.parametrize("simulated", [True, False])
def test_simulated_data_are_said_on_every_page(simulated: bool) -> None:
    of = written(report([ROW], simulated=simulated))
    assert json.loads(of["json"])["simulated"] is simulated
    lines = list(csv.DictReader(io.StringIO(of["csv"].decode())))
    assert {it["simulated"] for it in lines} == {str(simulated).lower()}
    heads = {it.oddHeader.right.text for it in openpyxl.load_workbook(io.BytesIO(of["xlsx"]))}
    assert heads == {"SIMULATED DATA" if simulated else None}
    page = of["html"].decode()
    assert ("@top-right" in page) == ('class="watermark"' in page) == ("Simulated data:" in page) == simulated


def test_an_empty_table_says_so_and_what_is_missing_is_named() -> None:
    lacking = Missing(indicator="PDIT", lacks="eu_report.pdit_kw in the topology", remedy="Write it.")
    of = written(report([], missing=(lacking,)))
    page = Page(of["html"])
    assert "There is none." in page.words
    assert "Missing inputs: 1" in page.words
    assert "PDIT: eu_report.pdit_kw in the topology. Write it." in page.words
    book = openpyxl.load_workbook(io.BytesIO(of["xlsx"]))
    assert book["things"]["A2"].value == "There is none."
    assert [it.value for it in book["missing_inputs"][2]] == ["PDIT", "eu_report.pdit_kw in the topology", "Write it."]
    assert json.loads(of["json"])["tables"]["things"]["rows"] == []
    assert json.loads(of["json"])["missing"][0]["indicator"] == "PDIT"
    assert "things" not in {it["table"] for it in csv.DictReader(io.StringIO(of["csv"].decode()))}


def test_long_tables_are_cut_on_the_page_alone() -> None:
    of = written(report([ROW] * (MOST_ROWS + 7)))
    assert "7 more rows" in Page(of["html"]).words
    assert openpyxl.load_workbook(io.BytesIO(of["xlsx"]))["things"].max_row == MOST_ROWS + 8


def gap(hour: int, hours: int, meters: list[str], figure: Any = "pue", category: int | None = 2) -> Gap:
    return Gap(time=NOW + timedelta(hours=hour), hours=hours, site="oslo", figure=figure, category=category,
               state="missing", meters=meters, reasons=["no data"] * len(meters) or ["a sum below 0"])  # fmt: skip


def test_gaps_of_several_figures_that_are_alike_are_one() -> None:
    many = [f"m{number:02}" for number in range(25)]
    table = parts.gaps([gap(0, 2, ["u"]), gap(0, 2, ["u"], "erf", None), gap(3, 1, many), gap(5, 1, [])])
    first, second, third = table.rows
    assert first == (NOW, NOW + timedelta(hours=2), 2, "missing", "u: no data", "PUE (category 2), ERF")
    assert str(second[4]).endswith("m19: no data; and 5 more")
    assert third[4] == "a sum below 0"


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        (None, "number", "–"), (0.99999, "share", "99.99 %"), (1.0, "share", "100.00 %"), (0, "integer", "0"),
        (10_000_000.0, "number", "10 000 000"), (0.0356, "number", "0.0356"), (1234, "integer", "1 234"),
        (1.25, "ratio", "1.250"), (-1234.5, "number", "-1 234"), (False, "yes", "no"),
        (datetime(2026, 3, 1, 1, tzinfo=ZoneInfo("Europe/Oslo")), "time", "2026-03-01 00:00"),
    ],
)  # fmt: skip
def test_values_as_people_read_them(value: Value, kind: Kind, words: str) -> None:
    assert shown(value, kind).replace("\N{NARROW NO-BREAK SPACE}", " ") == words


def chart(kind: Any, *values: list[float | None], floor: float = 0) -> Chart:
    labels = [f"{number}" for number in range(1, len(values[0]) + 1)]
    return Chart(title="PUE <by> day", kind=kind, unit="kWh", labels=labels, floor=floor,
                 series=tuple(Series(name=f"s{number}", values=its) for number, its in enumerate(values)))  # fmt: skip


def svg(drawing: str) -> ElementTree.Element:
    return ElementTree.fromstring(drawing)  # noqa: S314 # our own


def test_a_gap_is_seen_and_said() -> None:
    made = chart("line", [1.2, None, 1.3, 1.25], floor=1)
    root = svg(drawn(made, "c"))
    assert root.attrib["role"] == "img"
    title, desc = root[0], root[1]
    assert (title.tag, desc.tag) == ("title", "desc")
    assert [title.attrib["id"], desc.attrib["id"]] == root.attrib["aria-labelledby"].split()
    assert desc.text == "s0: lowest 1.2 at 1, highest 1.3 at 3, 3 values, 1 without."
    assert len(root.findall("circle")) == 3
    # The line does not go across it.
    (line,) = root.findall("polyline")
    assert len(line.attrib["points"].split()) == 2
    assert "not known" in "".join(root.itertext())
    assert drawn(chart("line", [None, None]), "c") == ""
    assert (
        described(chart("columns", [None], [2.0]))
        == "s0: no values. s1: lowest 2 at 1, highest 2 at 1, 1 values, 0 without."
    )


FIGURES = st.one_of(
    st.none(), st.floats(-1e12, 1e12, allow_subnormal=False), st.floats(-1e-6, 1e-6, allow_subnormal=False)
)


@given(
    st.lists(FIGURES, min_size=1, max_size=40), st.sampled_from(["line", "columns", "bars"]), st.sampled_from([0, 1])
)
def test_whatever_the_values_a_chart_stays_within_its_picture(
    values: list[float | None], kind: str, floor: float
) -> None:
    drawing = drawn(chart(kind, values, floor=floor), "c")
    if drawing == "":
        assert set(values) == {None}
        return
    root = svg(drawing)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for it in root.iter("rect"):
        x, y, w, h = (float(it.attrib.get(name, 0)) for name in ("x", "y", "width", "height"))
        assert min(x, y, w, h) >= -0.1
        assert x + w <= width + 0.1
        assert y + h <= height + 0.1
    for it in root.iter("circle"):
        assert 0 <= float(it.attrib["cy"]) <= height


def test_months_are_whole_hours_of_the_sites_clocks() -> None:
    def hours(month: str, zone: str) -> tuple[datetime, list[float]]:
        start, stop = periods.month(month, ZoneInfo(zone))
        days = periods.days(start, stop, ZoneInfo(zone))
        assert [a.stop for a in days] == [*(b.start for b in days[1:]), stop]
        assert [it.day.day for it in days] == list(range(1, len(days) + 1))
        return start, [(it.stop - it.start) / timedelta(hours=1) for it in days]

    assert hours("2026-02", "UTC") == (datetime(2026, 2, 1, tzinfo=UTC), [24.0] * 28)
    start, lengths = hours("2026-03", "Europe/Oslo")
    assert (start, lengths[28], sum(lengths)) == (datetime(2026, 2, 28, 23, tzinfo=UTC), 23, 31 * 24 - 1)
    assert hours("2026-10", "Europe/Oslo")[1][24] == 25
    # Half an hour off: from the first full hour on.
    assert hours("2026-01", "Asia/Kolkata") == (datetime(2025, 12, 31, 19, tzinfo=UTC), [24.0] * 31)
    assert hours("2026-12", "America/New_York")[0] == datetime(2026, 12, 1, 5, tzinfo=UTC)


@pytest.mark.parametrize("written_", ["2026-13", "2026-1", "1999-12", "january", "2026-01-01", ""])
def test_what_is_no_month_is_refused(written_: str) -> None:
    with pytest.raises(GigawatchError, match="like 2026-01"):
        periods.month(written_, ZoneInfo("UTC"))


def test_a_period_that_has_not_begun_is_refused() -> None:
    assert periods.begun(NOW - timedelta(hours=1), NOW, "x") == NOW
    with pytest.raises(GigawatchError, match="No hour of 2026 is over"):
        periods.begun(NOW, NOW + timedelta(minutes=59), "2026")


@pytest.mark.parametrize(
    ("table", "kind"),
    [(monthly._water, Water), (monthly._heat, Heat), (monthly._facility_cost, FacilityCost),
     (monthly._facility_carbon, FacilityCarbon)],
)  # fmt: skip
def test_columns_have_the_names_of_what_is_read(table: Callable[[list[Any]], Table], kind: Any) -> None:
    """Of energies in kWh that of a field in J."""
    values = {name: number for number, name in enumerate(kind.__struct_fields__, 1)}
    made = table([kind(**values)])
    (row,) = made.rows
    for column, value in zip(made.columns, row, strict=True):
        joules = values.get(f"{column.key.removesuffix('kwh')}j")
        assert value == (values[column.key] if column.key in values else joules and joules / 3_600_000), column.key
    assert table([]).empty


def test_each_input_of_the_eus_form_has_a_remedy() -> None:
    assert eu_eed.REMEDIES.keys() == eu_eed.NAMES.keys() - {"PUE", "WUE", "ERF", "REF", "ERES-TOT"}

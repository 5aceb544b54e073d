"""PUE and the facility in the dashboard: which rows are shown, where power goes, what is left out, and its words."""

from datetime import UTC, datetime, timedelta
from typing import Any

import plotly.graph_objects as go
import pytest

from dashboard import facility_figures, facility_rows, quantities, theme, view
from dashboard.facility_rows import Flow, Link
from dashboard.pages import facility, facility_meters
from dashboard.theme import LIGHT
from dashboard.view import Period, View
from gigawatch.facility_readings import (
    Capacity,
    FacilityEnergy,
    FleetPowerRatio,
    MeterHealth,
    Pue,
    PueConditions,
    Reconciled,
)

START = datetime(2026, 11, 23, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
PERIOD = Period(START, START + 4 * HOUR, HOUR)


def blank(kind: Any, /, **values: Any) -> Any:
    return kind(**{**dict.fromkeys(kind.__struct_fields__), **values})


def pue(label: str = "oslo", category: int | None = 2, time: datetime = START, **values: Any) -> Pue:
    usual = {"name": "interim PUE", "source": "measured", "pue": 1.25, "coverage": 1.0, "hours": 24,
             "hours_missing": 0, "hours_faulty": 0}  # fmt: skip
    found: Pue = blank(Pue, label=label, category=category, time=time, **{**usual, **values})
    return found


def configured(label: str = "paris", value: float = 1.31) -> Pue:
    return pue(label, None, source="configured", name="configured PUE", pue=value, hours=None, hours_missing=None,
               hours_faulty=None)  # fmt: skip


def at(hour: int, site: str = "oslo", **values: Any) -> PueConditions:
    usual = {"pue": 1.25, "it_power_w": 1e6, "hours": 1, "hours_missing": 0, "hours_faulty": 0, "category": 2}
    found: PueConditions = blank(PueConditions, time=START + hour * HOUR, site=site, **{**usual, **values})
    return found


def energy(role: str, kilowatts: float | None, site: str = "oslo") -> FacilityEnergy:
    found: FacilityEnergy = blank(
        FacilityEnergy, time=START, label=site, role=role, power_w=None if kilowatts is None else kilowatts * 1000
    )
    return found


def meter(name: str, **values: Any) -> MeterHealth:
    usual = {"site": "oslo", "state": "ok", "virtual": False, "simulated": False, "coverage_24h": 1.0,
             "stuck_hours_24h": 0, "reversed_hours_24h": 0}  # fmt: skip
    found: MeterHealth = blank(MeterHealth, meter=name, **{**usual, **values})
    return found


def limit(name: str, **values: Any) -> Capacity:
    usual = {"site": "oslo", "scope": "feed", "kind": "breaker", "unit": "A", "limit_value": 63.0, "usable": 50.4}
    found: Capacity = blank(Capacity, name=name, **{**usual, **values})
    return found


def said(component: Any) -> str:
    """All words of a component."""
    if isinstance(component, (list, tuple)):
        return "".join(map(said, component))
    if component is None or isinstance(component, (str, int, float)):
        return "" if component is None else str(component)
    return said(getattr(component, "children", None))


def plotly(drawn: Any) -> go.Figure:
    """The chart as plotly's own figure, which takes no property that plotly does not know."""
    return go.Figure(drawn.figure)


def test_the_category_nearest_to_the_it_equipment_is_shown_where_it_is_about_as_well_known() -> None:
    assert facility_rows.nearest([pue(category=1, hours=700), pue(category=3, hours=690)]) == 3
    assert facility_rows.nearest([pue(category=1, hours=700), pue(category=3, hours=100)]) == 1
    assert facility_rows.nearest([pue(category=1, hours=0), pue(category=2, hours=0)]) == 2
    assert facility_rows.nearest([configured()]) is None


def test_each_site_is_at_the_category_or_its_own_and_a_configured_pue_is_said_to_be() -> None:
    rows = [
        pue("austin", 1, facility_energy_j=5e9), configured(), pue("oslo", 2, facility_energy_j=9e9),
        pue("oslo", 3, pue=1.3, facility_energy_j=9e9),
    ]  # fmt: skip
    oslo, austin, paris = facility_rows.places(rows, 3)
    assert (oslo.label, oslo.shown.category, [it.category for it in oslo.others]) == ("oslo", 3, [2])
    assert (austin.shown.category, paris.shown.source) == (1, "configured")


def test_power_goes_from_the_sources_to_the_gpus_and_what_nothing_explains_is_a_part_of_it() -> None:
    energies = [
        energy("utility", 120), energy("generation", 10), energy("cooling", 20), energy("ups_in", 104),
        energy("ups_out", 100), energy("pdu", 98), energy("water", None), energy("heat_reuse", 30),
    ]  # fmt: skip
    levels = [
        blank(Reconciled, label="oslo", level="node", energy_j=80_000 * 7200.0, hours=2),
        blank(Reconciled, label="oslo", level="gpu", energy_j=60_000 * 3600.0, hours=1),
        blank(Reconciled, label="oslo", level="facility", energy_j=1.0, hours=1),
    ]
    found = facility_rows.flow(energies, levels)
    assert found.contradictions == ()
    powers = {(link.source, link.target): round(link.power_w / 1000, 3) for link in found.links}
    assert powers == {
        ("Utility", "Facility"): 120, ("Generation", "Facility"): 10, ("Facility", "Cooling"): 20,
        ("Facility", "UPS input"): 104, ("Facility", "unexplained: not metered"): 6, ("UPS input", "UPS output"): 100,
        ("UPS input", "unexplained: UPS"): 4, ("UPS output", "PDU output"): 98,
        ("UPS output", "unexplained: behind UPS"): 2, ("PDU output", "Nodes"): 80,
        ("PDU output", "unexplained: behind PDUs"): 18, ("Nodes", "GPUs"): 60, ("Nodes", "unexplained: in nodes"): 20,
    }  # fmt: skip
    for name in {link.source for link in found.links} - {"Utility", "Generation"}:
        out = sum(link.power_w for link in found.links if link.source == name)
        assert out == pytest.approx(sum(link.power_w for link in found.links if link.target == name))


def test_parts_that_are_more_than_their_whole_are_said_and_small_differences_are_not() -> None:
    found = facility_rows.flow([energy("utility", 100), energy("pdu", 110), energy("cooling", 5)], [])
    assert found.contradictions == ("oslo: what Facility leads to is 15.0\u00a0% more than it",)
    assert facility_rows.flow([energy("ups_out", 100), energy("pdu", 100.4)], []).contradictions == ()
    # Without a meter of a source the flow begins where one is.
    assert facility_rows.flow([energy("ups_out", 100), energy("pdu", 90)], []).links[0].source == "UPS output"
    # Sites are added up.
    both = facility_rows.flow([energy("utility", 100), energy("utility", 50, "austin")], [])
    assert both.links[0] == Link("Utility", "Facility", 150_000)


@pytest.mark.parametrize("colours", theme.THEMES.values(), ids=theme.THEMES.keys())
def test_the_flow_is_a_diagram_that_plotly_knows_and_words(colours: theme.Theme) -> None:
    drawn = facility_figures.flow(
        facility_rows.flow([energy("utility", 100), energy("pdu", 80), energy("cooling", 12)], []), colours
    )
    (sankey,) = plotly(drawn).data
    assert sankey.type == "sankey"
    assert len(sankey.link.source) == len(sankey.link.target) == len(sankey.link.value) == 4
    assert sankey.node.label[0] == "Utility<br>100\u00a0kW"
    # At the end of the flow labels are near one another: one line each.
    assert "Cooling 12\u00a0kW" in sankey.node.label
    assert "Facility to unexplained: not metered 8\u00a0kW" in drawn.summary
    nothing = facility_figures.flow(Flow((), ()), colours)
    assert plotly(nothing).data == ()
    assert "None is known" in nothing.summary


def test_hours_without_a_pue_are_not_drawn_and_are_counted() -> None:
    rows = [
        at(0), at(1, pue=1.4, it_power_w=5e5), at(2, pue=None, it_power_w=None, hours=0, hours_missing=1),
        at(3, pue=None, it_power_w=None, hours=0, hours_faulty=1),
    ]  # fmt: skip
    drawn = facility_figures.against_load(rows, HOUR, LIGHT)
    (points,) = plotly(drawn).data
    assert (list(points.x), list(points.y)) == ([1.0, 0.5], [1.25, 1.4])
    assert plotly(drawn).layout.xaxis.title.text == "IT power, MW"
    assert facility_figures.left_out(rows, HOUR) == "2 hours with a PUE; not drawn: 1 h missing and 1 h faulty."
    assert facility_figures.left_out(rows[:1], DAY) == "1 day with a PUE."
    assert "PUE from 1.25 to 1.40" in drawn.summary


def test_loads_of_several_sites_are_parts_of_each_ones_greatest_and_few_have_a_colour_of_their_own() -> None:
    rows = [
        at(hour, f"site-{site}", it_power_w=1000.0 * (site + 1) * (hour + 1)) for site in range(9) for hour in (0, 1)
    ]
    figure = plotly(facility_figures.against_load(rows, HOUR, LIGHT))
    assert [len(it.x) for it in figure.data] == [2] * 7 + [4]
    assert figure.data[0].name == "site-8"
    assert figure.data[-1].name == "Other sites"
    assert set(figure.data[0].x) == {50.0, 100.0}


def test_hours_without_an_outside_temperature_are_not_drawn_against_it() -> None:
    rows = [at(0, outside_temp_c=-3.5), at(1), at(2, pue=None, hours=0, hours_missing=1, outside_temp_c=2.0)]
    drawn = facility_figures.against_temperature(rows, HOUR, LIGHT)
    assert list(plotly(drawn).data[0].x) == [-3.5]
    nothing = facility_figures.against_temperature([at(1)], HOUR, LIGHT)
    assert plotly(nothing).data == ()
    assert plotly(nothing).layout.annotations[0].text == "No hour with both is known"


def test_pue_over_time_has_gaps_where_no_hour_counts() -> None:
    rows = [pue(time=START), pue(time=START + HOUR, pue=None, coverage=0.0, hours=0, hours_faulty=1),
            pue(time=START + 2 * HOUR, pue=1.2), pue(time=START, category=1, pue=1.1)]  # fmt: skip
    line, strip = plotly(facility_figures.trend(rows, 2, PERIOD, LIGHT)).data
    assert list(line.y) == [1.25, None, 1.2, None]
    assert list(strip.customdata) == ["100\u00a0%", "0.0\u00a0%", "100\u00a0%"]
    nothing = facility_figures.trend([], None, PERIOD, LIGHT)
    assert "Nothing was measured" in nothing.summary
    assert plotly(nothing).layout.annotations[0].text.startswith("Nothing was measured")


def test_the_sites_that_are_not_in_a_figure_are_named_and_so_are_the_times_at_which_one_drops_out() -> None:
    rows = [pue("oslo"), pue("austin", hours=0, pue=None), pue("austin", 1), configured("paris")]
    assert facility_rows.without(rows, 2, ["austin", "oslo", "paris"]) == ["austin", "paris"]
    conditions = [
        at(0), at(0, "austin"), at(1), at(1, "austin", pue=None, hours=0), at(2), at(3, pue=None), at(3, "austin"),
        at(0, "paris", pue=None, hours=0),
    ]  # fmt: skip
    absent = facility_rows.dropped_out(conditions)
    assert absent == {START + hour * HOUR: [it] for hour, it in ((1, "austin"), (2, "austin"), (3, "oslo"))}
    over_time = [pue(time=START + hour * HOUR, pue=1.2 + hour / 10) for hour in range(3)]
    drawn = facility_figures.trend(over_time, 2, PERIOD, LIGHT, absent)
    _, hollow, _ = plotly(drawn).data
    assert list(hollow.y) == [1.3, 1.4]
    assert set(hollow.customdata) == {"without austin"}
    assert "Not all sites are in 2 of 4 bins" in drawn.summary


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({}, facility_figures.ALL),
        ({"hours": 23, "coverage": 23 / 24}, facility_figures.MOST),
        ({"hours": 20, "coverage": 20 / 24, "hours_missing": 4}, facility_figures.PART),
        ({"hours": 0, "coverage": 0.0, "hours_missing": 24}, facility_figures.NONE),
        ({"hours": 23, "coverage": 23 / 24, "hours_faulty": 1}, facility_figures.FAULTY),
    ],
)
def test_a_day_looks_like_its_hours_and_a_fault_goes_before_all(values: dict[str, Any], kind: int) -> None:
    assert facility_figures.kind_of(pue(**values)) == kind


def test_the_calendar_has_a_row_for_each_month_and_days_without_meters_are_blank() -> None:
    days = [pue(time=START + number * DAY, hours_faulty=int(number == 1)) for number in range(10)]
    drawn = facility_figures.calendar(days, LIGHT)
    (grid,) = plotly(drawn).data
    assert list(grid.y) == ["Nov 2026", "Dec 2026"]
    assert grid.z[0][21] is None
    assert grid.text[0][23] == "!"
    assert "faulty" in grid.customdata[0][23]
    assert (grid.z[1][1], grid.z[1][2]) == (facility_figures.ALL, None)
    assert (
        drawn.summary
        == "Calendar of coverage since 2026-11-23, days by their hours: 9 all hours counted, 1 faulty hours."
    )
    assert plotly(facility_figures.calendar([], LIGHT)).data == ()


def test_meters_with_problems_come_first_and_every_order_has_unknown_values_last() -> None:
    meters = [
        meter("a"), meter("b", state="silent", coverage_24h=0.2), meter("c", state="reversed"),
        meter("d", state="not placed"), meter("e", state="stuck", power_w=3.0, rejected_24h=2),
    ]  # fmt: skip
    order = facility_rows.in_order(meters, "problem", descending=False)
    assert [it.meter for it in order] == ["c", "e", "b", "d", "a"]
    assert facility_rows.in_order(meters, "power", descending=True)[0].meter == "e"
    assert facility_rows.in_order(meters, "rejected", descending=False)[0].meter == "e"
    assert [it.meter for it in facility_rows.in_order(meters, "meter", descending=True)] == list("edcba")
    assert set(facility_rows.SEVERITY) == set(facility_rows.TONES) == set(facility_meters.MEANINGS)


def test_meters_are_found_by_any_of_their_words() -> None:
    meters = [meter("PDU-1", hall="A", role="pdu"), meter("main", read_by="gateway-1", role="utility")]
    assert [it.meter for it in facility_rows.matching(meters, "gateway")] == ["main"]
    assert [it.meter for it in facility_rows.matching(meters, "pdu-")] == ["PDU-1"]
    assert len(facility_rows.matching(meters, "OSLO")) == 2
    assert facility_rows.matching(meters, "%") == []


def test_limits_of_which_most_is_used_come_first_and_a_breaker_has_its_rule() -> None:
    tight = limit("pdu-1", feed="A", use_share=0.7, peak_share=0.95, present=35.0, peak=47.9, headroom=15.4,
                  stranded=2.5, trend_per_day=0.02, days_to_limit=125.0)  # fmt: skip
    roomy = limit("main", kind="contract", unit="W", limit_value=2e6, usable=2e6, use_share=0.4)
    rows = facility_rows.tightest([limit("unknown"), roomy, tight])
    assert [it.name for it in rows] == ["pdu-1", "main", "unknown"]
    words = said(facility_meters.limits(rows))
    for part in ("breaker, feed A", "80 % rule", "50.4\u00a0A", "95\u00a0%", "+0.02\u00a0A", "125\u00a0d", "2\u00a0MW",
                 "at most 15, those of which most is used now"):  # fmt: skip
        assert part in words
    assert "No limit is known" in said(facility_meters.limits([]))


@pytest.mark.parametrize(
    ("rows", "words", "tone"),
    [
        ([], "not measured", ""),
        ([configured()], "configured PUE · not measured", ""),
        ([pue()], "interim PUE · category 2, PDU output · coverage 100\u00a0%", ""),
        ([pue(coverage=0.9, hours_missing=70)], "70\u00a0h missing", "warn"),
        ([pue(hours=700, hours_faulty=3)], "3\u00a0h faulty", "warn"),
        ([pue(hours=20, hours_faulty=3)], "3\u00a0h faulty", "bad"),
    ],
)
def test_a_pue_bears_its_name_category_and_coverage_and_says_what_is_not_in_it(
    rows: list[Pue], words: str, tone: str
) -> None:
    card = facility._span_card("24 h", rows, 2, "")
    assert words in said(card)
    assert card.className == f"card {tone}"


def test_a_power_ratio_below_one_is_a_fault_and_one_without_a_meter_is_none() -> None:
    now = START + HOUR
    ratio = FleetPowerRatio(
        category=2, sites=1, sites_with_meters=2, power_ratio=0.997, facility_power_w=997.0, it_power_w=1000.0,
        meters_silent=1, time=START, simulated=False, known=["paris"],
    )  # fmt: skip
    card = facility._now_card(ratio, "1 of 2 sites, without oslo", now)
    assert card.className == "card bad"
    assert "0.99" in said(card)
    assert "a meter is wrong" in said(card)
    assert "1 of 2 sites, without oslo" in said(card)
    silent = FleetPowerRatio(
        category=2, sites=0, sites_with_meters=1, power_ratio=None, facility_power_w=None, it_power_w=None,
        meters_silent=3, time=None, simulated=False, known=[],
    )  # fmt: skip
    assert "3 meters silent" in said(facility._now_card(silent, "", now))
    assert "no meters" in said(facility._now_card(None, "", now))


@pytest.mark.parametrize(
    ("asked", "sites", "start", "step"),
    [
        (View(), 1, START - 7 * DAY, HOUR),
        (View(range="1h"), 20, START - 7 * DAY, 6 * HOUR),
        (View(range="24h"), 20, START - DAY, HOUR),
        (View(range="30d"), 1, START - 30 * DAY, HOUR),
        (View(range="30d"), 20, START - 30 * DAY, DAY),
        (View(range="365d"), 1, START - 365 * DAY, DAY),
        (View(range="365d"), 20, view.floor(START - 365 * DAY, 7 * DAY), 7 * DAY),
        (View(start=START - 3 * DAY - timedelta(minutes=5), stop=START + DAY), 1, START - 3 * DAY - HOUR, HOUR),
    ],
)
def test_periods_are_of_whole_hours_that_are_known(asked: View, sites: int, start: datetime, step: timedelta) -> None:
    assert view.facility_period(asked, START, sites) == Period(start, START, step)


def test_ratios_volumes_and_changes_are_said_with_their_units() -> None:
    assert [quantities.ratio(it) for it in (None, 1.2549, 0.999, 0.5)] == ["–", "1.25", "0.99", "0.50"]
    assert [quantities.volume(it) for it in (None, 5.62, 12_345.0)] == ["–", "5.62\u00a0m³", "12\u202f345\u00a0m³"]
    assert [quantities.signed(it, "W") for it in (0.0, 38.71, -3600.0)] == ["0\u00a0W", "+38.7\u00a0W", "−3.6\u00a0kW"]
    assert [quantities.mass(it) for it in (183.0, 1200.0)] == ["183\u00a0kg", "1.2\u00a0t"]
    assert [quantities.current(it) for it in (None, 10.64)] == ["–", "10.6\u00a0A"]

"""Energy per token in the dashboard: rows put together, what may be believed and compared, and figures of it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import plotly.graph_objects as go
import pytest

from dashboard import theme, token_figures, token_rows, view
from dashboard.pages import token_table, tokens
from dashboard.theme import LIGHT
from dashboard.token_rows import Row, Weighed
from dashboard.view import Period, View
from gigawatch.readings import Carbon, Cost
from gigawatch.token_readings import EnergyPerToken, Idle, Serving

START = datetime(2026, 11, 23, 8, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
PERIOD = Period(START, START + 4 * MINUTE, MINUTE)


def blank(kind: Any, **values: Any) -> Any:
    return kind(**{**dict.fromkeys(kind.__struct_fields__), "time": START, "label": "chat", **values})


def energy(label: str = "chat", minute: int = 0, **values: Any) -> EnergyPerToken:
    usual = {"boundary": "gpu", "gpus": 8, "gpus_silent": 0, "coverage": 1.0, "variation": 0.02}
    found: EnergyPerToken = blank(EnergyPerToken, label=label, time=START + minute * MINUTE, **{**usual, **values})
    return found


def serving(label: str = "chat", minute: int = 0, **values: Any) -> Serving:
    found: Serving = blank(Serving, label=label, time=START + minute * MINUTE, **values)
    return found


def idle(minute: int = 0, label: str = "oslo", **parts_j: float) -> Idle:
    usual = dict.fromkeys(("active_j", "provisioned_idle_j", "unobserved_j", "unallocated_j"), 0.0)
    parts = {**usual, **parts_j}
    return Idle(time=START + minute * MINUTE, label=label, energy_j=sum(parts.values()), coverage=1.0, **parts)


def row(label: str, j_per_token: float | None, ttft_s: float | None, batch: float = 8.0, coverage: float = 1.0) -> Row:
    return Row(
        label=label, energy=energy(label, j_per_generated_token=j_per_token, coverage=coverage),
        serving=serving(label, ttft_p50_s=ttft_s, ttft_p95_s=None if ttft_s is None else 2 * ttft_s, batch=batch),
    )  # fmt: skip


def plotly(drawn: Any) -> go.Figure:
    """The chart as plotly's own figure, which takes no property that plotly does not know."""
    return go.Figure(drawn.figure)


def test_rows_of_several_reads_are_put_together_and_what_has_no_price_has_no_cost() -> None:
    reads = [energy("chat", j_per_generated_token=0.5), energy("code", j_per_generated_token=2.0), energy("idle")]
    cost = [
        blank(Cost, currency="EUR", cost=0.2, priced_energy_j=3_600_000.0, price_coverage=0.75),
        blank(Cost, label="idle", currency="EUR", cost=0.2, priced_energy_j=3_600_000.0),
        blank(Cost, label="code", currency=None, priced_energy_j=0.0),
    ]
    carbon = [
        blank(Carbon, method="location", carbon_kg=0.36, accounted_energy_j=3_600_000.0, intensity_coverage=1.0),
        blank(Carbon, method="market", carbon_kg=9.0, accounted_energy_j=1.0),
    ]
    chat, code, none = token_rows.join(reads, [serving("code", batch=3.0)], [], cost, carbon)
    # 0.5 J a token: a million are 0.1389 kWh, at 0.2 EUR and 0.36 kg each.
    assert chat.costs == (Weighed(pytest.approx(0.5e6 / 3.6e6 * 0.2), "EUR", 0.75),)
    assert chat.carbon == Weighed(pytest.approx(0.5e6 / 3.6e6 * 0.36), "kg", 1.0)
    assert (code.costs, code.carbon) == ((), None)
    assert code.serving is not None and code.serving.batch == 3.0
    assert (none.costs, none.carbon, chat.serving) == ((), None, None)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, []),
        ({"variation": 0.1, "coverage": 0.95}, []),
        ({"variation": 0.11}, ["not stable"]),
        ({"coverage": 0.94}, ["incomplete"]),
        ({"variation": 0.5, "coverage": 0.1}, ["not stable", "incomplete"]),
        ({"variation": None, "coverage": None}, []),
        ({"j_per_generated_token": None, "coverage": 0.0}, []),
    ],
)
def test_a_figure_that_is_not_to_be_relied_upon_says_why(values: dict[str, Any], said: list[str]) -> None:
    assert token_rows.doubts(energy(**{"j_per_generated_token": 1.0, **values})) == said


def test_the_frontier_is_what_no_other_betters_in_both() -> None:
    rows = [row("slow", 0.1, 2.0), row("worse", 0.5, 1.0), row("middle", 0.3, 0.9), row("fast", 1.0, 0.1),
            row("twin", 0.3, 0.9), row("unknown", None, 0.01), row("untold", 0.01, None)]  # fmt: skip
    assert [it.label for it in token_rows.frontier(rows, "p50")] == ["fast", "middle", "slow"]
    assert token_rows.frontier([], "p95") == []


def test_rows_without_the_figure_are_last_either_way() -> None:
    rows = [row("b", None, 1.0), row("a", 2.0, None), row("c", 1.0, 0.5)]
    for rising, expected in ((True, ["c", "a", "b"]), (False, ["a", "c", "b"])):
        assert [it.label for it in token_rows.in_order(rows, "j_per_token", rising=rising)] == expected
    assert [it.label for it in token_rows.in_order(rows, "label", rising=False)] == ["c", "b", "a"]
    assert [it.label for it in token_rows.in_order(rows, "ttft_p95", rising=True)] == ["c", "b", "a"]


def test_idle_is_a_part_of_what_assigned_gpus_used() -> None:
    assert token_rows.idle_share(idle(active_j=30.0, provisioned_idle_j=10.0, unallocated_j=960.0)) == 0.25
    assert token_rows.idle_share(idle(unallocated_j=5.0)) is None
    assert token_rows.idle_share(None) is None
    assert token_rows.idle_sum([]) is None
    whole = token_rows.idle_sum([idle(0, active_j=1.0), idle(1, "austin", provisioned_idle_j=3.0)])
    assert whole is not None
    assert (whole.energy_j, whole.active_j, whole.provisioned_idle_j) == (4.0, 1.0, 3.0)


def test_idle_energy_costs_what_it_did_at_its_site_and_hour() -> None:
    costs = [
        blank(
            Cost,
            label=site,
            time=START + hour * HOUR,
            currency="EUR",
            cost=price,
            priced_energy_j=3_600_000.0,
            price_coverage=1.0,
        )
        for site, hour, price in (("oslo", 0, 0.1), ("oslo", 1, 0.4), ("austin", 0, 0.3))
    ]
    parts = [idle(minute, site, provisioned_idle_j=3_600_000.0, active_j=1e9)
             for minute, site in ((5, "oslo"), (59, "oslo"), (60, "oslo"), (0, "austin"), (60, "austin"))]  # fmt: skip
    assert token_rows.idle_costs(parts, costs, HOUR) == [
        token_rows.Priced(4 * 3_600_000.0, "EUR", pytest.approx(0.1 + 0.1 + 0.4 + 0.3))
    ]
    assert token_rows.idle_costs(parts, [], HOUR) == []
    # An hour in which the contract changes has two prices, each of a part of its energy, and a part may have none.
    change = [
        blank(Cost, label="oslo", currency=currency, cost=0.1, priced_energy_j=3_600_000.0, price_coverage=share)
        for currency, share in (("EUR", 0.5), ("NOK", 0.25))
    ]
    assert token_rows.idle_costs(parts[:1], change, HOUR) == [
        token_rows.Priced(share * 3_600_000.0, currency, pytest.approx(share * 0.1))
        for currency, share in (("EUR", 0.5), ("NOK", 0.25))
    ]


def test_what_is_weighed_by_a_part_of_the_energy_is_marked() -> None:
    def cells(coverage: float | None) -> str:
        its = msgspec.structs.replace(
            row("chat", 0.5, 1.0), costs=(Weighed(2.0, "EUR", coverage), Weighed(3.0, "USD", 1.0)),
            carbon=Weighed(0.4, "kg", coverage),
        )  # fmt: skip
        return str(token_table.render([its], View(), priced=True)).replace("\\xa0", " ")

    assert "4.0 % priced" in cells(0.04)
    assert "4.0 % known" in cells(0.04)
    assert "% priced" not in cells(0.96)


@pytest.mark.parametrize(
    ("boundary", "share", "said"),
    [
        ("gpu", None, "by counters and meters"),
        ("facility", 1.0, "by counters and meters · PUE measured"),
        ("facility", 0.0, "by counters and meters · PUE configured, not measured"),
        ("facility", 0.4, "by counters and meters · PUE measured for 40.0\N{NO-BREAK SPACE}% of it, else configured"),
    ],
)
def test_whether_a_pue_was_measured_is_said(boundary: str, share: float | None, said: str) -> None:
    assert tokens._obtained(energy(boundary=boundary, measured_share=1.0, measured_pue_share=share)) == said


@pytest.mark.parametrize(
    ("one", "other", "doubt"),
    [
        ({"j_per_generated_token": 2.0}, {"j_per_generated_token": 1.0}, ""),
        ({"j_per_generated_token": 1.01}, {"j_per_generated_token": 1.0}, "within what it varies by"),
        ({"j_per_generated_token": 2.0, "coverage": 0.9}, {"j_per_generated_token": 1.0}, "coverage is too low"),
        ({"j_per_generated_token": 2.0}, {"j_per_generated_token": 1.0, "coverage": 0.9}, "coverage is too low"),
        ({"j_per_generated_token": None}, {"j_per_generated_token": 1.0}, ""),
    ],
)
def test_a_difference_that_means_nothing_says_so(one: dict[str, Any], other: dict[str, Any], doubt: str) -> None:
    assert token_rows.doubt_of(energy(**one), energy(**other)) == doubt


def test_a_period_is_known_for_the_bins_in_which_anything_was_measured() -> None:
    assert token_rows.known_part([idle(0, "oslo"), idle(0, "austin"), idle(3)], PERIOD) == 0.5
    assert token_rows.known_part([], PERIOD) == 0.0


def test_engines_that_were_read_too_seldom_make_differences_doubtful() -> None:
    good, poor = serving(scrape_coverage=1.0), serving(scrape_coverage=0.5)
    assert token_rows.doubt_of_serving(good, good) == token_rows.doubt_of_serving(None, good) == ""
    assert token_rows.doubt_of_serving(good, poor) == "the engines were read too seldom"


def test_a_difference_is_a_part_of_what_it_is_from() -> None:
    assert token_rows.Compared("x", 3.0, 2.0, str, "").difference == 0.5
    for one, other in ((None, 2.0), (2.0, None), (2.0, 0.0)):
        assert token_rows.Compared("x", one, other, str, "").difference is None


def test_a_period_ends_where_figures_are_known_and_many_deployments_are_read_by_hours_and_days() -> None:
    until = datetime(2026, 11, 23, 9, 41, tzinfo=UTC)
    few = view.token_period(View(), until, 10)
    assert (few.start, few.stop, few.step) == (until - HOUR, until, MINUTE)
    day = view.token_period(View(range="24h"), until, 500)
    assert (day.stop, day.step) == (datetime(2026, 11, 23, 9, tzinfo=UTC), HOUR)
    assert day.start.minute == 0
    month = view.token_period(View(range="30d"), until, 500)
    assert month.step == timedelta(days=1)
    assert month.start.hour == 0
    # An hour by hours would say nothing.
    assert view.token_period(View(), until, 5_000).step == MINUTE
    own = View(start=START, stop=START + 2 * HOUR)
    assert view.token_period(own, until, 1).stop == START + 2 * HOUR


def test_energy_per_token_has_gaps_and_its_coverage_below() -> None:
    rows = [energy(minute=minute, j_per_generated_token=value, coverage=coverage)
            for minute, value, coverage in ((0, 0.4, 1.0), (1, None, 0.0), (3, 0.5, 0.8))]  # fmt: skip
    drawn = token_figures.trend(rows, "gpu", PERIOD, LIGHT)
    line, strip = plotly(drawn).data
    assert list(line.y) == [0.4, None, None, 0.5]
    assert line.connectgaps is False
    # Where no GPU is assigned nothing is missing: the third minute has no strip.
    assert len(strip.x) == 3
    assert list(strip.marker.color) == [LIGHT.border, LIGHT.bad, LIGHT.warn]
    assert "boundary gpu. Latest 0.5" in drawn.summary
    assert "below 95 % in 2 of 3 bins" in drawn.summary


@pytest.mark.parametrize("name", theme.THEME_NAMES)
def test_where_there_is_nothing_figures_say_why(name: theme.ThemeName) -> None:
    chosen = theme.THEMES[name]
    unknown = [energy(minute=0, boundary="facility", coverage=0.0)]
    for drawn, said in (
        (token_figures.trend([], "gpu", PERIOD, chosen), "No data in this period"),
        (token_figures.trend(unknown, "facility", PERIOD, chosen), "No figure at boundary facility"),
        (token_figures.energy_parts([], PERIOD, chosen), "No data in this period"),
        (token_figures.trade_off([], "gpu", "p50", str, chosen), "No data in this period"),
        (token_figures.trade_off([row("a", None, 1.0)], "it", "p50", str, chosen), "No figure at boundary it"),
        (token_figures.trend([energy(energy_j=9.0)], "gpu", PERIOD, chosen), "No token was generated"),
        (token_figures.generated([], PERIOD, chosen), "No data in this period"),
    ):
        assert [note.text for note in plotly(drawn).layout.annotations] == [said]


def test_energy_is_stacked_in_its_parts_of_all_sites() -> None:
    rows = [idle(minute, site, active_j=6_000.0, provisioned_idle_j=3_000.0) for minute in (0, 1, 3)
            for site in ("oslo", "austin")]  # fmt: skip
    drawn = token_figures.energy_parts(rows, PERIOD, LIGHT)
    figure = plotly(drawn)
    lines = {it.name: list(it.y) for it in figure.data if it.fill is None}
    # 12 kJ in a minute are 200 W, and 6 kJ more are 300 W.
    assert lines == {"Active": [200.0, 200.0, None, 200.0], "Provisioned idle": [300.0, 300.0, None, 300.0]}
    assert figure.layout.yaxis.title.text == "W"
    assert "active 66.7" in drawn.summary
    assert "unallocated" not in drawn.summary


def test_the_trade_off_has_a_point_for_each_and_the_frontier_apart() -> None:
    rows = [
        row("cheap", 0.1, 2.0, batch=64, coverage=0.5),
        row("fast", 1.0, 0.1, batch=1),
        row("worse", 1.1, 2.1),
        row("silent", None, 1),
    ]
    drawn = token_figures.trade_off(rows, "gpu", "p95", lambda it: f"/{it.label}", LIGHT)
    others, best = plotly(drawn).data
    assert (list(others.x), list(others.y), list(others.customdata)) == ([4.2], [1.1], ["/worse"])
    assert (list(best.text), list(best.x), list(best.y)) == (["fast", "cheap"], [0.2, 4.0], [1.0, 0.1])
    assert best.marker.size[1] > others.marker.size[0] > best.marker.size[0]
    assert (list(others.marker.symbol), list(best.marker.symbol)) == (["circle"], ["diamond", "diamond-open"])
    assert "of 3, which the table lists as well" in drawn.summary
    assert "fast: 1" in drawn.summary


def test_what_was_served_is_a_line_for_each_figure_that_is_told() -> None:
    rows = [serving(minute=minute, ttft_p50_s=0.1, ttft_p95_s=None) for minute in (0, 2)]
    waits = {"p50": lambda it: it.ttft_p50_s, "p95": lambda it: it.ttft_p95_s}
    drawn = token_figures.served(rows, PERIOD, LIGHT, waits, title="TTFT", unit="s", words=str)
    assert [list(it.y) for it in plotly(drawn).data] == [[0.1, None, 0.1, None]]
    tokens = [energy(minute=0, generated_tokens_per_s=12_000.0)]
    assert plotly(token_figures.generated(tokens, PERIOD, LIGHT)).data[0].y[0] == 12.0

"""Meters and their health: a list with what is wrong first, and the limits of what they feed."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from dash import dcc, html

from dashboard import components, facility_rows, quantities, view
from dashboard.components import PAGE_ROWS, badge, choice_link
from dashboard.facility_rows import ROLES, SEVERITY, TONES
from dashboard.plots import GOOD_COVERAGE
from dashboard.quantities import UNKNOWN
from dashboard.view import MeterOrder, View
from gigawatch.facility_readings import Capacity, HealthState, MeterHealth

# Heading, what it sorts by, whether the greatest come first at the first click.
COLUMNS: tuple[tuple[str, MeterOrder, bool], ...] = (
    ("State", "problem", False),
    ("Meter", "meter", False),
    ("Site, hall", "place", False),
    ("Role", "role", False),
    ("Feed", "feed", False),
    ("Power", "power", True),
    ("Coverage 24\u00a0h", "coverage", False),
    ("Last seen", "seen", False),
    ("Refused 24\u00a0h", "rejected", True),
    ("Stuck 24\u00a0h", "stuck", True),
    ("Reversed 24\u00a0h", "reversed", True),
)
MEANINGS: dict[HealthState, str] = {
    "reversed": "power flows backwards: current transformers swapped?",
    "stuck": "power and register stand still",
    "silent": "nothing heard of it lately",
    "rejected": "more than 5 % of its readings are impossible",
    "never heard of": "in the topology, and no agent reads it",
    "not placed": "an agent reads it, and the topology does not know it: it is in no figure",
    "imported": "",
    "ok": "",
    "retired": "its time of use is over",
}
MOST_LIMITS = 15


def render(meters: Sequence[MeterHealth], asked: View, now: datetime) -> list[Any]:
    """The bar above the list, and the list."""
    named = facility_rows.matching(meters, asked.find)
    found = [it for it in named if asked.health in {None, it.state}]
    page = min(asked.page, components.pages(len(found)))
    ordered = facility_rows.in_order(found, asked.meters, descending=asked.meters_descending)
    shown = ordered[(page - 1) * PAGE_ROWS : page * PAGE_ROWS]
    return [
        html.Div(
            [
                html.H2("Meters and their health", id="meters"),
                components.search("Search name, place, role or reader", asked.find),
                html.Nav(_states(named, asked), id="live-meter-states", className="choice", **{"aria-label": "State"}),
            ],
            className="list-bar wide",
        ),
        html.Section(
            [
                components.pager("Pages of the meters", asked, page, len(found), "meters"),
                _table(shown, asked, now) if shown else html.P(_none(asked), className="empty"),
            ],
            id="live-meters",
            className="panel wide nodes-list dense",
        ),
    ]


def summary(meters: Sequence[MeterHealth], asked: View) -> html.P:
    """How many meters there are, and in which states that want somebody, as links to those."""
    counts = {
        state: sum(1 for it in meters if it.state == state) for state in SEVERITY if TONES[state] in {"bad", "warn"}
    }
    said: list[Any] = [html.A(f"{quantities.count(len(meters))} meters", href="#meters"), ": "]
    ill = [(state, number) for state, number in counts.items() if number]
    for state, number in ill:
        link = f"{view.query(asked, health=state, page=1, find='')}#meters"
        said += [dcc.Link(badge(f"{quantities.count(number)} {state}", TONES[state]), href=link), " "]
    return html.P(said if ill else [*said, "nothing wrong with any."], id="live-meters-summary", className="boundary")


def _states(meters: Sequence[MeterHealth], asked: View) -> list[Any]:
    """Each state with the number of its meters, to choose from; a state that no meter is in is left out."""
    counts = {state: sum(1 for it in meters if it.state == state) for state in SEVERITY}
    shown: list[tuple[str, HealthState | None, int]] = [("all", None, len(meters))]
    shown += [(state, state, number) for state, number in counts.items()]
    return [
        choice_link(
            [f"{words} ", html.B(quantities.count(number))],
            view.query(asked, health=state, page=1) or "?",
            chosen=state == asked.health,
        )
        for words, state, number in shown
        if number or state in {None, asked.health}
    ]


def _none(asked: View) -> str:
    state = f" that is {asked.health}" if asked.health else ""
    return f"No meter{state}{f' with “{asked.find}” in its name, place, role or reader' if asked.find else ''}."


def _table(rows: Sequence[MeterHealth], asked: View, now: datetime) -> html.Div:
    places = [order for _, order, _ in COLUMNS]
    return components.table(
        "Meters with their health",
        [_heading(name, order, falling, asked) for name, order, falling in COLUMNS],
        [_cells(it, now) for it in rows],
        "",
        numbers=range(5, len(COLUMNS)),
        sorted_by=(places.index(asked.meters), asked.meters_descending),
    )


def _heading(name: str, order: MeterOrder, falling: bool, asked: View) -> dcc.Link:
    """A column's name as a link that sorts by it; by the column that sorts already, the other way round."""
    descending = not asked.meters_descending if order == asked.meters else falling
    return dcc.Link(name, href=view.query(asked, meters=order, meters_descending=descending, page=1) or "?")


def _cells(it: MeterHealth, now: datetime) -> list[Any]:
    meaning = MEANINGS[it.state]
    # Windows may come late: its newest says more than when it was last stored.
    seen = it.newest or it.last_seen
    # Of a meter that nobody reads, or that is no longer wanted, nothing is missing.
    poor = it.coverage_24h < GOOD_COVERAGE and it.state not in {"retired", "never heard of"}
    return [
        [badge(it.state, TONES[it.state]), html.Span(meaning, className="note") if meaning else ""],
        [
            it.meter, " ", components.simulated_badge(it.simulated) or "",
            html.Span(" sum of others" if it.virtual else f" read by {it.read_by}", className="note")
            if it.virtual or it.read_by else "",
        ],
        " / ".join(filter(None, (it.site, it.hall))),
        ROLES[it.role] if it.role else UNKNOWN,
        it.feed or UNKNOWN,
        # What a silent meter said last is not its power now.
        quantities.power(it.power_w if it.state != "silent" else None),
        badge(quantities.share(it.coverage_24h), "warn") if poor else quantities.share(it.coverage_24h),
        html.Time(
            f"{quantities.duration((now - seen).total_seconds())} ago", dateTime=seen.isoformat(),
            title=f"{quantities.moment(seen)} UTC",
        ) if seen else UNKNOWN,
        _count(it.rejected_24h, ""),
        _count(it.stuck_hours_24h, "h"),
        _count(it.reversed_hours_24h, "h"),
    ]  # fmt: skip


def _count(number: int | None, unit: str) -> Any:
    """A number that should be 0."""
    if not number:
        return UNKNOWN if number is None else "0"
    return badge(quantities.SPACE.join(filter(None, (quantities.count(number), unit))), "warn")


def limits(rows: Sequence[Capacity]) -> html.Section:
    """What of each limit is used and left, the tightest first."""
    shown = facility_rows.tightest(rows)[:MOST_LIMITS]
    return components.panel(
        "Capacity",
        components.table(
            "Limits of feeds, racks, rows, halls and sites, those of which most is used first",
            ("Part", "Limit", "Usable", "Now", "Peak", "Most used", "Headroom now", "Never drawn", "Trend a day",
             "Time to limit"),
            [_limit(it) for it in shown],
            "No limit is known: breakers, contracts, ratings and budgets come from the topology (breaker_a,"
            " contract_kw, rated_kw, budget_kw).",
            numbers=range(1, 10),
        ),
        html.P(
            f"Shown are at most {MOST_LIMITS}, those of which most is used now or was at the peak. Of a breaker 80 %"
            " of its rating is usable by a load that lasts (NFPA 70, 210.20). Trend: of the daily peaks of up to 30"
            " days.",
            className="note",
        ) if shown else None,
        note="peak: of 30 days",
        wide=True,
    )  # fmt: skip


def _limit(it: Capacity) -> list[Any]:
    def words(value: float | None) -> str:
        said = quantities.current(value) if it.unit == "A" else quantities.power(value)
        return said.replace("-", "\u2212")

    worst = max(it.use_share or 0.0, it.peak_share or 0.0)
    tone = "bad" if worst >= 1 else "warn" if worst >= 0.9 else ""
    known = it.use_share is not None or it.peak_share is not None
    used = f"{100 * worst:.0f}{quantities.SPACE}%" if known else UNKNOWN
    kind = f"{it.scope} budget" if it.kind == "budget" else f"{it.kind}{f', feed {it.feed}' if it.feed else ''}"
    return [
        [
            f"{it.site} / {it.name}" if it.scope != "site" else it.site,
            html.Span(f"{kind}{', by its GPUs alone' if it.basis == 'gpus' else ''}", className="note"),
        ],
        words(it.limit_value),
        [words(it.usable), html.Span("80 % rule", className="note") if it.kind == "breaker" else ""],
        words(it.present),
        words(it.peak),
        badge(used, tone) if tone else used,
        words(it.headroom),
        words(it.stranded),
        UNKNOWN if it.trend_per_day is None else quantities.signed(it.trend_per_day, it.unit),
        _time_to(it.days_to_limit),
    ]  # fmt: skip


def _time_to(days: float | None) -> str:
    """How long, in words; far ahead a day more or less means nothing."""
    if days is None:
        return UNKNOWN
    if days > 3_650:
        return "beyond 10 years"
    return f"{days / 365:.1f}{quantities.SPACE}years" if days > 365 else f"{days:.0f}{quantities.SPACE}d"

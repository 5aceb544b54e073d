"""The fleet: what draws power now, what is hot, held down, idle or silent."""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from dash import dcc, html
from sqlalchemy import Connection

from dashboard import components, figures, quantities, recent, view
from dashboard.components import card, chart, choice, panel, table
from dashboard.plots import GOOD_COVERAGE
from dashboard.theme import Theme
from dashboard.view import Group, Heat, Period, View
from gigawatch import readings
from gigawatch.readings import Energy, FleetSummary, GpuNow, NodeNow

T = TypeVar("T")

MOST_CELLS = 2_000
"""GPUs that a heat map shows one by one; beyond, a cell is a rack."""
MOST_RACKS = 1_000
"""Racks that it shows one by one; beyond, a cell is the nodes of a site that are as loaded."""
MOST_GROUPS = 200
"""Racks whose power is read to show the greatest and the sum of the others; beyond, the greatest alone."""
MOST_ROWS = 8
GROUPS: dict[Group, str] = {"fleet": "Total", "site": "Site", "rack": "Rack", "gpu_model": "GPU model"}
HEATS: dict[Heat, str] = {"power": "Power", "temperature": "Temperature", "utilisation": "Utilisation"}
BOUNDARY = "GPUs only (boundary: gpu): without CPUs, network, cooling and losses"


def render(connection: Connection, asked: View, theme: Theme, now: datetime) -> Any:
    """The page."""
    read = partial(_read, connection)
    summary = read(readings.fleet_summary, asked.where)
    if not summary.gpus:
        return components.nothing(asked)
    period = view.period(asked, now, lambda start, stop: readings.longest_window_s(connection, start, stop))
    today = view.today(now)
    racks = read(readings.count_racks, asked.where)
    top_racks = figures.MOST_GROUPS if asked.group == "rack" and racks > MOST_GROUPS and not asked.rack else None
    known = read(readings.known_until)
    power = read(
        readings.power_series, period.start, period.stop, period.step, asked.where, asked.group, most_racks=top_racks
    )
    query = view.elsewhere(asked)
    events = readings.events(connection, now - timedelta(days=1), now, asked.where, limit=MOST_ROWS)
    longest_silent: list[NodeNow] = []
    if summary.nodes_silent:
        longest_silent = read(
            readings.nodes_now, asked.where, state="silent", order="silent", descending=True, limit=MOST_ROWS
        )
    clocks_off: list[NodeNow] = []
    if summary.nodes_clock_off:
        clocks_off = read(readings.nodes_now, asked.where, state="clock_off", limit=MOST_ROWS)
    hottest = read(readings.gpus_now, asked.where, "temperature", MOST_ROWS)
    throttled: list[GpuNow] = []
    if summary.gpus_throttled:
        throttled = read(readings.gpus_now, asked.where, "temperature", MOST_ROWS, throttled=True)
    heat_title, heat_map, heat_note = _heat_map(connection, asked, theme, summary.gpus, racks)
    energy = read(readings.energy, today.start, today.stop, asked.where)
    return html.Div(
        [
            html.Div(
                [html.H1("Fleet"), html.P(BOUNDARY + ". Times are UTC.", className="boundary")], className="title wide"
            ),
            _cards(summary, energy, hottest[0] if hottest else None, query),
            panel(
                "Power",
                chart(figures.power(power, period, theme, known), "fleet-power"),
                note=_about_power(period, known, top_racks and racks),
                control=choice(
                    "Group by",
                    {label: view.query(asked, group=key) for key, label in GROUPS.items()},
                    GROUPS[asked.group],
                ),
                wide=True,
            ),
            panel(
                heat_title,
                heat_map,
                note=heat_note,
                control=choice(
                    "Colour by", {label: view.query(asked, heat=key) for key, label in HEATS.items()}, HEATS[asked.heat]
                ),
                wide=True,
            ),
            panel(
                "Hottest GPUs",
                _hottest(hottest, query),
                note="by margin to slowdown",
                control=_more("By node", asked, sort="temperature", descending=True),
            ),
            panel(
                "Throttled GPUs",
                _throttled(throttled, query),
                note=f"{quantities.count(summary.gpus_throttled)} now",
                control=_more("By node", asked, sort="throttled", descending=True),
            ),
            panel(
                "Utilisation",
                chart(figures.utilisation(power, period, theme), "fleet-utilisation"),
                note="mean of GPUs",
            ),
            panel(
                "Silent nodes",
                _silent(longest_silent, query),
                *_clocks_off(clocks_off, query),
                note=f"{quantities.count(summary.nodes_silent)} of {quantities.count(summary.nodes)}",
                control=_more("All of them", asked, state="silent") if summary.nodes_silent > MOST_ROWS else None,
            ),
            panel("Events of the last day", events_table(events, query), wide=True),
        ],
        className="grid",
    )


def _silent(nodes: list[NodeNow], query: str) -> Any:
    return table(
        "Nodes not heard of for a minute",
        ("Node", "Rack", "Silent for", "GPUs"),
        [
            (
                components.node_link(node.node_id, node.hostname, query),
                " / ".join(filter(None, (node.site, node.rack))),
                quantities.duration(node.silent_s),
                str(node.gpus),
            )
            for node in nodes
        ],
        "Every node was heard of within the last minute.",
        numbers=(2, 3),
    )


def _clocks_off(nodes: list[NodeNow], query: str) -> list[Any]:
    """Nodes whose figures cannot be joined with those of others; nothing where there is none."""
    if not nodes:
        return []
    return [
        html.H3("Clock off by more than 2 s"),
        table(
            "Nodes whose clock is off by more than 2 s",
            ("Node", "Rack", "Off by"),
            [
                (
                    components.node_link(node.node_id, node.hostname, query),
                    " / ".join(filter(None, (node.site, node.rack))),
                    f"{node.clock_offset_s:+.1f} s",
                )
                for node in nodes
            ],
            "",
            numbers=(2,),
        ),
    ]


def events_table(events: list[readings.EventRow], query: str) -> Any:
    """Events as a table."""
    tones = {"critical": "bad", "warning": "warn", "info": ""}
    return table(
        "Events, the newest first",
        ("Time", "Where", "What"),
        [
            (
                html.Time(quantities.moment(event.time), dateTime=event.time.isoformat()),
                html.Span(
                    [
                        components.node_link(event.node_id, event.hostname, query),
                        *(
                            [" · ", components.gpu_link(event.gpu_uuid, f"GPU {event.gpu_index}", query)]
                            if event.gpu_uuid
                            else []
                        ),
                    ]
                ),
                html.Span([components.badge(event.severity, tones[event.severity]), " ", event.message]),
            )
            for event in events
        ],
        "Nothing happened in this time.",
    )


def _cards(summary: FleetSummary, energy: Energy, hottest: GpuNow | None, query: str) -> html.Dl:
    poor = energy.coverage is not None and energy.coverage < GOOD_COVERAGE
    absent = summary.gpus - summary.gpus_reporting
    reporting = summary.gpus_reporting / summary.gpus
    load = summary.power_w / summary.power_limit_w if summary.power_w is not None and summary.power_limit_w else None
    hot = hottest.margin_to_slowdown_c if hottest else None
    return html.Dl(
        [
            card(
                "Power now", quantities.power(summary.power_w),
                [
                    "no GPU reports" if load is None
                    else f"{quantities.percent(load * 100)} of {quantities.power(summary.power_limit_w)} limit",
                    f" · {quantities.share(reporting)} of GPUs" if reporting < GOOD_COVERAGE else "",
                ],
                tone="warn" if reporting < GOOD_COVERAGE else "", boundary=BOUNDARY, share=load,
            ),
            card(
                "Energy today", quantities.work(energy.energy_j),
                f"UTC day · coverage {quantities.share(energy.coverage)}" + (", incomplete" if poor else ""),
                tone="warn" if poor else "", boundary=BOUNDARY, share=energy.coverage,
            ),
            card(
                "Utilisation", quantities.percent(summary.gpu_util_pct), "mean of reporting GPUs",
                share=None if summary.gpu_util_pct is None else summary.gpu_util_pct / 100,
            ),
            card(
                "GPUs reporting",
                quantities.count(summary.gpus_reporting),
                f"of {quantities.count(summary.gpus)}: {quantities.count(summary.gpus_missing)} missing, "
                f"{quantities.count(summary.gpus_silent)} on silent nodes" if absent else "all of them",
                tone="bad" if absent else "", share=reporting,
            ),
            card(
                "Hottest GPU", quantities.celsius(hottest.gpu_temp_max_c if hottest else None),
                None if hottest is None or hot is None else [
                    f"{hot} K to slowdown · ",
                    components.gpu_link(hottest.gpu_uuid, f"{hottest.hostname} · {hottest.gpu_index}", query),
                ],
                tone=components.heat_tone(hot),
            ),
            card(
                "Throttled", f"{quantities.count(summary.gpus_throttled)}{quantities.SPACE}GPUs",
                "by power cap, heat or brake",
                tone="warn" if summary.gpus_throttled else "",
                share=summary.gpus_throttled / summary.gpus,
            ),
        ],
        id="live-cards", className="cards",
    )  # fmt: skip


def _heat_map(connection: Connection, asked: View, theme: Theme, gpus: int, racks: int) -> tuple[str, Any, str]:
    """Title, figure and note: a cell for a GPU, a rack, or the nodes of a site that are as loaded."""
    query = view.query(asked)
    if gpus <= MOST_CELLS:
        cells = readings.gpus_now(connection, asked.where)
        drawn = figures.heat_map_gpus(cells, asked.heat, lambda gpu: f"/gpus/{gpu.gpu_uuid}{query}", theme)
        return "Racks", chart(drawn, "fleet-heat"), "a cell is a GPU; × does not report"
    if racks <= MOST_RACKS:
        drawn = figures.heat_map_racks(
            recent.read(readings.racks_now, connection, asked.where), asked.heat,
            lambda rack: view.query(asked, site=rack.site, rack=rack.rack), theme,
        )  # fmt: skip
        return "Racks", chart(drawn, "fleet-heat"), "a cell is a rack; × does not report"
    drawn = figures.heat_map_loads(
        recent.read(readings.load_bins, connection, asked.heat, figures.LOAD_BINS[asked.heat][2], asked.where),
        asked.heat,
        lambda site: f"/nodes{view.query(asked, site=site, sort=asked.heat, descending=True)}", theme,
    )  # fmt: skip
    return "Nodes by load", chart(drawn, "fleet-heat"), f"a cell counts nodes; racks: {quantities.count(racks)}"


def _about_power(period: Period, known: datetime, racks: int | None) -> str:
    """What qualifies the chart of power: which racks it shows, and where it ends before the period does."""
    said = "strip: coverage; gaps: no data"
    if racks:
        said = f"the {figures.MOST_GROUPS} with the most power, of {quantities.count(racks)} racks · {said}"
    if known < period.stop - timedelta(seconds=1):
        said += f" · summed up to {quantities.clock(known)}, the rest is to come"
    return said


def _more(words: str, asked: View, **changes: Any) -> dcc.Link:
    """To the list of nodes, as this panel sorts or chooses them."""
    return dcc.Link(words, href=f"/nodes{view.query(asked, **changes)}", className="more")


def _read(connection: Connection, what: Callable[..., T], *args: Any, **given: Any) -> T:
    return recent.read(what, connection, *args, **given)


def _hottest(gpus: list[GpuNow], query: str) -> Any:
    return table(
        "GPUs nearest to their slowdown temperature",
        ("GPU", "Model", "Now", "Margin", "Power"),
        [
            (
                components.gpu_link(gpu.gpu_uuid, f"{gpu.hostname} · {gpu.gpu_index}", query),
                gpu.gpu_model.removeprefix("NVIDIA "),
                quantities.celsius(gpu.gpu_temp_max_c),
                f"{gpu.margin_to_slowdown_c} K" if gpu.margin_to_slowdown_c is not None else quantities.UNKNOWN,
                quantities.power(gpu.power_w),
            )
            for gpu in gpus
            if gpu.gpu_temp_max_c is not None
        ],
        "No GPU tells its temperature now.",
        numbers=(2, 3, 4),
    )


def _throttled(gpus: list[GpuNow], query: str) -> Any:
    return table(
        "GPUs whose clocks are held down",
        ("GPU", "Why", "Temperature", "Power"),
        [
            (
                components.gpu_link(gpu.gpu_uuid, f"{gpu.hostname} · {gpu.gpu_index}", query),
                ", ".join(gpu.clock_events or ()),
                quantities.celsius(gpu.gpu_temp_max_c),
                quantities.power(gpu.power_w),
            )
            for gpu in gpus
        ],
        "No GPU is held down now.",
        numbers=(2, 3),
    )

"""The fleet: what draws power now, what is hot, held down, idle or silent."""

from datetime import datetime, timedelta
from typing import Any

from dash import dcc, html
from sqlalchemy import Connection

from dashboard import components, figures, quantities, view
from dashboard.components import GOOD_COVERAGE, card, chart, panel, table
from dashboard.theme import Theme
from dashboard.view import Group, Heat, View
from gigawatch import readings
from gigawatch.readings import Energy, FleetSummary, GpuNow

MOST_CELLS = 2_000
"""GPUs that a heat map shows one by one; beyond, a cell is a rack."""
MOST_ROWS = 8
GROUPS: dict[Group, str] = {"fleet": "Total", "site": "Site", "rack": "Rack", "gpu_model": "GPU model"}
HEATS: dict[Heat, str] = {"power": "Power", "temperature": "Temperature", "utilisation": "Utilisation"}
BOUNDARY = "GPUs only (boundary: gpu): without CPUs, network, cooling and losses"


def render(connection: Connection, asked: View, theme: Theme, now: datetime) -> Any:
    """The page."""
    summary = readings.fleet_summary(connection, asked.where)
    if not summary.gpus:
        return _nothing(asked)
    period = view.period(
        asked, now, lambda start, stop: readings.longest_window_s(connection, start, stop, asked.where)
    )
    today = view.today(now)
    power = readings.power_series(connection, period.start, period.stop, period.step, asked.where, asked.group)
    query = view.query(asked)
    events = readings.events(connection, now - timedelta(days=1), now, asked.where, limit=MOST_ROWS)
    silent = readings.nodes_now(connection, asked.where, silent=True, limit=MOST_ROWS)
    hottest = readings.gpus_now(connection, asked.where, "temperature", MOST_ROWS)
    throttled = [gpu for gpu in readings.gpus_now(connection, asked.where, "throttled", MOST_ROWS) if gpu.throttled]
    energy = readings.energy(connection, today.start, today.stop, asked.where)
    return html.Div(
        [
            html.H1("Fleet", className="screen-reader"),
            _cards(summary, energy, hottest[0] if hottest else None),
            html.P(BOUNDARY + ". Times are UTC.", className="boundary"),
            panel(
                "Power",
                _choice(
                    "Group by",
                    {label: view.query(asked, group=key) for key, label in GROUPS.items()},
                    GROUPS[asked.group],
                ),
                chart(figures.power(power, period, theme), "fleet-power"),
                note="Strip below: coverage. Gaps are times without data.",
                wide=True,
            ),
            panel("Utilisation", chart(figures.utilisation(power, period, theme), "fleet-utilisation"), wide=True),
            panel(
                "Racks",
                _choice(
                    "Colour by", {label: view.query(asked, heat=key) for key, label in HEATS.items()}, HEATS[asked.heat]
                ),
                _heat_map(connection, asked, theme, summary.gpus),
                note="× does not report",
                wide=True,
            ),
            panel("Hottest GPUs", _hottest(hottest, query), note="by margin to slowdown"),
            panel("Throttled GPUs", _throttled(throttled, query), note=f"{summary.gpus_throttled} now"),
            panel(
                "Silent nodes",
                table(
                    "Nodes not heard of for a minute",
                    ("Node", "Site", "Silent for", "GPUs"),
                    [
                        (
                            components.node_link(node.node_id, node.hostname, query),
                            node.site,
                            quantities.duration(node.silent_s),
                            str(node.gpus),
                        )
                        for node in silent
                    ],
                    "Every node was heard of within the last minute.",
                ),
                note=f"{summary.nodes_silent} of {summary.nodes}; clock off on {summary.nodes_clock_off}",
            ),
            panel("Events of the last day", events_table(events, query)),
        ],
        className="grid",
    )


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


def _nothing(asked: View) -> Any:
    if asked.filtered:
        return components.message(
            "Nothing matches these filters",
            html.P("No GPU is in this site, rack and model together."),
            dcc.Link(
                "Clear filters", href=view.query(asked, site=None, rack=None, model=None) or "/", className="button"
            ),
        )
    return components.message(
        "No data yet",
        html.P("The store is ready and waits for an agent. On a GPU server:"),
        html.Pre("gigawatch doctor\ngigawatch collect --server-url http://… --token-file agent.token"),
        html.P(["Or look at a simulated fleet first: ", html.Code("gigawatch up --demo")]),
    )


def _cards(summary: FleetSummary, energy: Energy, hottest: GpuNow | None) -> html.Dl:
    poor = energy.coverage is not None and energy.coverage < GOOD_COVERAGE
    absent = summary.gpus - summary.gpus_reporting
    of_limit = (
        f"{quantities.percent(summary.power_w / summary.power_limit_w * 100)} of the power limits"
        if summary.power_w is not None and summary.power_limit_w
        else None
    )
    hot = hottest.margin_to_slowdown_c if hottest else None
    return html.Dl(
        [
            card("Power now", quantities.power(summary.power_w), of_limit, boundary=BOUNDARY),
            card(
                "Energy today", quantities.work(energy.energy_j),
                f"coverage {quantities.share(energy.coverage)}" + (" – incomplete" if poor else ""),
                tone="warn" if poor else "", boundary=BOUNDARY,
            ),
            card("Utilisation", quantities.percent(summary.gpu_util_pct), "mean of GPUs"),
            card(
                "GPUs reporting",
                f"{quantities.count(summary.gpus_reporting)}{quantities.SPACE}of {quantities.count(summary.gpus)}",
                f"{summary.gpus_missing} missing, {summary.gpus_silent} on silent nodes" if absent else "all of them",
                tone="bad" if absent else "",
            ),
            card(
                "Hottest GPU", quantities.celsius(summary.gpu_temp_max_c),
                None if hot is None else f"least margin to slowdown {hot} K",
                tone=components.heat_tone(hot),
            ),
            card(
                "Throttled", f"{quantities.count(summary.gpus_throttled)}{quantities.SPACE}GPUs",
                "power, heat or brake",
                tone="warn" if summary.gpus_throttled else "",
            ),
        ],
        className="cards",
    )  # fmt: skip


def _choice(label: str, options: dict[str, str], chosen: str) -> html.Nav:
    """One of a few, as links: the URL is the state."""
    return html.Nav(
        [
            dcc.Link(text, href=query or "?", className="chosen" if text == chosen else "")
            for text, query in options.items()
        ],
        className="choice",
        **{"aria-label": label},
    )


def _heat_map(connection: Connection, asked: View, theme: Theme, gpus: int) -> Any:
    query = view.query(asked)
    if gpus <= MOST_CELLS:
        cells = readings.gpus_now(connection, asked.where)
        drawn = figures.heat_map_gpus(cells, asked.heat, lambda gpu: f"/gpus/{gpu.gpu_uuid}{query}", theme)
    else:
        racks = readings.racks_now(connection, asked.where)
        drawn = figures.heat_map_racks(
            racks, asked.heat, lambda rack: view.query(asked, site=rack.site, rack=rack.rack), theme
        )
    return chart(drawn, "fleet-heat")


def _hottest(gpus: list[GpuNow], query: str) -> Any:
    return table(
        "GPUs nearest to their slowdown temperature",
        ("GPU", "Model", "Now", "Margin", "Power"),
        [
            (
                components.gpu_link(gpu.gpu_uuid, f"{gpu.hostname} · {gpu.gpu_index}", query),
                gpu.gpu_model.removeprefix("NVIDIA "),
                quantities.celsius(gpu.gpu_temp_max_c),
                quantities.with_unit(gpu.margin_to_slowdown_c, "K"),
                quantities.power(gpu.power_w),
            )
            for gpu in gpus
            if gpu.gpu_temp_max_c is not None
        ],
        "No GPU tells its temperature now.",
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
    )

"""One node: its GPUs now, its power by part, tick by tick, and what happened on it."""

from datetime import datetime, timedelta
from typing import Any

from dash import html
from sqlalchemy import Connection

from dashboard import components, figures, quantities, view
from dashboard.components import chart, facts, panel, table
from dashboard.pages.fleet import events_table
from dashboard.theme import Theme
from dashboard.view import View
from gigawatch import readings
from gigawatch.readings import NodeNow, Where

TICKS = timedelta(minutes=5)
HEARD_S = 60
"""Of a node that is silent although something came so lately, what came was old."""


def render(connection: Connection, asked: View, theme: Theme, now: datetime, name: str) -> Any:
    """The page; name is the node's number."""
    node = readings.node_now(connection, int(name)) if name.isdecimal() and int(name) < 2**31 else None
    if node is None:
        return components.unknown("node", name)
    where = Where(node_id=node.node_id)
    period = view.period(
        asked, now, lambda start, stop: readings.longest_window_s(connection, start, stop, node.node_id)
    )
    query = view.elsewhere(asked)
    gpus = readings.gpus_now(connection, where)
    series = readings.gpu_series(connection, period.start, period.stop, period.step, node_id=node.node_id)
    parts = readings.node_series(connection, node.node_id, period.start, period.stop, period.step)
    ticks = readings.node_ticks(connection, node.node_id, now - TICKS, now)
    events = readings.events(connection, period.start, now, where, limit=50)
    return html.Div(
        [
            html.Header(
                [
                    html.H1(
                        [
                            node.hostname, " ",
                            _state(node),
                            " ",
                            components.simulated_badge(node.simulated),
                        ]
                    ),
                    facts(
                        [
                            ("Site", node.site),
                            ("Rack", node.rack),
                            ("GPUs", f"{node.gpus_reporting} of {node.gpus} report"),
                            ("Power now", quantities.power(node.power_w)),
                            ("Driver", node.driver_version),
                            ("CUDA", node.cuda_version),
                            ("CPU", node.cpu_model),
                            ("Agent", node.agent_version),
                            ("Clock", _clock(node.clock_offset_s, node.clock_ok)),
                            ("Last heard of", f"{quantities.moment(node.last_seen)} UTC"),
                            ("Labels", ", ".join(f"{key}={value}" for key, value in sorted(node.labels.items()))),
                        ]
                    ),
                ],
                id="live-head",
                className="wide",
            ),
            panel("GPUs", _gpus(gpus, query), wide=True),
            panel("Power by part", chart(figures.node_parts(parts, period, theme), "node-parts"), wide=True),
            panel("Power by GPU", chart(figures.node_gpus(series, period, theme), "node-gpus"), wide=True),
            panel(
                "Power tick by tick",
                chart(figures.ticks(ticks, theme), "node-ticks"),
                note="all GPUs together, the last 5 minutes",
                wide=True,
            ),
            panel("Events in this period", events_table(events, query), wide=True),
        ],
        className="grid",
    )  # fmt: skip


def _state(node: NodeNow) -> Any:
    if node.state != "silent":
        return components.badge("reporting", "ok")
    if node.silent_s <= HEARD_S:
        return components.badge("sends what is old", "warn")
    return components.badge(f"silent for {quantities.duration(node.silent_s)}", "bad")


def _clock(offset_s: float | None, good: bool | None) -> Any:
    if offset_s is None:
        return None
    words = f"{offset_s:+.1f} s against the server"
    return words if good else components.badge(words + ", off", "warn")


def _gpus(gpus: list[readings.GpuNow], query: str) -> Any:
    return table(
        "The node's GPUs now",
        (
            "GPU",
            "Model",
            "State",
            "Power",
            "Limit",
            "Utilisation",
            "GPU temp.",
            "Memory temp.",
            "SM clock",
            "Memory in use",
            "Held down by",
        ),
        [
            (
                components.gpu_link(gpu.gpu_uuid, f"GPU {gpu.gpu_index}", query),
                gpu.gpu_model.removeprefix("NVIDIA "),
                components.state_badge(gpu.state),
                quantities.power(gpu.power_w),
                quantities.power(gpu.power_limit_w),
                quantities.percent(gpu.gpu_util_pct),
                quantities.celsius(gpu.gpu_temp_max_c),
                quantities.celsius(gpu.mem_temp_max_c),
                quantities.with_unit(gpu.sm_clock_mhz, "MHz"),
                quantities.mebibytes(gpu.mem_used_mib),
                ", ".join(gpu.clock_events or ()) or quantities.UNKNOWN,
            )
            for gpu in gpus
        ],
        "This node has no GPU.",
        numbers=range(3, 10),
    )

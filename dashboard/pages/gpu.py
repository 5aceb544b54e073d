"""One GPU: what it is, how it does, and all its series."""

from datetime import datetime
from typing import Any

from dash import html
from sqlalchemy import Connection

from dashboard import components, figures, quantities, view
from dashboard.components import chart, facts, panel, table
from dashboard.pages.fleet import events_table
from dashboard.plots import Series
from dashboard.theme import Theme
from dashboard.view import View
from gigawatch import readings
from gigawatch.readings import GpuHealthNow, GpuNow


def render(connection: Connection, asked: View, theme: Theme, now: datetime, name: str) -> Any:
    """The page; name is the GPU's UUID."""
    gpu = readings.gpu(connection, name[:96])
    if gpu is None:
        return components.unknown("GPU", name)
    period = view.period(
        asked, now, lambda start, stop: readings.longest_window_s(connection, start, stop, gpu.node_id)
    )
    query = view.elsewhere(asked)
    current = readings.gpu_now(connection, gpu.gpu_uuid)
    rows = readings.gpu_series(connection, period.start, period.stop, period.step, gpu_uuid=gpu.gpu_uuid)
    events = readings.events(connection, period.start, now, gpu_uuid=gpu.gpu_uuid, limit=50)
    health = next(iter(readings.gpu_health(connection, gpu_uuid=gpu.gpu_uuid)), None)
    state = "removed" if gpu.removed else current.state if current else "missing"

    def lines(
        title: str, unit: str, identity: str, parts: dict[str, str], *, top: float | None = None, factor: float = 1
    ) -> html.Section:
        def values(field: str) -> list[float | None]:
            found = figures.gpu_values(rows, period, lambda row: getattr(row, field))
            return [None if value is None else value / factor for value in found]

        series = [Series(label, values(field)) for label, field in parts.items()]
        known = [line for line in series if any(value is not None for value in line.values)]
        drawn = figures.lines(
            known, period, theme, unit=unit, top=top, title=title,
            words=lambda value: quantities.with_unit(value, unit),
        )  # fmt: skip
        return panel(title, chart(drawn, identity) if known else html.P("This GPU does not tell.", className="empty"))

    return html.Div(
        [
            html.Header(
                [
                    html.H1(
                        [
                            f"GPU {gpu.gpu_index} of ", components.node_link(gpu.node_id, gpu.hostname, query), " ",
                            components.state_badge(state), " ", components.simulated_badge(gpu.simulated),
                        ]
                    ),
                    _facts(gpu),
                ],
                id="live-head",
                className="wide",
            ),
            _cards(current),
            panel(
                "Power",
                chart(figures.gpu_power(rows, events, period, theme), "gpu-power"),
                note="GPU only (boundary: gpu); band from least to greatest reading",
                wide=True,
            ),
            panel(
                "Temperature", chart(figures.temperatures(rows, gpu.temp_slowdown_c, period, theme), "gpu-temperature")
            ),
            panel("Clocks", chart(figures.clocks(rows, period, theme), "gpu-clocks"), note="shaded: held down"),
            lines("Utilisation", "%", "gpu-utilisation", {"GPU": "gpu_util_pct", "Memory": "mem_util_pct"}, top=100),
            lines("Memory in use", "GiB", "gpu-memory", {"In use": "mem_used_mib"}, factor=1024),
            lines("PCIe", "MiB/s", "gpu-pcie", {"Sent": "pcie_tx_mib_per_s", "Received": "pcie_rx_mib_per_s"}),
            lines(
                "NVLink", "MiB/s", "gpu-nvlink",
                {"Sent": "nvlink_tx_mib_per_s", "Received": "nvlink_rx_mib_per_s"},
            ),
            panel("Health", _health(health)),
            panel("Processes", _processes(health)),
            _mig(gpu),
            panel("Events in this period", events_table(events, query), wide=True),
        ],
        className="grid",
    )  # fmt: skip


def _facts(gpu: readings.GpuFacts) -> html.Dl:
    return facts(
        [
            ("Model", gpu.gpu_model),
            ("Site", gpu.site),
            ("Rack", gpu.rack),
            ("UUID", html.Code(gpu.gpu_uuid)),
            ("Serial", gpu.serial),
            ("PCI", gpu.pci_bus_id),
            ("VBIOS", gpu.vbios_version),
            ("Memory", quantities.mebibytes(gpu.mem_total_mib)),
            ("Default limit", quantities.power(gpu.power_limit_default_w)),
            ("Slowdown at", quantities.celsius(gpu.temp_slowdown_c)),
            ("Energy", "by its counter" if gpu.energy_counter else "integrated from power: it has no counter"),
            ("Power covers", "the whole module, CPU included" if gpu.power_scope == "module" else None),
        ]
    )


def _cards(now: GpuNow | None) -> html.Dl | None:
    if now is None or now.state != "reporting":
        return html.P(
            "It does not report now; below is what it did before.",
            id="live-cards",
            className="banner bad wide",
            role="status",
        )
    margin = now.margin_to_slowdown_c
    return html.Dl(
        [
            components.card("Power now", quantities.power(now.power_w), f"limit {quantities.power(now.power_limit_w)}"),
            components.card("Utilisation", quantities.percent(now.gpu_util_pct)),
            components.card(
                "Temperature", quantities.celsius(now.gpu_temp_max_c),
                note=None if margin is None else f"{margin} K to slowdown",
                tone=components.heat_tone(margin),
            ),
            components.card("Memory", quantities.mebibytes(now.mem_used_mib),
                            note=f"of {quantities.mebibytes(now.mem_total_mib)}"),
            components.card("SM clock", quantities.with_unit(now.sm_clock_mhz, "MHz"),
                            note=", ".join(now.clock_events or ()) or "not held down",
                            tone="warn" if now.throttled else ""),
        ],
        id="live-cards", className="cards",
    )  # fmt: skip


def _health(health: GpuHealthNow | None) -> Any:
    if health is None or health.time is None:
        return html.P("Its slow readings did not come yet.", className="empty")
    tone = {"ok": "ok", "degraded": "warn", "failed": "bad"}.get(health.state, "")

    def pair(corrected: int | None, uncorrected: int | None) -> str:
        return f"{quantities.count(corrected)} corrected, {quantities.count(uncorrected)} uncorrected"

    def yes(value: bool | None) -> str | None:
        return None if value is None else "yes" if value else "no"

    return facts(
        [
            ("State", components.badge(health.state, tone)),
            ("Memory errors since driver load", pair(health.ecc_volatile_corrected, health.ecc_volatile_uncorrected)),
            ("Memory errors in its life", pair(health.ecc_aggregate_corrected, health.ecc_aggregate_uncorrected)),
            ("Rows remapped", pair(health.rows_remapped_corrected, health.rows_remapped_uncorrected)),
            ("Row remap pending", yes(health.row_remap_pending)),
            ("Row remap failed", yes(health.row_remap_failed)),
            ("Pages retired", quantities.count(health.pages_retired)),
            ("PCIe replays", quantities.count(health.pcie_replays)),
            ("XIDs in 24 h", f"{health.xids_24h}" + (f", last {health.last_xid}" if health.last_xid else "")),
            ("Read", f"{quantities.moment(health.time)} UTC"),
        ]
    )


def _processes(health: GpuHealthNow | None) -> Any:
    processes = (health.processes if health else None) or []
    return table(
        "Processes that hold memory of this GPU",
        ("PID", "Name", "Memory"),
        [
            (str(it.get("pid")), it.get("name") or quantities.UNKNOWN, quantities.mebibytes(it.get("mem_used_mib")))
            for it in processes
        ],
        "No process holds memory of it, as far as the driver tells.",
    )


def _mig(gpu: readings.GpuFacts) -> html.Section | None:
    if not gpu.mig_enabled:
        return None
    return panel(
        "MIG instances",
        table(
            "MIG instances of this GPU",
            ("Profile", "Memory", "UUID"),
            [
                (it.get("profile") or "", quantities.mebibytes(it.get("mem_total_mib")), html.Code(it.get("uuid", "")))
                for it in gpu.mig_instances
            ],
            "MIG is on, without an instance.",
        ),
        note="energy is the physical GPU's",
    )

"""A simulated node: from the load at each tick to power, heat, clocks and energy, folded into windows.

Power is constant over a tick, in whole milliwatts, and ticks are whole seconds: so a window's energy is the
exact integral of the power reported tick by tick, and a node's total is the exact sum of its GPUs.
"""

import math
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
from msgspec import Struct

from collector.simulated import hardware
from collector.simulated.chance import WHITE, digest, normal, uniform
from collector.simulated.deployment import Deployment, Tick
from collector.simulated.faults import MINUTE_S, Faults
from collector.simulated.fleet import Node
from collector.simulated.load import HOUR_S, IDLE, Load, day_curve, work_of
from gigawatch import __version__
from gigawatch.records import (
    EnergyMethod,
    Event,
    Gpu,
    GpuHealth,
    GpuWindow,
    Inventory,
    NodeWindow,
    Process,
    ServingWindow,
    Severity,
)
from gigawatch.units import MILLISECONDS_PER_SECOND, MILLIWATTS_PER_WATT, PER_MILLE

KIB_PER_GIB = 1_048_576
IDLE_BIT, POWER_CAP_BIT, HW_SLOWDOWN_BIT = 0x1, 0x4, 0x8
SW_THERMAL_BIT, HW_THERMAL_BIT, POWER_BRAKE_BIT = 0x20, 0x40, 0x80
MARGIN_K = 3
"""The driver holds a GPU this far below the temperature at which the hardware slows it down."""
GAIN_PER_K_S = 0.001
"""How fast the driver moves the power that heat allows, in shares of the limit."""
FAILED_COOLING = 1.9
"""Thermal resistance of a GPU whose cooling failed, over that of a sound one."""


class Parcel(Struct, kw_only=True):
    """Records of one node on their way."""

    inventory: Inventory | None = None
    gpu_windows: list[GpuWindow] = []
    node_windows: list[NodeWindow] = []
    serving_windows: list[ServingWindow] = []
    events: list[Event] = []
    health: list[GpuHealth] = []

    def add(self, other: "Parcel") -> None:
        """Take in what came after."""
        self.inventory = other.inventory or self.inventory
        self.gpu_windows += other.gpu_windows
        self.node_windows += other.node_windows
        self.serving_windows += other.serving_windows
        self.events += other.events
        self.health += other.health


class _Ticks(Struct, frozen=True, kw_only=True):
    """What the ticks of one window have in common for all GPUs of a node."""

    start: datetime
    start_s: int
    tick_s: int
    loads: list[Load]
    inlet_c: float
    is_braked: bool


class SimulatedGpu:
    """One GPU with what it remembers from tick to tick: its temperature and what heat allows it."""

    def __init__(self, node: Node, index: int, hot_from_s: float | None) -> None:
        self.uuid = node.gpu_uuids[index]
        self.model = node.model
        self._hot_from_s = hot_from_s
        self._draw = 1 + 0.02 * normal(self.uuid, "silicon")
        self._k_per_w = node.model.thermal_k_per_w * (1 + 0.05 * normal(self.uuid, "cooling"))
        self._place_in_noise = int(uniform(self.uuid, "noise") * len(WHITE))
        self._temp_c = node.site.inlet_c + self._k_per_w * node.model.idle_w
        self._heat_allows_w = float(node.model.limit_w)

    def run(self, ticks: _Ticks, node_mw: list[int]) -> GpuWindow:
        """The window of these ticks; adds the power of each to node_mw."""
        model, tick_s, inlet_c = self.model, ticks.tick_s, ticks.inlet_c
        limit_w, soft_c = model.limit_w, model.slowdown_c - MARGIN_K
        brake_w = 0.5 * limit_w if ticks.is_braked else limit_w
        failed = self._hot_from_s is not None and ticks.start_s >= self._hot_from_s
        k_per_w = self._k_per_w * (FAILED_COOLING if failed else 1.0)
        step = 1 - math.exp(-tick_s / model.thermal_lag_s)
        place = self._place_in_noise + ticks.start_s // tick_s
        temp_c, heat_allows_w = self._temp_c, self._heat_allows_w
        max_temp_c, clocks_mhz, reasons = temp_c, 0.0, 0
        powers_mw = []
        for number, (util, draw, mem) in enumerate(ticks.loads):
            noise = WHITE[(place + number) % 4_096]
            wanted_w = model.wanted_w(draw * self._draw, mem) * (1 + 0.012 * noise)
            allowed_w = min(brake_w, heat_allows_w)
            clock_mhz = model.sm_max_mhz if mem else model.sm_idle_mhz
            if util == 0:
                reasons |= IDLE_BIT
            if temp_c >= model.slowdown_c:
                allowed_w = min(allowed_w, 0.5 * limit_w)
                reasons |= HW_THERMAL_BIT | HW_SLOWDOWN_BIT
            power_w = wanted_w
            if wanted_w > allowed_w:
                # The driver holds the mean at what is allowed, a little below the limit itself.
                power_w = allowed_w * (1 - 0.004 * abs(noise))
                # Power goes roughly with clock times voltage squared, and voltage follows the clock.
                clock_mhz = int(clock_mhz * ((power_w - model.idle_w) / (wanted_w - model.idle_w)) ** 0.4)
                if ticks.is_braked:
                    reasons |= POWER_BRAKE_BIT | HW_SLOWDOWN_BIT
                elif allowed_w < limit_w:
                    reasons |= SW_THERMAL_BIT
                else:
                    reasons |= POWER_CAP_BIT
            power_mw = int(power_w * MILLIWATTS_PER_WATT)
            powers_mw.append(power_mw)
            node_mw[number] += power_mw
            clocks_mhz += clock_mhz
            temp_c += (inlet_c + k_per_w * power_w - temp_c) * step
            max_temp_c = max(max_temp_c, temp_c)
            heat_allows_w += (soft_c - temp_c) * GAIN_PER_K_S * limit_w * tick_s
            heat_allows_w = max(model.limit_min_w, min(limit_w, heat_allows_w))
        self._temp_c, self._heat_allows_w = temp_c, heat_allows_w
        return self._window(ticks, powers_mw, max_temp_c, clocks_mhz / len(powers_mw), reasons)

    def _window(
        self, ticks: _Ticks, powers_mw: list[int], max_temp_c: float, clock_mhz: float, reasons: int
    ) -> GpuWindow:
        model, count = self.model, len(powers_mw)
        sum_mw = sum(powers_mw)
        util = sum(load.util for load in ticks.loads) / count
        draw = sum(load.draw for load in ticks.loads) / count
        pcie_kib = int(draw * 0.12 * model.pcie_gib_s * KIB_PER_GIB * count * ticks.tick_s)
        nvlink_kib = None
        if model.nvlink_gib_s is not None:
            nvlink_kib = int(draw * 0.3 * model.nvlink_gib_s * KIB_PER_GIB * count * ticks.tick_s)
        return GpuWindow(
            gpu_uuid=self.uuid,
            start=ticks.start,
            covered_ms=count * ticks.tick_s * MILLISECONDS_PER_SECOND,
            ticks_taken=count,
            ticks_expected=count,
            energy_mj=sum_mw * ticks.tick_s,
            energy_method=EnergyMethod.COUNTER if model.energy_counter else EnergyMethod.INTEGRATED,
            power_mean_mw=sum_mw // count,
            power_min_mw=min(powers_mw),
            power_max_mw=max(powers_mw),
            power_limit_mw=model.limit_w * MILLIWATTS_PER_WATT,
            gpu_util_pm=int(util * PER_MILLE),
            mem_util_pm=int(0.55 * draw / 1.1 * PER_MILLE),
            gpu_temp_max_c=int(max_temp_c),
            mem_temp_max_c=None if model.mem_rise_k is None else int(max_temp_c) + model.mem_rise_k,
            sm_clock_mhz=int(clock_mhz),
            mem_clock_mhz=model.mem_mhz,
            mem_used_mib=int(max(load.mem for load in ticks.loads) * model.mem_total_mib),
            clock_event_reasons=reasons,
            pcie_tx_kib=pcie_kib // 3,
            pcie_rx_kib=pcie_kib,
            nvlink_tx_kib=nvlink_kib,
            nvlink_rx_kib=nvlink_kib,
        )


class SimulatedNode:
    """One node with its GPUs: windows must be asked for one after another.

    Args:
        node: as it was bought and placed.
        faults: what goes wrong with it.
        seed: the fleet's.
    """

    def __init__(self, node: Node, faults: Faults, seed: int) -> None:
        self.node = node
        self.faults = faults
        self.deployment: Deployment | None = None
        """What it serves."""
        self._work = work_of(node, seed)
        hot = faults.hot
        self._gpus = [
            SimulatedGpu(node, index, hot[1] if hot and hot[0] == index else None)
            for index in range(len(node.gpu_uuids))
        ]
        self._health: dict[str, tuple[object, ...]] = {}

    def introduction(self, time_s: int) -> Parcel:
        """What an agent sends first. A GPU that was lost is still known to the node."""
        node, model = self.node, self.node.model
        limit_mw = model.limit_w * MILLIWATTS_PER_WATT
        gpus = tuple(
            Gpu(
                uuid=uuid,
                index=index,
                model=model.name,
                serial=str(int(digest(uuid, "serial")[:11], 16) % 10**13),
                pci_bus_id=f"00000000:{0x1B + 0x18 * index:02X}:00.0",
                mem_total_mib=model.mem_total_mib,
                power_limit_mw=limit_mw,
                power_limit_default_mw=limit_mw,
                power_limit_min_mw=model.limit_min_w * MILLIWATTS_PER_WATT,
                power_limit_max_mw=limit_mw,
                temp_slowdown_c=model.slowdown_c,
                temp_shutdown_c=model.shutdown_c,
                energy_counter=model.energy_counter,
                power_scope="gpu",
            )
            for index, uuid in enumerate(node.gpu_uuids)
        )
        inventory = Inventory(
            hostname=node.hostname,
            site=node.site.name,
            rack=node.rack,
            labels={"pool": node.role},
            agent_version=__version__,
            driver_version="580.95.05",
            cuda_version="13.0",
            nvml_version="13.580.95.05",
            cpu_model=model.cpu_model,
            gpus=gpus,
        )
        started = Event(
            time=_utc(time_s),
            kind="agent_started",
            severity=Severity.INFO,
            message="simulated agent started",
        )
        return Parcel(inventory=inventory, events=[started])

    def window(self, start_s: int, length_s: int, tick_s: int) -> Parcel | None:
        """What the node records in one window; None while it is off.

        Args:
            start_s: start of the window, s since 1970 UTC.
            length_s: its length, which no full minute cuts.
            tick_s: time between two readings; divides the length.
        """
        if self.faults.is_silent(start_s):
            return None
        site, times = self.node.site, range(start_s, start_s + length_s, tick_s)
        ticks = _Ticks(
            start=_utc(start_s),
            start_s=start_s,
            tick_s=tick_s,
            loads=[self._work.at(time_s) for time_s in times],
            inlet_c=site.inlet_c + 4 * (day_curve(start_s + site.utc_offset_h * HOUR_S) - 0.625),
            is_braked=self.faults.is_braked(start_s),
        )
        node_mw = [0] * len(times)
        lost = self.faults.lost
        present = [gpu for index, gpu in enumerate(self._gpus) if lost is None or lost[0] != index or start_s < lost[1]]
        gpu_windows = [gpu.run(ticks, node_mw) for gpu in present]
        if self.deployment is not None:
            serves = (self.deployment.assignment,)
            gpu_windows = [msgspec.structs.replace(it, serves=serves) for it in gpu_windows]
            self.deployment.feed(
                Tick(
                    start_s=time_s,
                    length_s=tick_s,
                    load=load,
                    gpus=len(present),
                    energy_j=power_mw * tick_s / MILLIWATTS_PER_WATT,
                    restarts=self.faults.is_restarted(time_s, tick_s),
                )
                for time_s, load, power_mw in zip(times, ticks.loads, node_mw, strict=True)
            )
        return Parcel(
            gpu_windows=gpu_windows,
            node_windows=[self._node_window(ticks, node_mw, len(present))],
            events=self._events(start_s, length_s),
            health=[
                health
                for index, gpu in enumerate(self._gpus)
                if gpu in present and (health := self._health_of(index, start_s, ticks.loads[-1]))
            ],
        )

    def read(self, at_s: int) -> None:
        """Have its agent read its engine as of this moment, with no endpoint between."""
        if self.deployment is not None:
            self.deployment.read(at_s)

    def scrape(self, clock: Callable[[], float]) -> None:
        """Have its agent read its engine's endpoint now."""
        if self.deployment is not None:
            self.deployment.scrape(clock)

    def served(self, until_s: float) -> Parcel:
        """What its agent has learned of its engine, of windows that are over."""
        if self.deployment is None:
            return Parcel()
        windows, events = self.deployment.close(until_s)
        return Parcel(serving_windows=windows, events=events)

    def metrics(self, now_s: float) -> bytes | None:
        """What the endpoint of its engine answers; None while it is off, or serves nothing."""
        if self.deployment is None or self.faults.is_silent(now_s):
            return None
        return self.deployment.metrics(now_s)

    def _node_window(self, ticks: _Ticks, node_mw: list[int], gpus_read: int) -> NodeWindow:
        model, tick_s, gpus = self.node.model, ticks.tick_s, len(self._gpus)
        utils = [load.util for load in ticks.loads]
        powers_w = [
            hardware.node_w(model, power_mw / MILLIWATTS_PER_WATT, util)
            for power_mw, util in zip(node_mw, utils, strict=True)
        ]
        per_watt_mj = tick_s * MILLIWATTS_PER_WATT
        return NodeWindow(
            start=ticks.start,
            covered_ms=len(node_mw) * tick_s * MILLISECONDS_PER_SECOND,
            ticks_taken=len(node_mw),
            ticks_expected=len(node_mw),
            gpus_read=gpus_read,
            gpus_expected=gpus,
            tick_ms=tick_s * MILLISECONDS_PER_SECOND,
            # A sum without one of the GPUs is not the node's: absent, as an agent has it.
            gpu_power_mw=tuple(node_mw) if gpus_read == gpus else (None,) * len(node_mw),
            cpu_energy_mj=int(sum(hardware.cpu_w(model, util) for util in utils) * per_watt_mj),
            dram_energy_mj=int(sum(hardware.dram_w(model, util) for util in utils) * per_watt_mj),
            node_power_mean_mw=int(sum(powers_w) / len(powers_w) * MILLIWATTS_PER_WATT),
            node_power_max_mw=int(max(powers_w) * MILLIWATTS_PER_WATT),
        )

    def _events(self, start_s: int, length_s: int) -> list[Event]:
        """Events of GPUs that fall into this window."""
        events = []
        lost, uncorrected = self.faults.lost, self.faults.uncorrected
        if lost and start_s <= lost[1] < start_s + length_s:
            uuid = self.node.gpu_uuids[lost[0]]
            message = "XID 79: the GPU has fallen off the bus"
            events += [
                _event("xid", Severity.CRITICAL, message, lost[1], uuid, 79),
                _event("gpu_lost", Severity.CRITICAL, "the GPU no longer answers", lost[1], uuid),
            ]
        if uncorrected and start_s <= uncorrected[1] < start_s + length_s:
            uuid = self.node.gpu_uuids[uncorrected[0]]
            contained = "XID 94: contained memory error; one application was ended"
            remapped = "XID 63: a row remap is recorded and waits for a GPU reset"
            events += [
                _event("xid", Severity.WARNING, contained, uncorrected[1], uuid, 94),
                _event("xid", Severity.INFO, remapped, uncorrected[1], uuid, 63),
            ]
        return events

    def _health_of(self, index: int, start_s: int, load: Load) -> GpuHealth | None:
        """The slow readings of a GPU, once a minute, where they changed or the hour is full."""
        if start_s % MINUTE_S:
            return None
        uuid, faults = self.node.gpu_uuids[index], self.faults
        struck = faults.uncorrected is not None and (
            faults.uncorrected[0] == index and start_s >= faults.uncorrected[1]
        )
        # About one every quarter of an hour, since a driver load some time before the fleet began.
        corrected = start_s // 900 % 10_000 if faults.corrected == index else 0
        processes: tuple[Process, ...] = ()
        if load.mem:
            pid = 2_000 + int(digest(uuid, self._work.process)[:5], 16) % 60_000
            # To the gibibyte: memory that grows by the minute is the windows' to tell.
            mem_mib = int(load.mem * self.node.model.mem_total_mib) // 1_024 * 1_024
            processes = (Process(pid=pid, name=self._work.process, mem_used_mib=mem_mib),)
        state = 0 if load is not IDLE else self.node.model.idle_state
        found = (struck, corrected, processes, state)
        if start_s % HOUR_S and self._health.get(uuid) == found:
            return None
        self._health[uuid] = found
        return GpuHealth(
            gpu_uuid=uuid,
            time=_utc(start_s),
            ecc_volatile_corrected=corrected,
            ecc_volatile_uncorrected=int(struck),
            ecc_aggregate_corrected=corrected,
            ecc_aggregate_uncorrected=int(struck),
            rows_remapped_corrected=0,
            rows_remapped_uncorrected=int(struck),
            row_remap_pending=struck,
            row_remap_failed=False,
            pcie_replays=0,
            performance_state=state,
            processes=processes,
        )


def _event(
    kind: str,
    severity: Severity,
    message: str,
    time_s: float,
    gpu_uuid: str,
    code: int | None = None,
) -> Event:
    return Event(
        time=_utc(time_s),
        kind=kind,
        severity=severity,
        message=message,
        gpu_uuid=gpu_uuid,
        code=code,
    )


def _utc(time_s: float) -> datetime:
    return datetime.fromtimestamp(time_s, UTC)

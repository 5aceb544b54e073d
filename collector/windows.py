"""Folds ticks into windows, so that energy is neither lost nor counted twice.

Time is in integer milliseconds of UTC that advance with the monotonic clock (collector.agent.Clock). Between two
readings of a GPU lies an interval with its energy; an interval that crosses the end of a window is split in
proportion to time, in whole millijoules without remainder, so that the windows of a GPU always add up to
the difference of its counter. METHODS: the counter's difference is the truth; a gap is spread evenly and
marked interpolated; a GPU without a counter is integrated by the trapezoid, with no bridge over more than
5 s; a value outside 0 ≤ ΔE ≤ 1.2 · P_limit · Δt is refused and counted.
"""

from collections.abc import Iterable
from datetime import UTC, datetime

from msgspec import Struct

from collector.sources.host import HostReading
from collector.sources.nvml import GpuReading
from gigawatch.records import Assignment, EnergyMethod, Event, GpuWindow, NodeWindow, Severity
from gigawatch.units import MILLISECONDS_PER_SECOND, PER_MILLE

LONGEST_TRAPEZOID_MS = 5_000
LONGEST_ESTIMATE_MS = 60_000
"""How long a reset may take for its energy to be estimated from the power before and after."""
LONGEST_GAP_MS = 24 * 3_600_000
"""Of a longer gap the energy is reported and left out: nobody can say when it was used."""
UNKNOWN_LIMIT_MW = 3_000_000
"""In place of a power limit that a GPU does not tell: above every board of today."""
COUNTER_STEP_MS = 200
"""Counters move in steps of up to 100 ms, so that a short interval can show that much too much."""
TRAFFIC = ("pcie_tx_kib", "pcie_rx_kib", "nvlink_tx_kib", "nvlink_rx_kib")


class Mark(Struct, frozen=True):
    """A moment and the energy counter at it."""

    at_ms: int
    counter_mj: int


class Gap(Struct, frozen=True):
    """A time without readings of a GPU, and what its counter says of it."""

    start_ms: int
    end_ms: int
    energy_mj: int
    attributed: bool
    """Whether the energy was spread over the gap; else it was too long."""


class Mean:
    """Mean, least and greatest of what was read."""

    __slots__ = ("count", "greatest", "least", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0
        self.least: int | None = None
        self.greatest: int | None = None

    def add(self, value: int | None) -> None:
        """Take in a value; None is passed over."""
        if value is None:
            return
        self.count += 1
        self.total += value
        if self.least is None or value < self.least:
            self.least = value
        if self.greatest is None or value > self.greatest:
            self.greatest = value

    def mean(self, scale: int = 1) -> int | None:
        """The mean times scale, rounded; None if nothing was read."""
        return round(self.total * scale / self.count) if self.count else None


class OpenWindow:
    """What is known so far of one GPU in one window."""

    def __init__(self, start_ms: int) -> None:
        self.start_ms = start_ms
        self.covered_ms = 0
        self.observed_ms = 0
        """Time between readings, where the energy is not known."""
        self.counter_mj = 0
        """Energy from differences of the counter."""
        self.modelled_mj = 0.0
        """Energy integrated from power."""
        self.method: EnergyMethod | None = None
        self.ticks = 0
        self.power, self.instant = Mean(), Mean()
        self.gpu_util, self.mem_util = Mean(), Mean()
        self.gpu_temp, self.mem_temp = Mean(), Mean()
        self.sm_clock, self.mem_clock = Mean(), Mean()
        self.mem_used = Mean()
        self.reasons: int | None = None
        self.last: GpuReading | None = None
        self.traffic: dict[str, int] = {}

    def read(self, reading: GpuReading) -> None:
        """Take in a tick."""
        self.ticks += 1
        self.last = reading
        self.power.add(reading.power_mw)
        # Least and greatest are of the instantaneous power where there is one: an average hides them.
        instant = reading.power_instant_mw
        self.instant.add(reading.power_mw if instant is None else instant)
        self.gpu_util.add(reading.gpu_util_pct)
        self.mem_util.add(reading.mem_util_pct)
        self.gpu_temp.add(reading.gpu_temp_c)
        self.mem_temp.add(reading.mem_temp_c)
        self.sm_clock.add(reading.sm_clock_mhz)
        self.mem_clock.add(reading.mem_clock_mhz)
        self.mem_used.add(reading.mem_used_mib)
        if reading.clock_event_reasons is not None:
            self.reasons = (self.reasons or 0) | reading.clock_event_reasons


class GpuFolder:
    """Folds the readings of one GPU into windows.

    Args:
        uuid: the GPU.
        window_ms: length of a window; it divides a minute.
        tick_ms: interval of the readings.
        mark: up to where an earlier agent handed out this GPU's energy.
    """

    def __init__(self, uuid: str, window_ms: int, tick_ms: int, mark: Mark | None = None) -> None:
        self.uuid = uuid
        self.serves: tuple[Assignment, ...] = ()
        """What the GPU serves; whoever changes it closes the open windows before."""
        self._rejected = 0
        self.gaps: list[Gap] = []
        """Gaps that ended since this was last emptied."""
        self._window_ms = window_ms
        self._tick_ms = tick_ms
        self._longest_step_ms = max(LONGEST_TRAPEZOID_MS, 3 * tick_ms)
        self._open: dict[int, OpenWindow] = {}
        # The last counter reading that was believed, and the power beside it.
        self._base = mark
        self._base_power_mw: int | None = None
        # A counter reading that does not follow from the base: a glitch, or the start of a new epoch.
        self._doubt: Mark | None = None
        self._doubt_power_mw: int | None = None
        self._last: GpuReading | None = None
        self._last_ms = 0
        self._carry_mj = 0.0

    def add(self, at_ms: int, reading: GpuReading) -> list[Event]:
        """Take in a tick, later than the one before; returns what deserves notice."""
        events: list[Event] = []
        if reading.energy_counter_mj is not None:
            events = self._count(at_ms, reading.energy_counter_mj, reading)
        elif self._base is None:
            self._integrate(at_ms, reading)
        window = self._window(at_ms)
        window.read(reading)
        self._add_traffic(window, at_ms, reading)
        self._last_ms, self._last = at_ms, reading
        return events

    def close(self, until_ms: int, *, stop: bool = False) -> list[GpuWindow]:
        """Hand out the windows that are over at until_ms; with stop the one still open, too."""
        ends = sorted(end_ms for end_ms in self._open if end_ms <= until_ms or stop)
        records = [self._record(self._open.pop(end_ms), min(end_ms, until_ms)) for end_ms in ends]
        return [record for record in records if record is not None]

    def mark(self) -> Mark | None:
        """Up to where the energy was handed out, for the next agent to go on from; None without a counter."""
        if self._base is None:
            return None
        held = [window for window in self._open.values() if window.counter_mj]
        return Mark(
            min((window.start_ms for window in held), default=self._base.at_ms),
            self._base.counter_mj - sum(window.counter_mj for window in held),
        )

    def take_rejected(self) -> int:
        """How many readings of the counter were refused as impossible since the last call."""
        rejected, self._rejected = self._rejected, 0
        return rejected

    def shift(self, by_ms: int) -> None:
        """Follow the wall clock where it was set; every window was closed before."""
        if self._base is not None:
            self._base = Mark(self._base.at_ms + by_ms, self._base.counter_mj)
        if self._doubt is not None:
            self._doubt = Mark(self._doubt.at_ms + by_ms, self._doubt.counter_mj)
        self._last_ms += by_ms

    def _count(self, at_ms: int, counter_mj: int, reading: GpuReading) -> list[Event]:
        """Account for a reading of the counter."""
        now = Mark(at_ms, counter_mj)
        base, doubt = self._base, self._doubt
        limit_mw = reading.power_limit_mw or UNKNOWN_LIMIT_MW
        events = []
        if base is None:
            pass
        elif _follows(base, now, limit_mw):
            if doubt is not None:
                self._rejected += 1
                events.append(self._event("counter_rejected", at_ms, base, doubt, "a single reading, left out"))
            self._hand_out_counted(base, now)
        elif doubt is not None and _follows(doubt, now, limit_mw):
            # Two readings agree on it: the driver was loaded anew, or the counter jumped.
            kind = "counter_reset" if doubt.counter_mj < base.counter_mj else "counter_rejected"
            words = "its part of the energy is estimated from power"
            powers = (self._base_power_mw, self._doubt_power_mw)
            if not self._model(base.at_ms, doubt.at_ms, powers, LONGEST_ESTIMATE_MS, EnergyMethod.ESTIMATED):
                words = "its part of the energy is unknown and left out"
            events.append(self._event(kind, at_ms, base, doubt, words))
            for window in self._open.values():
                # It belongs to the old epoch: a mark must not reckon with it.
                window.modelled_mj += window.counter_mj
                window.counter_mj = 0
            self._hand_out_counted(doubt, now)
        else:
            if doubt is not None:
                self._rejected += 1
            self._doubt, self._doubt_power_mw = now, reading.power_mw
            return events
        self._base, self._base_power_mw = now, reading.power_mw
        self._doubt = None
        return events

    def _hand_out_counted(self, base: Mark, now: Mark) -> None:
        """Spread a difference of the counter over the windows between, in whole millijoules."""
        length_ms, energy_mj = now.at_ms - base.at_ms, now.counter_mj - base.counter_mj
        method = EnergyMethod.COUNTER
        if length_ms > self._longest_step_ms:
            attributed = length_ms <= LONGEST_GAP_MS
            self.gaps.append(Gap(base.at_ms, now.at_ms, energy_mj, attributed))
            if not attributed:
                return
            method = EnergyMethod.INTERPOLATED
        given_mj = 0
        for window, part_start_ms, part_end_ms in self._parts(base.at_ms, now.at_ms):
            due_mj = energy_mj * (part_end_ms - base.at_ms) // length_ms
            window.counter_mj += due_mj - given_mj
            given_mj = due_mj
            window.covered_ms += part_end_ms - part_start_ms
            window.method = max(window.method or method, method)

    def _integrate(self, at_ms: int, reading: GpuReading) -> None:
        """Account for the power of a GPU that has no counter."""
        if self._last is None:
            return
        powers = (self._last.power_mw, reading.power_mw)
        if self._model(self._last_ms, at_ms, powers, LONGEST_TRAPEZOID_MS, EnergyMethod.INTEGRATED):
            return
        if at_ms - self._last_ms <= self._longest_step_ms:
            for window, part_start_ms, part_end_ms in self._parts(self._last_ms, at_ms):
                window.observed_ms += part_end_ms - part_start_ms

    def _model(
        self,
        start_ms: int,
        end_ms: int,
        powers_mw: tuple[int | None, int | None],
        longest_ms: int,
        method: EnergyMethod,
    ) -> bool:
        """Spread the trapezoid of two powers over the windows between; False where that would be inventing."""
        first_mw, last_mw = powers_mw
        length_ms = end_ms - start_ms
        if first_mw is None or last_mw is None or length_ms > longest_ms:
            return False
        slope = (last_mw - first_mw) / length_ms
        for window, part_start_ms, part_end_ms in self._parts(start_ms, end_ms):
            mean_mw = first_mw + slope * ((part_start_ms + part_end_ms) / 2 - start_ms)
            window.modelled_mj += mean_mw * (part_end_ms - part_start_ms) / MILLISECONDS_PER_SECOND
            window.covered_ms += part_end_ms - part_start_ms
            window.method = max(window.method or method, method)
        return True

    def _parts(self, start_ms: int, end_ms: int) -> Iterable[tuple[OpenWindow, int, int]]:
        """The windows that an interval lies in, with its part in each."""
        for part_start_ms, part_end_ms in split(start_ms, end_ms, self._window_ms):
            window = self._window(part_start_ms)
            window.start_ms = min(window.start_ms, part_start_ms)
            yield window, part_start_ms, part_end_ms

    def _window(self, at_ms: int) -> OpenWindow:
        """The open window that a moment is in; they are kept by their end."""
        end_ms = (at_ms // self._window_ms + 1) * self._window_ms
        window = self._open.get(end_ms)
        if window is None:
            window = self._open[end_ms] = OpenWindow(at_ms)
        return window

    def _add_traffic(self, window: OpenWindow, at_ms: int, reading: GpuReading) -> None:
        if self._last is None or at_ms - self._last_ms > self._longest_step_ms:
            return
        for name in TRAFFIC:
            before, after = getattr(self._last, name), getattr(reading, name)
            if before is not None and after is not None and after >= before:
                window.traffic[name] = window.traffic.get(name, 0) + after - before

    def _record(self, window: OpenWindow, end_ms: int) -> GpuWindow | None:
        """The window as it travels; None if no time of it was seen."""
        energy_mj = None
        if window.method is not None:
            # Fractions of a millijoule go on to the next window, so that sums stay right.
            exact_mj = window.modelled_mj + self._carry_mj
            energy_mj = window.counter_mj + int(exact_mj)
            self._carry_mj = exact_mj - int(exact_mj)
        covered_ms = window.covered_ms if window.method is not None else window.observed_ms
        if covered_ms == 0:
            return None
        last = window.last
        due = round((end_ms - window.start_ms) / self._tick_ms)
        return GpuWindow(
            gpu_uuid=self.uuid,
            start=from_ms(window.start_ms),
            covered_ms=covered_ms,
            ticks_taken=window.ticks,
            ticks_expected=max(due, window.ticks),
            energy_mj=energy_mj,
            energy_method=window.method,
            power_mean_mw=window.power.mean(),
            power_min_mw=window.instant.least,
            power_max_mw=window.instant.greatest,
            power_limit_mw=last.power_limit_mw if last else None,
            gpu_util_pm=window.gpu_util.mean(PER_MILLE // 100),
            mem_util_pm=window.mem_util.mean(PER_MILLE // 100),
            gpu_temp_max_c=window.gpu_temp.greatest,
            mem_temp_max_c=window.mem_temp.greatest,
            sm_clock_mhz=window.sm_clock.mean(),
            mem_clock_mhz=window.mem_clock.mean(),
            mem_used_mib=window.mem_used.greatest,
            clock_event_reasons=window.reasons,
            fan_pct=last.fan_pct if last else None,
            pcie_tx_kib=window.traffic.get("pcie_tx_kib"),
            pcie_rx_kib=window.traffic.get("pcie_rx_kib"),
            nvlink_tx_kib=window.traffic.get("nvlink_tx_kib"),
            nvlink_rx_kib=window.traffic.get("nvlink_rx_kib"),
            serves=self.serves,
        )

    def _event(self, kind: str, at_ms: int, base: Mark, doubt: Mark, words: str) -> Event:
        return Event(
            time=from_ms(at_ms),
            kind=kind,
            severity=Severity.WARNING,
            gpu_uuid=self.uuid,
            message=f"The energy counter went from {base.counter_mj} mJ to {doubt.counter_mj} mJ in"
            f" {(doubt.at_ms - base.at_ms) / MILLISECONDS_PER_SECOND:.1f} s: {words}",
        )


def _follows(before: Mark, after: Mark, limit_mw: int) -> bool:
    """Whether a counter can have come from one reading to the other: 0 ≤ ΔE ≤ 1.2 · P_limit · Δt."""
    length_ms = after.at_ms - before.at_ms
    most_mj = 12 * limit_mw * (length_ms + COUNTER_STEP_MS) // (10 * MILLISECONDS_PER_SECOND)
    return length_ms > 0 and 0 <= after.counter_mj - before.counter_mj <= most_mj


class NodeFolder:
    """Folds the readings of a node into windows.

    Args:
        window_ms: length of a window; it divides a minute.
        tick_ms: interval of the readings.
    """

    def __init__(self, window_ms: int, tick_ms: int) -> None:
        self._window_ms = window_ms
        self._tick_ms = tick_ms
        self._open: OpenNodeWindow | None = None
        self._over: list[NodeWindow] = []
        self._last_host: HostReading | None = None
        self._last_ms = 0

    def add(self, at_ms: int, gpus: "GpusAtTick", host: HostReading) -> None:
        """Take in a tick, later than the one before."""
        if self._open is not None and at_ms >= self._end_ms(self._open):
            self._finish(at_ms)
        if self._open is None:
            self._open = OpenNodeWindow(at_ms, [None] * max(1, self._window_ms // self._tick_ms))
        window = self._open
        slot = min(at_ms % self._window_ms // self._tick_ms, len(window.slots) - 1)
        window.slots[slot] = gpus.power_mw
        window.ticks += 1
        window.gpus = gpus
        window.rejected += gpus.rejected
        window.power.add(host.node_power_mw)
        before = self._last_host
        if before is not None and at_ms - self._last_ms <= max(LONGEST_TRAPEZOID_MS, 3 * self._tick_ms):
            window.cpu_uj = _plus(window.cpu_uj, before.cpu_energy_uj, host.cpu_energy_uj)
            window.dram_uj = _plus(window.dram_uj, before.dram_energy_uj, host.dram_energy_uj)
        self._last_host, self._last_ms = host, at_ms

    def shift(self, by_ms: int) -> None:
        """Follow the wall clock where it was set; the window was closed before."""
        self._last_ms += by_ms

    def close(self, until_ms: int, *, stop: bool = False) -> list[NodeWindow]:
        """Hand out the windows that are over at until_ms; with stop the one still open, too."""
        if self._open is not None and (stop or self._end_ms(self._open) <= until_ms):
            self._finish(until_ms)
        over, self._over = self._over, []
        return over

    def _end_ms(self, window: "OpenNodeWindow") -> int:
        return (window.start_ms // self._window_ms + 1) * self._window_ms

    def _finish(self, until_ms: int) -> None:
        window, self._open = self._open, None
        assert window is not None
        length_ms = min(self._end_ms(window), until_ms) - window.start_ms
        if length_ms <= 0:
            return
        due = max(1, round(length_ms / self._tick_ms))
        first = window.start_ms % self._window_ms // self._tick_ms
        self._over.append(
            NodeWindow(
                start=from_ms(window.start_ms),
                covered_ms=length_ms,
                ticks_taken=window.ticks,
                ticks_expected=max(due, window.ticks),
                gpus_read=window.gpus.read,
                gpus_expected=window.gpus.expected,
                tick_ms=self._tick_ms,
                gpu_power_mw=tuple(window.slots[first : first + due]),
                cpu_energy_mj=None if window.cpu_uj is None else round(window.cpu_uj / 1_000),
                dram_energy_mj=None if window.dram_uj is None else round(window.dram_uj / 1_000),
                node_power_mean_mw=window.power.mean(),
                node_power_max_mw=window.power.greatest,
                rejected_readings=window.rejected,
            )
        )


class GpusAtTick(Struct, frozen=True):
    """A node's GPUs together at one tick."""

    power_mw: int | None
    """Sum over the GPUs; None where one of them did not answer."""
    read: int
    """GPUs that answered."""
    expected: int
    """GPUs that the node is known to have."""
    rejected: int
    """Counter readings refused as impossible."""


class OpenNodeWindow:
    """What is known so far of a node in one window."""

    def __init__(self, start_ms: int, slots: list[int | None]) -> None:
        self.start_ms = start_ms
        self.slots = slots
        """The GPUs' power at each tick of a full window."""
        self.ticks = 0
        self.gpus = GpusAtTick(None, 0, 0, 0)
        self.rejected = 0
        self.power = Mean()
        self.cpu_uj: int | None = None
        self.dram_uj: int | None = None


def _plus(total: int | None, before: int | None, after: int | None) -> int | None:
    if before is None or after is None:
        return total
    return (total or 0) + after - before


def split(start_ms: int, end_ms: int, window_ms: int) -> Iterable[tuple[int, int]]:
    """The parts of an interval by windows."""
    while start_ms < end_ms:
        part_end_ms = min(end_ms, (start_ms // window_ms + 1) * window_ms)
        yield start_ms, part_end_ms
        start_ms = part_end_ms


def from_ms(at_ms: int) -> datetime:
    """The moment as a datetime, exactly."""
    seconds, milliseconds = divmod(at_ms, MILLISECONDS_PER_SECOND)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=milliseconds * 1_000)

"""Folds the readings of one meter into windows, so that energy and volume are neither lost nor counted twice.

The rules are those of collector.windows: between two readings lies an interval with what a register counted in it, and
one that crosses the end of a window is split by time, in whole millijoules and millilitres without remainder. A gap in
the readings is spread evenly and marked interpolated; a meter without a register of energy is integrated by the
trapezoid, with no bridge over a gap; where a register was replaced the part in between is estimated from power. A
register that stands still although power flows is believed when it moves again, and not before.
"""

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from collector.meters.power import MILLIWATTS_PER_KILOWATT, Power, with_margin
from collector.meters.reading import Reading
from collector.meters.register import Limits, Mark, Meaning, MeterMark, Register, Step
from collector.windows import LONGEST_ESTIMATE_MS, LONGEST_GAP_MS, Mean, from_ms, split
from gigawatch.records import EnergyMethod, MeterDoubt, MeterWindow, Severity
from gigawatch.settings import Meter as Settings
from gigawatch.units import (
    JOULES_PER_KWH,
    MILLIJOULES_PER_JOULE,
    MILLISECONDS_PER_HOUR,
    MILLISECONDS_PER_MINUTE,
    MILLISECONDS_PER_SECOND,
    SECONDS_PER_HOUR,
)

Figure = Literal["energy", "volume"]
Kind = Literal["meter_answers", "meter_replaced", "meter_reversed", "meter_stuck", "meter_wrapped"]
FINEST_MJ = 360_000
"""0.1 Wh: few meters count finer."""
FINEST_ML = 10
LEAST_GAP_MS = 5_000
"""Readings that are further apart than this, and than three intervals, have a gap between them."""
LATE_STEPS = 2
"""A register that should have moved by so many steps, and did not, is not believed before it moves."""
HABIT = 2
"""Unless it stood still so long, or a part of it, before it moved last: some are renewed once a minute."""
STUCK_STEPS = 3
STUCK_READINGS = 5
STUCK_AFTER_MS = 5 * MILLISECONDS_PER_MINUTE
"""It is told when so many steps are due, for so long."""
MILLILITRES_PER_M3 = 1_000_000


class Gap(Struct, frozen=True):
    """A time in which a register was not read, and what it says of it."""

    figure: Figure
    length_ms: int
    amount: int
    attributed: bool
    """Whether it was spread over the gap; else that was too long."""


class Notice(Struct, frozen=True):
    """Something that somebody should know: an event but for its time."""

    kind: Kind
    severity: Severity
    text: str


class Counted:
    """What a register counted in one window."""

    __slots__ = ("amount", "covered_ms", "fresh", "since_ms")

    def __init__(self) -> None:
        self.amount = 0
        self.covered_ms = 0
        self.fresh = 0
        """The part of the amount that is of the register's present epoch, which a mark reckons with."""
        self.since_ms: int | None = None
        """From when on that was counted."""


class OpenWindow:
    """What is known so far of a meter in one window."""

    def __init__(self, start_ms: int) -> None:
        self.start_ms = start_ms
        self.observed_ms = 0
        """Time between readings that came one after the other."""
        self.energy, self.volume = Counted(), Counted()
        self.modelled_mj = 0.0
        """Energy integrated or estimated from power."""
        self.method: EnergyMethod | None = None
        self.readings = 0
        self.power, self.current, self.temp = Mean(), Mean(), Mean()
        self.doubt: MeterDoubt | None = None

    def of(self, figure: Figure) -> Counted:
        """What the register of a figure counted."""
        return self.energy if figure == "energy" else self.volume


def longest_step_ms(settings: Settings) -> int:
    """How far apart readings may be with no gap between them."""
    return max(LEAST_GAP_MS, 3 * round(settings.interval_s * MILLISECONDS_PER_SECOND))


def window_length_ms(settings: Settings, window_s: int) -> int:
    """Length of a meter's windows: the agent's, or of those that divide an hour the first that holds an interval."""
    return next(
        length_s * MILLISECONDS_PER_SECOND
        for length_s in range(window_s, SECONDS_PER_HOUR + 1)
        if length_s >= settings.interval_s and SECONDS_PER_HOUR % length_s == 0
    )


class Folder:
    """Folds what is read of one meter.

    Args:
        settings: of the meter.
        window_ms: length of a window; it divides an hour.
        mark: up to where an earlier agent handed out what it counted.
    """

    def __init__(self, settings: Settings, window_ms: int, mark: MeterMark | None = None) -> None:
        mark = mark or MeterMark()
        self.gaps: list[Gap] = []
        """Gaps that ended since this was last emptied."""
        self.notices: list[Notice] = []
        """What deserves notice since this was last emptied."""
        self._settings = settings
        self._window_ms = window_ms
        self._interval_ms = round(settings.interval_s * MILLISECONDS_PER_SECOND)
        self._longest_step_ms = longest_step_ms(settings)
        self._power = Power(settings)
        if mark.energy is not None:
            self._power.resume(mark.energy.at_ms, mark.energy.power_mw)
        most_ml_s = None
        if settings.rated_m3_h is not None:
            most_ml_s = with_margin(round(settings.rated_m3_h * MILLILITRES_PER_M3)) // SECONDS_PER_HOUR + 1
        self._flow = Limits(sure=most_ml_s, possible=most_ml_s)
        """How fast the register of volume can grow, mL/s."""
        self._registers: dict[Figure, Register] = {
            "energy": Register(FINEST_MJ, 10**7 * FINEST_MJ, mark.energy),
            "volume": Register(FINEST_ML, 10**5 * FINEST_ML, mark.volume),
        }
        self._identity = mark.identity
        self._open: dict[int, OpenWindow] = {}
        """By their end."""
        self._late: dict[int, OpenWindow] = {}
        """Of gaps, and of time that was handed out before it was known: up to an hour long."""
        self._handed_ms = 0
        self._last: Reading | None = None
        self._last_ms = 0
        self._ends_gap = False
        """Whether nothing at all was read for long before the last reading."""
        self._carry_mj = 0.0
        self._rejected = 0
        self._waits = False
        """Whether the register of energy stands still although it should have moved: until it does."""
        self._is_less = False
        """Whether a phase flows backwards, now or at the reading before: what is counted is less than what flowed."""
        self._counts = False
        """Whether it tells more than what is now: temperatures, currents."""
        self._told: set[str] = set()

    def add(self, at_ms: int, reading: Reading) -> tuple[str, ...]:
        """Take in a reading, and say what was refused. One that is not later than the one before tells nothing new."""
        if self._last is not None and at_ms <= self._last_ms:
            return ()
        if self._last is None:
            self._begin(at_ms, reading)
        self._ends_gap = self._last is None or at_ms - self._last_ms > self._longest_step_ms
        self._is_less = self._power.is_phase_backwards
        self._power.take(at_ms, reading.power_mw, reading.least_phase_mw)
        self._is_less |= self._power.is_phase_backwards
        self._counts |= any(it is not None for it in (reading.energy_mj, reading.power_mw, reading.volume_ml))
        # Where values cannot be, its name is not believed either.
        identity = None if reading.refused else reading.identity
        replaced = None not in {self._identity, identity} and self._identity != identity
        self._identity = identity or self._identity
        if reading.energy_mj is not None:
            now = Mark(at_ms, reading.energy_mj, reading.power_mw)
            self._count("energy", now, reading.energy_wraps_mj, replaced=replaced)
        elif self._registers["energy"].base is None:
            self._integrate(at_ms, reading.power_mw)
        if reading.volume_ml is not None:
            self._count("volume", Mark(at_ms, reading.volume_ml), reading.volume_wraps_ml, replaced=replaced)
        self._look_at_power(reading.power_mw, reading.least_phase_mw)
        self._observe(at_ms, reading)
        self._last_ms, self._last = at_ms, reading
        return self._refused(reading)

    def close(self, until_ms: int, *, stop: bool = False) -> list[MeterWindow]:
        """Hand out the windows that are over; with stop the open ones, too.

        A window is over when the registers are known beyond its end, or that has taken too long.
        """
        settled_ms = [it.settled.at_ms for it in self._registers.values() if it.settled is not None]
        over_ms = max(min(settled_ms, default=self._last_ms), until_ms - self._longest_step_ms)
        late, self._late = self._late, {}
        records = [self._record(window, end_ms) for end_ms, window in sorted(late.items())]
        for end_ms in sorted(self._open):
            if end_ms <= over_ms or stop:
                self._handed_ms = max(self._handed_ms, min(end_ms, until_ms))
                records.append(self._record(self._open.pop(end_ms), min(end_ms, until_ms)))
        return [record for record in records if record is not None]

    def mark(self) -> MeterMark:
        """Up to where what was counted was handed out, for the next agent to go on from."""
        return MeterMark(self._mark("energy"), self._mark("volume"), self._identity)

    def shift(self, by_ms: int) -> None:
        """Follow the wall clock where it was set; every window was closed before."""
        for register in self._registers.values():
            register.shift(by_ms)
        self._power.shift(by_ms)
        self._handed_ms += by_ms
        self._last_ms += by_ms

    def _begin(self, at_ms: int, reading: Reading) -> None:
        """The first reading: a register that an earlier agent read, and is not told any more, has no say any more."""
        self._handed_ms = at_ms
        if not reading.refused:
            if reading.energy_mj is None:
                self._registers["energy"].forget()
            if reading.volume_ml is None:
                self._registers["volume"].forget()

    def _count(self, figure: Figure, now: Mark, wraps: int | None, *, replaced: bool) -> None:
        """Account for a reading of a register."""
        is_energy, register = figure == "energy", self._registers[figure]
        step = register.take(now, wraps, self._power.limits if is_energy else self._flow, replaced=replaced)
        if step is None:
            return
        goes_on = step.meaning in {Meaning.GREW, Meaning.WRAPPED}
        if is_energy and goes_on and self._is_less:
            register.settle()
            self._power.moved()
            return
        moved = step.end.value != step.last.value or not goes_on
        since = step.since
        if is_energy and not moved:
            self._waits |= self._should_have_moved(now.at_ms)
            # Once the next reading can tell: its step may be of this time, too, and the windows wait for it anyway.
            is_first = 0 < now.at_ms - register.moved_ms < HABIT * min(self._interval_ms, register.last_still_ms)
            if self._waits or (self._power.due_mj and is_first):
                return
        if not goes_on:
            self._end_epoch(figure, step)
        elif self._waits and 2 * step.amount < self._power.due_mj:
            # It did not count meanwhile: what it says is of the time since it did again.
            since = step.last
        self._hand_out(figure, since.at_ms, now.at_ms, step.amount)
        register.settle()
        self._tell_of(figure, step)
        if is_energy and moved:
            if "meter_stuck" in self._told:
                words = "what it counted is spread over that time" if since is step.since else "it did not count"
                self._notice("meter_answers", Severity.INFO, f"its register of energy moves again; meanwhile {words}")
            self._told.discard("meter_stuck")
            self._waits = False
            self._power.moved()

    def _should_have_moved(self, at_ms: int) -> bool:
        """Whether the register of energy stands still although power flows, or flows the wrong way."""
        if self._power.is_backwards:
            return True
        register, due_mj = self._registers["energy"], self._power.due_mj
        assert register.base is not None
        still_ms = at_ms - register.moved_ms
        lasts = still_ms >= STUCK_AFTER_MS and register.still_readings >= STUCK_READINGS
        if lasts and not self._power.may_be_backwards and due_mj >= STUCK_STEPS * register.step:
            self._tell_while(
                "meter_stuck", True,
                f"its register of energy has stood at {in_kwh(register.base.value)} for"
                f" {still_ms / MILLISECONDS_PER_MINUTE:.0f} min, in which {in_kwh(due_mj)} flowed by its power; it is"
                " not believed before it moves",
            )  # fmt: skip
        habit_ms = HABIT * register.last_still_ms - self._interval_ms // 2
        return due_mj >= LATE_STEPS * register.step and still_ms >= min(STUCK_AFTER_MS, habit_ms)

    def _end_epoch(self, figure: Figure, step: Step) -> None:
        """The register began anew: what is in open windows belongs to the one before."""
        for window in (*self._open.values(), *self._late.values()):
            counted = window.of(figure)
            counted.fresh, counted.since_ms = 0, None
        if figure == "energy" and step.meaning in {Meaning.REPLACED, Meaning.LEAPT}:
            longest_ms = max(LONGEST_ESTIMATE_MS, self._longest_step_ms)
            self._model(step.start, step.since, longest_ms, EnergyMethod.ESTIMATED)

    def _hand_out(self, figure: Figure, start_ms: int, end_ms: int, amount: int) -> None:
        """Spread what a register counted over the windows between, in whole units."""
        length_ms = end_ms - start_ms
        method = EnergyMethod.COUNTER
        if length_ms > self._longest_step_ms:
            method = EnergyMethod.INTERPOLATED
            attributed = length_ms <= LONGEST_GAP_MS
            if self._ends_gap or not attributed:
                self.gaps.append(Gap(figure, length_ms, amount, attributed))
            if not attributed:
                return
        given = 0
        for window, part_start_ms, part_end_ms in self._parts(start_ms, end_ms, figure):
            due = amount * (part_end_ms - start_ms) // length_ms
            counted = window.of(figure)
            counted.amount += due - given
            counted.fresh += due - given
            given = due
            counted.covered_ms += part_end_ms - part_start_ms
            counted.since_ms = part_start_ms if counted.since_ms is None else min(counted.since_ms, part_start_ms)
            if figure == "energy":
                window.method = max(window.method or method, method)

    def _integrate(self, at_ms: int, power_mw: int | None) -> None:
        """Account for the power of a meter that has no register of energy."""
        if self._last is not None and not self._is_less:
            before = Mark(self._last_ms, 0, self._last.power_mw)
            self._model(before, Mark(at_ms, 0, power_mw), self._longest_step_ms, EnergyMethod.INTEGRATED)

    def _model(self, first: Mark, last: Mark, longest_ms: int, method: EnergyMethod) -> None:
        """Spread the trapezoid of two powers over the windows between, unless that would be inventing."""
        first_mw, last_mw = self._power.forward(first.power_mw), self._power.forward(last.power_mw)
        length_ms = last.at_ms - first.at_ms
        if first_mw is None or last_mw is None or not 0 < length_ms <= longest_ms:
            return
        slope = (last_mw - first_mw) / length_ms
        for window, part_start_ms, part_end_ms in self._parts(first.at_ms, last.at_ms):
            mean_mw = first_mw + slope * ((part_start_ms + part_end_ms) / 2 - first.at_ms)
            window.modelled_mj += mean_mw * (part_end_ms - part_start_ms) / MILLISECONDS_PER_SECOND
            window.energy.covered_ms += part_end_ms - part_start_ms
            window.method = max(window.method or method, method)

    def _observe(self, at_ms: int, reading: Reading) -> None:
        """Take in what is no register."""
        if self._last is not None and at_ms - self._last_ms <= self._longest_step_ms:
            for window, part_start_ms, part_end_ms in self._parts(self._last_ms, at_ms):
                window.observed_ms += part_end_ms - part_start_ms
        window = self._window(at_ms)
        if self._power.is_backwards:
            window.doubt = MeterDoubt.REVERSED
        elif "meter_stuck" in self._told and self._waits:
            window.doubt = MeterDoubt.STUCK
        window.readings += 1
        window.power.add(reading.power_mw)
        window.current.add(reading.current_ma)
        window.temp.add(reading.temp_mc)

    def _parts(self, start_ms: int, end_ms: int, figure: Figure = "energy") -> Iterable[tuple[OpenWindow, int, int]]:
        """The windows that an interval lies in, with its part in each.

        Of time that was handed out, and of all of a gap but its end, they are up to an hour long: nothing more is known
        of it, and a day's gap of a thousand meters shall not be nine million windows.
        """
        gap_end_ms = end_ms // self._window_ms * self._window_ms if self._ends_gap else 0
        late_ms = min(end_ms, max(self._handed_ms, gap_end_ms))
        shared = self._waits or all(it.base is not None for it in self._registers.values())
        for part_start_ms, part_end_ms in split(start_ms, late_ms, MILLISECONDS_PER_HOUR):
            if shared and part_end_ms - part_start_ms > 4:
                # A window of power alone, or of the other register, may begin here, and no two at one moment.
                part_start_ms += 1 if figure == "energy" else 2  # noqa: PLW2901
                part_start_ms += 2 * (part_start_ms % self._window_ms == 0)  # noqa: PLW2901
            window = self._late.setdefault(part_end_ms, OpenWindow(part_start_ms))
            window.start_ms = min(window.start_ms, part_start_ms)
            yield window, part_start_ms, part_end_ms
        for part_start_ms, part_end_ms in split(max(start_ms, late_ms), end_ms, self._window_ms):
            window = self._window(part_start_ms)
            window.start_ms = min(window.start_ms, part_start_ms)
            yield window, part_start_ms, part_end_ms

    def _window(self, at_ms: int) -> OpenWindow:
        """The open window that a moment is in."""
        end_ms = (at_ms // self._window_ms + 1) * self._window_ms
        return self._open.setdefault(end_ms, OpenWindow(at_ms))

    def _record(self, window: OpenWindow, end_ms: int) -> MeterWindow | None:
        """The window as it travels; None where nothing of it is known."""
        energy_mj = None
        if window.method is not None:
            # Fractions of a millijoule go on to the next window, so that sums stay right.
            exact_mj = window.modelled_mj + self._carry_mj
            energy_mj = window.energy.amount + int(exact_mj)
            self._carry_mj = exact_mj - int(exact_mj)
        covered_ms = window.energy.covered_ms or window.volume.covered_ms
        if not covered_ms and (window.doubt is not None or not self._counts):
            covered_ms = window.observed_ms
        if not covered_ms:
            return None
        due = round((end_ms - window.start_ms) / self._interval_ms)
        rejected, self._rejected = self._rejected, 0
        return MeterWindow(
            meter=self._settings.name,
            start=from_ms(window.start_ms),
            covered_ms=covered_ms,
            readings_taken=window.readings,
            readings_expected=max(due, window.readings),
            energy_mj=energy_mj,
            energy_method=window.method,
            power_mean_mw=window.power.mean(),
            power_min_mw=window.power.least,
            power_max_mw=window.power.greatest,
            current_max_ma=window.current.greatest,
            volume_ml=window.volume.amount if window.volume.covered_ms else None,
            temp_mean_mc=window.temp.mean(),
            rejected_readings=rejected,
            doubt=window.doubt,
        )

    def _mark(self, figure: Figure) -> Mark | None:
        register = self._registers[figure]
        settled = register.settled
        if settled is None:
            return None
        held = [window.of(figure) for window in (*self._open.values(), *self._late.values())]
        return Mark(
            min((it.since_ms for it in held if it.since_ms is not None), default=settled.at_ms),
            settled.value - sum(it.fresh for it in held),
            settled.power_mw,
            register.least_move,
        )

    def _refused(self, reading: Reading) -> tuple[str, ...]:
        """Everything that was refused at this reading, counted."""
        refused = list(reading.refused)
        self._rejected += bool(refused)
        for figure, register in self._registers.items():
            if register.left_out:
                refused.append(f"{figure}: its register said once what does not follow from the readings before")
            self._rejected += register.left_out
            register.left_out = 0
        return tuple(refused)

    def _look_at_power(self, power_mw: int | None, least_phase_mw: int | None) -> None:
        if power_mw is None:
            return
        flows = f"its power flows backwards ({in_kw(power_mw)})"
        if least_phase_mw is not None and self._power.is_phase_backwards:
            flows = f"its power flows backwards in a phase ({in_kw(least_phase_mw)}, of {in_kw(power_mw)} in all)"
        self._tell_while(
            "meter_reversed", self._power.is_backwards,
            f"{flows}: its current transformers are mounted the wrong way or swapped, or energy flows back, which"
            " `both_ways` in its settings allows",
        )  # fmt: skip
        if self._registers["energy"].base is None:
            self._tell_while(
                "meter_stuck", self._power.is_flat,
                f"its power has been {in_kw(power_mw)} to the last digit for much longer than ever before",
            )  # fmt: skip

    def _tell_of(self, figure: Figure, step: Step) -> None:
        """What a step of a register means, where that is more than growth."""
        shown = in_kwh if figure == "energy" else in_m3
        first, last = shown(step.last.value), shown(step.end.value if step.since is step.end else step.since.value)
        length_s = (step.since.at_ms - step.last.at_ms) / MILLISECONDS_PER_SECOND
        went = f"its register of {figure} went from {first} to {last} in {length_s:.0f} s"
        match step.meaning:
            case Meaning.WRAPPED:
                went = f"its register of {figure} went from {first} to {shown(step.end.value)}"
                self._notice("meter_wrapped", Severity.INFO, f"{went}: it began again from zero, and nothing is lost")
            case Meaning.UNKNOWN:
                words = "it may have begun from zero more than once, so that what it counted is unknown and left out"
                self._notice("meter_wrapped", Severity.WARNING, f"{went}: {words}")
            case Meaning.FELL if not self._settings.both_ways:
                words = "it counts backwards; its current transformers are mounted the wrong way, or energy flows back"
                if figure == "volume":
                    words = "it counts backwards; it is mounted the wrong way, or water flows back"
                self._notice("meter_reversed", Severity.WARNING, f"{went}: {words}")
            case Meaning.REPLACED | Meaning.LEAPT:
                words = "a meter was replaced or set, and what flowed in between is estimated from power, or unknown"
                self._notice("meter_replaced", Severity.WARNING, f"{went}: {words}")

    def _tell_while(self, kind: Kind, holds: bool, text: str) -> None:
        """Tell something once for as long as it holds."""
        if holds and kind not in self._told:
            self._told.add(kind)
            self._notice(kind, Severity.WARNING, text)
        elif not holds:
            self._told.discard(kind)

    def _notice(self, kind: Kind, severity: Severity, text: str) -> None:
        self.notices.append(Notice(kind, severity, text))


def in_kw(power_mw: float) -> str:
    """A power in words."""
    return f"{power_mw / MILLIWATTS_PER_KILOWATT:,.6g} kW"


def in_kwh(energy_mj: float) -> str:
    """An energy in words."""
    return f"{energy_mj / (JOULES_PER_KWH * MILLIJOULES_PER_JOULE):,.6g} kWh"


def in_m3(volume_ml: float) -> str:
    """A volume in words."""
    return f"{volume_ml / MILLILITRES_PER_M3:,.6g} m³"

"""Reads meters, those of each connection in a thread of its own, and hands their windows to the agent's thread.

A meter that hangs delays neither those of another connection nor the GPUs' ticks: the agent only takes what is there.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from queue import Empty, SimpleQueue

from msgspec import Struct

from collector.meters.drivers import driver
from collector.meters.folder import Gap, in_kwh, in_m3
from collector.meters.reading import Denied, Driver, Reading
from collector.meters.register import MeterMark
from collector.meters.watched import WatchedMeter
from collector.windows import from_ms
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.records import Event, MeterWindow, Severity
from gigawatch.settings import Meter as Settings
from gigawatch.units import MILLISECONDS_PER_SECOND

PATIENCE = 3
"""After so many questions without an answer a meter that shares its connection is asked seldom: each costs the others
time."""
REST_S = 60.0
LEAST_PAUSE_S, MOST_PAUSE_S = 300.0, 3_600.0
"""A meter that does not let us in is left alone so long, and each time that it still does not twice as long: accounts
are locked after a handful of failures within minutes."""
SAME_MOMENT_S = 0.001
MOST_NAMED = 5
log = logging.getLogger(__name__)


class Outcome(Struct, frozen=True):
    """How one reading of a meter went."""

    name: str
    reading: Reading | None = None
    problem: str = ""
    """Why there is no reading."""


class Pause(Struct, frozen=True):
    """How long a meter that does not let us in is left alone."""

    length_s: float
    until_s: float
    """By the monotonic clock."""
    problem: str


class Reader(threading.Thread):
    """Reads the meters of one connection, each at multiples of its interval in UTC, so that readings lie on the ends of
    windows. What does not let us in is left alone for longer and longer: all meters of an account, where that is it.

    Args:
        address: of the connection.
        meters: with what reads them.
    """

    def __init__(self, address: str, meters: Sequence[tuple[Settings, Driver]]) -> None:
        super().__init__(name=f"meters at {address}", daemon=True)
        self.address = address
        self.outcomes: SimpleQueue[Outcome] = SimpleQueue()
        self.names = [settings.name for settings, _ in meters]
        self._meters = meters
        self._unanswered: Counter[str] = Counter()
        self._pauses: dict[object, Pause] = {}
        """By a meter's name, or by the user and secret of all meters that have them."""
        self._ending = threading.Event()

    def run(self) -> None:
        """Read until told to stop."""
        while not self._ending.is_set():
            now_s = time.time()
            due_s = [self._next_s(settings, now_s) for settings, _ in self._meters]
            if self._ending.wait(min(due_s) - now_s):
                break
            for (settings, its_driver), at_s in zip(self._meters, due_s, strict=True):
                if at_s <= min(due_s) + SAME_MOMENT_S and not self._ending.is_set():
                    self.outcomes.put(self._read(settings, its_driver))
        for _, its_driver in self._meters:
            its_driver.close()

    def stop(self) -> None:
        """End soon; a reading under way is left to itself."""
        self._ending.set()

    def _next_s(self, settings: Settings, now_s: float) -> float:
        interval_s = settings.interval_s
        if len(self._meters) > 1 and self._unanswered[settings.name] >= PATIENCE:
            interval_s = max(interval_s, REST_S)
        return (now_s // interval_s + 1) * interval_s

    def _read(self, settings: Settings, its_driver: Driver) -> Outcome:
        name, began_s = settings.name, time.monotonic()
        account = (settings.user, settings.secret_file)
        for key in (name, account):
            if key in self._pauses and began_s < self._pauses[key].until_s:
                return Outcome(name, problem=self._pauses[key].problem)
        try:
            outcome = Outcome(name, its_driver.read())
            self._pauses.pop(name, None)
            self._pauses.pop(account, None)
        except Denied as error:
            outcome = Outcome(name, problem=self._pause(account if error.of_account else name, error))
        except GigawatchError as error:
            log.debug("meter %s: %s", name, error.problem)
            outcome = Outcome(name, problem=error.problem)
        except Exception as error:  # what a library makes of a garbled answer must not end the reading of all
            log.exception("meter %s", name)
            outcome = Outcome(name, problem=f"{type(error).__name__}: {error}")
        if outcome.reading:
            self._unanswered[name] = 0
        elif time.monotonic() - began_s > settings.timeout_s / 2:
            self._unanswered[name] += 1
        return outcome

    def _pause(self, key: object, error: Denied) -> str:
        """Leave what does not let us in alone; what to say meanwhile."""
        before = self._pauses.get(key)
        length_s = LEAST_PAUSE_S if before is None else min(2 * before.length_s, MOST_PAUSE_S)
        until = datetime.now(UTC) + timedelta(seconds=length_s)
        problem = (
            f"{error.problem}. {error.remedy} Lest the account be locked it is not tried again before"
            f" {until:%H:%M} UTC, or before the agent is started again"
        )
        self._pauses[key] = Pause(length_s, time.monotonic() + length_s, problem)
        return problem


class Meters:
    """All meters that this agent reads, for the agent's thread.

    Args:
        settings: of each meter.
        window_s: length of the agent's windows.
        now_ms: now, by the agent's clock.
        marks: up to where an earlier agent handed out what they counted, by name.

    Raises:
        GigawatchError: two meters have one name, or a meter's settings cannot be used.
    """

    def __init__(
        self, settings: tuple[Settings, ...], window_s: int, now_ms: int, marks: Mapping[str, MeterMark]
    ) -> None:
        check_names(settings)
        connections: dict[tuple[str, str], list[tuple[Settings, Driver]]] = {}
        for it in settings:
            connections.setdefault((it.driver, it.address), []).append((it, driver(it)))
        self._readers = [Reader(address, meters) for (_, address), meters in connections.items()]
        self._meters = {it.name: WatchedMeter(it, window_s, now_ms, marks.get(it.name)) for it in settings}
        self._events: list[Event] = []

    def start(self) -> None:
        """Begin to read."""
        for reader in self._readers:
            reader.start()

    def tick(self, now_ms: int) -> None:
        """Take in what was read since the last call; now_ms is this very moment by the agent's clock."""
        now_s = time.monotonic()
        for reader in self._readers:
            while True:
                try:
                    outcome = reader.outcomes.get_nowait()
                except Empty:
                    break
                meter = self._meters[outcome.name]
                if outcome.reading is None:
                    meter.problem = outcome.problem
                else:
                    at_ms = now_ms - round((now_s - outcome.reading.at_s) * MILLISECONDS_PER_SECOND)
                    meter.take(at_ms, outcome.reading)
            self._tell_silence(now_ms, [self._meters[name] for name in reader.names], reader.address)
        self._tell_gaps(now_ms)

    def close(self, until_ms: int, *, stop: bool = False) -> list[MeterWindow]:
        """The windows that are over at until_ms; with stop the open ones, too."""
        return [window for meter in self._meters.values() for window in meter.close(until_ms, stop=stop)]

    def take(self) -> list[Event]:
        """What deserved notice since the last call."""
        events, self._events = self._events, []
        return events + [event for meter in self._meters.values() for event in meter.take_events()]

    def marks(self) -> dict[str, MeterMark]:
        """Up to where what they counted was handed out, by name."""
        return {name: meter.mark() for name, meter in self._meters.items()}

    def shift(self, by_ms: int) -> None:
        """Follow the wall clock where it was set; every window was closed before."""
        for meter in self._meters.values():
            meter.shift(by_ms)

    def shut(self) -> None:
        """Stop reading."""
        for reader in self._readers:
            reader.stop()

    def _tell_silence(self, now_ms: int, meters: Sequence[WatchedMeter], address: str) -> None:
        """One event for all meters of a connection that fell silent together, not one each."""
        before_s = [meter.silent_ms / MILLISECONDS_PER_SECOND for meter in meters]
        changed = [
            (meter, silent_s) for meter, silent_s in zip(meters, before_s, strict=True) if meter.fell_silent(now_ms)
        ]
        silent = [meter for meter, _ in changed if meter.is_silent]
        back = [(meter, silent_s) for meter, silent_s in changed if not meter.is_silent]
        if silent:
            longest_s = max(meter.silent_ms for meter in silent) / MILLISECONDS_PER_SECOND
            words = f"{_named([it.name for it in silent])} at {address}: not read for {longest_s:.0f} s"
            self._event("meter_silent", now_ms, Severity.WARNING, f"{words}: {silent[0].problem}")
        if back:
            words = f"{_named([it.name for it, _ in back])} at {address}: read again after"
            self._event(
                "meter_answers", now_ms, Severity.INFO, f"{words} {max(silent_s for _, silent_s in back):.0f} s"
            )

    def _tell_gaps(self, now_ms: int) -> None:
        """One event for all meters that were not read in the same time."""
        ended = [(name, gap) for name, meter in self._meters.items() for gap in meter.take_gaps()]
        for attributed in (True, False):
            gaps = [(name, gap) for name, gap in ended if gap.attributed == attributed]
            if gaps:
                names = _named(sorted({name for name, _ in gaps}))
                fate = "spread evenly over it" if attributed else "in no window, since the gap is too long"
                self._event(
                    "readings_gap", now_ms, Severity.WARNING,
                    f"{names}: not read for {max(gap.length_ms for _, gap in gaps) / MILLISECONDS_PER_SECOND:.1f} s;"
                    f" {_counted([gap for _, gap in gaps])} of it are known from the registers and {fate}",
                )  # fmt: skip

    def _event(self, kind: str, now_ms: int, severity: Severity, message: str) -> None:
        log.log(logging.INFO if severity is Severity.INFO else logging.WARNING, message)
        self._events.append(Event(time=from_ms(now_ms), kind=kind, severity=severity, message=message[:1_000]))


def check_names(settings: Sequence[Settings]) -> None:
    """Refuse two meters of one name.

    Raises:
        GigawatchError: there are.
    """
    for name, times in Counter(it.name for it in settings).items():
        if times > 1:
            raise GigawatchError(
                f"[[meters]] name {name!r} {times} times",
                "A meter's name says which it is in its site: give each its own.",
                ExitCode.CONFIGURATION,
            )


def _named(names: Sequence[str]) -> str:
    """Meters in words, the first of many by name."""
    if len(names) == 1:
        return f"Meter {names[0]}"
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"Meters {', '.join(names[:MOST_NAMED])}{more}"


def _counted(gaps: Sequence[Gap]) -> str:
    """What the registers counted in gaps, in words."""
    totals = Counter({"energy": 0, "volume": 0})
    for gap in gaps:
        totals[gap.figure] += gap.amount
    figures = {gap.figure for gap in gaps}
    shown = [in_kwh(totals["energy"])] * ("energy" in figures) + [in_m3(totals["volume"])] * ("volume" in figures)
    return " and ".join(shown)

"""One meter that is read: its readings become windows, and what deserves notice events."""

from collections import Counter

from collector.meters.folder import Folder, Gap, longest_step_ms, window_length_ms
from collector.meters.reading import Reading
from collector.meters.register import MeterMark
from collector.windows import from_ms
from gigawatch.records import Event, MeterWindow, Severity
from gigawatch.settings import Meter as Settings
from gigawatch.units import MILLISECONDS_PER_MINUTE

REPEAT_MS = 10 * MILLISECONDS_PER_MINUTE
"""How often the same is told of a meter that shows it again and again."""


class WatchedMeter:
    """Folds what is read of one meter.

    Args:
        settings: of the meter.
        window_s: length of the agent's windows.
        at_ms: now.
        mark: up to where an earlier agent handed out what it counted.
    """

    def __init__(self, settings: Settings, window_s: int, at_ms: int, mark: MeterMark | None) -> None:
        self.name = settings.name
        self.problem = "it has not answered"
        """Why it could not be read last."""
        self.is_silent = False
        self.silent_ms = 0
        """For how long nothing new was read."""
        self._folder = Folder(settings, window_length_ms(settings, window_s), mark)
        self._longest_step_ms = longest_step_ms(settings)
        self._heard_ms = at_ms
        self._heard_s = 0.0
        self._told_ms: dict[str, int] = {}
        self._refusals: Counter[str] = Counter()
        self._events: list[Event] = []

    def take(self, at_ms: int, reading: Reading) -> None:
        """Take in a reading; one that was taken in before tells nothing new."""
        if reading.at_s <= self._heard_s:
            return
        self._heard_s, self._heard_ms = reading.at_s, max(at_ms, self._heard_ms + 1)
        self._refusals.update(self._folder.add(self._heard_ms, reading))
        if self._refusals and self._may_tell("meter_refused"):
            count, last = self._refusals.total(), next(reversed(self._refusals))
            words = f"{count} values were refused; the last: {last}" if count > 1 else f"a value was refused: {last}"
            self._event("meter_refused", Severity.WARNING, words)
            self._refusals.clear()
        for notice in self._folder.notices:
            if self._may_tell(notice.kind):
                self._event(notice.kind, notice.severity, notice.text)
        self._folder.notices.clear()

    def fell_silent(self, now_ms: int) -> bool:
        """Whether it is not read any more, or again, since the last call."""
        before, self.silent_ms = self.is_silent, now_ms - self._heard_ms
        self.is_silent = self.silent_ms > self._longest_step_ms
        return before != self.is_silent

    def close(self, until_ms: int, *, stop: bool = False) -> list[MeterWindow]:
        """Hand out the windows that are over at until_ms; with stop the open ones, too."""
        return self._folder.close(until_ms, stop=stop)

    def take_events(self) -> list[Event]:
        """What deserved notice since the last call."""
        events, self._events = self._events, []
        return events

    def take_gaps(self) -> list[Gap]:
        """Gaps that ended since the last call."""
        gaps, self._folder.gaps = self._folder.gaps, []
        return gaps

    def mark(self) -> MeterMark:
        """Up to where what it counted was handed out, for the next agent to go on from."""
        return self._folder.mark()

    def shift(self, by_ms: int) -> None:
        """Follow the wall clock where it was set; every window was closed before."""
        self._heard_ms += by_ms
        self._told_ms = {kind: at_ms + by_ms for kind, at_ms in self._told_ms.items()}
        self._folder.shift(by_ms)

    def _may_tell(self, kind: str) -> bool:
        if self._heard_ms - self._told_ms.get(kind, -REPEAT_MS) < REPEAT_MS:
            return False
        self._told_ms[kind] = self._heard_ms
        return True

    def _event(self, kind: str, severity: Severity, text: str) -> None:
        message = f"Meter {self.name}: {text}"
        self._events.append(Event(time=from_ms(self._heard_ms), kind=kind, severity=severity, message=message[:1_000]))

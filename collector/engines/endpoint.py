"""One endpoint that is read: its readings become windows of each model it serves, and what deserves notice events."""

from collections import Counter

from collector.engines.address import LONGEST_NAME
from collector.engines.catalogue import TOKENS
from collector.engines.folder import Bucket, Folder, longest_step_ms
from collector.engines.growth import Change, Counters
from collector.engines.reading import Reading
from collector.windows import from_ms
from gigawatch.records import Event, ServingWindow, Severity
from gigawatch.settings import Engine as Settings
from gigawatch.units import MILLISECONDS_PER_MINUTE, MILLISECONDS_PER_SECOND

REPEAT_MS = 10 * MILLISECONDS_PER_MINUTE
"""How often a reset is told of an engine whose counters fall again and again."""
MOST_MODELS = 1_000
"""Models of an endpoint that are kept in mind; beyond it those that have been away longest are forgotten."""


class Endpoint:
    """Folds what is read of one endpoint.

    Args:
        settings: of the engine.
        address: what tells it from the node's others: host and port, and the path where it is not /metrics.
        window_ms: length of a window.
        at_ms: now.
    """

    def __init__(self, settings: Settings, address: str, window_ms: int, at_ms: int) -> None:
        self._settings = settings
        self._address = address
        self._window_ms = window_ms
        self._counters = Counters()
        self._folders: dict[tuple[str, str | None], Folder] = {}
        """By engine, for another may take its place, and model."""
        self._counting: set[str | None] = set()
        """Models that count tokens."""
        self._at_ms = at_ms
        self._heard_ms = at_ms
        """When something was last read that the engine's file knows."""
        self._problem = "it has not answered"
        self._silent = False
        self._told_ms = -REPEAT_MS
        self._events: list[Event] = []

    def take(self, at_ms: int, engine: str, reading: Reading) -> None:
        """Take in a reading by an engine's file."""
        at_ms = max(at_ms, self._at_ms + 1)
        growth = self._counters.take(reading, self._at_ms)
        self._counting |= {model for series, model in reading.models.items() if series.figure in TOKENS}
        known = growth is not None and growth.change is not Change.OTHER
        grown: dict[str | None, Counter[Bucket]] = {
            model: Counter() for model in {*reading.models.values(), *reading.gauges}
        }
        for series, count in growth.by_series.items() if growth else ():
            grown[reading.models[series]][series.figure, series.bound_us] += count
        left_out = 0
        for model, buckets in grown.items():
            # Taken out and put in again, it is the last to be forgotten.
            folder = self._folders.pop((engine, model), None)
            if folder is None:
                # A model that is new was not there at the reading before: its counters were zero then.
                since_ms = self._at_ms if known else at_ms
                name = (model or self._settings.model or "")[:LONGEST_NAME] or None
                folder = Folder(self._settings, self._address, engine, name, self._window_ms, since_ms)
            self._folders[engine, model] = folder
            left_out += folder.add(at_ms, buckets if known else None, reading.gauges.get(model, {}))
        self._at_ms = at_ms
        if not reading.sources:
            self.fail(f"it serves no metric that is known of {engine}")
            return
        self._heard_ms = at_ms
        if self._silent:
            self._silent = False
            self._event("engine_back", at_ms, Severity.INFO, f"The engine at {self._address} is read again")
        if left_out:
            self._event(
                "engine_gap",
                at_ms,
                Severity.WARNING,
                f"The engine at {self._address} was not read for so long that {left_out} generated tokens are in no"
                " window",
            )
        if growth is not None:
            self._tell(growth.change)

    def fail(self, problem: str) -> None:
        """Keep why it cannot be read; it is told when it lasts."""
        self._problem = problem

    def tick(self, now_ms: int) -> None:
        """Notice that nothing was read for a while, for whatever reason."""
        silent_ms = now_ms - self._heard_ms
        if not self._silent and silent_ms > longest_step_ms(self._settings):
            self._silent = True
            self._event(
                "engine_unreachable",
                now_ms,
                Severity.WARNING,
                f"The engine at {self._address} was not read for {silent_ms / MILLISECONDS_PER_SECOND:.0f} s:"
                f" {self._problem}",
            )

    def close(self, until_ms: int, *, stop: bool = False) -> list[ServingWindow]:
        """Hand out the windows that are over at until_ms; with stop the open ones, too.

        Where some models count tokens, those that do not are parts of them, such as Triton's preprocessing: they have
        no windows.
        """
        windows = []
        for (_, model), folder in self._folders.items():
            closed = folder.close(until_ms, stop=stop)
            if not self._counting or model in self._counting:
                windows += closed
        # One with an open window is not yet away.
        away = [its for its, folder in self._folders.items() if not folder.is_open]
        for its in away[: max(0, len(self._folders) - MOST_MODELS)]:
            del self._folders[its]
        self._counting &= {model for _, model in self._folders}
        return windows

    def take_events(self) -> list[Event]:
        """What deserved notice since the last call."""
        events, self._events = self._events, []
        return events

    def shift(self, by_ms: int) -> None:
        """Follow the wall clock where it was set; every window was closed before."""
        self._at_ms += by_ms
        self._heard_ms += by_ms
        self._told_ms += by_ms
        for folder in self._folders.values():
            folder.shift(by_ms)

    def _tell(self, change: Change) -> None:
        if change is Change.NONE or self._at_ms - self._told_ms < REPEAT_MS:
            return
        self._told_ms = self._at_ms
        if change is Change.RESET:
            self._event(
                "engine_restarted",
                self._at_ms,
                Severity.INFO,
                f"Counters of the engine at {self._address} began anew; what they counted between the last reading and"
                " that is lost",
            )
        else:
            self._event(
                "engine_changed",
                self._at_ms,
                Severity.WARNING,
                f"Counters of the engine at {self._address} are not those of the reading before, and nothing restarted:"
                " several processes behind one address cannot be told apart, and what they count in between is lost",
            )

    def _event(self, kind: str, at_ms: int, severity: Severity, message: str) -> None:
        self._events.append(Event(time=from_ms(at_ms), kind=kind, severity=severity, message=message[:1_000]))

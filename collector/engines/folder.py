"""Folds what one model's counters grew by into windows, to the token.

The rules are those of collector.windows: growth between two readings that lie in different windows is split in
proportion to time, in whole tokens without remainder, so that windows add up to what the counters grew by. After a gap
in the readings growth is spread evenly over it, and the time is not part of observed_ms.
"""

from collections import Counter
from collections.abc import Mapping

from collector.engines.catalogue import COUNTERS
from collector.engines.reading import ABOVE_ALL_US
from collector.windows import from_ms, split
from gigawatch.records import Latencies, ServingWindow
from gigawatch.settings import Engine as Settings
from gigawatch.units import MILLISECONDS_PER_SECOND

LEAST_GAP_MS = 5_000
"""Readings that are further apart than this, and than three intervals, have a gap between them."""
LONGEST_GAP_MS = 3_600_000
"""After a longer gap growth is left out: nobody can say when it was."""
MOST_BOUNDS = 1_000

Bucket = tuple[str, int]
"""A figure and, of a latency, the bucket's bound in µs."""


def longest_step_ms(settings: Settings) -> int:
    """How far apart readings may be with no gap between them."""
    return max(LEAST_GAP_MS, 3 * round(settings.interval_s * MILLISECONDS_PER_SECOND))


class OpenWindow:
    """What is known so far of one model in one window."""

    def __init__(self, start_ms: int) -> None:
        self.start_ms = start_ms
        self.covered_ms = 0
        self.observed_ms = 0
        self.readings = 0
        self.grown: Counter[Bucket] = Counter()
        self.request_ms: Counter[str] = Counter()
        self.active_ms: int | None = None
        self.greatest: dict[str, int] = {}


class Folder:
    """Folds what is read of one model into windows.

    Args:
        settings: of the engine.
        endpoint, engine, model: as in ServingWindow.
        window_ms: length of a window; it divides a minute.
        at_ms: when its counters were zero, or not known.
    """

    def __init__(
        self, settings: Settings, endpoint: str, engine: str, model: str | None, window_ms: int, at_ms: int
    ) -> None:
        self._settings = settings
        self._endpoint = endpoint
        self._engine = engine
        self._model = model
        self._window_ms = window_ms
        self._interval_ms = round(settings.interval_s * MILLISECONDS_PER_SECOND)
        self._longest_step_ms = longest_step_ms(settings)
        self._open: dict[int, OpenWindow] = {}
        self._at_ms = at_ms
        self._gauges: Mapping[str, int] = {}

    def add(self, at_ms: int, grown: Mapping[Bucket, int] | None, gauges: Mapping[str, int]) -> int:
        """Take in a reading, later than the one before.

        Args:
            at_ms: when it was.
            grown: what counters grew by since the reading before; None where that is not known.
            gauges: what is now.

        Returns:
            tokens of answers that were left out, since the gap before them was too long.
        """
        left_out = 0
        if grown is not None:
            if at_ms - self._at_ms <= LONGEST_GAP_MS:
                self._spread(self._at_ms, at_ms, grown, gauges)
            else:
                left_out = grown.get(("generated_tokens", 0), 0)
        window = self._window(at_ms)
        window.readings += 1
        for gauge, value in gauges.items():
            window.greatest[gauge] = max(value, window.greatest.get(gauge, 0))
        self._at_ms, self._gauges = at_ms, gauges
        return left_out

    def close(self, until_ms: int, *, stop: bool = False) -> list[ServingWindow]:
        """Hand out the windows that are over; with stop the open ones, too.

        A window is over when a reading came after its end, or none comes any more: before, its last part is not known.
        """
        over_ms = max(self._at_ms, until_ms - self._longest_step_ms)
        ends = sorted(end_ms for end_ms in self._open if end_ms <= over_ms or stop)
        records = [self._record(self._open.pop(end_ms), min(end_ms, until_ms)) for end_ms in ends]
        return [record for record in records if record is not None]

    @property
    def is_open(self) -> bool:
        """Whether there is something that was not handed out."""
        return bool(self._open)

    def shift(self, by_ms: int) -> None:
        """Follow the wall clock where it was set; every window was closed before."""
        self._at_ms += by_ms

    def _spread(self, start_ms: int, end_ms: int, grown: Mapping[Bucket, int], gauges: Mapping[str, int]) -> None:
        """Spread growth, and what ran meanwhile, over the windows between two readings."""
        length_ms = end_ms - start_ms
        observed = length_ms <= self._longest_step_ms
        known = "running_requests" in self._gauges or "running_requests" in gauges
        active = bool(
            self._gauges.get("running_requests")
            or gauges.get("running_requests")
            # A short one may have come and gone in between.
            or any(grown.get((figure, 0)) for figure in COUNTERS)
        )
        given: Counter[Bucket] = Counter()
        for part_start_ms, part_end_ms in split(start_ms, end_ms, self._window_ms):
            window = self._window(part_start_ms)
            part_ms = part_end_ms - part_start_ms
            window.covered_ms += part_ms
            for bucket, count in grown.items():
                due = count * (part_end_ms - start_ms) // length_ms
                window.grown[bucket] += due - given[bucket]
                given[bucket] = due
            if observed:
                window.observed_ms += part_ms
                if known:
                    window.active_ms = (window.active_ms or 0) + (part_ms if active else 0)
                for gauge, value in self._gauges.items():
                    window.request_ms[gauge] += value * part_ms

    def _window(self, at_ms: int) -> OpenWindow:
        """The open window that a moment is in; they are kept by their end."""
        end_ms = (at_ms // self._window_ms + 1) * self._window_ms
        window = self._open.get(end_ms)
        if window is None:
            window = self._open[end_ms] = OpenWindow(at_ms)
        return window

    def _record(self, window: OpenWindow, end_ms: int) -> ServingWindow | None:
        """The window as it travels; None if no time of it is known."""
        if window.covered_ms == 0:
            return None
        due = round((end_ms - window.start_ms) / self._interval_ms)
        return ServingWindow(
            deployment=self._settings.deployment,
            endpoint=self._endpoint,
            engine=self._engine,
            model=self._model,
            role=self._settings.role,
            start=from_ms(window.start_ms),
            covered_ms=window.covered_ms,
            observed_ms=window.observed_ms,
            scrapes_taken=window.readings,
            scrapes_expected=max(due, window.readings),
            prompt_tokens=window.grown.get(("prompt_tokens", 0)),
            cached_tokens=window.grown.get(("cached_tokens", 0)),
            generated_tokens=window.grown.get(("generated_tokens", 0)),
            requests_finished=window.grown.get(("requests_finished", 0)),
            running_request_ms=window.request_ms.get("running_requests"),
            waiting_request_ms=window.request_ms.get("waiting_requests"),
            running_requests_max=window.greatest.get("running_requests"),
            active_ms=window.active_ms,
            kv_cache_use_max_pm=window.greatest.get("kv_cache_use"),
            time_to_first_token=_latencies(window.grown, "time_to_first_token"),
            inter_token_latency=_latencies(window.grown, "inter_token_latency"),
            end_to_end_latency=_latencies(window.grown, "end_to_end_latency"),
        )


def _latencies(grown: Mapping[Bucket, int], figure: str) -> Latencies | None:
    """A latency's histogram; None where it is not told."""
    counts = {bound_us: count for (of, bound_us), count in grown.items() if of == figure}
    bounds_us = tuple(sorted(set(counts) - {ABOVE_ALL_US}))
    if not counts or len(bounds_us) > MOST_BOUNDS:
        return None
    return Latencies(
        bounds_us=bounds_us,
        counts=(*(counts[bound_us] for bound_us in bounds_us), counts.get(ABOVE_ALL_US, 0)),
    )

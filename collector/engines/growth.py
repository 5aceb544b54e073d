"""What counters grew by from one reading of an endpoint to the next, through resets, restarts and changing labels."""

from collections import Counter
from enum import Enum

from msgspec import Struct

from collector.engines.reading import Reading, Series

SAME_START_MS = 1_000
"""Processes whose start differs by less are the same: start times are reckoned anew at each reading."""
CLOCK_SLACK_MS = 60_000
"""How far an engine's clock may be behind ours for its restart to be known as one."""
MOST_SERIES = 20_000
"""Counters of an endpoint that are kept in mind; beyond it those that have been away longest are forgotten."""


class Change(Enum):
    """What came between two readings beside growth."""

    NONE = "none"
    RESET = "reset"
    """Counters began anew."""
    OTHER = "other"
    """Another process answered, that was running before, or other ranks: what was counted meanwhile is not known."""


class Growth(Struct, frozen=True):
    """From one reading to the next."""

    change: Change
    by_series: Counter[Series]


class Counters:
    """Counters of one endpoint.

    A counter that is new began at zero since the reading before; one that fell began anew at zero, unless fewer ranks
    tell it than before: the one that was ahead is gone. A process that started since the reading before began all of
    its counters anew. A counter that is away for a while is compared with what it was when it was last there.
    """

    def __init__(self) -> None:
        self._values: dict[Series, int] = {}
        self._reading: Reading | None = None

    def take(self, reading: Reading, before_ms: int) -> Growth | None:
        """What grew since the reading before, which was at before_ms; None for the first."""
        before, self._reading = self._reading, reading
        change = Change.NONE
        if before is not None and before.started_ms is not None and reading.started_ms is not None:
            later_ms = reading.started_ms - before.started_ms
            if abs(later_ms) > SAME_START_MS:
                restarted = reading.started_ms > before_ms - CLOCK_SLACK_MS
                change = Change.RESET if restarted else Change.OTHER
        if change is not Change.NONE:
            self._values.clear()
        if before is not None and any(
            value < self._values.get(series, 0) and reading.repeats[series] < before.repeats.get(series, 0)
            for series, value in reading.counters.items()
        ):
            change = Change.OTHER
        grown: Counter[Series] = Counter()
        for series, value in reading.counters.items():
            # Taken out and put in again, it is the last to be forgotten.
            known = self._values.pop(series, None)
            self._values[series] = value
            if before is None or change is Change.OTHER:
                continue
            source = before.sources.get(series.figure)
            if known is None and source is not None and source.metric != series.metric:
                # Its figure came from elsewhere before: it is not new, only newly looked at.
                continue
            if known is not None and value < known:
                change = Change.RESET
                known = 0
            grown[series] = value - (known or 0)
        for series in list(self._values)[: max(0, len(self._values) - MOST_SERIES)]:
            del self._values[series]
        return None if before is None else Growth(change, grown)

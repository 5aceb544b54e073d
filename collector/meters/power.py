"""What a meter's power says beside its registers: how much can flow, which way, and whether it changes at all."""

from collector.meters.register import Limits
from gigawatch.settings import Meter as Settings
from gigawatch.units import MILLISECONDS_PER_HOUR, MILLISECONDS_PER_SECOND

MILLIWATTS_PER_KILOWATT = 1_000_000
MOST_MW = 2_000_000 * MILLIWATTS_PER_KILOWATT
"""In place of a rated_kw that settings do not say: the greatest that they may say."""
NOISE_PART = 100
"""Power below 0 by at most this part of the greatest is no flow."""
PHASE_PART = 10
"""Power of a phase below 0 by at most this part of the whole is none that flows backwards: loads between two phases, of
a low power factor, shift some from one to the other."""
BACKWARDS_AFTER_MS = 30 * MILLISECONDS_PER_SECOND
BACKWARDS_READINGS = 3
FLAT_AFTER_MS = MILLISECONDS_PER_HOUR
FLAT_READINGS = 20
FLAT_RUNS = 10
"""Power that does not change is suspect after so many times the longest that it did not before."""


def with_margin(rated: int) -> int:
    """The most that is believed of a meter for so much, power or flow."""
    return 12 * rated // 10


class Power:
    """Watches the power of one meter.

    Args:
        settings: of the meter.
    """

    def __init__(self, settings: Settings) -> None:
        self.rated_mw = None if settings.rated_kw is None else round(settings.rated_kw * MILLIWATTS_PER_KILOWATT)
        self.due_mj = 0.0
        """What should have been counted since the register last moved, whichever way it flowed."""
        self.is_backwards = False
        """Whether it flows the wrong way, in all or in a phase, and has for a while."""
        self.is_phase_backwards = False
        """Whether that is a phase alone: what is metered is the others less that one."""
        self.is_flat = False
        """Whether it has not changed to the last digit for longer than this meter's does."""
        self._both_ways = settings.both_ways
        self._greatest_mw = self.rated_mw or 0
        self._peak_mw: int | None = None
        self._last_mw: int | None = None
        self._last_ms = 0
        self._backwards_ms, self._backwards_readings = 0, 0
        self._flat_ms, self._flat_readings, self._longest_flat_ms = 0, 0, 0

    @property
    def may_be_backwards(self) -> bool:
        """Whether the last reading was of power that flows the wrong way."""
        return self._backwards_readings > 0

    @property
    def limits(self) -> Limits:
        """How fast a register of energy can have grown since it last moved, mJ/s."""
        if self.rated_mw is not None:
            return Limits(with_margin(self.rated_mw), with_margin(self.rated_mw))
        return Limits(None if self._peak_mw is None else with_margin(self._peak_mw), with_margin(MOST_MW))

    def resume(self, at_ms: int, power_mw: int | None) -> None:
        """Go on from what flowed when an earlier agent settled the register."""
        self._last_ms = self._flat_ms = at_ms
        self._last_mw = power_mw

    def take(self, at_ms: int, power_mw: int | None, least_phase_mw: int | None = None) -> None:
        """Take in a reading, later than the one before."""
        if power_mw is not None:
            self._greatest_mw = max(self._greatest_mw, abs(power_mw))
            self._peak_mw = max(self._peak_mw or 0, abs(power_mw))
            if self._last_mw is not None and at_ms > self._last_ms:
                # Across a gap, too: a register that did not move in it has to be explained.
                mean_mw = (self._due(self._last_mw) + self._due(power_mw)) / 2
                self.due_mj += mean_mw * (at_ms - self._last_ms) / MILLISECONDS_PER_SECOND
            self._look_backwards(at_ms, power_mw, least_phase_mw or 0)
            self._look_flat(at_ms, power_mw)
        self._last_ms, self._last_mw = at_ms, power_mw

    def moved(self) -> None:
        """The register moved: what it should count is reckoned anew."""
        self.due_mj, self._peak_mw = 0.0, None if self._last_mw is None else abs(self._last_mw)

    def forward(self, power_mw: int | None) -> int | None:
        """The power that counts as energy; None where there is none, or it flows the wrong way."""
        if power_mw is None or power_mw >= 0:
            return power_mw
        return 0 if self._both_ways or not self._is_beyond_noise(power_mw) else None

    def shift(self, by_ms: int) -> None:
        """Follow the wall clock where it was set."""
        self._last_ms += by_ms
        self._backwards_ms += by_ms
        self._flat_ms += by_ms

    def _due(self, power_mw: int) -> int:
        return max(0, power_mw) if self._both_ways else abs(power_mw)

    def _is_beyond_noise(self, power_mw: int) -> bool:
        return -power_mw * NOISE_PART > self._greatest_mw

    def _look_backwards(self, at_ms: int, power_mw: int, least_phase_mw: int) -> None:
        in_all = power_mw < 0 and self._is_beyond_noise(power_mw)
        in_phase = -least_phase_mw * PHASE_PART > abs(power_mw) and self._is_beyond_noise(least_phase_mw)
        if self._both_ways or not (in_all or in_phase):
            self.is_backwards, self.is_phase_backwards, self._backwards_readings = False, False, 0
            return
        if self._backwards_readings == 0:
            self._backwards_ms = at_ms
        self._backwards_readings += 1
        lasts = at_ms - self._backwards_ms >= BACKWARDS_AFTER_MS
        self.is_backwards = lasts and self._backwards_readings >= BACKWARDS_READINGS
        self.is_phase_backwards = self.is_backwards and not in_all

    def _look_flat(self, at_ms: int, power_mw: int) -> None:
        if power_mw == 0 or power_mw != self._last_mw:
            if self._flat_readings:
                self._longest_flat_ms = max(self._longest_flat_ms, self._last_ms - self._flat_ms)
            self.is_flat, self._flat_ms, self._flat_readings = False, at_ms, 0
            return
        self._flat_readings += 1
        lasts = at_ms - self._flat_ms >= max(FLAT_AFTER_MS, FLAT_RUNS * self._longest_flat_ms)
        self.is_flat = lasts and self._flat_readings >= FLAT_READINGS

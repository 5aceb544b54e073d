"""One register of a meter: what it counted from reading to reading, through wraps, replacements and glitches.

A value that does not follow from the last that was believed is doubted until the next reading: two that agree begin a
new epoch, or confirm a great rise; a single one is left out and costs nothing, since the next difference covers its
time. Values are whole numbers of the store's unit, mJ or mL.
"""

from enum import Enum

from msgspec import Struct

from gigawatch.units import MILLISECONDS_PER_SECOND

AGE_MS = 1_000
"""A meter renews its register once a second or so: a short interval can show that much too much."""
UNMOVED_STEPS = 100
"""As long as a register has not moved, its step may be so many of its last digits: it may count in multiples of what
its current transformers make of a pulse."""
SHARE_OF_RANGE = 100
"""Where nothing bounds the growth, a register wrapped if it then counted at most this part of its range."""


class Mark(Struct, frozen=True):
    """A moment and a register at it."""

    at_ms: int
    value: int
    power_mw: int | None = None
    """What flowed then, where the meter tells."""
    step: int = 0
    """By how much the register moves at least, as far as an earlier agent knew."""


class MeterMark(Struct, frozen=True):
    """Up to where what a meter counted was handed out, and which meter it was."""

    energy: Mark | None = None
    volume: Mark | None = None
    identity: str | None = None


class Meaning(Enum):
    """What a reading says of the time since the last that was believed."""

    GREW = "grew"
    WRAPPED = "wrapped"
    """It grew, and began again from zero at its end."""
    REPLACED = "replaced"
    """Another register began: a new meter, or one that was set back."""
    LEAPT = "leapt"
    """It went on from a value that no flow explains."""
    FELL = "fell"
    """It counts backwards."""
    UNKNOWN = "unknown"
    """It may have wrapped more than once."""


class Step(Struct, frozen=True):
    """From the last value that was settled to a reading that is believed."""

    meaning: Meaning
    start: Mark
    """Up to where amounts were settled."""
    since: Mark
    """From where on the amount was counted; before, back to the start, it is not known."""
    last: Mark
    """The reading that was believed before this one."""
    end: Mark
    amount: int


class Limits(Struct, frozen=True):
    """How fast a register can grow, in its unit per second; None where that is not known."""

    sure: int | None
    """No faster than this it is believed at once."""
    possible: int | None
    """No faster than this it is believed when the next reading goes on from it."""


class Register:
    """What one register counted.

    Args:
        finest, coarsest: what its last digit may say; where it is at zero, a thousandth of the coarsest.
        mark: up to where an earlier agent settled it.
    """

    def __init__(self, finest: int, coarsest: int, mark: Mark | None = None) -> None:
        self.base = mark
        """The last reading that was believed."""
        self.settled = mark
        """Up to where its owner took amounts: the base, unless the owner waits for what comes."""
        self.moved_ms = mark.at_ms if mark else 0
        """When it was last seen to change."""
        self.still_readings = 0
        """Readings that were believed since then."""
        self.last_still_ms = 0
        """How long it stood still before it moved last: some are renewed once a minute. 0: not known."""
        self.left_out = 0
        """Readings that were left out as glitches since this was last set to zero."""
        self._finest = finest
        self._coarsest = coarsest
        self._doubt: Mark | None = None
        self._read: int | None = None
        """What was read last and believed: a mark's value may lie between two steps."""
        self.least_move = mark.step if mark else 0

    @property
    def step(self) -> int:
        """By how much it moves, as far as that is known: the least that it ever did."""
        if self.least_move:
            return self.least_move
        value, digit = self._read or self._coarsest // 1_000, self._finest
        while value % (10 * digit) == 0 and 10 * digit <= self._coarsest:
            digit *= 10
        return UNMOVED_STEPS * digit

    def take(self, now: Mark, wraps: int | None, limits: Limits, *, replaced: bool = False) -> Step | None:
        """Take in a reading.

        Args:
            now: the reading.
            wraps: at what it begins again from zero, where that is known.
            limits: how fast it can have grown.
            replaced: whether the meter says that it is another one.

        Returns:
            what it says of the time before; None where it says nothing, as the first, or nothing yet.
        """
        base = self.base
        if self._read is None:
            self._read = now.value
        if base is None or self.settled is None or now.at_ms <= self.settled.at_ms:
            self._begin(now)
            return None
        if replaced:
            return self._new_epoch(Meaning.REPLACED, base, now, now)
        if wraps and limits.sure and limits.sure * (now.at_ms - base.at_ms) // MILLISECONDS_PER_SECOND >= wraps:
            return self._new_epoch(Meaning.UNKNOWN, base, now, now)
        grown = self._growth(base, now, wraps, limits.sure)
        if grown is None:
            return self._doubtful(base, now, wraps, limits)
        self.left_out += self._doubt is not None
        return self._believe(base, now, grown)

    def _doubtful(self, base: Mark, now: Mark, wraps: int | None, limits: Limits) -> Step | None:
        """A reading that does not follow from the last that was believed: it wants another that agrees."""
        doubt, self._doubt = self._doubt, now
        if doubt is None:
            return None
        if base.value <= doubt.value <= now.value and self._is_possible(base, now, limits.possible):
            return self._believe(base, now, now.value - base.value)
        if self._falls(base, doubt, now, limits.sure):
            return self._new_epoch(Meaning.FELL, base, now, now)
        if self._growth(doubt, now, wraps, limits.sure) is not None:
            meaning = Meaning.REPLACED if doubt.value < base.value else Meaning.LEAPT
            return self._new_epoch(meaning, base, doubt, now)
        self.left_out += 1
        return None

    def forget(self) -> None:
        """Begin as if nothing was ever read."""
        self.base = self.settled = self._doubt = self._read = None

    def settle(self) -> None:
        """The owner took the amount of the last step."""
        self.settled = self.base

    def shift(self, by_ms: int) -> None:
        """Follow the wall clock where it was set."""
        self.base, self.settled, self._doubt = (
            None if it is None else Mark(it.at_ms + by_ms, it.value, it.power_mw)
            for it in (self.base, self.settled, self._doubt)
        )
        self.moved_ms += by_ms

    def _begin(self, now: Mark) -> None:
        self.base = self.settled = now
        self._doubt = None
        self._read = now.value
        self.moved_ms, self.still_readings, self.last_still_ms = now.at_ms, 0, 0

    def _believe(self, base: Mark, now: Mark, grown: int) -> Step:
        assert self.settled is not None
        start, self._doubt = self.settled, None
        self.base = now
        self.still_readings += 1
        if grown:
            if self._read == base.value:
                self.least_move = min(self.least_move or grown, grown)
            self.last_still_ms = now.at_ms - self.moved_ms
            self.moved_ms, self.still_readings = now.at_ms, 0
        self._read = now.value
        meaning = Meaning.WRAPPED if now.value < base.value else Meaning.GREW
        return Step(meaning, start, start, base, now, grown + base.value - start.value)

    def _new_epoch(self, meaning: Meaning, base: Mark, since: Mark, now: Mark) -> Step:
        assert self.settled is not None
        start = self.settled
        self._begin(now)
        if since is not now or meaning is Meaning.REPLACED:
            # Another register may have another step.
            self.least_move = 0
        return Step(meaning, start, since, base, now, now.value - since.value)

    def _most(self, before: Mark, now: Mark, limit: int, step: int) -> int:
        """The most that it can have grown: a coarse register shows at once what flowed since it last moved."""
        since_ms = min(self.moved_ms, before.at_ms)
        return limit * (now.at_ms - since_ms + AGE_MS) // MILLISECONDS_PER_SECOND + step

    def _growth(self, before: Mark, now: Mark, wraps: int | None, limit: int | None) -> int | None:
        """What it counted in between; None where it cannot have come from one to the other."""
        grown, step = now.value - before.value, self.step
        if grown < 0:
            if wraps is None:
                return None
            grown += wraps
            share = wraps // SHARE_OF_RANGE
            step, limit = (share, 0) if limit is None else (min(step, share), limit)
        return grown if grown >= 0 and (limit is None or grown <= self._most(before, now, limit, step)) else None

    def _is_possible(self, base: Mark, now: Mark, limit: int | None) -> bool:
        return limit is None or now.value - base.value <= self._most(base, now, limit, self.step)

    def _falls(self, base: Mark, doubt: Mark, now: Mark, limit: int | None) -> bool:
        """Whether it counts backwards, as slowly as it can count at all."""
        if (
            limit is None
            or base.value <= doubt.value
            or base.value - now.value > self._most(base, now, limit, self.step)
        ):
            return False
        back = doubt.power_mw is not None and doubt.power_mw < 0 and now.power_mw is not None and now.power_mw < 0
        return doubt.value > now.value or (back and doubt.value == now.value)

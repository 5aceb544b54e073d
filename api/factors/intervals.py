"""Intervals with one value, and what must hold of those of a file: no holes, no overlaps, no absurd values."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

from msgspec import Struct

from gigawatch.errors import ExitCode, GigawatchError

FIRST, LAST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
MOST_INTERVALS = 400_000
"""Ten years of quarter hours, with room."""
MOST_NAMED = 10
MOST_DECIMALS = 15
MAJOR = frozenset({"AUD", "CAD", "CHF", "EUR", "GBP", "NZD", "SGD", "USD"})
MOST_PRICE, MOST_PRICE_MAJOR = Decimal(100_000), Decimal(20)
"""Per kWh: markets cap at about 5 EUR/kWh, and in weak currencies a kWh costs thousands."""
MOST_INTENSITY = Decimal(2_500)
"""gCO2e/kWh: the oldest lignite plants emit about 1,500 over their life cycle."""
LEAST_PUE, MOST_PUE = 1, 5
"""A facility draws at least what its IT equipment does; beyond 5 a load that is hardly there was divided by."""


class Interval(Struct, frozen=True):
    """A value from start up to but not including stop, both UTC."""

    start: datetime
    stop: datetime
    value: Decimal
    estimated: bool = False


class Factors(Struct, frozen=True, kw_only=True):
    """What a file says."""

    intervals: Sequence[Interval]
    currency: str | None = None
    """ISO 4217 code, of prices; None: the file does not say."""
    source: str
    """Where the file says that its values come from."""
    version: str = ""
    """What that is called where nobody names one."""
    notes: Sequence[str] = ()
    """What was left out, in words."""


def unfit(problem: str, remedy: str) -> GigawatchError:
    """The error for a file that cannot be taken."""
    return GigawatchError(problem, remedy, ExitCode.DATA)


def in_order(intervals: Iterable[Interval]) -> list[Interval]:
    """The intervals sorted by time, neighbours that lie together and have the same value joined.

    Raises:
        GigawatchError: there are none or too many; one is out of bounds; some overlap, or time between them is missing:
            the error names when.
    """
    found = sorted(intervals, key=lambda it: it.start)
    if not found:
        raise unfit("The file holds no values", "Is it the right one, and whole?")
    if len(found) > MOST_INTERVALS:
        raise unfit(f"The file holds {len(found)} values, more than {MOST_INTERVALS}", "Split it by year.")
    for it in found:
        _check(it)
    overlaps = [(b.start, min(a.stop, b.stop)) for a, b in pairwise(found) if b.start < a.stop]
    if overlaps:
        raise unfit(f"Values overlap: {named(overlaps)}", "Let each moment have one value.")
    holes = [(a.stop, b.start) for a, b in pairwise(found) if b.start > a.stop]
    if holes:
        raise unfit(f"Values are missing: {named(holes)}", "Get a file without holes, or import its parts one by one.")
    return _joined(found)


def utc(moment: datetime, where: str) -> datetime:
    """A moment with its offset, in UTC.

    Raises:
        GigawatchError: it is not between 2000 and 2100; at the ends of the calendar there may be no UTC of it at all.
    """
    if not FIRST <= moment <= LAST:
        raise unfit(f"{where} = {moment.isoformat()} is not between 2000 and 2100", "Check the dates.")
    return moment.astimezone(UTC)


def _check(it: Interval) -> None:
    for name, given in (("start", it.start), ("stop", it.stop)):
        moment = utc(given, name)
        if moment.second or moment.microsecond:
            raise unfit(f"{name} = {moment.isoformat()} is not a whole minute", "Let values begin and end at minutes.")
    if it.start >= it.stop:
        raise unfit(f"start = {_shown(it.start)} is not before stop = {_shown(it.stop)}", "Swap or correct them.")
    if it.value != round(it.value, MOST_DECIMALS):
        raise unfit(f"The value from {_shown(it.start)} on has more than {MOST_DECIMALS} decimals", "Round it.")


def check_prices(intervals: Iterable[Interval], currency: str) -> None:
    """Raise GigawatchError if a price per kWh can only be a mistake of unit."""
    most = MOST_PRICE_MAJOR if currency in MAJOR else MOST_PRICE
    for it in intervals:
        if not it.value.is_finite() or abs(it.value) > most:
            raise unfit(
                f"price = {it.value} {currency}/kWh from {_shown(it.start)} on is beyond ±{most}",
                "Is it per MWh? Name the column price_per_mwh then.",
            )


def check_intensities(intervals: Iterable[Interval]) -> None:
    """Raise GigawatchError if an intensity can only be a mistake."""
    for it in intervals:
        if not it.value.is_finite() or not 0 <= it.value <= MOST_INTENSITY:
            raise unfit(
                f"intensity = {it.value} gCO2e/kWh from {_shown(it.start)} on is not between 0 and {MOST_INTENSITY}",
                "Is it in another unit? It must be g per kWh, which is kg per MWh.",
            )


def check_pue(intervals: Iterable[Interval]) -> None:
    """Raise GigawatchError if a PUE is none, or can only be a mistake."""
    for it in intervals:
        if not it.value.is_finite() or not LEAST_PUE <= it.value <= MOST_PUE:
            raise unfit(
                f"pue = {it.value} from {_shown(it.start)} on is not between {LEAST_PUE} and {MOST_PUE}",
                "It is the facility's energy over that of its IT equipment: write 1.2 where a fifth comes on top.",
            )


def named(spans: Sequence[tuple[datetime, datetime]]) -> str:
    """Times in words, those that lie together as one; shortened when they are many."""
    merged: list[tuple[datetime, datetime]] = []
    for start, stop in spans:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
        else:
            merged.append((start, stop))
    words = [f"{_shown(start)} to {_shown(stop)}" for start, stop in merged[:MOST_NAMED]]
    if len(merged) > MOST_NAMED:
        hours = sum(((stop - start) for start, stop in merged[MOST_NAMED:]), timedelta()) / timedelta(hours=1)
        words.append(f"and {len(merged) - MOST_NAMED} more up to {_shown(merged[-1][1])} ({hours:g} h)")
    return ", ".join(words)


def _shown(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _joined(found: list[Interval]) -> list[Interval]:
    joined = [found[0]]
    for it in found[1:]:
        last = joined[-1]
        if (it.value, it.estimated) == (last.value, last.estimated):
            joined[-1] = Interval(last.start, it.stop, last.value, last.estimated)
        else:
            joined.append(it)
    return joined

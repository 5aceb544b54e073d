"""Time-of-use prices: weekdays 07:00-21:00 at one price, else another, in a site's time zone, as intervals."""

import re
import tomllib
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Struct, field

from api.factors import clocks
from api.factors.intervals import Factors, Interval, unfit

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
GROUPS = {"every day": DAYS, "weekdays": DAYS[:5], "weekends": DAYS[5:]}
MOST_YEARS = 20
MOST_PERIODS = 50
MOST_CHARACTERS = 100_000
MIDNIGHT = 24 * 60
_HOURS = re.compile(r"(\d\d):(\d\d)\s*[-–]\s*(\d\d):(\d\d)")


class Period(Struct, frozen=True, forbid_unknown_fields=True):
    """Hours of some days with a price of their own."""

    hours: str
    """Local, like 07:00-21:00; 24:00 is the end of the day."""
    price_per_kwh: Decimal
    days: str | list[str] = "every day"
    """weekdays, weekends, every day; or names of days, and dates like 2026-12-25."""


class Schedule(Struct, frozen=True, forbid_unknown_fields=True):
    """Prices by the clock; of several periods that fit a moment, the first counts."""

    time_zone: str
    start: date = field(name="from")
    stop: date = field(name="to")
    """The day after the last."""
    currency: str
    price_per_kwh: Decimal
    """At all other times."""
    periods: list[Period] = []
    source: str = ""


class _Rule(Struct, frozen=True):
    first: int
    beyond: int
    """Minutes of the local day."""
    days: frozenset[str]
    price: Decimal


def of_toml(text: str) -> Factors:
    """The intervals of a schedule in TOML.

    Raises:
        GigawatchError: it is not TOML, or no schedule.
    """
    if len(text) > MOST_CHARACTERS:
        raise unfit(f"The schedule has {len(text)} characters, more than {MOST_CHARACTERS}", "Is it the right file?")
    try:
        found = tomllib.loads(text, parse_float=Decimal)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise unfit(f"The file is not TOML: {error}", "docs/tariffs.md has an example.") from error
    return of_object(found)


def of_object(found: Any) -> Factors:
    """The intervals of a schedule as an object with the same keys.

    Raises:
        GigawatchError: a key is missing, unknown or wrong: it is named.
    """
    try:
        schedule = msgspec.convert(found, Schedule)
    except msgspec.ValidationError as error:
        raise unfit(f"The schedule is wrong: {error}", "docs/tariffs.md has an example.") from error
    zone = clocks.zone(schedule.time_zone)
    if not timedelta(0) < schedule.stop - schedule.start <= timedelta(days=MOST_YEARS * 366):
        raise unfit(
            f"from = {schedule.start} and to = {schedule.stop} are not in order, or more than {MOST_YEARS} years apart",
            "`to` is the day after the last on which the prices hold.",
        )
    if not 2000 <= schedule.start.year <= schedule.stop.year <= 2100:
        raise unfit(f"from = {schedule.start} or to = {schedule.stop} is not between 2000 and 2100", "Correct it.")
    if len(schedule.periods) > MOST_PERIODS:
        raise unfit(f"The schedule has {len(schedule.periods)} periods, at most {MOST_PERIODS} are taken", "Join some.")
    rules = [_rule(period) for period in schedule.periods]
    cuts = sorted({0, *(it.first for it in rules), *(it.beyond for it in rules if it.beyond < MIDNIGHT)})
    day, moments = schedule.start, []
    while day < schedule.stop:
        moments += _cuts(day, cuts, zone)
        day += timedelta(days=1)
    moments = [*sorted(set(moments)), _utc(schedule.stop, 0, 0, zone)]
    intervals = [
        Interval(start, stop, _price(start.astimezone(zone), rules, schedule.price_per_kwh))
        for start, stop in pairwise(moments)
    ]
    return Factors(intervals=intervals, currency=schedule.currency, source=schedule.source or "time-of-use schedule")


def _rule(period: Period) -> _Rule:
    found = _HOURS.fullmatch(period.hours.strip())
    first, beyond = (0, 0) if found is None else (int(found[i]) * 60 + int(found[i + 1]) for i in (1, 3))
    if found is None or int(found[2]) > 59 or int(found[4]) > 59 or not first < beyond <= MIDNIGHT:
        raise unfit(
            f"hours = {period.hours[:40]!r} are not hours of a day in order",
            "Write them like 07:00-21:00; hours across midnight are two periods, 21:00-24:00 and 00:00-07:00.",
        )
    days: set[str] = set()
    for name in [period.days] if isinstance(period.days, str) else period.days:
        days.update(GROUPS.get(name, (name,)))
        if name not in GROUPS and name not in DAYS and not _is_date(name):
            raise unfit(
                f"days has {name[:40]!r}, which is no day",
                f"Write {', '.join(GROUPS)}, names of days like monday, or dates like 2026-12-25.",
            )
    return _Rule(first, beyond, frozenset(days), period.price_per_kwh)


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _cuts(day: date, minutes: list[int], zone: ZoneInfo) -> list[datetime]:
    """Moments of a local day at which the price may change: its cuts, and each quarter of an hour if clocks are set."""
    first, beyond = _utc(day, 0, 0, zone), _utc(day + timedelta(days=1), 0, 0, zone)
    found = [moment for it in minutes for fold in (0, 1) if first <= (moment := _utc(day, it, fold, zone)) < beyond]
    if beyond - first != timedelta(days=1):
        found += [first + timedelta(minutes=it) for it in range(0, int((beyond - first).total_seconds()) // 60, 15)]
    return found


def _utc(day: date, minutes: int, fold: int, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(minutes // 60, minutes % 60, fold=fold), tzinfo=zone).astimezone(UTC)


def _price(local: datetime, rules: list[_Rule], otherwise: Decimal) -> Decimal:
    minute, names = local.hour * 60 + local.minute, {DAYS[local.weekday()], local.date().isoformat()}
    fitting = (it.price for it in rules if it.first <= minute < it.beyond and it.days & names)
    return next(fitting, otherwise)

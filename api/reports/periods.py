"""Months and their days as a site's clocks have them, in whole hours of UTC."""

import re
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from msgspec import Struct

from gigawatch.errors import ExitCode, GigawatchError

_MONTH = re.compile(r"(20\d\d)-(0[1-9]|1[0-2])")
_HOUR = timedelta(hours=1)


class Day(Struct, frozen=True):
    """A day of local time, or what of it is in a period."""

    day: date
    start: datetime
    stop: datetime


def month(written: str, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """When a month, written as 2026-01, begins and ends, UTC.

    Raises:
        GigawatchError: it is no month.
    """
    found = _MONTH.fullmatch(written)
    if found is None:
        raise GigawatchError(f"month = {written[:20]!r} is not a month", "Write it like 2026-01.", ExitCode.USAGE)
    first = date(int(found[1]), int(found[2]), 1)
    return _midnight(first, zone), _midnight((first + timedelta(days=31)).replace(day=1), zone)


def year(number: int) -> tuple[datetime, datetime]:
    """When a year of the calendar begins and ends, UTC."""
    return datetime(number, 1, 1, tzinfo=UTC), datetime(number + 1, 1, 1, tzinfo=UTC)


def days(start: datetime, stop: datetime, zone: ZoneInfo) -> list[Day]:
    """The days of a period that begins with one, in order."""
    found = []
    day = start.astimezone(zone).date()
    while (first := _midnight(day, zone)) < stop:
        found.append(Day(day, first, min(_midnight(day + timedelta(days=1), zone), stop)))
        day += timedelta(days=1)
    return found


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    """The first full hour, UTC, that begins on a day: where clocks are half an hour off, days begin with that."""
    local = datetime.combine(day, time(), zone).astimezone(UTC)
    return local + (datetime.min.replace(tzinfo=UTC) - local) % _HOUR


def begun(start: datetime, now: datetime, written: str) -> datetime:
    """Up to when the hours of a period that has begun are over.

    Raises:
        GigawatchError: no hour of it is over.
    """
    over = now.replace(minute=0, second=0, microsecond=0)
    if over <= start:
        raise GigawatchError(f"No hour of {written} is over yet", "Choose one that has begun.", ExitCode.USAGE)
    return over

"""Moments as files write them, in UTC: local hours that come twice, or never, when clocks are set."""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from api.factors.intervals import unfit, utc

# 01.01.2026 00:00, and as exports write it since 2024: 26/10/2025 02:45:00 (CEST).
_DAY_FIRST = re.compile(r"(\d{2})([./])(\d{2})\2(\d{4}) (\d{2}):(\d{2})(?::(\d{2}))?(?: \(([A-Z]{2,5})\))?")


class Written(NamedTuple):
    """A moment as it is written."""

    moment: datetime
    """With its offset from UTC, or local."""
    name: str | None
    """Of the local time, such as CEST, where it is given."""


def zone(name: str) -> ZoneInfo:
    """A time zone by its name in the IANA database.

    Raises:
        GigawatchError: there is none of that name.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise unfit(f"time zone {name[:60]!r} is not known", "Write one like Europe/Berlin or UTC.") from error


def parse(text: str, where: str, *, slashes: bool = False) -> Written:
    """A moment in ISO 8601 or as dd.mm.yyyy hh:mm; dd/mm/yyyy where the format is known to mean it so.

    Raises:
        GigawatchError: it is neither.
    """
    found = _DAY_FIRST.fullmatch(text)
    try:
        if found is not None and (slashes or found[2] == "."):
            day, month, year, hour, minute, second = (int(found[i] or 0) for i in (1, 3, 4, 5, 6, 7))
            return Written(datetime(year, month, day, hour, minute, second), found[8])  # noqa: DTZ001 # local
        if text[:4].isdecimal():
            return Written(datetime.fromisoformat(text), None)
    except ValueError:
        pass
    raise unfit(f"{where} = {text[:60]!r} is not a date and time", "Write it like 2026-01-31T13:00Z.")


def moment(text: str, local: ZoneInfo, where: str) -> datetime:
    """A single moment in UTC; of an hour that comes twice the earlier.

    Args:
        text: as parse() takes it.
        local: of a moment without an offset.
        where: what it is, for the errors.

    Raises:
        GigawatchError: it is no date and time, or one that clocks skip.
    """
    written = parse(text, where)
    found = Clock(local, [written]).utc(written, where)
    if found is None:
        raise unfit(f"{where} = {text} is a local time that clocks skip", "Is the time zone right?")
    return found


class Clock:
    """Turns one column of moments, from the first to the last, into UTC.

    Args:
        zone: of moments without an offset; None: there must be none.
        column: all of them; it may begin with the newest.
    """

    def __init__(self, zone: ZoneInfo | None, column: Sequence[Written]) -> None:
        self._zone = zone
        local = [it.moment.replace(tzinfo=None) for it in (*column[:1], *column[-1:])]
        self._falls = local != sorted(local)
        self._seen: set[datetime] = set()

    def utc(self, written: Written, where: str) -> datetime | None:
        """The moment; None: clocks skip it. Of an hour that comes twice, the first is the earlier, or in a column that
        begins with the newest the later.

        Raises:
            GigawatchError: it says neither its offset nor its time zone.
        """
        moment, name = written
        if moment.tzinfo is not None:
            return utc(moment, where)
        candidates = self._candidates(moment, name, where)
        if len(candidates) < 2:
            return candidates[0] if candidates else None
        again = moment in self._seen
        self._seen.add(moment)
        return candidates[again != self._falls]

    def end(self, start: Written, stop: Written, began: datetime, where: str) -> datetime:
        """When an interval that began then ends; labels of its end differ where clocks are set."""
        moment, name = stop
        if moment.tzinfo is not None:
            return utc(moment, f"{where}: stop")
        ends = self._candidates(moment, name, f"{where}: stop")
        if name is None and start.moment.tzinfo is None:
            # 02:00 - 03:00 is an hour, even if 03:00 is two hours later.
            ends.append(began + (moment - start.moment))
        later = [end for end in ends if end > began]
        if not later:
            raise unfit(f"{where}: an interval ends before it begins", "Correct its start or its end.")
        return min(later)

    def _candidates(self, moment: datetime, name: str | None, where: str) -> list[datetime]:
        """What a local moment can be in UTC, in order: one, two where clocks are set back, none where they skip it."""
        if self._zone is None:
            raise unfit(
                f"{where} = {moment} does not say its offset from UTC", "Name the time zone: --time-zone Europe/Berlin."
            )
        found = []
        for fold in (0, 1):
            local = moment.replace(tzinfo=self._zone, fold=fold)
            candidate = utc(local, where)
            exists = candidate.astimezone(self._zone).replace(tzinfo=None, fold=0) == moment
            if exists and candidate not in found and name in {None, local.tzname()}:
                found.append(candidate)
        return found


def step(starts: list[datetime]) -> timedelta:
    """How long values hold of which only the starts are known: the least distance.

    Raises:
        GigawatchError: that is no usual length, or there is only one.
    """
    ordered = sorted(set(starts))
    least = min((b - a for a, b in pairwise(ordered)), default=None)
    usual = {timedelta(minutes=minutes) for minutes in (5, 10, 15, 30, 60)} | {timedelta(days=1)}
    if least not in usual:
        raise unfit(
            "The file has one value only" if least is None else f"Values are {least} apart at the least",
            "Add a column stop that says how long each holds.",
        )
    return least

"""Files of prices, intensities and configured PUE as intervals: CSV in the known layouts, schedules in TOML or JSON."""

import hashlib
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, TypeVar
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Struct

from api.factors import clocks, layouts, schedules, tables
from api.factors.clocks import Clock
from api.factors.intervals import Factors, Interval, check_intensities, check_prices, check_pue, in_order, unfit, utc
from api.factors.layouts import Emissions, Layout
from api.factors.tables import Cell, Table

Moment = Annotated[datetime, msgspec.Meta(tz=True)]
_CURRENCY = re.compile(r"[A-Z]{3}")
_TOML = re.compile(r"\s*(?:\[|#|[A-Za-z_]+\s*=)")
_TRUTHS = {"": False, "false": False, "0": False, "no": False, "true": True, "1": True, "yes": True}
T = TypeVar("T", bound=Struct)
MOST_SOURCES = 3
"""Named of those that a file names for its values."""


class Price(Struct, frozen=True, forbid_unknown_fields=True):
    """A price in JSON."""

    start: Moment
    stop: Moment
    price_per_kwh: Decimal


class Prices(Struct, frozen=True, forbid_unknown_fields=True):
    """Prices in JSON."""

    values: list[Price]
    currency: str | None = None
    source: str = ""


class Intensity(Struct, frozen=True, forbid_unknown_fields=True):
    """A carbon intensity in JSON."""

    start: Moment
    stop: Moment
    g_per_kwh: Decimal
    estimated: bool = False


class Intensities(Struct, frozen=True, forbid_unknown_fields=True):
    """Carbon intensities in JSON."""

    values: list[Intensity]
    source: str = ""


def prices(body: bytes, *, currency: str | None = None, time_zone: str | None = None) -> Factors:
    """The prices of a file, in order and checked, in a currency per kWh.

    Args:
        body: CSV, a schedule in TOML or JSON, or Prices in JSON.
        currency: ISO 4217 code; needed where the file does not say.
        time_zone: of local times without one, e.g. Europe/Berlin.

    Raises:
        GigawatchError: something in it is wrong, missing or twice: it is named.
    """
    text = tables.decode(body)
    if _is_object(text):
        given = _object(text)
        found = _of_prices(given) if "values" in given else schedules.of_object(given)
    elif _TOML.match(text):
        found = schedules.of_toml(text)
    else:
        found = _of_csv(text, layouts.of_prices, time_zone)
    named = {it.upper() for it in (currency, found.currency) if it}
    if len(named) != 1 or not _CURRENCY.fullmatch(next(iter(named))):
        raise unfit(
            "The file does not say its currency" if not named else f"currency = {' or '.join(sorted(named))[:40]!r}",
            "Name the one currency of the prices by its three letters: --currency EUR.",
        )
    (code,) = named
    check_prices(found.intervals, code)
    return _whole(msgspec.structs.replace(found, currency=code), body)


def intensities(body: bytes, *, emissions: Emissions = "direct", time_zone: str | None = None) -> Factors:
    """The carbon intensities of a file, in order and checked, in gCO2e/kWh.

    Args:
        body: CSV, or Intensities in JSON.
        emissions: which column of an export of Electricity Maps.
        time_zone: of local times without one.

    Raises:
        GigawatchError: something in it is wrong, missing or twice: it is named.
    """
    text = tables.decode(body)
    if _is_object(text):
        found = _of_intensities(_object(text))
    else:
        found = _of_csv(text, lambda names: layouts.of_intensities(names, emissions), time_zone)
    check_intensities(found.intervals)
    return _whole(found, body)


def pues(body: bytes, *, time_zone: str | None = None) -> Factors:
    """The configured PUE of a file over time, in order and checked.

    Args:
        body: CSV.
        time_zone: of local times without one.

    Raises:
        GigawatchError: something in it is wrong, missing or twice: it is named.
    """
    found = _of_csv(tables.decode(body), layouts.of_pue, time_zone)
    check_pue(found.intervals)
    return _whole(found, body)


def _whole(found: Factors, body: bytes) -> Factors:
    """In order, and with the version of a file for which nobody names one: 12 digits of its SHA-256."""
    version = hashlib.sha256(body).hexdigest()[:12]
    return msgspec.structs.replace(found, intervals=in_order(found.intervals), version=version)


def _is_object(text: str) -> bool:
    return text.lstrip().startswith("{")


def _object(text: str) -> dict[str, Any]:
    try:
        # A float would lose digits of a price.
        return msgspec.json.Decoder(dict[str, Any], float_hook=Decimal).decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise unfit(f"The file is not JSON: {error}", "docs/tariffs.md has an example.") from error


def _converted(found: dict[str, Any], kind: type[T]) -> T:
    try:
        return msgspec.convert(found, kind)
    except msgspec.ValidationError as error:
        raise unfit(f"The values are wrong: {error}", "docs/tariffs.md has an example.") from error


def _of_prices(found: dict[str, Any]) -> Factors:
    given = _converted(found, Prices)
    intervals = [Interval(utc(it.start, "start"), utc(it.stop, "stop"), it.price_per_kwh) for it in given.values]
    return Factors(intervals=intervals, currency=given.currency, source=given.source)


def _of_intensities(found: dict[str, Any]) -> Factors:
    given = _converted(found, Intensities)
    intervals = [
        Interval(utc(it.start, "start"), utc(it.stop, "stop"), it.g_per_kwh, it.estimated) for it in given.values
    ]
    return Factors(intervals=intervals, source=given.source)


def _of_csv(text: str, recognise: Callable[[list[str]], Layout | None], time_zone: str | None) -> Factors:
    table, layout = tables.read(text, recognise)
    table = _main_sequence(table, layout)
    place = _single(table, layout.place_at, "area")
    named = _single(table, layout.currency_at, "currency")
    zone = layout.zone or (clocks.zone(time_zone) if time_zone else None)
    intervals, left_out = _intervals(table, layout, zone)
    origins = [] if layout.origin_at is None else list(dict.fromkeys(it.text for it in table.column(layout.origin_at)))
    parts = [layout.source, place, *origins[:MOST_SOURCES], *(["…"] if len(origins) > MOST_SOURCES else [])]
    return Factors(
        intervals=intervals,
        currency=layout.currency or named or None,
        source=", ".join(part for part in parts if part),
        notes=[f"{left_out} rows at the end have no value yet and were left out"] if left_out else [],
    )


def _main_sequence(table: Table, layout: Layout) -> Table:
    """The rows of each hour's first auction: those without a sequence, else with the least number.

    By the hour, since zones got a second auction in the middle of a year, and auctions differ in the length of steps.
    """
    if layout.sequence_at is None:
        return table
    hours = [cell.text[: len("31/12/2025 23")] for cell in table.column(layout.start)]
    ranks = [
        (cell.text.lower() not in {"", "without sequence"}, len(cell.text), cell.text)
        for cell in table.column(layout.sequence_at)
    ]
    main: dict[str, tuple[bool, int, str]] = {}
    for hour, rank in zip(hours, ranks, strict=True):
        main[hour] = min(rank, main.get(hour, rank))
    rows = [row for row, hour, rank in zip(table.rows, hours, ranks, strict=True) if rank == main[hour]]
    return Table(table.delimiter, rows)


def _single(table: Table, at: int | None, what: str) -> str:
    """The one text of a column; empty without the column."""
    found = {cell.text for cell in table.column(at) if cell.text} if at is not None else set()
    if len(found) > 1:
        names = ", ".join(sorted(found)[:4])
        raise unfit(f"The file has {len(found)} of column {what}: {names[:200]}", "Import a file for each.")
    return next(iter(found), "")


def _intervals(table: Table, layout: Layout, zone: ZoneInfo | None) -> tuple[list[Interval], int]:
    """The rows as intervals, and how many at the end have no value yet."""
    cells = table.column(layout.value)
    values = tables.numbers(cells, layout.value_name, table.delimiter)
    known = max((i for i, value in enumerate(values) if value is not None), default=-1) + 1
    spans = times(table, layout, zone)
    estimated = [False] * len(values)
    if layout.estimated_at is not None:
        estimated = [_truth(cell) for cell in table.column(layout.estimated_at)]
    found = []
    for cell, value, time, guess in zip(cells[:known], values, spans, estimated, strict=False):
        if time is None and value is not None:
            raise unfit(f"Line {cell.line}: a local time that clocks skip has a value", "Is the time zone right?")
        # What has no value is a hole, which in_order() names.
        if time is not None and value is not None:
            found.append(Interval(*time, value.scaleb(layout.exponent), guess))
    return found, len(values) - known


def times(table: Table, layout: Layout, zone: ZoneInfo | None) -> list[tuple[datetime, datetime] | None]:
    """Start and stop of each row; None where clocks skip it."""
    rows = list(_written(table, layout))
    column = [clocks.parse(start, f"Line {line}: start", slashes=layout.slashes) for line, start, _ in rows]
    clock = Clock(zone, column)
    spans = []
    for (line, _, stop), begins in zip(rows, column, strict=True):
        began = clock.utc(begins, f"Line {line}: start")
        if began is None or stop is None:
            spans.append((began, began))
            continue
        ends = clocks.parse(stop, f"Line {line}: stop", slashes=layout.slashes)
        spans.append((began, clock.end(begins, ends, began, f"Line {line}")))
    if layout.stop is not None:
        return [None if a is None or b is None else (a, b) for a, b in spans]
    length = clocks.step([a for a, _ in spans if a is not None])
    return [None if a is None else (a, a + length) for a, _ in spans]


def _written(table: Table, layout: Layout) -> Iterator[tuple[int, str, str | None]]:
    """Line, start and stop of each row as they are written."""
    starts = table.column(layout.start)
    if layout.stop == layout.start:
        for cell in starts:
            start, dash, stop = cell.text.partition(" - ")
            if not dash:
                raise unfit(f"Line {cell.line}: {cell.text[:60]!r} is not “start - stop”", "Export the file anew.")
            yield cell.line, start, stop
        return
    stops = [None] * len(starts) if layout.stop is None else [cell.text for cell in table.column(layout.stop)]
    for cell, end in zip(starts, stops, strict=True):
        yield cell.line, cell.text, end


def _truth(cell: Cell) -> bool:
    found = _TRUTHS.get(cell.text.lower())
    if found is None:
        raise unfit(f"Line {cell.line}: estimated = {cell.text[:40]!r}", "Write true or false.")
    return found

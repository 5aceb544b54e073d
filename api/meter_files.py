"""Files of what meters counted, as CSV: intervals of energy or volume, or readings of a register; by full hours.

Columns: `start`, and `stop` where intervals are not all alike; `meter` where the file is of several; and one of those
in UNITS. docs/facility.md has examples.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from zoneinfo import ZoneInfo

from msgspec import Struct

from api.factors import clocks, files, tables
from api.factors.clocks import Clock
from api.factors.intervals import named, unfit
from api.factors.layouts import Layout
from api.factors.tables import Table
from api.meters import HOUR, MOST_ML_PER_S, MOST_MW, hour_of
from gigawatch.records import EnergyMethod, MeterWindow
from gigawatch.units import MILLISECONDS_PER_SECOND

_MJ_PER_WH = Decimal(3_600_000)
UNITS: Mapping[str, Decimal] = {
    **{f"{what}_{unit}": _MJ_PER_WH * factor for what in ("energy", "register")
       for unit, factor in (("wh", 1), ("kwh", 1_000), ("mwh", 1_000_000))},
    **{f"{what}_{unit}": Decimal(factor) for what in ("volume", "register")
       for unit, factor in (("l", 1_000), ("m3", 1_000_000))},
}  # fmt: skip
"""Columns of values, with what one of the unit is in mJ or mL. Those of registers go on from reading to reading."""
_KNOWN = f"It has columns start, stop (or not), meter (or --meter), and one of {', '.join(UNITS)}: docs/facility.md."
MOST_NAME = 200
"""Characters of a meter's name, as in records and topologies."""
_MILLISECOND = timedelta(milliseconds=1)


class _Columns(Struct, frozen=True):
    layout: Layout
    meter: int | None


class _Counted(Struct, frozen=True):
    """What a meter counted in an interval, in mJ or mL."""

    start: datetime
    stop: datetime
    amount: int


def windows(body: bytes, meter: str | None, time_zone: str | None) -> dict[str, list[MeterWindow]]:
    """The file's windows by meter, in order of time; none crosses a full hour.

    Args:
        body: CSV.
        meter: name of the meter that the file is of, where it does not say.
        time_zone: of local times without one, e.g. Europe/Berlin.

    Raises:
        GigawatchError: something in it is wrong or twice: it is named. A hole is none: nothing is known of it.
    """
    table, columns = tables.read(tables.decode(body), _recognise, _KNOWN)
    if (columns.meter is None) == (meter is None):
        raise unfit(
            "The file has a column meter, and --meter was given"
            if meter
            else "Nothing says which meter the file is of",
            "Drop --meter." if meter else "Name it: --meter M, or add a column meter.",
        )
    zone = clocks.zone(time_zone) if time_zone else None
    found = {
        name: list(_spread(counted, columns.layout.value_name))
        for name, part in _by_meter(table, columns.meter, meter).items()
        if (counted := _counted(part, columns.layout, zone))
    }
    if not found:
        raise unfit("The file holds no values", "Is it the right one, and whole?")
    return found


def _recognise(names: list[str]) -> _Columns | None:
    values = [name for name in names if name in UNITS]
    start = next((names.index(it) for it in ("start", "time") if it in names), None)
    if start is None or len(values) != 1:
        return None
    layout = Layout(
        source="", start=start, value=names.index(values[0]), value_name=values[0],
        stop=names.index("stop") if "stop" in names else None,
    )  # fmt: skip
    return _Columns(layout, names.index("meter") if "meter" in names else None)


def _by_meter(table: Table, at: int | None, meter: str | None) -> dict[str, Table]:
    rows: dict[str, list[tuple[int, list[str]]]] = defaultdict(list)
    names = [meter or ""] * len(table.rows) if at is None else [it.text for it in table.column(at)]
    for row, name in zip(table.rows, names, strict=True):
        if not name:
            raise unfit(f"Line {row[0]}: the meter has no name", "Write one.")
        if len(name) > MOST_NAME or not name.isprintable():
            raise unfit(
                f"Line {row[0]}: meter = {name[:60]!r} is no name that a topology can have",
                f"Write up to {MOST_NAME} characters that can be seen.",
            )
        rows[name].append(row)
    return {name: Table(table.delimiter, its) for name, its in rows.items()}


def _counted(table: Table, layout: Layout, zone: ZoneInfo | None) -> list[_Counted]:
    """What the rows say of one meter, in order of time."""
    cells = table.column(layout.value)
    values = tables.numbers(cells, layout.value_name, table.delimiter)
    lines = [cell.line for cell in cells]
    is_register = layout.value_name.startswith("register_")
    spans = _moments(table, layout, zone) if is_register else files.times(table, layout, zone)
    rows = []
    for line, value, span in zip(lines, values, spans, strict=True):
        if value is None:
            continue
        if span is None:
            raise unfit(f"Line {line}: a local time that clocks skip has a value", "Is the time zone right?")
        if value < 0:
            raise unfit(
                f"Line {line}: {layout.value_name} = {value} is below 0", "Meters that run backwards are not taken."
            )
        if not is_register and span[0] >= span[1]:
            raise unfit(f"Line {line}: start is not before stop", "Correct one of them.")
        for moment in span:
            if moment.microsecond % MILLISECONDS_PER_SECOND:
                raise unfit(f"Line {line}: {moment.isoformat()} is no whole millisecond", "Round it.")
        rows.append((line, *span, value * UNITS[layout.value_name]))
    rows.sort(key=lambda it: it[1])
    found = _differences(rows) if is_register else _rounded(rows)
    overlaps = [(b.start, min(a.stop, b.stop)) for a, b in pairwise(found) if b.start < a.stop]
    if overlaps:
        raise unfit(f"Intervals of one meter overlap: {named(overlaps)}", "Let each moment be in one.")
    return found


def _moments(table: Table, layout: Layout, zone: ZoneInfo | None) -> list[tuple[datetime, datetime] | None]:
    """When a register was read, by row."""
    if layout.stop is not None:
        raise unfit("The file has readings of a register and a column stop", "Drop it: a reading is of one moment.")
    places = [(f"Line {cell.line}: start", cell.text) for cell in table.column(layout.start)]
    column = [clocks.parse(written, where) for where, written in places]
    clock = Clock(zone, column)
    moments = [clock.utc(it, where) for it, (where, _) in zip(column, places, strict=True)]
    return [None if it is None else (it, it) for it in moments]


_Row = tuple[int, datetime, datetime, Decimal]


def _differences(rows: Sequence[_Row]) -> list[_Counted]:
    found = []
    for (_, start, _, before), (line, stop, _, after) in pairwise(rows):
        if after < before:
            raise unfit(
                f"Line {line}: the register falls", "Where it was replaced or began anew, split the file there."
            )
        if start == stop:
            raise unfit(f"Line {line}: {stop.isoformat()} is there twice", "Let each moment have one reading.")
        found.append(_Counted(start, stop, round(after) - round(before)))
    return found


def _rounded(rows: Sequence[_Row]) -> list[_Counted]:
    """The rows in whole mJ or mL, such that what is rounded off adds up to no more than one of it."""
    found, total, taken = [], Decimal(0), 0
    for _, start, stop, amount in rows:
        total += amount
        found.append(_Counted(start, stop, round(total) - taken))
        taken = round(total)
    return found


def _spread(found: Sequence[_Counted], name: str) -> Iterator[MeterWindow]:
    """Windows that cross no full hour; what is of several is spread evenly by time, without remainder, and marked."""
    is_volume = name.endswith(("_l", "_m3"))
    for it in found:
        length, is_whole = it.stop - it.start, it.stop <= hour_of(it.start) + HOUR
        if it.amount * MILLISECONDS_PER_SECOND > (MOST_ML_PER_S if is_volume else MOST_MW) * (length // _MILLISECOND):
            words = f"{name} from {it.start:%Y-%m-%d %H:%M} UTC on is more than any meter counts"
            raise unfit(words, "Is it in the unit of its column?")
        edge, before = it.start, 0
        while edge < it.stop:
            end = min(it.stop, hour_of(edge) + HOUR)
            upto = it.amount * ((end - it.start) // _MILLISECOND) // (length // _MILLISECOND)
            part, before = upto - before, upto
            yield MeterWindow(
                meter="", start=edge, covered_ms=(end - edge) // _MILLISECOND, readings_taken=1, readings_expected=1,
                energy_mj=None if is_volume else part, volume_ml=part if is_volume else None,
                energy_method=None if is_volume
                else EnergyMethod.COUNTER if is_whole else EnergyMethod.INTERPOLATED,
            )  # fmt: skip
            edge = end

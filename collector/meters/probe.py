"""Reads a meter for somebody who wants to know what it tells, what that was before its map, and what is missing."""

import time

import msgspec
from msgspec import Struct

from collector.meters import maps
from collector.meters.drivers import driver
from collector.meters.maps import Figure as Name
from collector.meters.maps import Value, fill
from collector.meters.power import MILLIWATTS_PER_KILOWATT
from collector.meters.reading import Driver, Reading
from gigawatch.settings import Meter
from gigawatch.units import JOULES_PER_KWH, MILLIJOULES_PER_JOULE, SECONDS_PER_HOUR

SHOWN: dict[Name, tuple[str, str, float]] = {
    "energy": ("energy_mj", "kWh", JOULES_PER_KWH * MILLIJOULES_PER_JOULE),
    "power": ("power_mw", "kW", MILLIWATTS_PER_KILOWATT),
    "phases": ("least_phase_mw", "kW", MILLIWATTS_PER_KILOWATT),
    "currents": ("current_ma", "A", 1_000),
    "volume": ("volume_ml", "m³", 1_000_000),
    "temperature": ("temp_mc", "°C", 1_000),
    "identity": ("identity", "", 1),
}
"""Of each figure the field of a reading, the unit that people read, and how many of the store's that is."""
MISSING: dict[Name, str] = {
    "energy": "energy is integrated from power, and a gap in the readings stays one",
    "power": "nothing beside the register: one that stands still is not noticed, nor what a replaced meter missed",
    "identity": "a replaced meter is known by its register alone",
}
"""What it means that a figure is not told, where that matters."""
THOUSANDFOLD = range(500, 2_000)
"""Power that is so many times what the register grew by, or such a part of it, is in another unit than the map says."""


class Figure(Struct, frozen=True, omit_defaults=True):
    """One figure of a meter."""

    figure: Name
    value: float | str | None = None
    """None: it is not told, or was refused."""
    unit: str = ""
    raw: list[str] = []
    """As the meter told it, value by value of the map."""
    where: list[str] = []
    """Where each was read."""
    map_unit: str = ""
    """The unit that the map says these are in, once scaled."""
    refused: str | None = None
    missing: str | None = None
    """What its absence means."""


class Report(Struct, frozen=True):
    """What a meter tells."""

    name: str
    address: str
    driver: str
    map: str
    title: str
    figures: list[Figure]
    seconds: float
    """Between the two readings; 0: there was one."""
    power_by_register_kw: float | None
    """What the register of energy says of that time."""
    notes: list[str]

    def tells(self, name: Name) -> bool:
        """Whether a figure was told, and not refused."""
        return any(it.figure == name and it.value is not None for it in self.figures)


def probe(settings: Meter, seconds: float = 0.0) -> Report:
    """Read a meter once, or twice with some seconds between.

    Raises:
        GigawatchError: its settings cannot be used, or it does not answer with what its map says.
    """
    reads = driver(settings)
    try:
        return _report(settings, reads, seconds)
    finally:
        reads.close()


def _report(settings: Meter, reads: Driver, seconds: float) -> Report:
    map_ = maps.load(settings.map)
    words = map_.words(settings.index)
    reading = reads.read()
    power_kw, notes = None, list(map_.notes)
    if seconds:
        first = reading
        time.sleep(seconds)
        reading = reads.read()
        seconds = reading.at_s - first.at_s
        power_kw = _power_kw(first, reading)
        if first.energy_mj is not None and first.energy_mj == reading.energy_mj and reading.power_mw:
            notes.append("The register did not move in this time: read for longer, until it steps once or twice.")
        notes += _unit_notes(map_.name, power_kw, [first.power_mw, reading.power_mw])
    figures = []
    for name, (field, unit, scale) in SHOWN.items():
        values: tuple[Value, ...] = tuple(map_.readings.get(name, ()))
        stored = getattr(reading, field)
        refused = next((it.partition(": ")[2] for it in reading.refused if it.startswith(f"{name}: ")), None)
        if values:
            figures.append(
                Figure(
                    name,
                    stored / scale if isinstance(stored, int) else stored,
                    unit,
                    [str(raw) for raw in reading.raws.get(name, ())],
                    [_where(value, words) for value in values],
                    values[0].unit or "",
                    refused,
                    MISSING.get(name) if stored is None else None,
                )
            )
        elif name in MISSING and {"energy", "power"} & map_.readings.keys():
            figures.append(Figure(name, unit=unit, missing=MISSING[name]))
    return Report(
        name=settings.name,
        address=settings.address,
        driver=settings.driver,
        map=settings.map,
        title=map_.title,
        figures=figures,
        seconds=round(seconds, 3),
        power_by_register_kw=power_kw,
        notes=notes,
    )


def _power_kw(first: Reading, last: Reading) -> float | None:
    """The mean power by the register's difference."""
    if first.energy_mj is None or last.energy_mj is None or last.at_s <= first.at_s:
        return None
    grown_kwh = (last.energy_mj - first.energy_mj) / (JOULES_PER_KWH * MILLIJOULES_PER_JOULE)
    return grown_kwh * SECONDS_PER_HOUR / (last.at_s - first.at_s)


def _unit_notes(map_name: str, by_register_kw: float | None, told_mw: list[int | None]) -> list[str]:
    """What the register says of the unit of power: meters of one kind differ in it, or their documents do."""
    kws = [abs(it) / MILLIWATTS_PER_KILOWATT for it in told_mw if it]
    if not by_register_kw or len(kws) < len(told_mw):
        return []
    for times, words in ((max(kws) / by_register_kw, "times"), (by_register_kw / min(kws), "times less than")):
        if round(times) in THOUSANDFOLD:
            note = (
                f"Power is about {round(times):,} {words} what the register grew by: its unit is not what the map"
                f" {map_name} says, if that of energy is. Copy the map, and set the unit of power in it."
            )
            return [note]
    return []


def _where(value: Value, words: dict[str, str | int]) -> str:
    """Where a value is read, by the keys of its driver."""
    common = {field.name for field in msgspec.structs.fields(Value)}
    told = {
        field.name: getattr(value, field.name)
        for field in msgspec.structs.fields(value)
        if field.name not in common and getattr(value, field.name) not in {None, field.default}
    }
    return ", ".join(f"{key} {_filled(it, words)}" for key, it in told.items())


def _filled(held: object, words: dict[str, str | int]) -> str:
    text = " ".join(f'{label}="{it}"' for label, it in held.items()) if isinstance(held, dict) else str(held)
    # {row} of SNMP counts, and stays.
    return fill(text, {"row": "{row}", **words})


def format_report(report: Report) -> str:
    """The report for a terminal."""
    lines = [f"{report.address} read as {report.title} (map {report.map}, driver {report.driver})"]
    for it in report.figures:
        if it.refused:
            lines.append(f"  {it.figure:<12}REFUSED  {it.refused}")
        elif it.value is None:
            lines.append(f"  {it.figure:<12}not told{f': {it.missing}' if it.missing else ''}")
        else:
            shown = it.value if isinstance(it.value, str) else f"{it.value:,.6f}".rstrip("0").rstrip(".")
            lines.append(f"  {it.figure:<12}{shown} {it.unit}".rstrip())
        lines += [f"              raw {raw}" for raw in it.raw if len(it.raw) != len(it.where)]
        if len(it.raw) == len(it.where):
            lines += [
                f"              raw {raw}  ({where}{f'; {it.map_unit}' if it.map_unit else ''})"
                for raw, where in zip(it.raw, it.where, strict=True)
            ]
    if report.power_by_register_kw is not None:
        lines.append(
            f"  in {report.seconds:.1f} s the register grew by {report.power_by_register_kw:,.3f} kW on average"
        )
    lines += [f"note: {note}" for note in report.notes]
    return "\n".join(lines)

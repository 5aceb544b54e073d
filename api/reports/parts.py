"""What all reports have: gaps, meters, energy by role, versions and methods."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Literal

from msgspec import Struct
from sqlalchemy import Connection

from api.reports.model import Chart, Column, Fact, Series, Table, Value
from gigawatch import __version__, facility_readings, report_readings, schema
from gigawatch.facility_readings import MeterCoverage, MeterHealth, Pue
from gigawatch.report_readings import Gap
from gigawatch.units import JOULES_PER_KWH

MOST_NAMED = 20
"""Meters that a cell names."""
CATEGORIES = {1: "UPS output", 2: "PDU output", 3: "IT equipment input"}
RATIOS = {
    "pue": "PUE", "wue": "WUE", "wue_potable": "WUE of drinking water",
    "wue_fresh": "WUE of fresh water", "erf": "ERF", "ref": "REF", "cer": "CER",
}  # fmt: skip
PLACE_METERS = "Place them with `gigawatch topology apply FILE`, and send or import what they count."
COVERAGE = Column("coverage", "Coverage", "share")
HOURS = (
    Column("hours", "In the sums", "integer", "h"),
    Column("hours_missing", "Missing", "integer", "h"),
    Column("hours_faulty", "Faulty", "integer", "h"),
    COVERAGE,
)
PUE_COLUMNS = (
    Column("category", "Category", "integer"),
    Column("name", "Name"),
    Column("pue", "PUE", "ratio", "1"),
    Column("facility_energy_kwh", "Facility", "number", "kWh"),
    Column("it_energy_kwh", "IT", "number", "kWh"),
    *HOURS,
)
METHODS = (
    Fact(
        "PUE",
        "E_DC / E_IT, energies over the same hours (ISO/IEC 30134-2). E_DC is that of all sources: utility, "
        "generation, and fuel by its volume. E_IT is metered where the category says: 1 UPS output, 2 PDU output, 3 IT "
        "equipment input. Less than 12 complete months give an interim PUE. Renewable energy lowers no PUE.",
    ),
    Fact(
        "Sums",
        "Over time a ratio of sums, never a mean of ratios. Energy is the difference of meters' registers; what was "
        "interpolated, integrated from power or estimated is said beside it.",
    ),
    Fact(
        "Gaps",
        "An hour counts only where every meter that both sums want is known for 99 % of it (else it is missing) and "
        "can be right (else it is faulty: E_IT above E_DC, a register that stands still, power that flows backwards, a "
        "meter read twice). It is in both sums or in neither. Nothing is filled with zero or scaled up.",
    ),
    Fact("Coverage", "Hours in the sums over the hours of the period that are over."),
    Fact(
        "Other ratios",
        "WUE: water / E_IT (ISO/IEC 30134-9). ERF: reused energy / E_DC (30134-6). REF: renewable energy / E_DC, at "
        "most 1 (30134-3). CUE: emissions of E_DC / E_IT (30134-8). CER: heat removed / electricity of cooling "
        "(30134-7).",
    ),
)  # fmt: skip


def kwh(energy_j: float | None) -> float | None:
    """Joules as kWh."""
    return None if energy_j is None else energy_j / JOULES_PER_KWH


def mwh(energy_kwh: float | None) -> float | None:
    """kWh as MWh."""
    return None if energy_kwh is None else energy_kwh / 1_000


def of_category(category: int | None) -> str:
    """Where IT is metered, in words."""
    return "not metered" if category is None else f"category {category}, {CATEGORIES[category]}"


def pue_charts(
    by: Literal["day", "month"],
    labels: Sequence[str],
    found: Sequence[Pue | None],
    category: int | None,
    names: tuple[str, str],
) -> tuple[Chart, ...]:
    """PUE, both energies and coverage along the time.

    Args:
        by: what each label is.
        labels: of days or months.
        found: the PUE of each, of one category; None: not known.
        category: where IT is metered; None: the PUE is configured.
        names: of the facility's energy and that of IT.
    """

    def values(value: Callable[[Pue], float | None]) -> list[float | None]:
        return [None if it is None else value(it) for it in found]

    name = "interim PUE" if category else "configured PUE"
    sums = (
        Series(name=names[0], values=values(lambda it: mwh(kwh(it.facility_energy_j)))),
        Series(name=names[1], values=values(lambda it: mwh(kwh(it.it_energy_j)))),
    )
    coverage = Series(name="coverage", values=values(lambda it: None if it.coverage is None else 100 * it.coverage))
    return (
        Chart(
            title=f"PUE by {by} ({of_category(category)})", kind="line", unit="1", labels=labels, floor=1,
            series=(Series(name=name, values=values(lambda it: it.pue)),),
        ),
        Chart(title=f"Energy by {by}", kind="columns", unit="MWh", labels=labels, series=sums),
        Chart(
            title=f"Hours in the sums by {by}", kind="columns", unit="%", labels=labels,
            series=() if category is None else (coverage,),
        ),
    )  # fmt: skip


def pue_row(it: Pue) -> tuple[Value, ...]:
    """A row of PUE_COLUMNS."""
    return row(it, PUE_COLUMNS)


def row(it: Struct, columns: Sequence[Column]) -> tuple[Value, ...]:
    """What a record has for columns with the names of its fields; for one in kWh that may be its field in J."""
    fields = it.__struct_fields__
    return tuple(
        getattr(it, column.key) if column.key in fields else kwh(getattr(it, f"{column.key.removesuffix('kwh')}j"))
        for column in columns
    )


def listed(
    found: Sequence[Struct], *, name: str, title: str, about: str, columns: tuple[Column, ...], empty: str
) -> Table:
    """A table with a row for each record, whose columns have the names of its fields."""
    rows = [row(it, columns) for it in found]
    return Table(name=name, title=title, about=about, columns=columns, rows=rows, empty=empty)


def best(found: Sequence[Pue]) -> Pue | None:
    """The one that is measured nearest to the IT equipment, those with any hours first; else what is configured."""
    return max(found, key=lambda it: (it.pue is not None, it.category or 0), default=None)


def gaps(found: Sequence[Gap]) -> Table:
    """Ranges of hours that are not in the sums, those of several figures together where they are alike."""
    figures: dict[tuple[Value, ...], list[str]] = {}
    for it in found:
        name = RATIOS[it.figure] + (f" (category {it.category})" if it.category else "")
        figures.setdefault((it.time, it.stop, it.hours, it.state, _why(it)), []).append(name)
    return Table(
        name="missing_hours",
        title="Hours that are not in the sums",
        about="Each range with why: the meters, and what each lacks. Missing: a meter is not known for 99 % of the "
        "hour; faulty: it cannot be right; absent: meters for both sums were not there.",
        columns=(
            Column("start", "From", "time", "UTC"),
            Column("stop", "To", "time", "UTC"),
            Column("hours", "Hours", "integer", "h"),
            Column("state", "State"),
            Column("why", "Why"),
            Column("figures", "Not in"),
        ),
        rows=[(*key, ", ".join(names)) for key, names in figures.items()],
        empty="None: of each figure that is measured here, all hours that are known are in the sums.",
    )  # fmt: skip


def _why(gap: Gap) -> str:
    if not gap.meters:
        return "; ".join(gap.reasons)
    named = [f"{meter}: {reason}" for meter, reason in zip(gap.meters, gap.reasons, strict=True)]
    return "; ".join(named[:MOST_NAMED]) + (f"; and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else "")


def energy_by_role(connection: Connection, start: datetime, stop: datetime, site: str) -> Table:
    """What the meters of each role counted."""
    found = facility_readings.facility(connection, start, stop, None, "site", site)
    return Table(
        name="energy_by_role",
        title="Energy and water by role",
        about="All that the meters counted, also in hours that a ratio lacks. A meter behind another of the same role "
        "is not added. Coverage is known meter-time over that which is wanted.",
        columns=(
            Column("role", "Role"),
            Column("meters", "Meters", "integer"),
            Column("energy_kwh", "Energy", "number", "kWh"),
            Column("mean_power_kw", "Mean power", "number", "kW"),
            Column("volume_m3", "Volume", "number", "m³"),
            Column("temperature_c", "Temperature", "number", "°C"),
            COVERAGE,
            Column("interpolated_share", "Interpolated", "share"),
            Column("integrated_share", "Integrated", "share"),
            Column("estimated_share", "Estimated", "share"),
        ),
        rows=[
            (
                it.role, it.meters, kwh(it.energy_j), None if it.power_w is None else it.power_w / 1_000, it.volume_m3,
                it.temp_c, it.coverage, it.interpolated_share, it.integrated_share, it.estimated_share,
            )
            for it in found
        ],
        empty=f"No meter of this site is placed. {PLACE_METERS}",
    )  # fmt: skip


def meters(found: Sequence[MeterHealth], known: Sequence[MeterCoverage]) -> Table:
    """The meters, which are the boundary of all figures, how they are, and how much of the period each is known for.

    Args:
        found: the meters at this moment.
        known: the same over the period.
    """
    of_period = {it.meter: it for it in known}
    return Table(
        name="meters",
        title="Meters",
        about="What the figures are of. Coverage is the part of the period up to now, within the meter's time of use, "
        "for which what it counts is known. Rejected readings, and hours in which it stood still or ran backwards, are "
        "of the period too. The state is that of the moment in which the report was made.",
        columns=(
            Column("meter", "Meter"),
            Column("role", "Role"),
            Column("hall", "Hall"),
            Column("virtual", "Virtual", "yes"),
            Column("feed", "Feed"),
            Column("since", "Since", "time", "UTC"),
            Column("until", "Until", "time", "UTC"),
            Column("state", "State"),
            Column("read_by", "Read by"),
            Column("hours_wanted", "Wanted", "number", "h"),
            COVERAGE,
            Column("rejected_readings", "Rejected", "integer"),
            Column("stuck_hours", "Stood still", "integer", "h"),
            Column("reversed_hours", "Backwards", "integer", "h"),
            Column("simulated", "Simulated", "yes"),
        ),
        rows=[
            (
                it.meter, it.role, it.hall, it.virtual, it.feed, it.since, it.until, it.state, it.read_by,
                *_of_period(of_period.get(it.meter)), it.simulated,
            )
            for it in found
        ],
        empty=f"There is none. {PLACE_METERS}",
    )  # fmt: skip


def _of_period(it: MeterCoverage | None) -> tuple[Value, ...]:
    """None: the topology does not place the meter, and nothing is wanted of it."""
    if it is None:
        return (None,) * 5
    rejected = None if it.rejected_readings is None else round(it.rejected_readings)
    return it.hours_wanted, it.coverage, rejected, it.stuck_hours, it.reversed_hours


def versions(connection: Connection, site: str) -> tuple[Fact, ...]:
    """What made the figures, by version."""
    topology = report_readings.topology(connection, site)
    if topology is None:
        said = "none was applied"
    else:
        said = f"{topology.source}, applied {topology.applied:%Y-%m-%d %H:%M} UTC, SHA-256 {topology.sha256}"
    return (
        Fact("Gigawatch", __version__),
        Fact("Tables of the store", schema.REVISION),
        Fact("Definition of the views", f"SHA-256 {report_readings.definition(connection)}"),
        Fact("Topology in force", said),
    )

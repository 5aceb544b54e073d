"""Named reads of the facility: like gigawatch.readings, for topologies, meters, PUE and what is beside it."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, text

from gigawatch.topology.document import Feed, MeterRole, Site

T = TypeVar("T")
FacilityGroup = Literal["fleet", "site", "hall"]
Scope = Literal["site", "hall", "row", "rack", "feed"]
"""Of a limit."""
ReconciledGroup = Literal["site", "rack", "node"]
Step = timedelta | Literal["1 month", "3 months", "1 year"] | None
"""Of whole hours, or months of the calendar, UTC; None: the whole period."""
MeterState = Literal["unplaced", "virtual", "planned", "ended", "silent", "reporting"]
HealthState = Literal[
    "ok", "silent", "never heard of", "stuck", "reversed", "rejected", "imported", "retired", "not placed"
]


class SiteTopology(Struct, frozen=True, kw_only=True):
    """The topology of a site that is in force."""

    site: str
    applied: datetime
    source: str
    """Name of the file."""
    sha256: str
    """Of the file."""
    document: Site


class MeterNow(Struct, frozen=True, kw_only=True):
    """A meter of a site's facility: report.meters."""

    site: str
    meter: str
    hall: str | None
    """None: of the whole site."""
    role: MeterRole | None
    """None: the topology does not name it, and it is in no figure."""
    placed: bool
    virtual: bool
    state: MeterState
    feed: Feed | None
    node: str | None
    feeds: list[str]
    racks: list[str]
    plus: list[str]
    minus: list[str]
    rated_kw: float | None
    breaker_a: float | None
    contract_kw: float | None
    fuel_kwh_per_l: float | None
    potable: bool | None
    fresh: bool | None
    backup: bool
    since: datetime | None
    until: datetime | None
    last_seen: datetime | None
    read_by: str | None
    """Node whose agent read it last."""
    simulated: bool


class MeterPoint(Struct, frozen=True, kw_only=True):
    """What a meter told in a bin: report.meter_series()."""

    time: datetime
    power_w: float | None
    current_max_a: float | None
    temp_c: float | None


class Pue(Struct, frozen=True, kw_only=True):
    """Power usage effectiveness of a group over a bin: report.pue()."""

    time: datetime
    """Start of the bin, or of the period."""
    label: str
    category: int | None
    """Where IT is metered: 1 UPS output, 2 PDU output, 3 IT input; None: the PUE is configured."""
    name: str
    """interim PUE, PUE (12 complete months), the same with pPUE for halls, or configured PUE."""
    source: Literal["measured", "configured"]
    pue: float | None
    dcie: float | None
    facility_energy_j: float | None
    """Of the hours that are in both sums."""
    it_energy_j: float | None
    hours: int | None
    """Hours in the sums, of all sites or halls of the group; None: configured."""
    hours_missing: int | None
    hours_faulty: int | None
    """A meter cannot be right: E_IT above E_DC, a register that stands still, power that flows backwards."""
    coverage: float | None
    """Hours in the sums over those of the period up to now, 0 to 1."""
    source_meters: int | None
    it_meters: int | None
    simulated: bool | None
    sites: int | None
    """Sites that have an hour in the sums."""
    sites_missing: list[str] | None
    """Those that have the meters, and no hour in the sums."""


class PowerRatio(Struct, frozen=True, kw_only=True):
    """Power of a site over that of its IT at this moment, indicative: report.power_ratio_now."""

    site: str
    category: int
    power_ratio: float | None
    facility_power_w: float | None
    it_power_w: float | None
    meters_silent: int
    """Meters of both without a window of the last 5 minutes: with one there is no ratio."""
    time: datetime | None
    simulated: bool


class FacilityEnergy(Struct, frozen=True, kw_only=True):
    """What the meters of one role counted in a bin: report.facility()."""

    time: datetime
    label: str
    role: str
    energy_j: float | None
    power_w: float | None
    volume_m3: float | None
    temp_c: float | None
    meters: int
    coverage: float | None
    interpolated_share: float | None
    integrated_share: float | None
    estimated_share: float | None


class MeterHealth(Struct, frozen=True, kw_only=True):
    """A meter, whether it is heard of, and whether what it says can be right: report.meter_health."""

    site: str
    hall: str | None
    meter: str
    role: str | None
    """None: the topology does not know it, and it is in no figure."""
    virtual: bool
    feed: Literal["A", "B"] | None
    simulated: bool
    read_by: str | None
    """Host name of the node whose agent read it last."""
    state: HealthState
    last_seen: datetime | None
    newest: datetime | None
    """End of its newest window of the last day."""
    power_w: float | None
    coverage_24h: float
    readings_24h: int | None
    rejected_24h: int | None
    interpolated_share_24h: float | None
    stuck_hours_24h: int
    reversed_hours_24h: int
    since: datetime | None
    until: datetime | None


class Water(Struct, frozen=True, kw_only=True):
    """Water usage effectiveness of a group over a bin: report.water()."""

    time: datetime
    label: str
    category: int
    wue_l_per_kwh: float | None
    wue_potable_l_per_kwh: float | None
    """Of drinking water alone; None: not told of each water meter."""
    water_m3: float | None
    potable_m3: float | None
    it_energy_j: float | None
    hours: int
    hours_missing: int
    hours_faulty: int
    coverage: float | None
    coverage_potable: float | None
    simulated: bool
    wue_fresh_l_per_kwh: float | None
    """Of fresh water alone; None: not told of each water meter."""
    fresh_m3: float | None
    coverage_fresh: float | None


class Heat(Struct, frozen=True, kw_only=True):
    """Reuse of energy, energy made on site, and efficiency of cooling: report.heat()."""

    time: datetime
    label: str
    category: int | None
    """Of the PUE that ere rests on; None: there is none."""
    erf: float | None
    ere: float | None
    ref_on_site: float | None
    cer: float | None
    reuse_energy_j: float | None
    on_site_energy_j: float | None
    heat_removed_j: float | None
    cooling_energy_j: float | None
    erf_coverage: float | None
    ref_coverage: float | None
    cer_coverage: float | None
    simulated: bool


class FacilityCarbon(Struct, frozen=True, kw_only=True):
    """What the facility's energy emitted, by one method of accounting: report.facility_carbon()."""

    time: datetime
    label: str | None
    """None: of all sites, where they are asked for beside each."""
    category: int
    method: Literal["location", "market"]
    instrument: str | None
    carbon_kg: float | None
    cue_kg_per_kwh: float | None
    facility_energy_j: float | None
    """Of the hours with an intensity."""
    it_energy_j: float | None
    intensity_coverage: float | None
    estimated_share: float | None
    coverage: float | None
    simulated: bool


class FacilityCost(Struct, frozen=True, kw_only=True):
    """What the facility's energy cost, in one currency: report.facility_cost()."""

    time: datetime
    label: str | None
    """None: of all sites, where they are asked for beside each."""
    category: int
    currency: str | None
    """None: no hour has a price."""
    cost: float | None
    cost_per_it_kwh: float | None
    facility_energy_j: float | None
    """Of the hours with a price."""
    it_energy_j: float | None
    price_coverage: float | None
    coverage: float | None
    simulated: bool


class MeterCoverage(Struct, frozen=True, kw_only=True):
    """How much of a period a meter is known for: report.meter_coverage()."""

    site: str
    meter: str
    role: str
    hours_wanted: float
    """Whole hours of the period that are over and in its time of use."""
    hours_known: float
    coverage: float | None
    energy_j: float | None
    volume_m3: float | None
    interpolated_share: float | None
    rejected_readings: float | None
    stuck_hours: int | None
    reversed_hours: int | None


class EuIndicator(Struct, frozen=True, kw_only=True):
    """One figure of the EU's yearly report: report.eu_eed()."""

    regime: str
    """The law whose formulas it follows."""
    year: int
    """The calendar year that it is of."""
    reporting_year: int
    """The next, in which it is reported."""
    site: str
    category: int | None
    place: int
    """Of the figure in the report, from 1."""
    indicator: str
    value: float | None
    unit: str
    efficiency_class: Literal["A", "B", "C", "D", "E", "F", "G"] | None
    """Of PUE and WUE, where the regime has classes."""
    how: Literal["measured", "declared", "measured and declared", "declared over measured", "missing"]
    coverage: float | None
    """Part of the year up to now that is in it, 0 to 1."""
    missing: str | None
    """What is missing of it, or for it."""


class Reconciled(Struct, frozen=True, kw_only=True):
    """One level from the GPUs to the grid, and what of it the level below does not explain: report.reconciliation()."""

    label: str
    place: int
    """1 the GPUs, rising to the grid."""
    level: Literal["gpu", "host", "node", "pdu", "ups_out", "ups_in", "facility"]
    energy_j: float
    """Over the hours in which it is known."""
    hours: int
    below: str | None
    hours_compared: int
    compared_energy_j: float | None
    """Its own, over the hours in which the level below is known too."""
    below_energy_j: float | None
    unexplained_j: float | None
    unexplained_share: float | None


class Capacity(Struct, frozen=True, kw_only=True):
    """A limit, what is drawn of it, and what is left: report.capacity()."""

    site: str
    scope: Scope
    name: str
    """Of the part; of a feed that of its meter."""
    feed: Literal["A", "B"] | None
    kind: Literal["breaker", "contract", "rated", "budget"]
    unit: Literal["A", "W"]
    basis: Literal["meters", "gpus"] | None
    """What the use is known by: meters, or the GPUs alone."""
    limit_value: float
    usable: float
    """Of a breaker 80 % of its rating, else the limit."""
    present: float | None
    peak: float | None
    use_share: float | None
    peak_share: float | None
    headroom: float | None
    stranded: float | None
    """usable that was not drawn even at the peak."""
    trend_per_day: float | None
    days_to_limit: float | None
    """None: what is drawn does not rise, or is not known for 7 days."""


def topologies(connection: Connection, site: str | None = None) -> list[SiteTopology]:
    """Topologies in force, by site."""
    rows = connection.execute(
        text("""
        SELECT site, applied, source, sha256, document FROM report.topologies
        WHERE in_force AND (CAST(:site AS text) IS NULL OR site = :site) ORDER BY site"""),
        {"site": site},
    )
    return [SiteTopology(**{**row._mapping, "document": _site(row.document)}) for row in rows]


def meters(connection: Connection, site: str | None = None, limit: int = 1_000_000, offset: int = 0) -> list[MeterNow]:
    """Meters, those that no topology names too, by site and name."""
    rows = connection.execute(
        text(f"""
        SELECT {", ".join(MeterNow.__struct_fields__)} FROM report.meters
        WHERE CAST(:site AS text) IS NULL OR site = :site
        ORDER BY site, meter LIMIT :limit OFFSET :offset"""),
        {"site": site, "limit": limit, "offset": offset},
    )
    return [MeterNow(**row._mapping) for row in rows]


def meter_series(
    connection: Connection, site: str, meter: str, start: datetime, stop: datetime, step: timedelta
) -> list[MeterPoint]:
    """What one meter told over time, as far as its windows are kept."""
    return _rows(
        connection, MeterPoint, "SELECT * FROM report.meter_series(:site, :meter, :start, :stop, :step)",
        site=site, meter=meter, start=start, stop=stop, step=step,
    )  # fmt: skip


def pue(
    connection: Connection,
    start: datetime,
    stop: datetime,
    step: Step = None,
    group_by: FacilityGroup = "fleet",
    site: str | None = None,
    category: int | None = None,
) -> list[Pue]:
    """PUE by group and bin, a row for each category that can be measured, or the one that is configured."""
    return _grouped(
        connection, Pue, "report.pue", start, stop, step, group_by, site,
        extra=", CAST(:category AS integer)", category=category,
    )  # fmt: skip


def power_ratios_now(connection: Connection, site: str | None = None) -> list[PowerRatio]:
    """Each site's power ratio at this moment, by category."""
    return _rows(
        connection, PowerRatio,
        "SELECT * FROM report.power_ratio_now WHERE CAST(:site AS text) IS NULL OR site = :site"
        " ORDER BY site, category",
        site=site,
    )  # fmt: skip


def facility(
    connection: Connection,
    start: datetime,
    stop: datetime,
    step: Step = None,
    group_by: FacilityGroup = "fleet",
    site: str | None = None,
) -> list[FacilityEnergy]:
    """What the facility's meters counted by role, group and bin."""
    return _grouped(connection, FacilityEnergy, "report.facility", start, stop, step, group_by, site)


def metered_sites(connection: Connection) -> list[str]:
    """The sites that have meters, by name."""
    return list(connection.scalars(text("SELECT DISTINCT site FROM report.meters ORDER BY site")))


def meter_health(
    connection: Connection, site: str | None = None, state: HealthState | None = None
) -> list[MeterHealth]:
    """The meters with their health, by site and name."""
    return _rows(
        connection, MeterHealth,
        "SELECT * FROM report.meter_health WHERE (CAST(:site AS text) IS NULL OR site = :site)"
        " AND (CAST(:state AS text) IS NULL OR state = :state) ORDER BY site, meter",
        site=site, state=state,
    )  # fmt: skip


def water(
    connection: Connection,
    start: datetime,
    stop: datetime,
    step: Step = None,
    group_by: FacilityGroup = "fleet",
    site: str | None = None,
    category: int | None = None,
) -> list[Water]:
    """WUE by group and bin, a row for each category."""
    return _grouped(
        connection, Water, "report.water", start, stop, step, group_by, site,
        extra=", CAST(:category AS integer)", category=category,
    )  # fmt: skip


def heat(
    connection: Connection,
    start: datetime,
    stop: datetime,
    step: Step = None,
    group_by: FacilityGroup = "fleet",
    site: str | None = None,
    category: int | None = None,
) -> list[Heat]:
    """ERF, ERE, the part of REF that meters know, and CER, by group and bin."""
    return _grouped(
        connection, Heat, "report.heat", start, stop, step, group_by, site,
        extra=", CAST(:category AS integer)", category=category,
    )  # fmt: skip


def facility_carbon(
    connection: Connection,
    start: datetime,
    stop: datetime,
    step: Step = None,
    group_by: FacilityGroup | Literal["both"] = "fleet",
    site: str | None = None,
    category: int | None = None,
) -> list[FacilityCarbon]:
    """What the facility's energy emitted, and CUE, by group (fleet, site or both), bin, category and method."""
    return _grouped(
        connection, FacilityCarbon, "report.facility_carbon", start, stop, step, group_by, site,
        extra=", CAST(:category AS integer)", category=category,
    )  # fmt: skip


def facility_cost(
    connection: Connection,
    start: datetime,
    stop: datetime,
    step: Step = None,
    group_by: FacilityGroup | Literal["both"] = "fleet",
    site: str | None = None,
    category: int | None = None,
) -> list[FacilityCost]:
    """What the facility's energy cost, by group (fleet, site or both), bin, category and currency."""
    return _grouped(
        connection, FacilityCost, "report.facility_cost", start, stop, step, group_by, site,
        extra=", CAST(:category AS integer)", category=category,
    )  # fmt: skip


def meter_coverage(
    connection: Connection, start: datetime, stop: datetime, site: str | None = None
) -> list[MeterCoverage]:
    """How much of a period each meter is known for, by site and name."""
    return _rows(
        connection, MeterCoverage, "SELECT * FROM report.meter_coverage(:start, :stop, CAST(:site AS text))",
        start=start, stop=stop, site=site,
    )  # fmt: skip


def eu_eed(connection: Connection, site: str, year: int, category: int | None = None) -> list[EuIndicator]:
    """The figures of a site's yearly report to the EU, in their order, also those that are missing."""
    return _rows(
        connection, EuIndicator, "SELECT * FROM report.eu_eed(:site, :year, CAST(:category AS integer)) ORDER BY place",
        site=site, year=year, category=category,
    )  # fmt: skip


def reconciliation(
    connection: Connection,
    start: datetime,
    stop: datetime,
    group_by: ReconciledGroup = "site",
    site: str | None = None,
) -> list[Reconciled]:
    """What each level from the GPUs to the grid measured, and what of it is unexplained."""
    return _rows(
        connection, Reconciled, "SELECT * FROM report.reconciliation(:start, :stop, :group_by, CAST(:site AS text))",
        start=start, stop=stop, group_by=group_by, site=site,
    )  # fmt: skip


def capacity(
    connection: Connection,
    start: datetime,
    stop: datetime,
    site: str | None = None,
    scopes: tuple[Scope, ...] | None = None,
    most: int | None = None,
) -> list[Capacity]:
    """Limits of feeds and budgets, or of some scopes, what is drawn now, and the peak of a period.

    Args:
        connection: of the report role.
        start: of the period.
        stop: of the period.
        site: None: all.
        scopes: None: all.
        most: only so many parts, those of which most is used now; None: all.
    """
    return _rows(
        connection, Capacity,
        "SELECT * FROM report.capacity(:start, :stop, CAST(:site AS text), CAST(:scopes AS text[]),"
        " CAST(:most AS integer))",
        start=start, stop=stop, site=site, scopes=None if scopes is None else list(scopes), most=most,
    )  # fmt: skip


def _site(document: object) -> Site:
    # JSON's keys are texts, and years are numbers.
    return msgspec.convert(document, Site, str_keys=True)


def _grouped(
    connection: Connection,
    kind: type[T],
    function: str,
    start: datetime,
    stop: datetime,
    step: Step,
    group_by: FacilityGroup | Literal["both"],
    site: str | None,
    extra: str = "",
    **values: Any,
) -> list[T]:
    return _rows(
        connection, kind,
        f"SELECT * FROM {function}(:start, :stop, CAST(:step AS interval), :group_by, CAST(:site AS text){extra})",
        start=start, stop=stop, step=step, group_by=group_by, site=site, **values,
    )  # fmt: skip


def _rows(connection: Connection, kind: type[T], sql: str, **values: Any) -> list[T]:
    """Of what the statement gives; decimals as floats: what is exact is in the views."""
    found = connection.execute(text(sql), values)
    names = tuple(found.keys())
    return [
        kind(
            **{name: float(value) if type(value) is Decimal else value for name, value in zip(names, row, strict=True)}
        )
        for row in found
    ]


class FleetPowerRatio(Struct, frozen=True, kw_only=True):
    """Power of all sites over that of their IT at this moment, indicative: report.power_ratio_fleet_now."""

    category: int
    sites: int
    """With a ratio at this moment: the sums are of these."""
    sites_with_meters: int
    power_ratio: float | None
    facility_power_w: float | None
    it_power_w: float | None
    meters_silent: int
    time: datetime | None
    simulated: bool
    known: list[str]
    """The names of those sites."""


class PueConditions(Struct, frozen=True, kw_only=True):
    """PUE of a site in a bin, beside its load and the air outside: report.pue_conditions()."""

    time: datetime
    site: str
    category: int
    pue: float | None
    it_power_w: float | None
    """Mean of the hours in the sums."""
    facility_power_w: float | None
    outside_temp_c: float | None
    hours: int
    hours_missing: int
    hours_faulty: int


def fleet_power_ratios_now(connection: Connection) -> list[FleetPowerRatio]:
    """The power ratio of all sites together at this moment, by category."""
    return _rows(connection, FleetPowerRatio, "SELECT * FROM report.power_ratio_fleet_now ORDER BY category")


def pue_conditions(
    connection: Connection,
    start: datetime,
    stop: datetime,
    step: timedelta,
    site: str | None = None,
    category: int | None = None,
) -> list[PueConditions]:
    """PUE by site and bin beside load and outside temperature, also of bins that are in no sum."""
    return _rows(
        connection, PueConditions,
        "SELECT * FROM report.pue_conditions(:start, :stop, :step, CAST(:site AS text), CAST(:category AS integer))",
        start=start, stop=stop, step=step, site=site, category=category,
    )  # fmt: skip


def facility_until(connection: Connection) -> datetime:
    """Up to when the facility's hours are known now; the year 2000 before the first."""
    found: datetime = connection.execute(text("SELECT until FROM report.facility_until")).scalar_one()
    return found

"""A topology as people declare it: sites with halls, rows and racks, meters and what they feed, facts for a report.

Names may hold ranges (gigawatch.topology.ranges): `A1-[01-24]` are 24 racks. docs/topology.md explains each key.
"""

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct

Written = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
"""A name, or several by ranges. Whole names are at most 200 characters as well."""
MeterRole = Literal[
    "utility", "generation", "fuel", "ups_in", "ups_out", "pdu", "it", "cooling", "pump", "lighting", "water",
    "heat_reuse", "heat_removed", "temperature", "other",
]  # fmt: skip
"""What a meter counts: gigawatch.schema.METER_ROLES."""
Feed = Literal["A", "B"]
Kilowatts = Annotated[float, Meta(gt=0, le=2_000_000)]
KilowattHours = Annotated[float, Meta(ge=0, le=100_000_000_000)]
SquareMetres = Annotated[float, Meta(gt=0, le=10_000_000)]
Amperes = Annotated[float, Meta(gt=0, le=100_000)]
Time = Annotated[datetime, Meta(tz=True)]
REPORTING_YEARS = range(2023, 2101)
"""The regulation's first report, of 2024, is of the year before."""
DIESEL_KWH_PER_L = 9.9
"""EN 50600-4-2's factor; natural gas has 10.5 kWh/m³."""


class Row(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A row of racks."""

    racks: tuple[Written, ...] = ()
    budget_kw: Kilowatts | None = None
    """Power that all of it together may draw."""


class Hall(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A hall, or any room with racks."""

    rows: dict[Written, Row] = {}
    racks: tuple[Written, ...] = ()
    """Racks that stand in no row."""
    budget_kw: Kilowatts | None = None
    """Power that all of it together may draw."""
    rack_budgets_kw: dict[Written, Kilowatts] = {}
    """Power that each of these racks may draw."""


class Meter(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A meter, or as many as the ranges of its name make."""

    role: MeterRole
    feeds: tuple[Written, ...] = ()
    """Meters that what flows through this one reaches next."""
    racks: tuple[Written, ...] = ()
    """Racks that it feeds, with no other meter between."""
    feed: Feed | None = None
    """Of redundant feeds, which; handed down to what it feeds."""
    hall: Written | None = None
    """Hall that it is of; without one that of its racks if they are all in one, else the whole site."""
    node: Written | None = None
    """Host name of the one node whose power it measures."""
    plus: tuple[Written, ...] = ()
    """With plus it is virtual: the sum of these,"""
    minus: tuple[Written, ...] = ()
    """less these."""
    rated_kw: Kilowatts | None = None
    """Most power that can flow through it."""
    breaker_a: Amperes | None = None
    """Rating of its breaker, A for each phase."""
    contract_kw: Kilowatts | None = None
    """Most power by contract."""
    fuel_kwh_per_l: Annotated[float, Meta(gt=0, le=15)] | None = None
    """Energy of a litre, of role fuel; without it diesel's."""
    potable: bool | None = None
    """Of role water, whether it is drinking water,"""
    fresh: bool | None = None
    """and whether it is fresh water; what is drinking water is, unless this says otherwise."""
    backup: bool = False
    """Of role generation or fuel, whether it is a backup generator's."""
    since: Time | None = None
    """Figures want it from this moment on,"""
    until: Time | None = None
    """and up to this one."""


class ReportingYear(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What meters cannot know of one year, for the EU's report: Delegated Regulation (EU) 2024/1364, Annex II.

    Zero is said; what is absent is not known.
    """

    guarantees_of_origin_kwh: KilowattHours | None = None
    """Renewable energy by guarantees of origin: ERES-GOO."""
    ppa_kwh: KilowattHours | None = None
    """Renewable energy by power purchase agreements: ERES-PPA."""
    on_site_renewable_kwh: KilowattHours | None = None
    """Renewable energy made on site, where no meter counts it: ERES-OS."""
    backup_generators_kwh: KilowattHours | None = None
    """Energy of backup generators, where no meter counts it: EDC-BG."""


class EuReport(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What meters cannot know of a site, for the EU's report: Delegated Regulation (EU) 2024/1364, Annex II."""

    pdit_kw: Kilowatts | None = None
    """Installed power demand of the information technology: PDIT."""
    sdc_m2: SquareMetres | None = None
    """Total floor area: SDC."""
    scr_m2: SquareMetres | None = None
    """Floor area of the computer rooms: SCR."""
    years: dict[Annotated[int, Meta(ge=REPORTING_YEARS.start, le=REPORTING_YEARS.stop - 1)], ReportingYear] = {}


class Site(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A site: what is kept of it in the store."""

    budget_kw: Kilowatts | None = None
    """Power that all of it together may draw."""
    halls: dict[Written, Hall] = {}
    meters: dict[Written, Meter] = {}
    eu_report: EuReport | None = None


class Topology(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A file: sites by their names, as the agents' configuration has them."""

    sites: dict[Written, Site]

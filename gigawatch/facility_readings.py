"""Named reads of the facility's meters and figures: like gigawatch.readings, for PUE and what is beside it."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, TypeVar

from msgspec import Struct
from sqlalchemy import Connection, text

T = TypeVar("T")
FacilityGroup = Literal["fleet", "site", "hall"]
Step = timedelta | Literal["1 month", "3 months", "1 year"] | None
"""Of whole hours, or months of the calendar, UTC; None: the whole period."""
HealthState = Literal[
    "ok", "silent", "never heard of", "stuck", "reversed", "rejected", "imported", "retired", "not placed"
]


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
        "SELECT * FROM report.power_ratio_now WHERE CAST(:site AS text) IS NULL OR site = :site ORDER BY site, category",
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


def _grouped(
    connection: Connection,
    kind: type[T],
    function: str,
    start: datetime,
    stop: datetime,
    step: Step,
    group_by: FacilityGroup,
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
    return [
        kind(**{name: _plain(value) for name, value in row._mapping.items()})
        for row in connection.execute(text(sql), values)
    ]


def _plain(value: Any) -> Any:
    """Decimals as floats: what is exact is in the views."""
    return float(value) if isinstance(value, Decimal) else value

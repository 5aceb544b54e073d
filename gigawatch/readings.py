"""Named reads over the views of schema report: the one read model of API, dashboard, alerts and reports.

Each takes a connection (of an engine with database.REPORT_ROLE) and returns frozen records; times are UTC,
units are in the names, and None is "not known", never zero. Formulas are in migrations/views/, not here.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar

from msgspec import Struct
from sqlalchemy import Connection, text

from gigawatch.errors import GigawatchError
from gigawatch.token_readings import Boundary, TokenGroup

T = TypeVar("T", bound=Struct)
GroupBy = Literal["fleet", "site", "rack", "node", "gpu_model"]
GpuOrder = Literal["power", "temperature", "throttled", "utilisation", "place"]
NodeState = Literal["reporting", "gpus_missing", "clock_off", "silent"]
NodeOrder = Literal[
    "place", "hostname", "state", "gpu_model", "reporting", "power", "utilisation", "temperature", "throttled", "silent"
]
Method = Literal["location", "market"]
"""Of accounting for carbon."""
Load = Literal["power", "temperature", "utilisation"]
STEPS_S = (10, 20, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400, 43_200, 86_400)
MOST_ROWS = 1_000_000
MOST_AT_ONCE = 100_000
"""Points of a series that are read at once, some 60 MiB: those of 75,000 nodes, each a group, would fit no memory."""
MOST_CHOICES = 100
MOST_LAG_S = {"1m": 300, "1h": 3_900, "1d": 86_700, "weighed_1h": 3_900, "meter_1h": 3_900, "facility_1d": 90_300}
"""A level folded later than this, while newer windows are there, is behind: its bucket and minutes of grace; days of
facilities wait for their hours besides."""

# Orders of GPUs, and the orders of nodes in which the first GPUs are on the first nodes.
_GPU_ORDERS: Mapping[GpuOrder, tuple[str, str]] = {
    "power": ("power_w DESC NULLS LAST", "gpu_power_max_w DESC NULLS LAST"),
    "temperature": (
        "margin_to_slowdown_c NULLS LAST, gpu_temp_max_c DESC NULLS LAST",
        "margin_to_slowdown_c NULLS LAST, gpu_temp_max_c DESC NULLS LAST",
    ),
    "throttled": (
        "throttled DESC NULLS LAST, gpu_temp_max_c DESC NULLS LAST",
        "gpus_throttled > 0 DESC, gpu_temp_max_c DESC NULLS LAST",
    ),
    "utilisation": ("gpu_util_pct DESC NULLS LAST", "gpu_util_max_pct DESC NULLS LAST"),
    "place": ("site, rack NULLS FIRST, hostname, gpu_index", "site, rack NULLS FIRST, hostname"),
}

# Each with what is not known last, and the greatest first where that is what people look for.
_NODE_ORDERS: Mapping[NodeOrder, tuple[str, ...]] = {
    "place": ("site", "rack", "hostname"),
    "hostname": ("hostname",),
    "state": ("array_position(ARRAY['silent', 'clock_off', 'gpus_missing', 'reporting'], state)", "hostname"),
    "gpu_model": ("gpu_models", "hostname"),
    "reporting": ("gpus_reporting",),
    "power": ("power_w",),
    "utilisation": ("gpu_util_pct",),
    "temperature": ("gpu_temp_max_c",),
    "throttled": ("gpus_throttled",),
    "silent": ("silent_s",),
}
# What a state implies and is told by node_now alone: it spares the join with all nodes.
_IMPLIED: Mapping[NodeState, str] = {"silent": "silent", "clock_off": "NOT clock_ok"}
_LOADS: Mapping[Load, str] = {
    "power": "100 * power_w / power_limit_w",
    "temperature": "gpu_temp_max_c",
    "utilisation": "gpu_util_pct",
}


class Where(Struct, frozen=True, kw_only=True):
    """What part of the fleet is meant; None is everything."""

    site: str | None = None
    rack: str | None = None
    gpu_model: str | None = None
    node_id: int | None = None


EVERYTHING = Where()


class Choices(Struct, frozen=True, kw_only=True):
    """What a filter can be set to."""

    sites: list[str]
    gpu_models: list[str]


class SiteNow(Struct, frozen=True, kw_only=True):
    """One site now."""

    site: str
    racks: list[str]
    nodes: int
    nodes_silent: int
    gpus: int
    gpus_reporting: int
    power_w: float | None
    simulated: bool
    """Whether some node of it is simulated."""


class FleetSummary(Struct, frozen=True, kw_only=True):
    """The fleet, or a part of it, now."""

    power_w: float | None
    power_limit_w: float | None
    gpu_util_pct: float | None
    gpu_temp_max_c: int | None
    gpus: int
    gpus_reporting: int
    gpus_missing: int
    gpus_silent: int
    gpus_throttled: int
    nodes: int
    nodes_silent: int
    nodes_clock_off: int
    simulated_gpus: int
    newest: datetime | None
    """Start of the newest window."""


class Energy(Struct, frozen=True, kw_only=True):
    """Energy over a period."""

    energy_j: float | None
    covered_s: float
    gpus: int
    coverage: float | None
    """Covered GPU-time over the time of as many GPUs as there were at most in a bucket of the period."""
    counter_share: float | None
    """Part of the energy that is a difference of counters, 0 to 1."""


class GpuNow(Struct, frozen=True, kw_only=True):
    """One GPU now."""

    site: str
    rack: str | None
    node_id: int
    hostname: str
    simulated: bool
    gpu_uuid: str
    gpu_index: int | None
    gpu_model: str
    state: Literal["reporting", "missing", "silent"]
    time: datetime | None
    power_w: float | None
    power_limit_w: float | None
    gpu_util_pct: float | None
    mem_util_pct: float | None
    gpu_temp_max_c: int | None
    margin_to_slowdown_c: int | None
    mem_temp_max_c: int | None
    mem_used_mib: int | None
    mem_total_mib: int | None
    sm_clock_mhz: int | None
    throttled: bool | None
    clock_events: list[str] | None


class RackNow(Struct, frozen=True, kw_only=True):
    """One rack now; nodes of a site that name no rack together."""

    site: str
    rack: str | None
    gpus: int
    gpus_reporting: int
    gpus_throttled: int
    power_w: float | None
    power_limit_w: float | None
    gpu_util_pct: float | None
    gpu_temp_max_c: int | None


class LoadBin(Struct, frozen=True, kw_only=True):
    """Nodes of a site whose load is in one bin."""

    site: str
    low: float | None
    """Where the bin begins, in the load's unit; None: nodes whose load is not known now."""
    nodes: int


class NodeCounts(Struct, frozen=True, kw_only=True):
    """How many nodes there are, and in which state."""

    nodes: int
    reporting: int
    gpus_missing: int
    clock_off: int
    silent: int


class NodeNow(Struct, frozen=True, kw_only=True):
    """One node now."""

    node_id: int
    hostname: str
    machine_id: str
    site: str
    rack: str | None
    simulated: bool
    labels: dict[str, str]
    agent_version: str | None
    driver_version: str | None
    cuda_version: str | None
    cpu_model: str | None
    first_seen: datetime
    last_seen: datetime
    silent_s: float
    clock_offset_s: float | None
    clock_ok: bool | None
    state: NodeState
    """The worst that holds."""
    gpus: int
    gpus_reporting: int
    gpus_throttled: int
    gpu_models: list[str]
    power_w: float | None
    power_limit_w: float | None
    gpu_util_pct: float | None
    gpu_temp_max_c: int | None


class GpuFacts(Struct, frozen=True, kw_only=True):
    """What one GPU is."""

    gpu_uuid: str
    gpu_index: int | None
    gpu_model: str
    site: str
    rack: str | None
    node_id: int
    hostname: str
    simulated: bool
    serial: str | None
    pci_bus_id: str | None
    vbios_version: str | None
    mem_total_mib: int | None
    power_limit_w: float | None
    power_limit_default_w: float | None
    power_limit_min_w: float | None
    power_limit_max_w: float | None
    temp_slowdown_c: int | None
    temp_shutdown_c: int | None
    energy_counter: bool
    power_scope: str | None
    mig_enabled: bool | None
    mig_instances: list[dict[str, Any]]
    removed: datetime | None


class PowerPoint(Struct, frozen=True, kw_only=True):
    """Power of a group in a bin of time."""

    time: datetime
    label: str
    power_w: float | None
    energy_j: float | None
    covered_s: float | None
    coverage: float | None
    gpus: int
    gpu_util_pct: float | None


class GpuPoint(Struct, frozen=True, kw_only=True):
    """One GPU in a bin of time."""

    time: datetime
    gpu_uuid: str
    gpu_index: int | None
    energy_j: float | None
    covered_s: float | None
    power_w: float | None
    power_min_w: float | None
    power_max_w: float | None
    power_limit_w: float | None
    gpu_util_pct: float | None
    mem_util_pct: float | None
    gpu_temp_max_c: int | None
    mem_temp_max_c: int | None
    sm_clock_mhz: float | None
    mem_clock_mhz: float | None
    mem_used_mib: int | None
    fan_pct: int | None
    pcie_tx_mib_per_s: float | None
    pcie_rx_mib_per_s: float | None
    nvlink_tx_mib_per_s: float | None
    nvlink_rx_mib_per_s: float | None
    clock_event_reasons: int | None
    clock_events: list[str] | None
    energy_method: Literal["counter", "interpolated", "integrated", "estimated"] | None
    """The weakest used."""


class NodePoint(Struct, frozen=True, kw_only=True):
    """Power of one node in a bin of time, by part."""

    time: datetime
    gpu_power_w: float | None
    gpu_power_min_w: float | None
    gpu_power_max_w: float | None
    cpu_power_w: float | None
    dram_power_w: float | None
    node_power_w: float | None
    ticks_taken: int
    ticks_expected: int
    rejected_readings: int


class Tick(Struct, frozen=True, kw_only=True):
    """Power of a node's GPUs together at one tick."""

    time: datetime
    gpu_power_w: float | None


class GpuHealthNow(Struct, frozen=True, kw_only=True):
    """Latest slow readings of one GPU."""

    site: str
    rack: str | None
    node_id: int
    hostname: str
    simulated: bool
    gpu_uuid: str
    gpu_index: int | None
    gpu_model: str
    time: datetime | None
    state: Literal["ok", "degraded", "failed", "unknown"]
    ecc_volatile_corrected: int | None
    ecc_volatile_uncorrected: int | None
    ecc_aggregate_corrected: int | None
    ecc_aggregate_uncorrected: int | None
    rows_remapped_corrected: int | None
    rows_remapped_uncorrected: int | None
    row_remap_pending: bool | None
    row_remap_failed: bool | None
    pages_retired: int | None
    page_retirement_pending: bool | None
    pcie_replays: int | None
    performance_state: int | None
    processes: list[dict[str, Any]] | None
    xids_24h: int
    last_xid: int | None
    last_xid_time: datetime | None


class EventRow(Struct, frozen=True, kw_only=True):
    """Something that happened."""

    time: datetime
    site: str
    rack: str | None
    node_id: int
    hostname: str
    simulated: bool
    gpu_uuid: str | None
    gpu_index: int | None
    kind: str
    severity: Literal["info", "warning", "critical"]
    code: int | None
    message: str
    received: datetime | None
    """When the server stored it; later than its time where an agent could not send."""


class EnergyHour(Struct, frozen=True, kw_only=True):
    """Energy of one GPU in one hour."""

    time: datetime
    site: str
    rack: str | None
    node_id: int
    hostname: str
    simulated: bool
    gpu_uuid: str
    gpu_index: int | None
    gpu_model: str
    energy_j: float | None
    energy_counter_j: float
    energy_interpolated_j: float
    energy_integrated_j: float
    energy_estimated_j: float
    covered_s: float
    coverage: float


class Tariff(Struct, frozen=True, kw_only=True):
    """Price of a site's energy from start up to but not including stop."""

    import_id: int
    site: str
    start: datetime
    stop: datetime
    price_per_kwh: float
    currency: str
    source: str
    version: str
    imported: datetime


class GridIntensity(Struct, frozen=True, kw_only=True):
    """Carbon intensity of a site's energy from start up to but not including stop."""

    import_id: int
    site: str
    method: Method
    instrument: str | None
    """What was bought, for method market."""
    start: datetime
    stop: datetime
    g_per_kwh: float
    estimated: bool
    source: str
    version: str
    imported: datetime


class ConfiguredPue(Struct, frozen=True, kw_only=True):
    """PUE of a site from start up to but not including stop, as somebody configured it; not measured."""

    import_id: int
    site: str
    start: datetime
    stop: datetime
    pue: float
    source: str
    version: str
    imported: datetime


class FactorImport(Struct, frozen=True, kw_only=True):
    """Prices, carbon intensities or configured PUE that were taken in at once."""

    import_id: int
    site: str
    kind: str
    """The prices' currency, the intensities' method and instrument, or that a PUE is configured."""
    source: str
    version: str
    imported: datetime
    start: datetime
    stop: datetime
    intervals: int
    """Stretches of time with one value that came of it."""
    counting: int
    """Those of them that were neither replaced nor removed."""


class Cost(Struct, frozen=True, kw_only=True):
    """What the energy of a group cost, in one currency."""

    time: datetime
    label: str
    boundary: Boundary
    currency: str | None
    """None: none of the group's energy has a price."""
    cost: float | None
    priced_energy_j: float
    energy_j: float
    price_coverage: float | None
    """Part of the energy that has a price in this currency, 0 to 1."""
    split_share: float | None
    """Part of the energy of hours that were split evenly, as their minutes are no longer kept, 0 to 1."""
    coverage: float | None
    """Covered GPU-time over the time of as many GPUs as there were at most."""
    counter_share: float | None
    """Part of the GPUs' energy that is a difference of counters, 0 to 1."""
    boundary_coverage: float | None
    """Part of the GPUs' energy that is known at the boundary, 0 to 1."""
    modelled_share: float | None
    """Part of the energy that is modelled by other nodes' meters, 0 to 1."""
    measured_pue_share: float | None
    """At boundary facility: part of the energy with a PUE measured that day, 0 to 1; of the rest it is configured."""


class Carbon(Struct, frozen=True, kw_only=True):
    """What the energy of a group emitted, by one method of accounting."""

    time: datetime
    label: str
    boundary: Boundary
    method: Method
    instrument: str | None
    carbon_kg: float | None
    """CO2 equivalent, kg; None: none of the group's energy has an intensity."""
    accounted_energy_j: float
    energy_j: float
    intensity_coverage: float | None
    """Part of the energy that has such an intensity, 0 to 1."""
    estimated_share: float | None
    """Part of that whose intensity the source calls an estimate, 0 to 1."""
    split_share: float | None
    coverage: float | None
    counter_share: float | None
    boundary_coverage: float | None
    modelled_share: float | None
    measured_pue_share: float | None


class StoreRollup(Struct, frozen=True, kw_only=True):
    """How far windows are folded into one level."""

    level: Literal["1m", "1h", "1d", "weighed_1h", "meter_1h", "facility_1d"]
    """Of GPUs and nodes; hours of meters; all that is made of those."""
    closed: datetime | None
    folded: datetime | None
    """Buckets before it are folded; None: nothing was folded yet."""
    lag_s: float | None
    """Time since then."""
    behind_s: float | None
    """Time from then to the newest window."""
    dirty_buckets: int
    """Buckets of nodes or meters, or days of sites, that wait to be folded again for late data."""
    oldest_dirty: datetime | None


class StoreTable(Struct, frozen=True, kw_only=True):
    """One table of the store, with its chunks."""

    table_name: str
    holds: str
    """What a row of it is, in words."""
    rows: int | None
    """As the database last estimated them."""
    heap_bytes: int
    index_bytes: int
    total_bytes: int
    oldest: datetime | None
    newest: datetime | None
    chunks: int
    compressed_chunks: int
    compressed_bytes: int
    """What they take on disk."""
    uncompressed_bytes: int | None
    """What they took before."""


class StoreJob(Struct, frozen=True, kw_only=True):
    """The last run of one of the scheduler's jobs."""

    name: str
    leader: str
    started: datetime
    finished: datetime | None
    """None while it runs."""
    took_s: float | None
    progress: str | None
    error: str | None
    """Why it failed when it last ended."""


class FiringAlerts(Struct, frozen=True, kw_only=True):
    """How many alerts of a severity fire."""

    severity: str
    alerts: int


class RuleEvaluations(Struct, frozen=True, kw_only=True):
    """How the evaluations of an alert's rule went."""

    name: str
    evaluations: int
    failures: int
    missed: int
    duration_ms: int | None
    """None before the first."""
    failing: bool
    """Whether the last one failed."""


class StoreStatus(Struct, frozen=True, kw_only=True):
    """How the store itself is doing: folding, tables, jobs."""

    rollups: list[StoreRollup]
    tables: list[StoreTable]
    jobs: list[StoreJob]


class SiteSecond(Struct, frozen=True, kw_only=True):
    """Power of a site, or of the fleet, in one second."""

    time: datetime
    power_w: float
    ramp_w_per_s: float | None
    """Difference to the second before; None where the two cannot be compared."""
    nodes: int
    """Nodes in the sum."""
    complete: bool
    """Whether they are all nodes of their minute."""


class LoadSwing(Struct, frozen=True, kw_only=True):
    """How the power of one site swung in one minute."""

    time: datetime
    site: str
    power_mean_w: float
    power_min_w: float
    power_max_w: float
    swing_w: float
    ramp_up_max_w_per_s: float | None
    ramp_down_max_w_per_s: float | None
    seconds_comparable: int
    """Seconds that can be compared with the one before."""
    nodes: int
    """Most nodes in a second."""
    coverage: float


class LoadSwingSummary(Struct, frozen=True, kw_only=True):
    """How the power of a site, or of the fleet, swung in a period."""

    over_s: int
    """Time within which the swing is, and over which the ramps with `over` in their names are."""
    swing_max_w: float | None
    swing_began: datetime | None
    ramp_up_max_megawatts_per_s: float | None
    """From one second to the next, MW/s."""
    ramp_down_max_megawatts_per_s: float | None
    ramp_up_over_max_megawatts_per_s: float | None
    ramp_down_over_max_megawatts_per_s: float | None
    power_mean_w: float | None
    seconds_comparable: int
    coverage: float | None
    stretch_began: datetime | None
    """Of the stretch of seconds that the spectrum of the period is of: over it alone, the spectrum is the same."""
    stretch_s: int | None


class SpectrumLine(Struct, frozen=True, kw_only=True):
    """Oscillation of power at one frequency."""

    frequency_hz: float
    amplitude_w: float
    variance_share: float | None
    """Part of the variance at this frequency and its two neighbours, 0 to 1; None where power is constant."""
    peak_frequency_hz: float | None
    """Where a peak stands out here: its frequency, between those of the lines."""
    peak_amplitude_w: float | None
    began: datetime
    """Of the stretch of seconds."""
    seconds: int
    resolution_hz: float
    """Distance of the lines."""


class TooMany(GigawatchError):
    """A read would give more rows than the memory of who asks should hold."""


def step_for(start: datetime, stop: datetime, points: int = 300, finest_s: float = 60) -> timedelta:
    """The finest step that gives at most so many points over the period.

    No finer than the windows are long (at most a minute, which none crosses): a finer one would show gaps.
    """
    length_s = (stop - start).total_seconds()
    steps = (step for step in STEPS_S if step >= finest_s and length_s / step <= points)
    return timedelta(seconds=next(steps, STEPS_S[-1]))


def longest_window_s(connection: Connection, start: datetime, stop: datetime, node_id: int | None = None) -> float:
    """Length of the longest window in a period, for a step that fits; a minute where there is none."""
    longest = connection.scalar(
        text("SELECT report.longest_window_s(:start, :stop, CAST(:node_id AS integer))"),
        {"start": start, "stop": stop, "node_id": node_id},
    )
    return 60.0 if longest is None else float(longest)


def choices(connection: Connection) -> Choices:
    """What sites and GPU models there are."""
    row = connection.execute(
        text("""
        SELECT
            ARRAY(SELECT DISTINCT site FROM report.racks ORDER BY 1) AS sites,
            ARRAY(
                SELECT DISTINCT unnest(gpu_models) FROM (SELECT DISTINCT gpu_models FROM report.nodes) AS kinds
                ORDER BY 1
            ) AS gpu_models""")
    ).one()
    return Choices(**row._mapping)


def racks(connection: Connection, site: str | None = None, find: str = "", limit: int = MOST_CHOICES) -> list[str]:
    """Names of racks of a site (of all sites, without one) that contain a text; up to a limit."""
    rows = connection.execute(
        text(f"""
        SELECT DISTINCT rack FROM report.racks
        WHERE rack IS NOT NULL AND (CAST(:site AS text) IS NULL OR site = :site) AND {_contains("rack")}
        ORDER BY 1 LIMIT :limit"""),
        {"site": site, "find": find, "limit": limit},
    )
    return list(rows.scalars())


def sites_now(connection: Connection) -> list[SiteNow]:
    """Sites as they are now."""
    return _all(
        connection,
        SiteNow,
        """
        SELECT now.*, ARRAY(
                SELECT rack FROM report.racks WHERE racks.site = now.site AND rack IS NOT NULL ORDER BY 1
            ) AS racks
        FROM (
            SELECT site, count(*) AS nodes, count(*) FILTER (WHERE silent) AS nodes_silent,
                sum(gpus) AS gpus, sum(gpus_reporting) AS gpus_reporting, sum(power_w) AS power_w,
                bool_or(simulated) AS simulated
            FROM report.nodes GROUP BY site
        ) AS now
        ORDER BY site""",
    )


def fleet_summary(connection: Connection, where: Where = EVERYTHING) -> FleetSummary:
    """The fleet now."""
    now = _one(
        connection,
        FleetSummary,
        f"""
        SELECT
            sum(power_w) AS power_w,
            sum(power_limit_w) AS power_limit_w,
            sum(gpu_util_pct * gpu_util_gpus) / nullif(sum(gpu_util_gpus), 0) AS gpu_util_pct,
            max(gpu_temp_max_c) AS gpu_temp_max_c,
            coalesce(sum(gpus), 0)::bigint AS gpus,
            coalesce(sum(gpus_reporting), 0)::bigint AS gpus_reporting,
            coalesce(sum(gpus_missing), 0)::bigint AS gpus_missing,
            coalesce(sum(gpus_silent), 0)::bigint AS gpus_silent,
            coalesce(sum(gpus_throttled), 0)::bigint AS gpus_throttled,
            count(*) AS nodes,
            count(*) FILTER (WHERE silent) AS nodes_silent,
            count(*) FILTER (WHERE NOT clock_ok) AS nodes_clock_off,
            coalesce(sum(gpus) FILTER (WHERE simulated), 0)::bigint AS simulated_gpus,
            max(window_time) AS newest
        FROM {_of_nodes(where)}""",
        where,
    )
    assert now is not None
    return now


def energy(connection: Connection, start: datetime, stop: datetime, where: Where = EVERYTHING) -> Energy:
    """Energy of a part of the fleet over a period."""
    row = connection.execute(
        text("""
        SELECT * FROM report.fleet_energy(:start, :stop,
            CAST(:site AS text), CAST(:rack AS text), CAST(:node_id AS integer), CAST(:gpu_model AS text))"""),
        {**_values(where), "start": start, "stop": stop},
    ).one()
    return Energy(**row._mapping)


def gpus_now(
    connection: Connection,
    where: Where = EVERYTHING,
    order: GpuOrder = "place",
    limit: int = MOST_ROWS,
    offset: int = 0,
    *,
    throttled: bool = False,
) -> list[GpuNow]:
    """GPUs as they are now; with throttled only those that are held down."""
    of_gpus, of_nodes = _GPU_ORDERS[order]
    return _all(
        connection,
        GpuNow,
        f"""
        SELECT * FROM report.fleet_now WHERE {_GPUS} AND (NOT :throttled OR throttled) AND node_id = ANY (ARRAY(
            SELECT node_id FROM {_of_nodes(where)} AND (NOT :throttled OR gpus_throttled > 0)
            ORDER BY {of_nodes}, node_id LIMIT :nodes))
        ORDER BY {of_gpus}, gpu_uuid LIMIT :limit OFFSET :offset""",
        where,
        throttled=throttled,
        nodes=limit + offset,
        limit=limit,
        offset=offset,
    )


def count_racks(connection: Connection, where: Where = EVERYTHING) -> int:
    """How many racks a part of the fleet has, of whatever GPU model."""
    return (
        connection.scalar(
            text(f"SELECT count(rack) FROM report.racks WHERE {_PLACE}"), {"site": where.site, "rack": where.rack}
        )
        or 0
    )


def load_bins(connection: Connection, load: Load, width: float, where: Where = EVERYTHING) -> list[LoadBin]:
    """How many nodes of each site are how loaded, in bins so wide."""
    return _all(
        connection,
        LoadBin,
        f"""
        SELECT site, floor({_LOADS[load]} / :width) * :width AS low, count(*) AS nodes
        FROM {_of_nodes(where)} GROUP BY 1, 2 ORDER BY 1, 2 NULLS FIRST""",
        where,
        width=width,
    )


def racks_now(connection: Connection, where: Where = EVERYTHING) -> list[RackNow]:
    """Racks as they are now."""
    return _all(
        connection,
        RackNow,
        f"""
        SELECT site, rack,
            sum(gpus) AS gpus,
            sum(gpus_reporting) AS gpus_reporting,
            sum(gpus_throttled) AS gpus_throttled,
            sum(power_w) AS power_w,
            sum(power_limit_w) AS power_limit_w,
            sum(gpu_util_pct * gpu_util_gpus) / nullif(sum(gpu_util_gpus), 0) AS gpu_util_pct,
            max(gpu_temp_max_c) AS gpu_temp_max_c
        FROM {_of_nodes(where)} GROUP BY site, rack ORDER BY site, rack NULLS FIRST""",
        where,
    )


def nodes_now(
    connection: Connection,
    where: Where = EVERYTHING,
    *,
    find: str = "",
    state: NodeState | None = None,
    order: NodeOrder = "place",
    descending: bool = False,
    limit: int = MOST_ROWS,
    offset: int = 0,
) -> list[NodeNow]:
    """Nodes as they are now.

    Args:
        connection: of the report role.
        where: what part of the fleet.
        find: only those whose host name or rack contains this text.
        state: only those in this state.
        order: what to sort by; what is not known comes last.
        descending: the greatest first.
        limit: rows at most.
        offset: rows to pass over.
    """
    keys = [f"{key} {'DESC' if descending else 'ASC'} NULLS LAST" for key in _NODE_ORDERS[order]]
    sorted_by = ", ".join([*keys, "node_id"])
    # The nodes of this page first: to sort all with all that is known of them takes twice as long.
    return _all(
        connection,
        NodeNow,
        f"""
        SELECT {", ".join(NodeNow.__struct_fields__)} FROM report.nodes WHERE node_id = ANY (ARRAY(
            SELECT node_id FROM report.nodes WHERE {_found(state)} ORDER BY {sorted_by} LIMIT :limit OFFSET :offset))
        ORDER BY {sorted_by}""",
        where,
        find=find,
        state=state,
        limit=limit,
        offset=offset,
    )


def node_counts(connection: Connection, where: Where = EVERYTHING, find: str = "") -> NodeCounts:
    """How many nodes nodes_now() has, by state."""
    found = _one(
        connection,
        NodeCounts,
        f"""
        SELECT count(*) AS nodes,
            count(*) FILTER (WHERE state = 'reporting') AS reporting,
            count(*) FILTER (WHERE state = 'gpus_missing') AS gpus_missing,
            count(*) FILTER (WHERE state = 'clock_off') AS clock_off,
            count(*) FILTER (WHERE state = 'silent') AS silent
        FROM (SELECT state FROM report.nodes WHERE {_found(None)} OFFSET 0) AS found""",
        where,
        find=find,
    )
    assert found is not None
    return found


def node_now(connection: Connection, node_id: int) -> NodeNow | None:
    """One node as it is now; None: there is no such node."""
    return next(iter(nodes_now(connection, Where(node_id=node_id))), None)


def node_named(connection: Connection, site: str, hostname: str) -> int | None:
    """Number of the node of this name at a site."""
    rows = connection.scalars(
        text(
            "SELECT node_id FROM report.nodes WHERE site = :site AND hostname = :hostname"
            " ORDER BY last_seen DESC LIMIT 1"
        ),
        {"site": site, "hostname": hostname},
    )
    return next(iter(rows), None)


def gpu(connection: Connection, gpu_uuid: str) -> GpuFacts | None:
    """What one GPU is; None: there is no such GPU."""
    return _one(connection, GpuFacts, "SELECT * FROM report.gpus WHERE gpu_uuid = :uuid", uuid=gpu_uuid)


def gpu_now(connection: Connection, gpu_uuid: str) -> GpuNow | None:
    """One GPU as it is now; None: there is no such GPU, or its node no longer has it."""
    return _one(connection, GpuNow, "SELECT * FROM report.fleet_now WHERE gpu_uuid = :uuid", uuid=gpu_uuid)


def power_series(
    connection: Connection,
    start: datetime,
    stop: datetime,
    step: timedelta,
    where: Where = EVERYTHING,
    group_by: GroupBy = "fleet",
    most_racks: int | None = None,
) -> list[PowerPoint]:
    """Power over time of a part of the fleet, whole or by group; with most_racks of the racks with the most power.

    Raises:
        TooMany: there are more than MOST_AT_ONCE points.
    """
    found = _all(
        connection,
        PowerPoint,
        """
        SELECT * FROM report.power_series(:start, :stop, :step, :group_by,
            CAST(:site AS text), CAST(:rack AS text), CAST(:node_id AS integer), CAST(:gpu_model AS text),
            CAST(:most_racks AS integer)) LIMIT :most""",
        where,
        start=start,
        stop=stop,
        step=step,
        group_by=group_by,
        most_racks=most_racks,
        most=MOST_AT_ONCE + 1,
    )
    return _not_too_many(found)


def known_until(connection: Connection) -> datetime:
    """Up to when power_series() and energy() know a fleet: now, or in large ones up to where minutes are folded."""
    known: datetime = connection.execute(text("SELECT report.known_until()")).scalar_one()
    return known


def gpu_series(
    connection: Connection,
    start: datetime,
    stop: datetime,
    step: timedelta,
    *,
    gpu_uuid: str | None = None,
    node_id: int | None = None,
) -> list[GpuPoint]:
    """All metrics over time of one GPU, or of each GPU of a node."""
    return _all(
        connection,
        GpuPoint,
        """
        SELECT * FROM report.gpu_series(:start, :stop, :step, CAST(:uuid AS text), CAST(:node_id AS integer))""",
        Where(node_id=node_id),
        start=start,
        stop=stop,
        step=step,
        uuid=gpu_uuid,
    )


def node_series(
    connection: Connection, node_id: int, start: datetime, stop: datetime, step: timedelta
) -> list[NodePoint]:
    """Power over time of one node, by part."""
    return _all(
        connection,
        NodePoint,
        "SELECT * FROM report.node_series(:node_id, :start, :stop, :step)",
        Where(node_id=node_id),
        start=start,
        stop=stop,
        step=step,
    )


def node_ticks(connection: Connection, node_id: int, start: datetime, stop: datetime) -> list[Tick]:
    """Power of a node's GPUs together, tick by tick."""
    return _all(
        connection,
        Tick,
        "SELECT * FROM report.node_ticks(:node_id, :start, :stop)",
        Where(node_id=node_id),
        start=start,
        stop=stop,
    )


def gpu_health(
    connection: Connection,
    where: Where = EVERYTHING,
    gpu_uuid: str | None = None,
    limit: int = MOST_ROWS,
    offset: int = 0,
) -> list[GpuHealthNow]:
    """Latest slow readings, the worst first."""
    return _all(
        connection,
        GpuHealthNow,
        f"""
        SELECT * FROM report.gpu_health WHERE {_GPUS} AND (CAST(:uuid AS text) IS NULL OR gpu_uuid = :uuid)
        ORDER BY array_position(ARRAY['failed', 'degraded', 'ok', 'unknown'], state), site, hostname, gpu_index
        LIMIT :limit OFFSET :offset""",
        where,
        uuid=gpu_uuid,
        limit=limit,
        offset=offset,
    )


def events(
    connection: Connection,
    start: datetime,
    stop: datetime,
    where: Where = EVERYTHING,
    gpu_uuid: str | None = None,
    limit: int = 100,
) -> list[EventRow]:
    """What happened in a period, the newest first."""
    return _all(
        connection,
        EventRow,
        f"""
        SELECT {", ".join(EventRow.__struct_fields__)} FROM report.events
        WHERE time >= :start AND time < :stop AND {_AT}
            AND (CAST(:uuid AS text) IS NULL OR gpu_uuid = :uuid)
        ORDER BY time DESC LIMIT :limit""",
        where,
        start=start,
        stop=stop,
        uuid=gpu_uuid,
        limit=limit,
    )


def energy_hourly(
    connection: Connection, start: datetime, stop: datetime, where: Where = EVERYTHING
) -> list[EnergyHour]:
    """Energy by GPU and hour.

    Raises:
        TooMany: there are more than MOST_AT_ONCE of them.
    """
    found = _all(
        connection,
        EnergyHour,
        f"""
        SELECT time, site, rack, node_id, hostname, simulated, gpu_uuid, gpu_index, gpu_model,
            energy_j::double precision, energy_counter_j::double precision, energy_interpolated_j::double precision,
            energy_integrated_j::double precision, energy_estimated_j::double precision, covered_s::double precision,
            coverage
        FROM report.energy_hourly WHERE time >= :start AND time < :stop AND {_GPUS}
        ORDER BY time, site, hostname, gpu_index LIMIT :most""",
        where,
        start=start,
        stop=stop,
        most=MOST_AT_ONCE + 1,
    )
    return _not_too_many(found)


def cost(
    connection: Connection,
    start: datetime,
    stop: datetime,
    step: timedelta | None = None,
    where: Where = EVERYTHING,
    group_by: TokenGroup = "fleet",
    boundary: Boundary = "gpu",
    deployment: str | None = None,
    *,
    assigned: bool = False,
) -> list[Cost]:
    """What the energy of a part of the fleet cost, in all or by step (whole hours); of where, site and model count.

    With assigned it is the energy of GPUs that are assigned to a deployment alone.
    """
    columns = "currency, cost::double precision, priced_energy_j, price_coverage"
    return _weighed(connection, Cost, f"{columns} FROM report.cost", start, stop, step, where, group_by, boundary,
                    deployment, assigned=assigned)  # fmt: skip


def carbon(
    connection: Connection,
    start: datetime,
    stop: datetime,
    step: timedelta | None = None,
    where: Where = EVERYTHING,
    group_by: TokenGroup = "fleet",
    boundary: Boundary = "gpu",
    deployment: str | None = None,
    *,
    assigned: bool = False,
    method: Method | None = None,
) -> list[Carbon]:
    """What the energy of a part of the fleet emitted, by one method or each, in all or by step, as cost()."""
    columns = "method, instrument, carbon_kg::double precision, accounted_energy_j, intensity_coverage, estimated_share"
    return _weighed(connection, Carbon, f"{columns} FROM report.carbon", start, stop, step, where, group_by, boundary,
                    deployment, assigned=assigned, after=", CAST(:method AS text)", method=method)  # fmt: skip


def _weighed(
    connection: Connection,
    kind: type[T],
    columns_from: str,
    start: datetime,
    stop: datetime,
    step: timedelta | None,
    where: Where,
    group_by: TokenGroup,
    boundary: Boundary,
    deployment: str | None,
    *,
    assigned: bool,
    after: str = "",
    **values: Any,
) -> list[T]:
    return _all(
        connection,
        kind,
        f"""
        SELECT time, label, boundary, energy_j, split_share, coverage, counter_share, boundary_coverage, modelled_share,
            measured_pue_share, {columns_from}(
                :start, :stop, :step, :group_by, CAST(:site AS text), CAST(:gpu_model AS text), :boundary,
                CAST(:deployment AS text), :assigned{after})""",
        where,
        start=start,
        stop=stop,
        step=step,
        group_by=group_by,
        boundary=boundary,
        deployment=deployment,
        assigned=assigned,
        **values,
    )


def tariffs(
    connection: Connection,
    start: datetime,
    stop: datetime,
    site: str | None = None,
    limit: int = MOST_ROWS,
    offset: int = 0,
) -> list[Tariff]:
    """Prices that count in a period."""
    columns = "price_per_kwh::double precision, currency"
    return _counting(connection, Tariff, f"{columns} FROM report.tariffs", start, stop, site, limit, offset)


def grid_intensity(
    connection: Connection,
    start: datetime,
    stop: datetime,
    site: str | None = None,
    limit: int = MOST_ROWS,
    offset: int = 0,
) -> list[GridIntensity]:
    """Carbon intensities that count in a period, by site, method and time."""
    columns = "method, instrument, g_per_kwh::double precision, estimated"
    return _counting(
        connection, GridIntensity, f"{columns} FROM report.grid_intensity", start, stop, site, limit, offset,
        order="site, method, start",
    )  # fmt: skip


def configured_pue(
    connection: Connection,
    start: datetime,
    stop: datetime,
    site: str | None = None,
    limit: int = MOST_ROWS,
    offset: int = 0,
) -> list[ConfiguredPue]:
    """PUE that was configured, not measured, and counts in a period."""
    columns = "pue::double precision"
    return _counting(
        connection, ConfiguredPue, f"{columns} FROM report.configured_pue", start, stop, site, limit, offset
    )


def _counting(
    connection: Connection,
    kind: type[T],
    columns_from: str,
    start: datetime,
    stop: datetime,
    site: str | None,
    limit: int,
    offset: int,
    order: str = "site, start",
) -> list[T]:
    """Values over time that count in a period."""
    return _all(
        connection,
        kind,
        f"""
        SELECT import_id, site, start, stop, source, version, imported, {columns_from}
        WHERE (CAST(:site AS text) IS NULL OR site = :site) AND retired IS NULL
            AND start < CAST(:stop AS timestamptz) AND stop > CAST(:start AS timestamptz)
        ORDER BY {order} LIMIT :limit OFFSET :offset""",
        Where(site=site),
        start=start,
        stop=stop,
        limit=limit,
        offset=offset,
    )


def tariff_imports(connection: Connection, site: str | None = None) -> list[FactorImport]:
    """Files of prices that were taken in, the oldest first."""
    return _imports(connection, "tariffs", "currency", site)


def intensity_imports(connection: Connection, site: str | None = None) -> list[FactorImport]:
    """Files of carbon intensities that were taken in, the oldest first."""
    return _imports(connection, "grid_intensity", "concat_ws(', ', method, instrument)", site)


def pue_imports(connection: Connection, site: str | None = None) -> list[FactorImport]:
    """What configured PUE was taken in, the oldest first."""
    return _imports(connection, "configured_pue", "'configured'", site)


def _imports(connection: Connection, view: str, kind: str, site: str | None) -> list[FactorImport]:
    return _all(
        connection,
        FactorImport,
        f"""
        SELECT import_id, site, {kind} AS kind, source, version, imported, min(start) AS start, max(stop) AS stop,
            count(*) AS intervals, count(*) FILTER (WHERE retired IS NULL) AS counting
        FROM report.{view} WHERE CAST(:site AS text) IS NULL OR site = :site
        GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY import_id""",
        Where(site=site),
    )


def store_rollups(connection: Connection) -> list[StoreRollup]:
    """How far each level is folded: of nodes, then of meters, the finest first."""
    return _all(
        connection,
        StoreRollup,
        "SELECT * FROM report.store_rollups"
        " ORDER BY array_position(ARRAY['1m', '1h', '1d', 'weighed_1h', 'meter_1h', 'facility_1d'], level)",
    )


def store_tables(connection: Connection) -> list[StoreTable]:
    """Tables with their sizes, the largest first."""
    return _all(connection, StoreTable, "SELECT * FROM report.store_tables ORDER BY total_bytes DESC, table_name")


def store_jobs(connection: Connection) -> list[StoreJob]:
    """The last run of each job."""
    return _all(connection, StoreJob, "SELECT * FROM report.store_jobs ORDER BY name")


def firing_alerts(connection: Connection) -> list[FiringAlerts]:
    """How many alerts of each severity fire."""
    return _all(
        connection,
        FiringAlerts,
        "SELECT severity, count(alert_id) AS alerts FROM unnest(ARRAY['info', 'warning', 'critical']) AS severity"
        " LEFT JOIN (SELECT alert_id, severity FROM report.alerts WHERE state = 'firing') AS it USING (severity)"
        " GROUP BY severity ORDER BY severity",
    )


def rule_evaluations(connection: Connection) -> list[RuleEvaluations]:
    """How the evaluations of each enabled rule went."""
    return _all(
        connection,
        RuleEvaluations,
        "SELECT name, evaluations, failures, missed, duration_ms, error IS NOT NULL AS failing FROM report.alert_rules"
        " WHERE enabled ORDER BY name",
    )


def store_status(connection: Connection) -> StoreStatus:
    """How the store itself is doing."""
    return StoreStatus(rollups=store_rollups(connection), tables=store_tables(connection), jobs=store_jobs(connection))


def is_behind(rollup: StoreRollup) -> bool:
    """Whether windows wait to be folded for longer than they should."""
    return bool(rollup.behind_s) and rollup.lag_s is not None and rollup.lag_s > MOST_LAG_S[rollup.level]


def store_problems(status: StoreStatus) -> list[str]:
    """What of the store needs somebody's care, in words; nothing where all is well."""
    problems = [f"Job {job.name} failed: {job.error}" for job in status.jobs if job.error is not None]
    minutes = next(it for it in status.rollups if it.level == "1m")
    meters = next(it for it in status.rollups if it.level == "meter_1h")
    windows = next(it for it in status.tables if it.table_name == "gpu_window")
    asked = "Does gigawatch serve run, with server.scheduler on?"
    if is_behind(minutes):
        problems.append(f"Newer windows than {minutes.folded:%Y-%m-%d %H:%M} UTC are not folded into minutes. {asked}")
    if is_behind(meters):
        problems.append(f"Windows of meters since {meters.folded:%Y-%m-%d %H:%M} UTC are in no hours. {asked}")
    held = windows.newest - windows.oldest if windows.newest and windows.oldest else timedelta()
    if minutes.folded is None and held.total_seconds() > MOST_LAG_S["1m"]:
        problems.append(f"No window was folded yet, the oldest is of {windows.oldest:%Y-%m-%d %H:%M} UTC. {asked}")
    return problems


def site_seconds(connection: Connection, start: datetime, stop: datetime, site: str | None = None) -> list[SiteSecond]:
    """Power of a site, or of the fleet, second by second."""
    return _all(
        connection,
        SiteSecond,
        "SELECT * FROM report.site_seconds(:start, :stop, CAST(:site AS text))",
        Where(site=site),
        start=start,
        stop=stop,
    )


def load_swings(connection: Connection, start: datetime, stop: datetime, site: str | None = None) -> list[LoadSwing]:
    """How the power of each site swung, by the minute."""
    return _all(
        connection,
        LoadSwing,
        """
        SELECT * FROM report.load_swings
        WHERE time >= :start AND time < :stop AND (CAST(:site AS text) IS NULL OR site = :site)
        ORDER BY time, site""",
        Where(site=site),
        start=start,
        stop=stop,
    )


def load_swing_summary(
    connection: Connection,
    start: datetime,
    stop: datetime,
    site: str | None = None,
    over: timedelta = timedelta(seconds=10),
) -> LoadSwingSummary:
    """The largest swing and ramps of a site, or of the fleet, in a period."""
    found = _one(
        connection,
        LoadSwingSummary,
        "SELECT * FROM report.load_swing_summary(:start, :stop, CAST(:site AS text), :over)",
        Where(site=site),
        start=start,
        stop=stop,
        over=over,
    )
    assert found is not None
    return found


def load_spectrum(
    connection: Connection, start: datetime, stop: datetime, site: str | None = None
) -> list[SpectrumLine]:
    """Oscillations of the power of a site, or of the fleet; none where no stretch of seconds is long enough."""
    return _all(
        connection,
        SpectrumLine,
        "SELECT * FROM report.load_spectrum(:start, :stop, CAST(:site AS text))",
        Where(site=site),
        start=start,
        stop=stop,
    )


# Conditions of a Where: on a view of racks, of nodes in places, of nodes with all their models, of GPUs.
_PLACE = "(CAST(:site AS text) IS NULL OR site = :site) AND (CAST(:rack AS text) IS NULL OR rack = :rack)"
_AT = f"{_PLACE} AND (CAST(:node_id AS integer) IS NULL OR node_id = :node_id)"
_NODES = f"{_AT} AND (CAST(:gpu_model AS text) IS NULL OR :gpu_model = ANY (gpu_models))"
_GPUS = f"{_AT} AND (CAST(:gpu_model AS text) IS NULL OR gpu_model = :gpu_model)"


def _of_nodes(where: Where) -> str:
    """The view of nodes for a Where, with its conditions: a row for each model only where the model matters."""
    return f"report.nodes_now WHERE {_GPUS}" if where.gpu_model else f"report.nodes WHERE {_AT}"


def _contains(column: str) -> str:
    """Whether a column contains the text to find. Not LIKE, whose signs would mean something."""
    return f"strpos(lower({column}), lower(CAST(:find AS text))) > 0"


def _found(state: NodeState | None) -> str:
    """Conditions on report.nodes of a Where, a text to find, and a state."""
    parts = [_NODES, f"(:find = '' OR {_contains('hostname')} OR {_contains('rack')})"]
    if state is not None:
        parts += ["state = :state", *([_IMPLIED[state]] if state in _IMPLIED else [])]
    return " AND ".join(parts)


def _values(where: Where) -> dict[str, Any]:
    return {
        "site": where.site,
        "rack": where.rack,
        "node_id": where.node_id,
        "gpu_model": where.gpu_model,
    }


def _all(connection: Connection, kind: type[T], sql: str, where: Where = EVERYTHING, **values: Any) -> list[T]:
    rows = connection.execute(text(sql), {**_values(where), **values})
    return [kind(**row._mapping) for row in rows]


def _not_too_many(found: list[T]) -> list[T]:
    if len(found) > MOST_AT_ONCE:
        raise TooMany(
            f"There are more than {MOST_AT_ONCE} rows", "Ask for a shorter period, a longer step, or less of the fleet"
        )
    return found


def _one(connection: Connection, kind: type[T], sql: str, where: Where = EVERYTHING, **values: Any) -> T | None:
    return next(iter(_all(connection, kind, sql, where, **values)), None)

"""Named reads over the views of schema report: the one read model of API, dashboard, alerts and reports.

Each takes a connection (of an engine with database.REPORT_ROLE) and returns frozen records; times are UTC,
units are in the names, and None is "not known", never zero. Formulas are in migrations/views/, not here.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar

from msgspec import Struct
from sqlalchemy import Connection, text

T = TypeVar("T", bound=Struct)
GroupBy = Literal["fleet", "site", "rack", "node", "gpu_model"]
GpuOrder = Literal["power", "temperature", "throttled", "utilisation", "place"]
STEPS_S = (10, 20, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400, 43_200, 86_400)
MOST_ROWS = 1_000_000
MOST_CHOICES = 1_000
MOST_LAG_S = {"1m": 300, "1h": 3_900, "1d": 86_700}
"""A level folded later than this, while newer windows are there, is behind: its bucket and minutes of grace."""

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
    racks: list[str]
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
    gpus: int
    gpus_reporting: int
    gpus_throttled: int
    gpu_models: list[str]
    power_w: float | None
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


class StoreRollup(Struct, frozen=True, kw_only=True):
    """How far windows are folded into one level."""

    level: Literal["1m", "1h", "1d"]
    closed: datetime | None
    folded: datetime | None
    """Buckets before it are folded; None: nothing was folded yet."""
    lag_s: float | None
    """Time since then."""
    behind_s: float | None
    """Time from then to the newest window."""
    dirty_buckets: int
    """Buckets of nodes that wait to be folded again for late data."""
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


def choices(connection: Connection, site: str | None = None) -> Choices:
    """What sites, racks of a site (of all sites, without one) and GPU models there are; up to MOST_CHOICES racks."""
    row = connection.execute(
        text("""
        SELECT
            ARRAY(SELECT DISTINCT site FROM report.nodes ORDER BY 1) AS sites,
            ARRAY(SELECT DISTINCT rack FROM report.nodes
                WHERE rack IS NOT NULL AND (CAST(:site AS text) IS NULL OR site = :site)
                ORDER BY 1 LIMIT :most) AS racks,
            ARRAY(SELECT DISTINCT gpu_model FROM report.nodes_now ORDER BY 1) AS gpu_models"""),
        {"site": site, "most": MOST_CHOICES},
    ).one()
    return Choices(**row._mapping)


def sites_now(connection: Connection) -> list[SiteNow]:
    """Sites as they are now."""
    return _all(
        connection,
        SiteNow,
        """
        SELECT site, coalesce(array_agg(DISTINCT rack) FILTER (WHERE rack IS NOT NULL), '{}') AS racks,
            count(*) AS nodes, count(*) FILTER (WHERE silent_s > 60) AS nodes_silent,
            coalesce(sum(now.gpus), 0)::bigint AS gpus, coalesce(sum(now.reporting), 0)::bigint AS gpus_reporting,
            sum(now.power_w) AS power_w, bool_or(simulated) AS simulated
        FROM report.nodes
        LEFT JOIN (
            SELECT node_id, sum(gpus) AS gpus, sum(gpus_reporting) AS reporting, sum(power_w) AS power_w
            FROM report.nodes_now GROUP BY node_id
        ) AS now USING (node_id)
        GROUP BY site ORDER BY site""",
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
            nodes.nodes, nodes.nodes_silent, nodes.nodes_clock_off,
            coalesce(sum(gpus) FILTER (WHERE simulated), 0)::bigint AS simulated_gpus,
            max(time) AS newest
        FROM (
            SELECT count(*) AS nodes, count(*) FILTER (WHERE silent_s > 60) AS nodes_silent,
                count(*) FILTER (WHERE NOT clock_ok) AS nodes_clock_off
            FROM report.nodes WHERE {_NODES}
        ) AS nodes
        LEFT JOIN report.nodes_now ON {_GPUS}
        GROUP BY nodes.nodes, nodes.nodes_silent, nodes.nodes_clock_off""",
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
) -> list[GpuNow]:
    """GPUs as they are now."""
    of_gpus, of_nodes = _GPU_ORDERS[order]
    return _all(
        connection,
        GpuNow,
        f"""
        SELECT * FROM report.fleet_now WHERE {_GPUS} AND node_id = ANY (ARRAY(
            SELECT node_id FROM report.nodes_now WHERE {_GPUS} ORDER BY {of_nodes}, node_id LIMIT :nodes))
        ORDER BY {of_gpus}, gpu_uuid LIMIT :limit OFFSET :offset""",
        where,
        nodes=limit + offset,
        limit=limit,
        offset=offset,
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
        FROM report.nodes_now WHERE {_GPUS} GROUP BY site, rack ORDER BY site, rack NULLS FIRST""",
        where,
    )


def nodes_now(
    connection: Connection,
    where: Where = EVERYTHING,
    *,
    silent: bool = False,
    clock_off: bool = False,
    limit: int = MOST_ROWS,
    offset: int = 0,
) -> list[NodeNow]:
    """Nodes as they are now.

    Args:
        connection: of the report role.
        where: what part of the fleet.
        silent: only those not heard of for 60 s, the longest silent first.
        clock_off: only those whose clock is off by more than 2 s.
        limit: rows at most.
        offset: rows to pass over.
    """
    return _all(
        connection,
        NodeNow,
        f"""
        SELECT nodes.node_id, nodes.hostname, nodes.machine_id, nodes.site, nodes.rack, nodes.simulated, nodes.labels,
            nodes.agent_version, nodes.driver_version, nodes.cuda_version, nodes.cpu_model, nodes.first_seen,
            nodes.last_seen, nodes.silent_s, nodes.clock_offset_s, nodes.clock_ok, nodes.gpus,
            coalesce(now.reporting, 0) AS gpus_reporting,
            coalesce(now.throttled, 0) AS gpus_throttled,
            coalesce(now.gpu_models, '{{}}') AS gpu_models,
            now.power_w, now.gpu_util_pct, now.gpu_temp_max_c
        FROM report.nodes
        LEFT JOIN (
            SELECT node_id, sum(gpus_reporting) AS reporting, sum(gpus_throttled) AS throttled,
                array_agg(gpu_model ORDER BY gpu_model) AS gpu_models, sum(power_w) AS power_w,
                sum(gpu_util_pct * gpu_util_gpus) / nullif(sum(gpu_util_gpus), 0) AS gpu_util_pct,
                max(gpu_temp_max_c) AS gpu_temp_max_c
            FROM report.nodes_now GROUP BY node_id
        ) AS now USING (node_id)
        WHERE (NOT :silent OR silent_s > 60) AND (NOT :clock_off OR NOT clock_ok) AND {_NODES}
            AND (CAST(:gpu_model AS text) IS NULL OR :gpu_model = ANY (now.gpu_models))
        ORDER BY CASE WHEN :silent THEN silent_s END DESC NULLS LAST, site, rack NULLS FIRST, hostname, node_id
        LIMIT :limit OFFSET :offset""",
        where,
        silent=silent,
        clock_off=clock_off,
        limit=limit,
        offset=offset,
    )


def node_now(connection: Connection, node_id: int) -> NodeNow | None:
    """One node as it is now; None: there is no such node."""
    return next(iter(nodes_now(connection, Where(node_id=node_id))), None)


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
) -> list[PowerPoint]:
    """Power over time of a part of the fleet, whole or by group."""
    return _all(
        connection,
        PowerPoint,
        """
        SELECT * FROM report.power_series(:start, :stop, :step, :group_by,
            CAST(:site AS text), CAST(:rack AS text), CAST(:node_id AS integer), CAST(:gpu_model AS text))""",
        where,
        start=start,
        stop=stop,
        step=step,
        group_by=group_by,
    )


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


def gpu_health(connection: Connection, where: Where = EVERYTHING, gpu_uuid: str | None = None) -> list[GpuHealthNow]:
    """Latest slow readings, the worst first."""
    return _all(
        connection,
        GpuHealthNow,
        f"""
        SELECT * FROM report.gpu_health WHERE {_GPUS} AND (CAST(:uuid AS text) IS NULL OR gpu_uuid = :uuid)
        ORDER BY array_position(ARRAY['failed', 'degraded', 'ok', 'unknown'], state), site, hostname, gpu_index""",
        where,
        uuid=gpu_uuid,
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
        SELECT * FROM report.events
        WHERE time >= :start AND time < :stop AND {_NODES}
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
    """Energy by GPU and hour."""
    return _all(
        connection,
        EnergyHour,
        f"""
        SELECT time, site, rack, node_id, hostname, simulated, gpu_uuid, gpu_index, gpu_model,
            energy_j::double precision, energy_counter_j::double precision, energy_interpolated_j::double precision,
            energy_integrated_j::double precision, energy_estimated_j::double precision, covered_s::double precision,
            coverage
        FROM report.energy_hourly WHERE time >= :start AND time < :stop AND {_GPUS}
        ORDER BY time, site, hostname, gpu_index""",
        where,
        start=start,
        stop=stop,
    )


def store_rollups(connection: Connection) -> list[StoreRollup]:
    """How far each level is folded, the finest first."""
    return _all(
        connection,
        StoreRollup,
        "SELECT * FROM report.store_rollups ORDER BY array_position(ARRAY['1m', '1h', '1d'], level)",
    )


def store_tables(connection: Connection) -> list[StoreTable]:
    """Tables with their sizes, the largest first."""
    return _all(connection, StoreTable, "SELECT * FROM report.store_tables ORDER BY total_bytes DESC, table_name")


def store_jobs(connection: Connection) -> list[StoreJob]:
    """The last run of each job."""
    return _all(connection, StoreJob, "SELECT * FROM report.store_jobs ORDER BY name")


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
    windows = next(it for it in status.tables if it.table_name == "gpu_window")
    asked = "Does gigawatch serve run, with server.scheduler on?"
    if is_behind(minutes):
        problems.append(f"Newer windows than {minutes.folded:%Y-%m-%d %H:%M} UTC are not folded into minutes. {asked}")
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


# Conditions of a Where, on a view of nodes and on one of GPUs.
_NODES = """(CAST(:site AS text) IS NULL OR site = :site) AND (CAST(:rack AS text) IS NULL OR rack = :rack)
    AND (CAST(:node_id AS integer) IS NULL OR node_id = :node_id)"""
_GPUS = f"{_NODES} AND (CAST(:gpu_model AS text) IS NULL OR gpu_model = :gpu_model)"


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


def _one(connection: Connection, kind: type[T], sql: str, where: Where = EVERYTHING, **values: Any) -> T | None:
    return next(iter(_all(connection, kind, sql, where, **values)), None)

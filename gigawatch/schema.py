"""Tables of the store. Views over them are in migrations/views/; people query those, not these tables.

Facts hold integers in small units (mJ, mW, °C, MHz, per mille) where the sensor gives no more: they are
narrower than reals and compress far better. Nothing is stored twice: mean power over a window is its energy
over its covered time, and power_mean_mw is the polled mean, which is another measurement.

One row of gpu_window and of its rollups holds all GPUs of a node, each metric an array with a place (slot) for
each GPU; gpu_slot says which GPU that is. An array of one element stands for all of the row's slots. Against
a row for each GPU this takes fewer bytes and an eighth of the index's entries (docs/architecture.md). Views
in schema `expanded` turn it into a row for each GPU.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Connection,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    Numeric,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON, JSONB, ExcludeConstraint
from sqlalchemy.schema import SchemaItem

from gigawatch.errors import ExitCode, GigawatchError

REVISION = "0009"
"""The newest file in migrations/versions/."""

metadata = MetaData(
    schema="gigawatch",
    naming_convention={
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s_check",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "pk": "%(table_name)s_pkey",
    },
)

Time = DateTime(timezone=True)

site = Table(
    "site",
    metadata,
    Column("site_id", Integer, Identity(), primary_key=True),
    Column(
        "name",
        Text,
        nullable=False,
        unique=True,
        comment="Name of the site, from the agents' configuration",
    ),
    comment="A place with its own electricity supply",
)

hall = Table(
    "hall",
    metadata,
    Column("hall_id", Integer, Identity(), primary_key=True),
    Column("site_id", ForeignKey(site.c.site_id), nullable=False),
    Column("name", Text, nullable=False, comment="Name of the hall within its site"),
    UniqueConstraint("site_id", "name"),
    comment="A hall of a site, from the topology",
)

rack = Table(
    "rack",
    metadata,
    Column("rack_id", Integer, Identity(), primary_key=True),
    Column("site_id", ForeignKey(site.c.site_id), nullable=False),
    Column("name", Text, nullable=False, comment="Name of the rack within its site"),
    Column("hall_id", ForeignKey(hall.c.hall_id), comment="Where it stands; absent where the topology does not say"),
    Column("row", Text, comment="Row of its hall"),
    UniqueConstraint("site_id", "name"),
    comment="A rack of a site",
)

node = Table(
    "node",
    metadata,
    Column("node_id", Integer, Identity(), primary_key=True),
    Column(
        "machine_id",
        Text,
        nullable=False,
        unique=True,
        comment="The machine's own lasting identity",
    ),
    Column("site_id", ForeignKey(site.c.site_id), nullable=False),
    Column(
        "rack_id",
        ForeignKey(rack.c.rack_id),
        comment="Absent where the agent's configuration names none",
    ),
    Column("hostname", Text, nullable=False, comment="Host name"),
    Column(
        "simulated",
        Boolean,
        nullable=False,
        server_default="false",
        comment="Whether its data are simulated or replayed",
    ),
    Column(
        "labels",
        JSONB,
        nullable=False,
        server_default="{}",
        comment="Labels from the agent's configuration",
    ),
    Column("agent_version", Text, comment="Version of the agent"),
    Column("driver_version", Text, comment="Version of the NVIDIA driver; absent where there is none"),
    Column("cuda_version", Text, comment="Version of CUDA that the driver supports"),
    Column("nvml_version", Text, comment="Version of NVML"),
    Column("cpu_model", Text, comment="Model of the CPU"),
    Column(
        "first_seen",
        Time,
        nullable=False,
        server_default=func.now(),
        comment="When the server first heard of it",
    ),
    comment="A server with an agent",
)

node_now = Table(
    "node_now",
    metadata,
    Column("node_id", ForeignKey(node.c.node_id), primary_key=True, autoincrement=False),
    Column("last_seen", Time, nullable=False, comment="When the server last stored a batch of it"),
    Column(
        "clock_offset_ms",
        Integer,
        nullable=False,
        comment="Node's clock minus the server's when the last batch arrived, ms",
    ),
    # The first three as its row in node says: sums over the fleet read one table, where a join took four times as long.
    Column("site_id", Integer, nullable=False, comment="Its site"),
    Column("rack_id", Integer, comment="Its rack; absent where the agent's configuration names none"),
    Column("simulated", Boolean, nullable=False, comment="Whether its data are simulated or replayed"),
    Column("gpus_expected", SmallInteger, nullable=False, server_default="0", comment="Physical GPUs that it has now"),
    Column("gpu_model", Text, comment="Model of its GPUs; absent where it has none, or several models"),
    Column("temp_slowdown_c", SmallInteger, comment="Least temperature at which one of its GPUs slows down, °C"),
    Column("time", Time, comment="Start of its newest window; the columns below are of that window"),
    Column("gpus", SmallInteger, comment="GPUs with a window"),
    Column("gpus_throttled", SmallInteger, comment="GPUs held down by power cap, slowdown or brake"),
    Column("power_mw", BigInteger, comment="Sum of the GPUs' energy over covered time, mW"),
    Column("power_limit_mw", BigInteger, comment="Sum of the GPUs' enforced power limits, mW"),
    Column("gpu_util_pm", Integer, comment="Sum of the GPUs' utilisation, per mille"),
    Column("gpu_util_gpus", SmallInteger, comment="GPUs in that sum"),
    Column("gpu_temp_max_c", SmallInteger, comment="Greatest GPU temperature, °C"),
    Column("gpu_power_max_mw", Integer, comment="Greatest power of one of the GPUs, mW"),
    Column("gpu_util_max_pm", SmallInteger, comment="Greatest utilisation of one of the GPUs, per mille"),
    Column("clock_event_reasons", BigInteger, comment="Union of the GPUs' clock-event bits"),
    Column("mem_temp_max_c", SmallInteger, comment="Greatest memory temperature, °C"),
    Column("told_until", Time, comment="End of its newest window of the node itself"),
    # Written once a window for each node: room on the page keeps the new version beside the old one.
    postgresql_with={"fillfactor": 50},
    comment="Each node as it is now; written with its windows, so that pages need not look for the newest",
)

gpu = Table(
    "gpu",
    metadata,
    Column("gpu_id", Integer, Identity(), primary_key=True),
    Column("node_id", ForeignKey(node.c.node_id), nullable=False, index=True),
    Column("uuid", Text, nullable=False, unique=True, comment="UUID of the physical GPU"),
    Column("index", SmallInteger, comment="Index on its node"),
    Column(
        "model",
        Text,
        nullable=False,
        server_default="unknown",
        comment="Model, as the driver names it",
    ),
    Column("serial", Text, comment="Serial number"),
    Column("pci_bus_id", Text, comment="PCI address"),
    Column("vbios_version", Text, comment="Version of the video BIOS"),
    Column("mem_total_mib", Integer, comment="Memory, MiB"),
    Column("power_limit_mw", Integer, comment="Enforced power limit, mW"),
    Column("power_limit_default_mw", Integer, comment="Default power limit, mW"),
    Column("power_limit_min_mw", Integer, comment="Least power limit that can be set, mW"),
    Column("power_limit_max_mw", Integer, comment="Greatest power limit that can be set, mW"),
    Column("temp_slowdown_c", SmallInteger, comment="Temperature at which the GPU slows down, °C"),
    Column("temp_shutdown_c", SmallInteger, comment="Temperature at which the GPU shuts down, °C"),
    Column(
        "energy_counter",
        Boolean,
        nullable=False,
        server_default="true",
        comment="Whether it has an energy counter",
    ),
    Column("power_scope", Text, comment="gpu, or module where the sensor covers a CPU as well"),
    Column("mig_enabled", Boolean, comment="Whether MIG is on; absent where the GPU cannot"),
    Column(
        "mig_instances",
        JSONB,
        nullable=False,
        server_default="[]",
        comment="MIG devices: uuid, ids, profile, memory",
    ),
    Column("removed", Time, comment="When its node was last seen without it; absent while it is there"),
    comment="A physical GPU",
)

gpu_slot = Table(
    "gpu_slot",
    metadata,
    Column("node_id", ForeignKey(node.c.node_id), primary_key=True, autoincrement=False),
    Column("slot", SmallInteger, primary_key=True, autoincrement=False, comment="Place in the node's arrays, from 1"),
    Column("gpu_id", ForeignKey(gpu.c.gpu_id), nullable=False),
    # A GPU that moves gets a slot on its new node and keeps the old: what it used stays where it was used.
    UniqueConstraint("gpu_id", "node_id"),
    comment="Which GPU each element of a node's arrays is about",
)


def _of_gpus(name: str, kind: type[Integer] | type[SmallInteger] | type[BigInteger], comment: str) -> Column[Any]:
    """A metric of a node's GPUs, by slot."""
    return Column(name, ARRAY(kind), comment=f"{comment}; by slot")


gpu_window = Table(
    "gpu_window",
    metadata,
    Column("time", Time, nullable=False, comment="Start of the window"),
    Column("node_id", Integer, nullable=False),
    Column("covered_ms", Integer, nullable=False, comment="Time for which the energy is known, ms"),
    Column("slots", SmallInteger, nullable=False, comment="Slots of the node that the arrays are about, from 1 on"),
    Column("ticks_taken", SmallInteger, nullable=False, comment="Readings taken"),
    Column("ticks_expected", SmallInteger, nullable=False, comment="Readings due"),
    Column(
        "energy_method",
        SmallInteger,
        nullable=False,
        comment="0 no energy, 1 counter, 2 interpolated, 3 integrated, 4 estimated; the weakest used",
    ),
    Column(
        "each",
        ARRAY(Integer, dimensions=2),
        comment="By slot: covered_ms (0: no window), ticks_taken, ticks_expected, energy_method; absent where all"
        " slots are as the columns say",
    ),
    _of_gpus("energy_mj", Integer, "Energy over covered_ms, mJ"),
    _of_gpus("power_mean_mw", Integer, "Mean of the polled power, mW"),
    _of_gpus("power_min_mw", Integer, "Least polled power, mW"),
    _of_gpus("power_max_mw", Integer, "Greatest polled power, mW"),
    _of_gpus("power_limit_mw", Integer, "Enforced power limit at the last tick, mW"),
    _of_gpus("mem_used_mib", Integer, "Greatest memory in use, MiB"),
    _of_gpus("gpu_util_pm", SmallInteger, "Mean GPU utilisation, per mille"),
    _of_gpus("mem_util_pm", SmallInteger, "Mean memory-controller utilisation, per mille"),
    _of_gpus("gpu_temp_max_c", SmallInteger, "Greatest GPU temperature, °C"),
    _of_gpus("mem_temp_max_c", SmallInteger, "Greatest memory temperature, °C"),
    _of_gpus("sm_clock_mhz", SmallInteger, "Mean SM clock, MHz"),
    _of_gpus("mem_clock_mhz", SmallInteger, "Mean memory clock, MHz"),
    _of_gpus("fan_pct", SmallInteger, "Fan speed at the last tick, % of the maximum intended"),
    _of_gpus("clock_event_reasons", BigInteger, "Union of NVML's clock-event bits over the ticks"),
    _of_gpus("pcie_tx_kib", BigInteger, "Sent over PCIe, KiB"),
    _of_gpus("pcie_rx_kib", BigInteger, "Received over PCIe, KiB"),
    _of_gpus("nvlink_tx_kib", BigInteger, "Sent over NVLink, KiB"),
    _of_gpus("nvlink_rx_kib", BigInteger, "Received over NVLink, KiB"),
    _of_gpus("assignment_id", Integer, "What it served: a row of assignment; absent where it served nothing"),
    # By node first: a series reads one range, and the same index makes a window twice impossible.
    Index("gpu_window_node_id_time_idx", "node_id", "time", unique=True),
    Index("gpu_window_time_idx", "time", postgresql_using="brin", postgresql_with={"pages_per_range": 32}),
    comment="What the GPUs of one node did in one window",
)

node_window = Table(
    "node_window",
    metadata,
    Column("time", Time, nullable=False, comment="Start of the window"),
    Column("node_id", Integer, nullable=False),
    Column("covered_ms", Integer, nullable=False, comment="Length of the window, ms"),
    Column("tick_ms", Integer, nullable=False, comment="Interval of the ticks, ms"),
    Column("ticks_taken", SmallInteger, nullable=False, comment="Readings taken"),
    Column("ticks_expected", SmallInteger, nullable=False, comment="Readings due"),
    Column("gpus_read", SmallInteger, nullable=False, comment="GPUs that answered at the last tick"),
    Column("gpus_expected", SmallInteger, nullable=False, comment="GPUs that the node is known to have"),
    Column(
        "gpu_power_mw",
        ARRAY(Integer),
        nullable=False,
        comment="Sum of the GPUs' power at each tick due, mW; NULL where one is missing",
    ),
    Column("cpu_energy_mj", BigInteger, comment="Energy of the CPU packages by RAPL, mJ"),
    Column("dram_energy_mj", BigInteger, comment="Energy of the memory by RAPL, mJ"),
    Column("node_power_mean_mw", Integer, comment="Mean power of the whole node by hwmon, mW"),
    Column("node_power_max_mw", Integer, comment="Greatest power of the whole node by hwmon, mW"),
    Column(
        "rejected_readings",
        BigInteger,
        nullable=False,
        comment="Energy counter readings refused as impossible",
    ),
    Index("node_window_node_id_time_idx", "node_id", "time", unique=True),
    Index(
        "node_window_time_idx",
        "time",
        postgresql_using="brin",
        postgresql_with={"pages_per_range": 32},
    ),
    comment="What one node did in one window, with its GPUs' total power tick by tick",
)

deployment = Table(
    "deployment",
    metadata,
    Column("deployment_id", Integer, Identity(), primary_key=True),
    Column("name", Text, nullable=False, comment="Name, from the agents' configuration or from what they found"),
    Column("role", Text, nullable=False, comment="both, or prefill or decode where these run apart"),
    UniqueConstraint("name", "role"),
    CheckConstraint("role IN ('both', 'prefill', 'decode')", name="role"),
    comment="What GPUs serve: a deployment, or one role of it",
)

assignment = Table(
    "assignment",
    metadata,
    Column("assignment_id", Integer, Identity(), primary_key=True),
    Column(
        "deployment_ids",
        ARRAY(Integer),
        nullable=False,
        comment="Deployments; several where they share a GPU at the same time",
    ),
    Column(
        "endpoints",
        ARRAY(Text),
        nullable=False,
        comment="For each, the engine on the same node that the GPU works for; empty where that is on another node",
    ),
    UniqueConstraint("deployment_ids", "endpoints"),
    comment="What a GPU serves at one time",
)

latency_bounds = Table(
    "latency_bounds",
    metadata,
    Column("bounds_id", Integer, Identity(), primary_key=True),
    Column("bounds_us", ARRAY(BigInteger), nullable=False, unique=True, comment="Greatest latency of each bucket, µs"),
    comment="Buckets of engines' histograms, all but the last, which has no bound",
)


def _served(*key: Column[Any]) -> list[Column[Any]]:
    """What engines counted in a window or bucket."""
    return [
        *key,
        Column("covered_ms", BigInteger, nullable=False, comment="Time for which the counts are known, ms"),
        Column("observed_ms", BigInteger, nullable=False, comment="Part of it that was not spread over a gap, ms"),
        Column("scrapes_taken", Integer, nullable=False, comment="Readings taken"),
        Column("scrapes_expected", Integer, nullable=False, comment="Readings due"),
        Column("prompt_tokens", BigInteger, comment="Tokens of prompts"),
        Column("cached_tokens", BigInteger, comment="Tokens of prompts that came from the cache"),
        Column("generated_tokens", BigInteger, comment="Tokens of answers"),
        Column("requests_finished", BigInteger, comment="Requests that ended"),
        Column("running_request_ms", BigInteger, comment="Running requests times observed time, ms"),
        Column("waiting_request_ms", BigInteger, comment="Waiting requests times observed time, ms"),
        Column("running_requests_max", BigInteger, comment="Most running requests"),
        Column("active_ms", BigInteger, comment="Observed time with a request running, ms"),
        Column("kv_cache_use_max_pm", SmallInteger, comment="Greatest use of the KV cache, per mille"),
    ]


LATENCIES = ("time_to_first_token", "inter_token_latency", "end_to_end_latency")

serving_window = Table(
    "serving_window",
    metadata,
    *_served(
        Column("time", Time, nullable=False, comment="Start of the window"),
        Column("node_id", Integer, nullable=False, comment="Node whose agent read it"),
        Column("deployment_id", Integer, nullable=False),
        Column("endpoint", Text, nullable=False, comment="Host and port that were read"),
        Column("engine", Text, nullable=False, comment="Engine: vllm, sglang, …"),
        Column("model", Text, nullable=False, comment="Model, as the engine names it; empty where it does not"),
    ),
    *(
        column
        for latency in LATENCIES
        for column in (
            Column(f"{latency}_bounds_id", Integer, comment=f"Buckets of {latency}_counts"),
            Column(f"{latency}_counts", ARRAY(BigInteger), comment="How many lie in each bucket; the last, above all"),
        )
    ),
    Index("serving_window_key_idx", "node_id", "time", "deployment_id", "endpoint", "engine", "model", unique=True),
    Index("serving_window_deployment_id_time_idx", "deployment_id", "time"),
    Index("serving_window_time_idx", "time", postgresql_using="brin", postgresql_with={"pages_per_range": 32}),
    comment="What one inference engine served of one model in one window",
)


def _used(*key: Column[Any]) -> list[Column[Any]]:
    """What GPUs used for a deployment in a bucket."""
    return [
        *key,
        Column("expected_ms", BigInteger, nullable=False, comment="GPU-time that it had, silent GPUs too, ms"),
        Column("covered_ms", BigInteger, nullable=False, comment="GPU-time with windows, ms"),
        Column("energy_mj", BigInteger, nullable=False, comment="Energy, mJ"),
        Column("energy_ms", BigInteger, nullable=False, comment="GPU-time for which the energy is known, ms"),
        Column("energy_interpolated_mj", BigInteger, nullable=False, comment="Part interpolated over gaps, mJ"),
        Column("energy_integrated_mj", BigInteger, nullable=False, comment="Part integrated from polled power, mJ"),
        Column("energy_estimated_mj", BigInteger, nullable=False, comment="Part estimated over counter resets, mJ"),
        Column("energy_shared_mj", BigInteger, nullable=False, comment="Part split evenly among several, mJ"),
        Column("host_mj", BigInteger, nullable=False, comment="Share of the metered hosts' own energy, mJ"),
        Column("host_ms", BigInteger, nullable=False, comment="GPU-time for which that is known, ms"),
        Column("observed_mj", BigInteger, nullable=False, comment="Part whose engine was observed, mJ"),
        Column("active_mj", BigInteger, nullable=False, comment="Part of that while requests ran, mJ"),
    ]


assigned_1m = Table(
    "assigned_1m",
    metadata,
    *_used(
        Column("time", Time, nullable=False, comment="Start of the minute"),
        Column("node_id", Integer, nullable=False),
        Column("deployment_id", Integer, nullable=False),
        Column("endpoint", Text, nullable=False, comment="As in assignment"),
        Column("site_id", Integer, nullable=False, comment="Where the node was when the minute was first folded"),
        Column("gpu_model", Text, nullable=False, comment="Model of the GPUs"),
        Column("slots", ARRAY(SmallInteger), nullable=False, comment="The GPUs' slots"),
        Column(
            "silent_min",
            SmallInteger,
            nullable=False,
            comment="Minutes without a window of these GPUs, which served it before; 0: they have some",
        ),
    ),
    Index("assigned_1m_node_id_time_idx", "node_id", "time"),
    Index("assigned_1m_deployment_id_time_idx", "deployment_id", "time"),
    Index("assigned_1m_time_idx", "time", postgresql_using="brin", postgresql_with={"pages_per_range": 32}),
    comment="What the GPUs of one node used for one deployment in a minute; kept as long as windows are",
)

deployment_node = Table(
    "deployment_node",
    metadata,
    Column("node_id", Integer, primary_key=True, autoincrement=False),
    Column("deployment_id", Integer, primary_key=True, autoincrement=False),
    Column("first_seen", Time, nullable=False, comment="Start of the first minute that it was heard of on the node"),
    Column("first_token", Time, comment="Start of the first window with a generated token; absent before"),
    comment="When each node began to serve a deployment",
)

gpu_health = Table(
    "gpu_health",
    metadata,
    Column("time", Time, nullable=False, comment="When it was read"),
    Column("gpu_id", Integer, nullable=False),
    Column(
        "ecc_volatile_corrected",
        BigInteger,
        comment="Corrected memory errors since the driver was loaded",
    ),
    Column(
        "ecc_volatile_uncorrected",
        BigInteger,
        comment="Uncorrected memory errors since the driver was loaded",
    ),
    Column("ecc_aggregate_corrected", BigInteger, comment="Corrected memory errors in the GPU's life"),
    Column(
        "ecc_aggregate_uncorrected",
        BigInteger,
        comment="Uncorrected memory errors in the GPU's life",
    ),
    Column("rows_remapped_corrected", BigInteger, comment="Rows remapped for corrected errors"),
    Column("rows_remapped_uncorrected", BigInteger, comment="Rows remapped for uncorrected errors"),
    Column("row_remap_pending", Boolean, comment="A row remap waits for a GPU reset"),
    Column("row_remap_failed", Boolean, comment="A row remap failed: the GPU is to be replaced"),
    Column("pages_retired", BigInteger, comment="Memory pages retired"),
    Column("page_retirement_pending", Boolean, comment="A page retirement waits for a reboot"),
    Column("pcie_replays", BigInteger, comment="PCIe replays"),
    Column("performance_state", SmallInteger, comment="P-state, 0 the fastest"),
    Column("processes", JSONB, comment="Processes that hold memory of the GPU: pid, name, mem_used_mib"),
    Index("gpu_health_gpu_id_time_idx", "gpu_id", "time", unique=True),
    # Rules look for the few that are not well each minute.
    Index(
        "gpu_health_ill_idx",
        "time",
        postgresql_where=text(
            "row_remap_failed OR row_remap_pending OR page_retirement_pending OR ecc_volatile_uncorrected > 0"
        ),
    ),
    comment="What is read slowly of a GPU, stored when it changed and once an hour",
)

event = Table(
    "event",
    metadata,
    Column("time", Time, nullable=False, comment="When it happened"),
    Column("node_id", Integer, nullable=False),
    Column("gpu_id", Integer, comment="Absent where the event is about the whole node"),
    Column(
        "kind",
        Text,
        nullable=False,
        comment="xid, gpu_lost, gpu_back, …: docs/events.md lists them",
    ),
    Column("severity", Text, nullable=False, comment="info, warning or critical"),
    Column("code", Integer, comment="The XID, for kind xid"),
    Column("message", Text, nullable=False, comment="What happened, in words"),
    Column(
        "received",
        Time,
        server_default=func.now(),
        comment="When the server stored it; absent where it is older than this column",
    ),
    Index("event_time_idx", "time"),
    Index("event_received_idx", "received"),
    Index("event_node_id_time_idx", "node_id", "time"),
    Index("event_gpu_id_time_idx", "gpu_id", "time"),
    CheckConstraint("severity IN ('info', 'warning', 'critical')", name="severity"),
    comment="Something that happened on a node",
)

ingest_cursor = Table(
    "ingest_cursor",
    metadata,
    Column("spool_id", Text, primary_key=True, comment="Identity of an agent's spool"),
    Column("node_id", ForeignKey(node.c.node_id), nullable=False),
    Column("next_seq", BigInteger, nullable=False, comment="Number of the batch that is taken next"),
    Column("updated", Time, nullable=False, server_default=func.now()),
    # As node_now.
    postgresql_with={"fillfactor": 50},
    comment="How far each spool is stored; committed with the rows of its batch",
)

api_token = Table(
    "api_token",
    metadata,
    Column("token_id", Integer, Identity(), primary_key=True),
    Column("name", Text, nullable=False, unique=True, comment="Who or what holds it"),
    Column(
        "role",
        Text,
        nullable=False,
        comment="agent may send, viewer read, operator also silence and acknowledge alerts, admin do all",
    ),
    Column(
        "secret_sha256",
        Text,
        nullable=False,
        unique=True,
        comment="SHA-256 of the secret, which is 256 random bits",
    ),
    Column("created", Time, nullable=False, server_default=func.now()),
    Column("revoked", Time, comment="When it was revoked; absent while it is good"),
    CheckConstraint("role IN ('agent', 'viewer', 'operator', 'admin')", name="role"),
    comment="Tokens of the API, hashed",
)

factor_import = Table(
    "factor_import",
    metadata,
    Column("import_id", Integer, Identity(), primary_key=True),
    Column("site_id", ForeignKey(site.c.site_id), nullable=False),
    Column("source", Text, nullable=False, comment="Where the values come from"),
    Column("version", Text, nullable=False, comment="Version of the source; by default the file's SHA-256, 12 digits"),
    Column("imported", Time, nullable=False, server_default=func.now(), comment="When they were taken in"),
    comment="Prices, grid intensities or configured PUE that were taken in at once",
)


def _factor(name: str, *columns: SchemaItem, kinds: Mapping[str, str], comment: str) -> Table:
    """Values of sites over time, of which no two of a kind count at the same moment.

    A site's number is compared as a range, so that the constraints need no extension.
    """
    return Table(
        name,
        metadata,
        Column("import_id", ForeignKey(factor_import.c.import_id), nullable=False),
        Column("site_id", ForeignKey(site.c.site_id), nullable=False),
        Column("start", Time, nullable=False, comment="From this moment on; a whole minute"),
        Column("stop", Time, nullable=False, comment="Up to this moment, which is not part of it; a whole minute"),
        *columns,
        Column("retired", Time, comment="When it was replaced or removed; absent while it counts"),
        Index(f"{name}_stop_idx", "stop"),
        CheckConstraint("start < stop", name="start"),
        CheckConstraint(
            "date_bin('00:01:00', start, '2000-01-01 00:00:00+00') = start"
            " AND date_bin('00:01:00', stop, '2000-01-01 00:00:00+00') = stop",
            name="minutes",
        ),
        *(
            ExcludeConstraint(
                (text("int4range(site_id, site_id, '[]')"), "&&"),
                (text("tstzrange(start, stop)"), "&&"),
                where=text(f"retired IS NULL{condition}"),
                name=f"{name}_{kind}_excl",
            )
            for kind, condition in kinds.items()
        ),
        Index(f"{name}_import_id_idx", "import_id"),
        comment=comment,
    )


tariff = _factor(
    "tariff",
    Column("price_per_kwh", Numeric, nullable=False, comment="Price, in the currency per kWh; may be below 0"),
    Column("currency", Text, nullable=False, comment="ISO 4217 code"),
    CheckConstraint("currency ~ '^[A-Z]{3}$'", name="currency"),
    kinds={"time": ""},
    comment="Price of a site's energy over time",
)

grid_intensity = _factor(
    "grid_intensity",
    Column("method", Text, nullable=False, comment="location: of the grid; market: of what was bought"),
    Column("instrument", Text, comment="What was bought, for method market: guarantees of origin, a PPA, …"),
    Column("g_per_kwh", Numeric, nullable=False, comment="Carbon intensity, gCO2e/kWh"),
    Column("estimated", Boolean, nullable=False, comment="Whether the source calls the value an estimate"),
    CheckConstraint("method IN ('location', 'market')", name="method"),
    CheckConstraint("(method = 'market') = (instrument IS NOT NULL)", name="instrument"),
    CheckConstraint("g_per_kwh >= 0", name="g_per_kwh"),
    kinds={"location": " AND method = 'location'", "market": " AND method = 'market'"},
    comment="Carbon intensity of a site's energy over time, by each method of accounting",
)

configured_pue = _factor(
    "configured_pue",
    Column("pue", Numeric, nullable=False, comment="Energy of the facility over that of its IT equipment"),
    CheckConstraint("pue BETWEEN 1 AND 5", name="pue"),
    kinds={"time": ""},
    comment="PUE of a site over time as somebody configured it; not measured",
)

METER_ROLES = (
    "utility",
    "generation",
    "fuel",
    "ups_in",
    "ups_out",
    "pdu",
    "it",
    "cooling",
    "pump",
    "lighting",
    "water",
    "heat_reuse",
    "heat_removed",
    "temperature",
    "other",
)
"""What a meter counts. Sources of a site's energy come first; the last five but one count no electricity."""

meter = Table(
    "meter",
    metadata,
    Column("meter_id", Integer, Identity(), primary_key=True),
    Column("site_id", ForeignKey(site.c.site_id), nullable=False),
    Column("name", Text, nullable=False, comment="Name of the meter within its site"),
    Column("role", Text, comment="What it counts; absent where the topology does not know it: it is in no figure"),
    Column("virtual", Boolean, nullable=False, server_default="false", comment="Whether it is a sum of others"),
    Column("hall_id", ForeignKey(hall.c.hall_id), comment="Hall that it is of; absent where it is of the whole site"),
    Column("node", Text, comment="Host name of the node whose power it measures"),
    Column("feed", Text, comment="Of redundant feeds, which: A or B"),
    Column("rated_mw", BigInteger, comment="Most power that can flow through it, mW"),
    Column("breaker_ma", BigInteger, comment="Rating of its breaker, mA"),
    Column("contract_mw", BigInteger, comment="Most power by contract, mW"),
    Column("fuel_j_per_l", BigInteger, comment="Energy of a litre of fuel, J"),
    Column("potable", Boolean, comment="Of a water meter, whether it is drinking water; absent where nobody said"),
    Column("fresh", Boolean, comment="Of a water meter, whether it is fresh water; absent where nobody said"),
    Column("backup", Boolean, nullable=False, server_default="false", comment="Whether it is a backup generator's"),
    Column("since", Time, comment="Figures want it from this moment on; absent: always"),
    Column("until", Time, comment="Up to this moment; absent: for ever"),
    Column("simulated", Boolean, nullable=False, server_default="false", comment="Whether its data are simulated"),
    Column("node_id", ForeignKey(node.c.node_id), comment="Whose agent read it last; absent where none did"),
    Column("last_seen", Time, comment="When the server last stored a window of it"),
    UniqueConstraint("site_id", "name"),
    CheckConstraint(f"role IN {METER_ROLES}", name="role"),
    CheckConstraint("feed IN ('A', 'B')", name="feed"),
    # Written with its windows.
    postgresql_with={"fillfactor": 50},
    comment="A meter of a site's facility",
)

meter_window = Table(
    "meter_window",
    metadata,
    Column("time", Time, nullable=False, comment="Start of the window"),
    Column("meter_id", Integer, nullable=False),
    Column("covered_ms", Integer, nullable=False, comment="Time for which energy or volume is known, ms"),
    Column("readings_taken", SmallInteger, nullable=False, comment="Readings taken"),
    Column("readings_expected", SmallInteger, nullable=False, comment="Readings due"),
    Column(
        "energy_method", SmallInteger, comment="1 register, 2 interpolated, 3 integrated, 4 estimated; the weakest used"
    ),
    Column("energy_mj", BigInteger, comment="Electricity, or of a heat meter heat, mJ"),
    Column("power_mean_mw", BigInteger, comment="Mean of the polled power, mW; below 0 it flows the other way"),
    Column("power_min_mw", BigInteger, comment="Least polled power, mW"),
    Column("power_max_mw", BigInteger, comment="Greatest polled power, mW"),
    Column("current_max_ma", BigInteger, comment="Greatest current of a phase, mA"),
    Column("volume_ml", BigInteger, comment="Water or fuel, mL"),
    Column("temp_mean_mc", Integer, comment="Mean temperature, thousandths of 1 °C"),
    Column("rejected_readings", BigInteger, nullable=False, comment="Readings refused as impossible"),
    Column("doubt", SmallInteger, comment="Why not all energy is told: 1 register stands still, 2 power is reversed"),
    Index("meter_window_meter_id_time_idx", "meter_id", "time", unique=True),
    Index("meter_window_time_idx", "time", postgresql_using="brin", postgresql_with={"pages_per_range": 32}),
    comment="What one meter counted in one window",
)

meter_feed = Table(
    "meter_feed",
    metadata,
    Column("meter_id", ForeignKey(meter.c.meter_id), primary_key=True, comment="Upstream"),
    Column("fed_id", ForeignKey(meter.c.meter_id), primary_key=True, comment="Downstream", index=True),
    comment="Which meter's energy goes on through which others",
)

meter_rack = Table(
    "meter_rack",
    metadata,
    Column("meter_id", ForeignKey(meter.c.meter_id), primary_key=True),
    Column("rack_id", ForeignKey(rack.c.rack_id), primary_key=True, index=True),
    comment="Which racks a meter feeds",
)

meter_term = Table(
    "meter_term",
    metadata,
    Column("meter_id", ForeignKey(meter.c.meter_id), primary_key=True, comment="The virtual meter"),
    Column("term_id", ForeignKey(meter.c.meter_id), primary_key=True, comment="One that is added or subtracted"),
    Column("sign", SmallInteger, nullable=False, comment="1 added, -1 subtracted"),
    CheckConstraint("sign IN (1, -1)", name="sign"),
    comment="What a virtual meter is the sum of",
)

power_budget = Table(
    "power_budget",
    metadata,
    Column("site_id", ForeignKey(site.c.site_id), nullable=False),
    Column("scope", Text, nullable=False, comment="site, hall, row or rack"),
    Column("name", Text, nullable=False, comment="Of what; a row's is HALL/ROW"),
    Column("budget_mw", BigInteger, nullable=False, comment="Power that it may draw, mW"),
    UniqueConstraint("site_id", "scope", "name"),
    CheckConstraint("scope IN ('site', 'hall', 'row', 'rack')", name="scope"),
    comment="Power that parts of a site may draw, from the topology",
)

topology = Table(
    "topology",
    metadata,
    Column("topology_id", Integer, Identity(), primary_key=True),
    Column("site_id", ForeignKey(site.c.site_id), nullable=False, index=True),
    Column("applied", Time, nullable=False, server_default=func.now(), comment="When it came into force"),
    Column("source", Text, nullable=False, comment="The file's name"),
    Column("sha256", Text, nullable=False, comment="Of the file"),
    # In the order in which it was written, which JSONB forgets.
    Column("document", JSON, nullable=False, comment="The site as it was declared"),
    comment="Each site's halls, racks and meters as they were declared, the newest in force",
)

LEVELS: Mapping[str, timedelta] = {"1m": timedelta(minutes=1), "1h": timedelta(hours=1), "1d": timedelta(days=1)}
"""Rollups and how long their buckets are; each is folded from the one before, the first from the windows."""


def _gpu_rollup(level: str) -> Table:
    """What the GPUs of one node did in a bucket: sums, extremes and unions, never means."""
    sum_kind = Integer if level == "1m" else BigInteger
    return Table(
        f"gpu_{level}",
        metadata,
        Column("time", Time, nullable=False, comment="Start of the bucket"),
        Column("node_id", Integer, nullable=False),
        Column("site_id", Integer, nullable=False, comment="Where the node was when the bucket was first folded"),
        Column("rack_id", Integer),
        Column("slots", SmallInteger, nullable=False, comment="Slots that the arrays are about, from 1 on"),
        _of_gpus("covered_ms", Integer, "Time with windows, ms; absent for a GPU without any"),
        _of_gpus("energy_mj", sum_kind, "Energy, mJ"),
        _of_gpus("energy_ms", Integer, "Time for which the energy is known, ms"),
        _of_gpus("energy_interpolated_mj", sum_kind, "Part interpolated over gaps, mJ"),
        _of_gpus("energy_integrated_mj", sum_kind, "Part integrated from polled power, mJ"),
        _of_gpus("energy_estimated_mj", sum_kind, "Part estimated over counter resets, mJ"),
        _of_gpus("power_min_mw", Integer, "Least polled power, mW"),
        _of_gpus("power_max_mw", Integer, "Greatest polled power, mW"),
        _of_gpus("power_limit_mw", Integer, "Greatest enforced power limit, mW"),
        _of_gpus("mem_used_mib", Integer, "Greatest memory in use, MiB"),
        _of_gpus("gpu_util_pm_ms", sum_kind, "Utilisation times covered time, per mille ms"),
        _of_gpus("gpu_util_ms", Integer, "Covered time with that, ms"),
        _of_gpus("mem_util_pm_ms", sum_kind, "Memory-controller utilisation times covered time, per mille ms"),
        _of_gpus("mem_util_ms", Integer, "Covered time with that, ms"),
        _of_gpus("sm_clock_mhz_ms", sum_kind, "SM clock times covered time, MHz ms"),
        _of_gpus("sm_clock_ms", Integer, "Covered time with that, ms"),
        _of_gpus("mem_clock_mhz_ms", sum_kind, "Memory clock times covered time, MHz ms"),
        _of_gpus("mem_clock_ms", Integer, "Covered time with that, ms"),
        _of_gpus("gpu_temp_max_c", SmallInteger, "Greatest GPU temperature, °C"),
        _of_gpus("mem_temp_max_c", SmallInteger, "Greatest memory temperature, °C"),
        _of_gpus("fan_pct", SmallInteger, "Greatest fan speed, % of the maximum intended"),
        _of_gpus("clock_event_reasons", BigInteger, "Union of NVML's clock-event bits"),
        _of_gpus("throttled_ms", Integer, "Covered time in windows with power cap, slowdown or brake, ms"),
        _of_gpus("pcie_tx_kib", BigInteger, "Sent over PCIe, KiB"),
        _of_gpus("pcie_rx_kib", BigInteger, "Received over PCIe, KiB"),
        _of_gpus("pcie_ms", Integer, "Covered time with either, ms"),
        _of_gpus("nvlink_tx_kib", BigInteger, "Sent over NVLink, KiB"),
        _of_gpus("nvlink_rx_kib", BigInteger, "Received over NVLink, KiB"),
        _of_gpus("nvlink_ms", Integer, "Covered time with either, ms"),
        _of_gpus("ticks_taken", Integer, "Readings taken"),
        _of_gpus("ticks_expected", Integer, "Readings due"),
        _of_gpus("host_mj", sum_kind, "Share of the energy of its metered node beside the GPUs', mJ"),
        _of_gpus("host_ms", Integer, "Time for which that is known, ms"),
        Index(f"gpu_{level}_node_id_time_idx", "node_id", "time", unique=True),
        Index(f"gpu_{level}_time_idx", "time", postgresql_using="brin", postgresql_with={"pages_per_range": 32}),
        comment=f"What the GPUs of one node did in {level}: folded windows",
    )


def _node_rollup(level: str) -> Table:
    """What one node did in a bucket."""
    return Table(
        f"node_{level}",
        metadata,
        Column("time", Time, nullable=False, comment="Start of the bucket"),
        Column("node_id", Integer, nullable=False),
        Column("covered_ms", BigInteger, nullable=False, comment="Time with windows, ms"),
        Column("tick_power_mw", BigInteger, comment="Sum over the ticks of the GPUs' total power, mW"),
        Column("ticks_summed", Integer, nullable=False, comment="Ticks in that sum: all GPUs answered"),
        Column("tick_power_min_mw", Integer, comment="Least of them, mW"),
        Column("tick_power_max_mw", Integer, comment="Greatest of them, mW"),
        Column("cpu_energy_mj", BigInteger, comment="Energy of the CPU packages by RAPL, mJ"),
        Column("cpu_energy_ms", BigInteger, comment="Covered time with that, ms"),
        Column("dram_energy_mj", BigInteger, comment="Energy of the memory by RAPL, mJ"),
        Column("dram_energy_ms", BigInteger, comment="Covered time with that, ms"),
        Column("node_power_mw_ms", BigInteger, comment="Power of the whole node by hwmon times covered time, mW ms"),
        Column("node_power_ms", BigInteger, comment="Covered time with that, ms"),
        Column("node_power_max_mw", Integer, comment="Greatest power of the whole node by hwmon, mW"),
        Column("ticks_taken", Integer, nullable=False, comment="Readings taken"),
        Column("ticks_expected", Integer, nullable=False, comment="Readings due"),
        Column("rejected_readings", BigInteger, nullable=False, comment="Counter readings refused as impossible"),
        Index(f"node_{level}_node_id_time_idx", "node_id", "time", unique=True),
        Index(f"node_{level}_time_idx", "time", postgresql_using="brin", postgresql_with={"pages_per_range": 32}),
        comment=f"What one node did in {level}: folded windows",
    )


def _group_rollup(group: str, level: str) -> Table:
    """What all GPUs of one model in a site or rack did in a bucket."""
    place = [Column("site_id", Integer, nullable=False)]
    if group == "rack":
        place.append(Column("rack_id", Integer, comment="Absent for nodes that name no rack"))
    names = [column.name for column in place]
    return Table(
        f"{group}_{level}",
        metadata,
        Column("time", Time, nullable=False, comment="Start of the bucket"),
        *place,
        Column("gpu_model", Text, nullable=False, comment="Model of the GPUs"),
        Column("gpus", Integer, nullable=False, comment="GPUs with a window in the bucket"),
        Column("gpus_known", Integer, nullable=False, comment="Those of them whose energy is known"),
        Column("power_mw", BigInteger, nullable=False, comment="Sum over them of energy over covered time, mW"),
        Column("covered_ms", BigInteger, nullable=False, comment="GPU-time with windows, ms"),
        Column("energy_mj", BigInteger, nullable=False, comment="Energy, mJ"),
        Column("energy_ms", BigInteger, nullable=False, comment="GPU-time for which the energy is known, ms"),
        Column("energy_interpolated_mj", BigInteger, nullable=False, comment="Part interpolated over gaps, mJ"),
        Column("energy_integrated_mj", BigInteger, nullable=False, comment="Part integrated from polled power, mJ"),
        Column("energy_estimated_mj", BigInteger, nullable=False, comment="Part estimated over counter resets, mJ"),
        Column("gpu_util_pm_ms", BigInteger, nullable=False, comment="Utilisation times covered time, per mille ms"),
        Column("gpu_util_ms", BigInteger, nullable=False, comment="Covered GPU-time with that, ms"),
        Column("throttled_ms", BigInteger, nullable=False, comment="GPU-time held down by cap, slowdown or brake, ms"),
        Column("gpu_temp_max_c", SmallInteger, comment="Greatest GPU temperature, °C"),
        Column(
            "host_mj",
            BigInteger,
            nullable=False,
            server_default="0",
            comment="Share of the metered hosts' own energy, mJ",
        ),
        Column(
            "host_ms", BigInteger, nullable=False, server_default="0", comment="GPU-time for which that is known, ms"
        ),
        UniqueConstraint("time", *names, "gpu_model", postgresql_nulls_not_distinct=True),
        # Late data change sums of buckets that are there already.
        postgresql_with={"fillfactor": 80},
        comment=f"GPUs of one model in a {group}, in {level}: the sums of gpu_{level}",
    )


def _of_deployment(*more: Column[Any]) -> list[Column[Any]]:
    return [
        Column("time", Time, nullable=False, comment="Start of the bucket"),
        Column("deployment_id", Integer, nullable=False),
        Column("site_id", Integer, nullable=False),
        Column("gpu_model", Text, nullable=False, comment="Model of the GPUs"),
        *more,
    ]


def _whole() -> Column[Any]:
    return Column(
        "whole",
        Boolean,
        nullable=False,
        comment="Whether energy and tokens of these minutes are of the same GPUs and time, so that they may be divided",
    )


def _deployment_rollup(level: str) -> Table:
    """What a deployment's GPUs of one model in a site used in a bucket."""
    return Table(
        f"deployment_{level}",
        metadata,
        *_used(
            *_of_deployment(_whole()),
            Column(
                "gpus",
                Integer,
                nullable=False,
                comment="GPUs that it had in a minute, silent ones too, whole or not: the most",
            ),
            Column(
                "gpus_silent", Integer, nullable=False, comment="Those of them without windows in a minute: the most"
            ),
        ),
        UniqueConstraint(
            "time", "deployment_id", "site_id", "gpu_model", "whole", name=f"deployment_{level}_bucket_key"
        ),
        Index(f"deployment_{level}_deployment_id_time_idx", "deployment_id", "time"),
        comment=f"What deployments used in {level}: the sums of assigned_1m",
    )


def _serving_rollup(level: str) -> Table:
    """What a deployment's engines on nodes of one GPU model in a site served in a bucket."""
    engine = Column("engine", Text, nullable=False, comment="Engine: vllm, sglang, …")
    model = Column("model", Text, nullable=False, comment="Model, as the engine names it; empty where it does not")
    return Table(
        f"serving_{level}",
        metadata,
        *_served(*_of_deployment(engine, model, _whole())),
        UniqueConstraint(
            "time",
            "deployment_id",
            "site_id",
            "gpu_model",
            "engine",
            "model",
            "whole",
            name=f"serving_{level}_bucket_key",
        ),
        Index(f"serving_{level}_deployment_id_time_idx", "deployment_id", "time"),
        comment=f"What deployments served in {level}: the sums of serving_window",
    )


def _latency_rollup(level: str) -> Table:
    """A latency's histogram over a bucket, of a deployment's engines on nodes of one GPU model in a site."""
    return Table(
        f"latency_{level}",
        metadata,
        *_of_deployment(
            Column("model", Text, nullable=False, comment="Model, as the engine names it; empty where it does not"),
            Column("latency", Text, nullable=False, comment=", ".join(LATENCIES)),
            Column("bounds_id", Integer, nullable=False, comment="Buckets of counts"),
            Column("counts", ARRAY(BigInteger), nullable=False, comment="How many lie in each bucket"),
        ),
        UniqueConstraint(
            "time",
            "deployment_id",
            "site_id",
            "gpu_model",
            "model",
            "latency",
            "bounds_id",
            name=f"latency_{level}_bucket_key",
        ),
        Index(f"latency_{level}_deployment_id_time_idx", "deployment_id", "time"),
        comment=f"Latencies that deployments' users felt in {level}: the sums of serving_window",
    )


gpu_rollups = {level: _gpu_rollup(level) for level in LEVELS}
node_rollups = {level: _node_rollup(level) for level in LEVELS}
rack_rollups = {level: _group_rollup("rack", level) for level in LEVELS}
site_rollups = {level: _group_rollup("site", level) for level in LEVELS}

deployment_rollups = {level: _deployment_rollup(level) for level in LEVELS}
serving_rollups = {level: _serving_rollup(level) for level in LEVELS}
latency_rollups = {level: _latency_rollup(level) for level in LEVELS}


def _meter_rollup(level: str) -> Table:
    """What one meter counted in a bucket: sums and extremes, never means."""
    return Table(
        f"meter_{level}",
        metadata,
        Column("time", Time, nullable=False, comment="Start of the bucket"),
        Column("meter_id", Integer, nullable=False),
        Column("covered_ms", BigInteger, nullable=False, comment="Time with windows, ms"),
        Column("energy_mj", BigInteger, comment="Electricity, or of a heat meter heat, mJ"),
        Column("energy_ms", BigInteger, nullable=False, comment="Time for which that is known, ms"),
        Column("energy_interpolated_mj", BigInteger, nullable=False, comment="Part interpolated over gaps, mJ"),
        Column("energy_integrated_mj", BigInteger, nullable=False, comment="Part integrated from polled power, mJ"),
        Column("energy_estimated_mj", BigInteger, nullable=False, comment="Part estimated over a new register, mJ"),
        Column("polled_mj", BigInteger, comment="Polled power times time, mJ; below 0 it flowed the other way"),
        Column("polled_ms", BigInteger, nullable=False, comment="Time with that, ms"),
        Column("power_min_mw", BigInteger, comment="Least polled power, mW"),
        Column("power_max_mw", BigInteger, comment="Greatest polled power, mW"),
        Column("current_max_ma", BigInteger, comment="Greatest current of a phase, mA"),
        Column("volume_ml", BigInteger, comment="Water or fuel, mL"),
        Column("volume_ms", BigInteger, nullable=False, comment="Time for which that is known, ms"),
        Column("temp_mc_ms", BigInteger, comment="Temperature times time, thousandths of 1 °C times ms"),
        Column("temp_ms", BigInteger, nullable=False, comment="Time with that, ms"),
        Column("readings_taken", Integer, nullable=False, comment="Readings taken"),
        Column("readings_expected", Integer, comment="Readings due; absent: it is a sum of others"),
        Column("rejected_readings", BigInteger, nullable=False, comment="Readings refused as impossible"),
        Column("stuck_h", SmallInteger, nullable=False, comment="Hours in which it stood still"),
        Column("reversed_h", SmallInteger, nullable=False, comment="Hours in which power flowed the other way"),
        Index(f"meter_{level}_meter_id_time_idx", "meter_id", "time", unique=True),
        Index(f"meter_{level}_time_idx", "time", postgresql_using="brin", postgresql_with={"pages_per_range": 32}),
        comment=f"What one meter counted in {level}: folded windows",
    )


def _of_part() -> list[Column[Any]]:
    return [
        Column("time", Time, nullable=False, comment="Start of the bucket"),
        Column("site_id", Integer, nullable=False),
        Column("hall_id", Integer, comment="Absent: of the whole site"),
    ]


def _facility_rollup(level: str) -> Table:
    """What the meters of one role counted in a bucket, each energy once."""
    return Table(
        f"facility_{level}",
        metadata,
        *_of_part(),
        Column("role", Text, nullable=False, comment="What they count"),
        Column("meters", SmallInteger, nullable=False, comment="Meters whose values are wanted: the most"),
        Column("wanted_ms", BigInteger, nullable=False, comment="Meter-time that is wanted, ms"),
        Column("energy_mj", BigInteger, comment="Energy, of fuel that of its volume, mJ"),
        Column("energy_ms", BigInteger, nullable=False, comment="Meter-time for which that is known, ms"),
        Column("energy_interpolated_mj", BigInteger, nullable=False, comment="Part interpolated over gaps, mJ"),
        Column("energy_integrated_mj", BigInteger, nullable=False, comment="Part integrated from polled power, mJ"),
        Column("energy_estimated_mj", BigInteger, nullable=False, comment="Part estimated over a new register, mJ"),
        Column("volume_ml", BigInteger, comment="Water or fuel, mL"),
        Column("volume_ms", BigInteger, nullable=False, comment="Meter-time for which that is known, ms"),
        Column("temp_mc_ms", BigInteger, comment="Temperature times time, thousandths of 1 °C times ms"),
        Column("temp_ms", BigInteger, nullable=False, comment="Meter-time with that, ms"),
        UniqueConstraint(
            "time", "site_id", "hall_id", "role", name=f"facility_{level}_bucket_key",
            postgresql_nulls_not_distinct=True,
        ),
        Index(f"facility_{level}_site_id_time_idx", "site_id", "time"),
        comment=f"What the meters of one role in a hall, or of none, counted in {level}: the sums of meter_{level}",
    )  # fmt: skip


FIGURES = ("pue", "wue", "wue_potable", "wue_fresh", "erf", "ref", "cer")
"""Ratios of the facility: E_DC and E_IT, water and E_IT, drinking water and E_IT, fresh water and E_IT, reused heat and
E_DC, energy made on site and E_DC, heat removed and the energy of cooling."""


def _ratio_rollup(level: str) -> Table:
    """Both sums of a ratio over the hours of a bucket in which all meters that it wants are known."""
    return Table(
        f"facility_ratio_{level}",
        metadata,
        *_of_part(),
        Column("figure", Text, nullable=False, comment=", ".join(FIGURES)),
        Column("category", SmallInteger, comment="Where E_IT is metered: 1 UPS output, 2 PDU output, 3 IT input"),
        Column("numerator", BigInteger, nullable=False, comment="Energy, mJ; of wue water, mL"),
        Column("denominator", BigInteger, nullable=False, comment="Energy, mJ"),
        Column("hours", SmallInteger, nullable=False, comment="Hours that are in both"),
        Column("missing_h", SmallInteger, nullable=False, comment="Hours in neither, since a meter was not known"),
        Column("faulty_h", SmallInteger, nullable=False, comment="Hours in neither, since a meter cannot be right"),
        Column("numerator_meters", SmallInteger, nullable=False, comment="Meters of the numerator: the most"),
        Column("denominator_meters", SmallInteger, nullable=False, comment="Meters of the denominator: the most"),
        UniqueConstraint(
            "time", "site_id", "hall_id", "figure", "category", name=f"facility_ratio_{level}_bucket_key",
            postgresql_nulls_not_distinct=True,
        ),
        Index(
            f"facility_ratio_{level}_figure_time_idx", "figure", "time", "category",
            postgresql_where=text("hall_id IS NULL"),
        ),
        Index(f"facility_ratio_{level}_site_id_time_idx", "site_id", "time"),
        Index(
            f"facility_ratio_{level}_pue_idx", "category", "site_id", "time",
            postgresql_include=["numerator", "denominator", "hours"],
            postgresql_where=text("figure = 'pue' AND hall_id IS NULL"),
        ),
        CheckConstraint(f"figure IN {FIGURES}", name="figure"),
        comment=f"Both sums of each ratio of a site, or a hall, in {level}",
    )  # fmt: skip


METER_LEVELS = ("1h", "1d")
meter_rollups = {level: _meter_rollup(level) for level in METER_LEVELS}
facility_rollups = {level: _facility_rollup(level) for level in METER_LEVELS}
ratio_rollups = {level: _ratio_rollup(level) for level in METER_LEVELS}

site_second = Table(
    "site_second",
    metadata,
    Column("time", Time, nullable=False, comment="Start of the minute"),
    Column("site_id", Integer, nullable=False),
    Column("power_mw", ARRAY(BigInteger), nullable=False, comment="Sum of the nodes' GPU power in each second, mW"),
    Column("nodes", ARRAY(Integer), nullable=False, comment="Nodes in that sum, in each second"),
    UniqueConstraint("site_id", "time"),
    comment="GPU power of each site, second by second: the sum of node_window's ticks",
)

weighed_1h = Table(
    "weighed_1h",
    metadata,
    Column("time", Time, nullable=False, comment="Start of the hour"),
    Column("kind", Text, nullable=False, comment="What it is weighed by: price, or location for its carbon intensity"),
    Column("deployment_id", Integer, nullable=False, comment="Of deployments; 0: of all GPUs of the site"),
    Column("site_id", Integer, nullable=False),
    Column("gpu_model", Text, nullable=False, comment="Model of the GPUs"),
    Column("pue", Numeric, comment="The site's configured PUE; absent where there is none"),
    Column("unit", Text, comment="Of the price; absent for intensities, and without a price"),
    Column("energy_mj", Numeric, nullable=False, comment="Energy of the GPUs, mJ"),
    Column("host_mj", Numeric, nullable=False, comment="Share of the metered hosts' own energy, mJ"),
    Column("unmetered_ms", Numeric, nullable=False, comment="GPU-time for which that is not known, ms"),
    Column("weighed_energy", Numeric, comment="energy_mj times the factor by kWh; absent without one"),
    Column("weighed_host", Numeric, comment="host_mj times that"),
    Column("weighed_unmetered", Numeric, comment="unmetered_ms times that"),
    Index("weighed_1h_time_kind_idx", "time", "kind"),
    comment="Energy by the hour, weighed by price and carbon intensity, of 40 days: what budgets are sums of",
)

rollup = Table(
    "rollup",
    metadata,
    Column(
        "level",
        Text,
        primary_key=True,
        comment="1m, 1h or 1d, the same of deployments: deployment_1m, …; meter_1h, weighed_1h",
    ),
    Column("closed", Time, nullable=False, comment="Buckets before it take windows by way of rollup_dirty alone"),
    Column("folded", Time, nullable=False, comment="Buckets before it are folded"),
    Column("node_id", Integer, nullable=False, comment="Nodes before it are folded in the bucket `folded` as well"),
    comment="How far the windows are folded",
)

rollup_dirty = Table(
    "rollup_dirty",
    metadata,
    Column(
        "level",
        Text,
        nullable=False,
        comment="1m, 1h, 1d; 1s of nodes missing in site_second; deployment_1m, …; meter_1h, facility_1d, weighed_1h",
    ),
    Column("time", Time, nullable=False, comment="Start of the bucket, or of the window"),
    Column(
        "node_id", Integer, nullable=False, comment="The node, or the deployment, of meter_1h the meter, else the site"
    ),
    Index("rollup_dirty_level_time_idx", "level", "time"),
    comment="What came after its bucket was closed, to be folded again",
)

job = Table(
    "job",
    metadata,
    Column("name", Text, primary_key=True, comment="fold or retain"),
    Column("leader", Text, nullable=False, comment="Host and process that ran it"),
    Column("started", Time, nullable=False, comment="When its last run began"),
    Column("finished", Time, comment="When that run ended; absent while it runs"),
    Column("progress", Text, comment="What it is doing, or did"),
    Column("error", Text, comment="Why it failed; absent where it did not"),
    comment="The scheduler's jobs: the last run of each",
)

alert_configuration = Table(
    "alert_configuration",
    metadata,
    Column("configuration_id", Integer, Identity(), primary_key=True),
    Column("applied", Time, nullable=False, server_default=func.now(), comment="When it came into force"),
    Column("author", Text, nullable=False, comment="Who applied it: the token's name, or the user on the server"),
    Column("source", Text, nullable=False, comment="The file's name"),
    Column("sha256", Text, nullable=False, comment="Of the file"),
    # In the order in which it was written, which JSONB forgets.
    Column("document", JSON, nullable=False, comment="Rules, routes, targets and budgets as they were declared"),
    comment="What alerts are configured to do; the newest is in force",
)

alert_rule = Table(
    "alert_rule",
    metadata,
    Column("name", Text, primary_key=True, comment="Name of the rule"),
    Column("origin", Text, nullable=False, comment="shipped with Gigawatch, or own"),
    Column("enabled", Boolean, nullable=False, comment="Whether it is evaluated"),
    Column("severity", Text, nullable=False, comment="info, warning or critical, where its rows say nothing else"),
    Column("unit", Text, comment="Of the value"),
    Column("about", Text, nullable=False, comment="What it is about, in a sentence"),
    Column("summary", Text, nullable=False, comment="Of an alert, with the names of columns in braces"),
    Column("runbook", Text, comment="Where it is told what to do"),
    Column("sql", Text, nullable=False, comment="The SELECT, one row for each thing that is wrong"),
    Column("thresholds", JSONB, nullable=False, comment="Numbers that the SELECT compares with, by name"),
    Column("for_s", Integer, nullable=False, comment="How long it must hold before it fires, s"),
    Column("keep_firing_for_s", Integer, nullable=False, comment="How long it fires on after it ceased, s"),
    Column("interval_s", Integer, nullable=False, comment="Interval of its evaluations, s"),
    Column("evaluated", Time, comment="Start of its last evaluation; absent before the first"),
    Column("duration_ms", Integer, comment="How long that took, ms"),
    Column("rows", Integer, comment="Rows that it gave; absent where it failed"),
    Column("error", Text, comment="Why it failed; absent where it did not"),
    Column("failing_since", Time, comment="First of the failures in a row; absent where the last did not fail"),
    Column("evaluations", BigInteger, nullable=False, server_default="0", comment="Evaluations so far"),
    Column("failures", BigInteger, nullable=False, server_default="0", comment="Those of them that failed"),
    Column("missed", BigInteger, nullable=False, server_default="0", comment="Evaluations that were due and left out"),
    CheckConstraint("origin IN ('shipped', 'own')", name="origin"),
    CheckConstraint("severity IN ('info', 'warning', 'critical')", name="severity"),
    # Written at each evaluation.
    postgresql_with={"fillfactor": 50},
    comment="The rules in force, each with its last evaluation",
)

alert = Table(
    "alert",
    metadata,
    Column("alert_id", BigInteger, Identity(), primary_key=True),
    Column("rule", Text, nullable=False, comment="Name of the rule"),
    Column("fingerprint", Text, nullable=False, comment="Of rule and labels: which thing it is about"),
    Column("labels", JSONB, nullable=False, comment="Which thing it is about, by name of the label"),
    Column("severity", Text, nullable=False, comment="info, warning or critical"),
    Column("state", Text, nullable=False, comment="pending, firing or resolved"),
    Column("value", Double, comment="As last measured, in the rule's unit"),
    Column("summary", Text, nullable=False, comment="What is wrong, in a sentence"),
    Column("details", JSONB, nullable=False, comment="What explains it: the other columns of the rule's row"),
    Column("racks", ARRAY(Text), comment="Racks of its site that it covers; absent where it covers none"),
    Column("simulated", Boolean, nullable=False, server_default="false", comment="Whether the data are simulated"),
    Column("started", Time, nullable=False, comment="When its condition first held"),
    Column("held", Time, nullable=False, comment="When its condition last held"),
    Column("ceased", Time, comment="When its condition was first seen not to hold any more; absent while it holds"),
    Column("unknown_since", Time, comment="Since when there are no data to tell; absent where there are"),
    Column("fired", Time, comment="When it began to fire; absent while pending"),
    Column("resolved", Time, comment="When it ended; absent before"),
    Column("flaps", SmallInteger, nullable=False, server_default="0", comment="Times that it ceased and came back"),
    Column("inhibited_by", BigInteger, comment="The firing alert that explains it; absent where none does"),
    Column("silenced_by", Integer, comment="The silence that keeps it quiet; absent where none does"),
    Column("acknowledged", Time, comment="When somebody took it on; absent where nobody did"),
    Column("acknowledged_by", Text, comment="Who"),
    Column("acknowledgement", Text, comment="What they said"),
    Index("alert_fingerprint_idx", "fingerprint", unique=True, postgresql_where=text("state <> 'resolved'")),
    Index("alert_rule_started_idx", "rule", "started"),
    Index("alert_resolved_idx", "resolved"),
    CheckConstraint("severity IN ('info', 'warning', 'critical')", name="severity"),
    CheckConstraint("state IN ('pending', 'firing', 'resolved')", name="state"),
    # Written at each evaluation while it is not resolved.
    postgresql_with={"fillfactor": 50},
    comment="Alerts: each time that a rule's condition held for one thing",
)

alert_change = Table(
    "alert_change",
    metadata,
    Column("time", Time, nullable=False, server_default=func.now(), comment="When"),
    Column("alert_id", ForeignKey(alert.c.alert_id, ondelete="CASCADE"), nullable=False),
    Column("change", Text, nullable=False, comment="fired, severity, flapped, resolved, acknowledged, …"),
    Column("author", Text, comment="Who did it; absent where the rule did"),
    Column("note", Text, comment="What there is to say of it"),
    Index("alert_change_alert_id_time_idx", "alert_id", "time"),
    comment="What became of each alert",
)

alert_silence = Table(
    "alert_silence",
    metadata,
    Column("silence_id", Integer, Identity(), primary_key=True),
    Column("kind", Text, nullable=False, comment="silence or maintenance"),
    Column("matchers", JSONB, nullable=False, comment="What it silences: label, operator and value, all of which hold"),
    Column("starts", Time, nullable=False, comment="From when"),
    Column("ends", Time, nullable=False, comment="Until when"),
    Column("author", Text, nullable=False, comment="Who made it"),
    Column("reason", Text, nullable=False, comment="Why"),
    Column("created", Time, nullable=False, server_default=func.now(), comment="When it was made"),
    Column("ended_by", Text, comment="Who ended it before its time; absent where nobody did"),
    Index("alert_silence_ends_idx", "ends"),
    CheckConstraint("kind IN ('silence', 'maintenance')", name="kind"),
    CheckConstraint("ends >= starts", name="ends"),
    comment="Alerts that nobody is told of for a while",
)

alert_budget = Table(
    "alert_budget",
    metadata,
    Column("name", Text, primary_key=True, comment="Name of the budget"),
    Column(
        "deployments", ARRAY(Text), comment="Deployments that it is of, which may end in *; absent: it is of a site"
    ),
    Column("site", Text, comment="Site that it is of; absent: of all"),
    Column("time_zone", Text, nullable=False, server_default="UTC", comment="Whose calendar months count: IANA name"),
    Column("energy_mj", BigInteger, comment="Energy that may be used in a calendar month, mJ"),
    Column("cost", Numeric, comment="What that may cost, in the currency"),
    Column("currency", Text, comment="ISO 4217 code"),
    Column("co2e_g", BigInteger, comment="What it may emit, gCO2e"),
    CheckConstraint("(cost IS NULL) = (currency IS NULL)", name="currency"),
    comment="What tenants, deployments and sites may use in a month, from the configuration in force",
)

rule_login = Table(
    "rule_login",
    metadata,
    Column("role", Text, primary_key=True, comment="Name of the role, which may do what reports may"),
    Column("password", Text, nullable=False, comment="Its password"),
    comment="What rules of alerts log in as: one row, or none where it could not be made",
)

alert_group = Table(
    "alert_group",
    metadata,
    Column("group_id", Integer, Identity(), primary_key=True),
    Column("key", Text, nullable=False, unique=True, comment="Of route and labels"),
    Column("target", Text, nullable=False, comment="Whom it tells"),
    Column("labels", JSONB, nullable=False, comment="What its alerts have in common, by which they are grouped"),
    Column("due", Time, comment="When its target is told next; absent where nothing is to be told"),
    Column("told", Time, comment="When a notification was last put out; absent before the first"),
    Column("told_alerts", JSONB, nullable=False, server_default="{}", comment="What was told, by number of the alert"),
    Column(
        "hurried", Integer, nullable=False, server_default="0", comment="Notifications in a row before their interval"
    ),
    Index("alert_group_due_idx", "due"),
    comment="Alerts that one target is told of together",
)

alert_target = Table(
    "alert_target",
    metadata,
    Column("name", Text, primary_key=True, comment="Name of the target"),
    Column("kind", Text, nullable=False, comment="What it speaks: alertmanager, slack, …"),
    Column("address", Text, nullable=False, comment="Scheme and host of it: paths may be secret"),
    Column("failures", Integer, nullable=False, server_default="0", comment="Attempts in a row that failed"),
    Column("open_until", Time, comment="No attempt before then: its circuit breaker is open; absent where it is not"),
    Column("succeeded", Time, comment="When it last took something"),
    Column("failed", Time, comment="When an attempt last failed"),
    Column("error", Text, comment="Why"),
    postgresql_with={"fillfactor": 50},
    comment="Whom alerts are sent to, and how that goes",
)

alert_delivery = Table(
    "alert_delivery",
    metadata,
    Column("delivery_id", BigInteger, Identity(), primary_key=True),
    Column(
        "key", Uuid, nullable=False, unique=True, comment="The same at each attempt: receivers know duplicates by it"
    ),
    Column("target", Text, nullable=False, comment="Whom it is for"),
    Column("group_key", Text, nullable=False, comment="Of the group that it tells of"),
    Column("why", Text, nullable=False, comment="new, changed, resolved, repeat or test"),
    Column("state", Text, nullable=False, server_default="waiting", comment="waiting, sent or dead"),
    Column("created", Time, nullable=False, server_default=func.now(), comment="When it was put out"),
    Column("due", Time, nullable=False, server_default=func.now(), comment="No attempt before then"),
    Column("attempts", Integer, nullable=False, server_default="0", comment="Attempts so far"),
    Column("tried", Time, comment="When the last attempt began"),
    Column("duration_ms", Integer, comment="How long that took, ms"),
    Column("status", Integer, comment="What it answered: HTTP status; absent where it did not"),
    Column("answer", Text, comment="The first of what it answered, or why it could not be asked"),
    Column("notification", JSONB, nullable=False, comment="What to tell"),
    Index("alert_delivery_target_idx", "target", "delivery_id", postgresql_where=text("state = 'waiting'")),
    Index("alert_delivery_created_idx", "created"),
    CheckConstraint("state IN ('waiting', 'sent', 'dead')", name="state"),
    comment="The outbox: what targets are to be told, in order of each",
)

hypertables: Mapping[str, str] = {
    "gpu_window": "6 hours",
    "node_window": "1 day",
    "gpu_health": "30 days",
    "gpu_1m": "1 day",
    "node_1m": "1 day",
    "gpu_1h": "30 days",
    "node_1h": "30 days",
    "serving_window": "1 day",
    "assigned_1m": "1 day",
    "meter_window": "1 day",
    "meter_1h": "30 days",
}
"""Facts that become hypertables where TimescaleDB is there, with their first chunk interval."""


def require_revision(connection: Connection) -> None:
    """Raise GigawatchError unless the database has this version's schema."""
    known = connection.scalar(text("SELECT to_regclass('gigawatch.alembic_version') IS NOT NULL"))
    present = connection.scalar(text("SELECT version_num FROM gigawatch.alembic_version")) if known else None
    if present == REVISION:
        return
    if present is not None:
        refuse_newer(present)
    raise GigawatchError(
        f"The database's schema is {'missing' if present is None else f'older (revision {present!r})'}",
        "Run `gigawatch migrate` once.",
        ExitCode.SCHEMA,
    )


def refuse_newer(revision: str) -> None:
    """Raise GigawatchError if a database's revision is one that this version does not know."""
    if revision > REVISION:
        raise GigawatchError(
            f"The database's schema is of a newer Gigawatch (revision {revision!r}, this one knows {REVISION!r})",
            "Install that version or a newer one here, or name another database.",
            ExitCode.SCHEMA,
        )

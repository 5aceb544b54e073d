"""Tables of the store. Views over them are in migrations/views/; people query those, not these tables.

Facts hold integers in small units (mJ, mW, °C, MHz, per mille) where the sensor gives no more: they are
narrower than reals and compress far better. Nothing is stored twice: mean power over a window is its energy
over its covered time, and power_mean_mw is the polled mean, which is another measurement.
"""

from collections.abc import Mapping

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Connection,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from gigawatch.errors import ExitCode, GigawatchError

REVISION = "0001"
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

rack = Table(
    "rack",
    metadata,
    Column("rack_id", Integer, Identity(), primary_key=True),
    Column("site_id", ForeignKey(site.c.site_id), nullable=False),
    Column("name", Text, nullable=False, comment="Name of the rack within its site"),
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
        "clock_offset_ms",
        Integer,
        comment="Node's clock minus the server's when the last batch arrived, ms",
    ),
    Column(
        "first_seen",
        Time,
        nullable=False,
        server_default=func.now(),
        comment="When the server first heard of it",
    ),
    Column(
        "last_seen",
        Time,
        nullable=False,
        server_default=func.now(),
        comment="When the server last stored a batch of it",
    ),
    comment="A server with an agent",
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

gpu_window = Table(
    "gpu_window",
    metadata,
    Column("time", Time, nullable=False, comment="Start of the window"),
    Column("gpu_id", Integer, nullable=False),
    Column("covered_ms", Integer, nullable=False, comment="Time for which the energy is known, ms"),
    Column("energy_mj", Integer, comment="Energy over covered_ms, mJ"),
    Column("power_mean_mw", Integer, comment="Mean of the polled power, mW"),
    Column("power_min_mw", Integer, comment="Least polled power, mW"),
    Column("power_max_mw", Integer, comment="Greatest polled power, mW"),
    Column("power_limit_mw", Integer, comment="Enforced power limit at the last tick, mW"),
    Column("mem_used_mib", Integer, comment="Greatest memory in use, MiB"),
    Column(
        "energy_method",
        SmallInteger,
        comment="1 counter, 2 interpolated, 3 integrated, 4 estimated; the weakest used",
    ),
    Column("ticks_taken", SmallInteger, nullable=False, comment="Readings taken"),
    Column("ticks_expected", SmallInteger, nullable=False, comment="Readings due"),
    Column("gpu_util_pm", SmallInteger, comment="Mean GPU utilisation, per mille"),
    Column("mem_util_pm", SmallInteger, comment="Mean memory-controller utilisation, per mille"),
    Column("gpu_temp_max_c", SmallInteger, comment="Greatest GPU temperature, °C"),
    Column("mem_temp_max_c", SmallInteger, comment="Greatest memory temperature, °C"),
    Column("sm_clock_mhz", SmallInteger, comment="Mean SM clock, MHz"),
    Column("mem_clock_mhz", SmallInteger, comment="Mean memory clock, MHz"),
    Column("fan_pct", SmallInteger, comment="Fan speed at the last tick, % of the maximum intended"),
    Column("clock_event_reasons", BigInteger, comment="Union of NVML's clock-event bits over the ticks"),
    Column("pcie_tx_kib", BigInteger, comment="Sent over PCIe, KiB"),
    Column("pcie_rx_kib", BigInteger, comment="Received over PCIe, KiB"),
    Column("nvlink_tx_kib", BigInteger, comment="Sent over NVLink, KiB"),
    Column("nvlink_rx_kib", BigInteger, comment="Received over NVLink, KiB"),
    # By GPU first: a series reads one range, and the same index makes a window twice impossible.
    Index("gpu_window_gpu_id_time_idx", "gpu_id", "time", unique=True),
    Index(
        "gpu_window_time_idx",
        "time",
        postgresql_using="brin",
        postgresql_with={"pages_per_range": 32},
    ),
    comment="What one physical GPU did in one window",
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
    Index("event_time_idx", "time"),
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
        comment="agent may send batches, viewer may read, admin may do both",
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
    CheckConstraint("role IN ('agent', 'viewer', 'admin')", name="role"),
    comment="Tokens of the API, hashed",
)

hypertables: Mapping[str, str] = {
    "gpu_window": "6 hours",
    "node_window": "1 day",
    "gpu_health": "30 days",
}
"""Facts that become hypertables where TimescaleDB is there, with their chunk interval."""


def require_revision(connection: Connection) -> None:
    """Raise GigawatchError unless the database has this version's schema."""
    known = connection.scalar(text("SELECT to_regclass('gigawatch.alembic_version') IS NOT NULL"))
    present = connection.scalar(text("SELECT version_num FROM gigawatch.alembic_version")) if known else None
    if present == REVISION:
        return
    if present is not None and present > REVISION:
        raise GigawatchError(
            f"The database's schema is of a newer Gigawatch (revision {present!r}, this one knows {REVISION!r})",
            "Install that version or a newer one here, or name another database.",
            ExitCode.SCHEMA,
        )
    raise GigawatchError(
        f"The database's schema is {'missing' if present is None else f'older (revision {present!r})'}",
        "Run `gigawatch migrate` once.",
        ExitCode.SCHEMA,
    )

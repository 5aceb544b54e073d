"""First tables: dimensions, windows, health, events, cursors, tokens."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "api_token",
        sa.Column("token_id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("name", sa.Text(), nullable=False, comment="Who or what holds it"),
        sa.Column(
            "role",
            sa.Text(),
            nullable=False,
            comment="agent may send batches, viewer may read, admin may do both",
        ),
        sa.Column(
            "secret_sha256",
            sa.Text(),
            nullable=False,
            comment="SHA-256 of the secret, which is 256 random bits",
        ),
        sa.Column("created", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "revoked",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When it was revoked; absent while it is good",
        ),
        sa.CheckConstraint("role IN ('agent', 'viewer', 'admin')", name=op.f("api_token_role_check")),
        sa.PrimaryKeyConstraint("token_id", name=op.f("api_token_pkey")),
        sa.UniqueConstraint("name", name=op.f("api_token_name_key")),
        sa.UniqueConstraint("secret_sha256", name=op.f("api_token_secret_sha256_key")),
        schema="gigawatch",
        comment="Tokens of the API, hashed",
    )
    op.create_table(
        "event",
        sa.Column("time", sa.DateTime(timezone=True), nullable=False, comment="When it happened"),
        sa.Column("node_id", sa.Integer(), nullable=False),
        sa.Column(
            "gpu_id",
            sa.Integer(),
            nullable=True,
            comment="Absent where the event is about the whole node",
        ),
        sa.Column(
            "kind",
            sa.Text(),
            nullable=False,
            comment="xid, gpu_lost, gpu_back, …: docs/events.md lists them",
        ),
        sa.Column("severity", sa.Text(), nullable=False, comment="info, warning or critical"),
        sa.Column("code", sa.Integer(), nullable=True, comment="The XID, for kind xid"),
        sa.Column("message", sa.Text(), nullable=False, comment="What happened, in words"),
        sa.CheckConstraint("severity IN ('info', 'warning', 'critical')", name=op.f("event_severity_check")),
        schema="gigawatch",
        comment="Something that happened on a node",
    )
    op.create_index("event_gpu_id_time_idx", "event", ["gpu_id", "time"], unique=False, schema="gigawatch")
    op.create_index("event_node_id_time_idx", "event", ["node_id", "time"], unique=False, schema="gigawatch")
    op.create_index("event_time_idx", "event", ["time"], unique=False, schema="gigawatch")
    op.create_table(
        "gpu_health",
        sa.Column("time", sa.DateTime(timezone=True), nullable=False, comment="When it was read"),
        sa.Column("gpu_id", sa.Integer(), nullable=False),
        sa.Column(
            "ecc_volatile_corrected",
            sa.BigInteger(),
            nullable=True,
            comment="Corrected memory errors since the driver was loaded",
        ),
        sa.Column(
            "ecc_volatile_uncorrected",
            sa.BigInteger(),
            nullable=True,
            comment="Uncorrected memory errors since the driver was loaded",
        ),
        sa.Column(
            "ecc_aggregate_corrected",
            sa.BigInteger(),
            nullable=True,
            comment="Corrected memory errors in the GPU's life",
        ),
        sa.Column(
            "ecc_aggregate_uncorrected",
            sa.BigInteger(),
            nullable=True,
            comment="Uncorrected memory errors in the GPU's life",
        ),
        sa.Column(
            "rows_remapped_corrected",
            sa.BigInteger(),
            nullable=True,
            comment="Rows remapped for corrected errors",
        ),
        sa.Column(
            "rows_remapped_uncorrected",
            sa.BigInteger(),
            nullable=True,
            comment="Rows remapped for uncorrected errors",
        ),
        sa.Column(
            "row_remap_pending",
            sa.Boolean(),
            nullable=True,
            comment="A row remap waits for a GPU reset",
        ),
        sa.Column(
            "row_remap_failed",
            sa.Boolean(),
            nullable=True,
            comment="A row remap failed: the GPU is to be replaced",
        ),
        sa.Column("pages_retired", sa.BigInteger(), nullable=True, comment="Memory pages retired"),
        sa.Column(
            "page_retirement_pending",
            sa.Boolean(),
            nullable=True,
            comment="A page retirement waits for a reboot",
        ),
        sa.Column("pcie_replays", sa.BigInteger(), nullable=True, comment="PCIe replays"),
        sa.Column("performance_state", sa.SmallInteger(), nullable=True, comment="P-state, 0 the fastest"),
        sa.Column(
            "processes",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="Processes that hold memory of the GPU: pid, name, mem_used_mib",
        ),
        schema="gigawatch",
        comment="What is read slowly of a GPU, stored when it changed and once an hour",
    )
    op.create_index(
        "gpu_health_gpu_id_time_idx",
        "gpu_health",
        ["gpu_id", "time"],
        unique=True,
        schema="gigawatch",
    )
    op.create_table(
        "gpu_window",
        sa.Column("time", sa.DateTime(timezone=True), nullable=False, comment="Start of the window"),
        sa.Column("gpu_id", sa.Integer(), nullable=False),
        sa.Column(
            "covered_ms",
            sa.Integer(),
            nullable=False,
            comment="Time for which the energy is known, ms",
        ),
        sa.Column("energy_mj", sa.Integer(), nullable=True, comment="Energy over covered_ms, mJ"),
        sa.Column("power_mean_mw", sa.Integer(), nullable=True, comment="Mean of the polled power, mW"),
        sa.Column("power_min_mw", sa.Integer(), nullable=True, comment="Least polled power, mW"),
        sa.Column("power_max_mw", sa.Integer(), nullable=True, comment="Greatest polled power, mW"),
        sa.Column(
            "power_limit_mw",
            sa.Integer(),
            nullable=True,
            comment="Enforced power limit at the last tick, mW",
        ),
        sa.Column("mem_used_mib", sa.Integer(), nullable=True, comment="Greatest memory in use, MiB"),
        sa.Column(
            "energy_method",
            sa.SmallInteger(),
            nullable=True,
            comment="1 counter, 2 interpolated, 3 integrated, 4 estimated; the weakest used",
        ),
        sa.Column("ticks_taken", sa.SmallInteger(), nullable=False, comment="Readings taken"),
        sa.Column("ticks_expected", sa.SmallInteger(), nullable=False, comment="Readings due"),
        sa.Column(
            "gpu_util_pm",
            sa.SmallInteger(),
            nullable=True,
            comment="Mean GPU utilisation, per mille",
        ),
        sa.Column(
            "mem_util_pm",
            sa.SmallInteger(),
            nullable=True,
            comment="Mean memory-controller utilisation, per mille",
        ),
        sa.Column(
            "gpu_temp_max_c",
            sa.SmallInteger(),
            nullable=True,
            comment="Greatest GPU temperature, °C",
        ),
        sa.Column(
            "mem_temp_max_c",
            sa.SmallInteger(),
            nullable=True,
            comment="Greatest memory temperature, °C",
        ),
        sa.Column("sm_clock_mhz", sa.SmallInteger(), nullable=True, comment="Mean SM clock, MHz"),
        sa.Column("mem_clock_mhz", sa.SmallInteger(), nullable=True, comment="Mean memory clock, MHz"),
        sa.Column(
            "fan_pct",
            sa.SmallInteger(),
            nullable=True,
            comment="Fan speed at the last tick, % of the maximum intended",
        ),
        sa.Column(
            "clock_event_reasons",
            sa.BigInteger(),
            nullable=True,
            comment="Union of NVML's clock-event bits over the ticks",
        ),
        sa.Column("pcie_tx_kib", sa.BigInteger(), nullable=True, comment="Sent over PCIe, KiB"),
        sa.Column("pcie_rx_kib", sa.BigInteger(), nullable=True, comment="Received over PCIe, KiB"),
        sa.Column("nvlink_tx_kib", sa.BigInteger(), nullable=True, comment="Sent over NVLink, KiB"),
        sa.Column("nvlink_rx_kib", sa.BigInteger(), nullable=True, comment="Received over NVLink, KiB"),
        schema="gigawatch",
        comment="What one physical GPU did in one window",
    )
    op.create_index(
        "gpu_window_gpu_id_time_idx",
        "gpu_window",
        ["gpu_id", "time"],
        unique=True,
        schema="gigawatch",
    )
    op.create_index(
        "gpu_window_time_idx",
        "gpu_window",
        ["time"],
        unique=False,
        schema="gigawatch",
        postgresql_using="brin",
        postgresql_with={"pages_per_range": 32},
    )
    op.create_table(
        "node_window",
        sa.Column("time", sa.DateTime(timezone=True), nullable=False, comment="Start of the window"),
        sa.Column("node_id", sa.Integer(), nullable=False),
        sa.Column("covered_ms", sa.Integer(), nullable=False, comment="Length of the window, ms"),
        sa.Column("tick_ms", sa.Integer(), nullable=False, comment="Interval of the ticks, ms"),
        sa.Column("ticks_taken", sa.SmallInteger(), nullable=False, comment="Readings taken"),
        sa.Column("ticks_expected", sa.SmallInteger(), nullable=False, comment="Readings due"),
        sa.Column(
            "gpus_read",
            sa.SmallInteger(),
            nullable=False,
            comment="GPUs that answered at the last tick",
        ),
        sa.Column(
            "gpus_expected",
            sa.SmallInteger(),
            nullable=False,
            comment="GPUs that the node is known to have",
        ),
        sa.Column(
            "gpu_power_mw",
            postgresql.ARRAY(sa.Integer()),
            nullable=False,
            comment="Sum of the GPUs' power at each tick due, mW; NULL where one is missing",
        ),
        sa.Column(
            "cpu_energy_mj",
            sa.BigInteger(),
            nullable=True,
            comment="Energy of the CPU packages by RAPL, mJ",
        ),
        sa.Column(
            "dram_energy_mj",
            sa.BigInteger(),
            nullable=True,
            comment="Energy of the memory by RAPL, mJ",
        ),
        sa.Column(
            "node_power_mean_mw",
            sa.Integer(),
            nullable=True,
            comment="Mean power of the whole node by hwmon, mW",
        ),
        sa.Column(
            "node_power_max_mw",
            sa.Integer(),
            nullable=True,
            comment="Greatest power of the whole node by hwmon, mW",
        ),
        sa.Column(
            "rejected_readings",
            sa.BigInteger(),
            nullable=False,
            comment="Energy counter readings refused as impossible",
        ),
        schema="gigawatch",
        comment="What one node did in one window, with its GPUs' total power tick by tick",
    )
    op.create_index(
        "node_window_node_id_time_idx",
        "node_window",
        ["node_id", "time"],
        unique=True,
        schema="gigawatch",
    )
    op.create_index(
        "node_window_time_idx",
        "node_window",
        ["time"],
        unique=False,
        schema="gigawatch",
        postgresql_using="brin",
        postgresql_with={"pages_per_range": 32},
    )
    op.create_table(
        "site",
        sa.Column("site_id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column(
            "name",
            sa.Text(),
            nullable=False,
            comment="Name of the site, from the agents' configuration",
        ),
        sa.PrimaryKeyConstraint("site_id", name=op.f("site_pkey")),
        sa.UniqueConstraint("name", name=op.f("site_name_key")),
        schema="gigawatch",
        comment="A place with its own electricity supply",
    )
    op.create_table(
        "rack",
        sa.Column("rack_id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False, comment="Name of the rack within its site"),
        sa.ForeignKeyConstraint(["site_id"], ["gigawatch.site.site_id"], name=op.f("rack_site_id_fkey")),
        sa.PrimaryKeyConstraint("rack_id", name=op.f("rack_pkey")),
        sa.UniqueConstraint("site_id", "name", name=op.f("rack_site_id_name_key")),
        schema="gigawatch",
        comment="A rack of a site",
    )
    op.create_table(
        "node",
        sa.Column("node_id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("machine_id", sa.Text(), nullable=False, comment="The machine's own lasting identity"),
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column(
            "rack_id",
            sa.Integer(),
            nullable=True,
            comment="Absent where the agent's configuration names none",
        ),
        sa.Column("hostname", sa.Text(), nullable=False, comment="Host name"),
        sa.Column(
            "simulated",
            sa.Boolean(),
            server_default="false",
            nullable=False,
            comment="Whether its data are simulated or replayed",
        ),
        sa.Column(
            "labels",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default="{}",
            nullable=False,
            comment="Labels from the agent's configuration",
        ),
        sa.Column("agent_version", sa.Text(), nullable=True, comment="Version of the agent"),
        sa.Column(
            "driver_version",
            sa.Text(),
            nullable=True,
            comment="Version of the NVIDIA driver; absent where there is none",
        ),
        sa.Column(
            "cuda_version",
            sa.Text(),
            nullable=True,
            comment="Version of CUDA that the driver supports",
        ),
        sa.Column("nvml_version", sa.Text(), nullable=True, comment="Version of NVML"),
        sa.Column("cpu_model", sa.Text(), nullable=True, comment="Model of the CPU"),
        sa.Column(
            "clock_offset_ms",
            sa.Integer(),
            nullable=True,
            comment="Node's clock minus the server's when the last batch arrived, ms",
        ),
        sa.Column(
            "first_seen",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When the server first heard of it",
        ),
        sa.Column(
            "last_seen",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When the server last stored a batch of it",
        ),
        sa.ForeignKeyConstraint(["rack_id"], ["gigawatch.rack.rack_id"], name=op.f("node_rack_id_fkey")),
        sa.ForeignKeyConstraint(["site_id"], ["gigawatch.site.site_id"], name=op.f("node_site_id_fkey")),
        sa.PrimaryKeyConstraint("node_id", name=op.f("node_pkey")),
        sa.UniqueConstraint("machine_id", name=op.f("node_machine_id_key")),
        schema="gigawatch",
        comment="A server with an agent",
    )
    op.create_table(
        "gpu",
        sa.Column("gpu_id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("node_id", sa.Integer(), nullable=False),
        sa.Column("uuid", sa.Text(), nullable=False, comment="UUID of the physical GPU"),
        sa.Column("index", sa.SmallInteger(), nullable=True, comment="Index on its node"),
        sa.Column(
            "model",
            sa.Text(),
            server_default="unknown",
            nullable=False,
            comment="Model, as the driver names it",
        ),
        sa.Column("serial", sa.Text(), nullable=True, comment="Serial number"),
        sa.Column("pci_bus_id", sa.Text(), nullable=True, comment="PCI address"),
        sa.Column("vbios_version", sa.Text(), nullable=True, comment="Version of the video BIOS"),
        sa.Column("mem_total_mib", sa.Integer(), nullable=True, comment="Memory, MiB"),
        sa.Column("power_limit_mw", sa.Integer(), nullable=True, comment="Enforced power limit, mW"),
        sa.Column("power_limit_default_mw", sa.Integer(), nullable=True, comment="Default power limit, mW"),
        sa.Column(
            "power_limit_min_mw",
            sa.Integer(),
            nullable=True,
            comment="Least power limit that can be set, mW",
        ),
        sa.Column(
            "power_limit_max_mw",
            sa.Integer(),
            nullable=True,
            comment="Greatest power limit that can be set, mW",
        ),
        sa.Column(
            "temp_slowdown_c",
            sa.SmallInteger(),
            nullable=True,
            comment="Temperature at which the GPU slows down, °C",
        ),
        sa.Column(
            "temp_shutdown_c",
            sa.SmallInteger(),
            nullable=True,
            comment="Temperature at which the GPU shuts down, °C",
        ),
        sa.Column(
            "energy_counter",
            sa.Boolean(),
            server_default="true",
            nullable=False,
            comment="Whether it has an energy counter",
        ),
        sa.Column(
            "power_scope",
            sa.Text(),
            nullable=True,
            comment="gpu, or module where the sensor covers a CPU as well",
        ),
        sa.Column(
            "mig_enabled",
            sa.Boolean(),
            nullable=True,
            comment="Whether MIG is on; absent where the GPU cannot",
        ),
        sa.Column(
            "mig_instances",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default="[]",
            nullable=False,
            comment="MIG devices: uuid, ids, profile, memory",
        ),
        sa.Column(
            "removed",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When its node was last seen without it; absent while it is there",
        ),
        sa.ForeignKeyConstraint(["node_id"], ["gigawatch.node.node_id"], name=op.f("gpu_node_id_fkey")),
        sa.PrimaryKeyConstraint("gpu_id", name=op.f("gpu_pkey")),
        sa.UniqueConstraint("uuid", name=op.f("gpu_uuid_key")),
        schema="gigawatch",
        comment="A physical GPU",
    )
    op.create_index(op.f("gpu_node_id_idx"), "gpu", ["node_id"], unique=False, schema="gigawatch")
    op.create_table(
        "ingest_cursor",
        sa.Column("spool_id", sa.Text(), nullable=False, comment="Identity of an agent's spool"),
        sa.Column("node_id", sa.Integer(), nullable=False),
        sa.Column(
            "next_seq",
            sa.BigInteger(),
            nullable=False,
            comment="Number of the batch that is taken next",
        ),
        sa.Column("updated", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["node_id"], ["gigawatch.node.node_id"], name=op.f("ingest_cursor_node_id_fkey")),
        sa.PrimaryKeyConstraint("spool_id", name=op.f("ingest_cursor_pkey")),
        schema="gigawatch",
        comment="How far each spool is stored; committed with the rows of its batch",
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("ingest_cursor", schema="gigawatch")
    op.drop_index(op.f("gpu_node_id_idx"), table_name="gpu", schema="gigawatch")
    op.drop_table("gpu", schema="gigawatch")
    op.drop_table("node", schema="gigawatch")
    op.drop_table("rack", schema="gigawatch")
    op.drop_table("site", schema="gigawatch")
    op.drop_index(
        "node_window_time_idx",
        table_name="node_window",
        schema="gigawatch",
        postgresql_using="brin",
        postgresql_with={"pages_per_range": 32},
    )
    op.drop_index("node_window_node_id_time_idx", table_name="node_window", schema="gigawatch")
    op.drop_table("node_window", schema="gigawatch")
    op.drop_index(
        "gpu_window_time_idx",
        table_name="gpu_window",
        schema="gigawatch",
        postgresql_using="brin",
        postgresql_with={"pages_per_range": 32},
    )
    op.drop_index("gpu_window_gpu_id_time_idx", table_name="gpu_window", schema="gigawatch")
    op.drop_table("gpu_window", schema="gigawatch")
    op.drop_index("gpu_health_gpu_id_time_idx", table_name="gpu_health", schema="gigawatch")
    op.drop_table("gpu_health", schema="gigawatch")
    op.drop_index("event_time_idx", table_name="event", schema="gigawatch")
    op.drop_index("event_node_id_time_idx", table_name="event", schema="gigawatch")
    op.drop_index("event_gpu_id_time_idx", table_name="event", schema="gigawatch")
    op.drop_table("event", schema="gigawatch")
    op.drop_table("api_token", schema="gigawatch")

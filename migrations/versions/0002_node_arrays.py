"""A row of windows holds a node's GPUs as arrays; rollups of them; each node as it is now."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    for level in ("1m", "1h", "1d"):
        _make_rollups(level)
    _make_scheduling()
    _add_to_nodes()
    _turn_windows()


def _make_rollups(level: str) -> None:
    sums = sa.Integer() if level == "1m" else sa.BigInteger()
    op.create_table(
        f"gpu_{level}",
        sa.Column("time", sa.DateTime(timezone=True), nullable=False, comment="Start of the bucket"),
        sa.Column("node_id", sa.Integer(), nullable=False),
        sa.Column(
            "site_id", sa.Integer(), nullable=False, comment="Where the node was when the bucket was first folded"
        ),
        sa.Column("rack_id", sa.Integer(), nullable=True),
        sa.Column("slots", sa.SmallInteger(), nullable=False, comment="Slots that the arrays are about, from 1 on"),
        sa.Column(
            "covered_ms",
            postgresql.ARRAY(sa.Integer()),
            nullable=True,
            comment="Time with windows, ms; absent for a GPU without any; by slot",
        ),
        sa.Column("energy_mj", postgresql.ARRAY(sums), nullable=True, comment="Energy, mJ; by slot"),
        sa.Column(
            "energy_ms",
            postgresql.ARRAY(sa.Integer()),
            nullable=True,
            comment="Time for which the energy is known, ms; by slot",
        ),
        sa.Column(
            "energy_interpolated_mj",
            postgresql.ARRAY(sums),
            nullable=True,
            comment="Part interpolated over gaps, mJ; by slot",
        ),
        sa.Column(
            "energy_integrated_mj",
            postgresql.ARRAY(sums),
            nullable=True,
            comment="Part integrated from polled power, mJ; by slot",
        ),
        sa.Column(
            "energy_estimated_mj",
            postgresql.ARRAY(sums),
            nullable=True,
            comment="Part estimated over counter resets, mJ; by slot",
        ),
        sa.Column(
            "power_min_mw", postgresql.ARRAY(sa.Integer()), nullable=True, comment="Least polled power, mW; by slot"
        ),
        sa.Column(
            "power_max_mw", postgresql.ARRAY(sa.Integer()), nullable=True, comment="Greatest polled power, mW; by slot"
        ),
        sa.Column(
            "power_limit_mw",
            postgresql.ARRAY(sa.Integer()),
            nullable=True,
            comment="Greatest enforced power limit, mW; by slot",
        ),
        sa.Column(
            "mem_used_mib",
            postgresql.ARRAY(sa.Integer()),
            nullable=True,
            comment="Greatest memory in use, MiB; by slot",
        ),
        sa.Column(
            "gpu_util_pm_ms",
            postgresql.ARRAY(sums),
            nullable=True,
            comment="Utilisation times covered time, per mille ms; by slot",
        ),
        sa.Column(
            "gpu_util_ms", postgresql.ARRAY(sa.Integer()), nullable=True, comment="Covered time with that, ms; by slot"
        ),
        sa.Column(
            "mem_util_pm_ms",
            postgresql.ARRAY(sums),
            nullable=True,
            comment="Memory-controller utilisation times covered time, per mille ms; by slot",
        ),
        sa.Column(
            "mem_util_ms", postgresql.ARRAY(sa.Integer()), nullable=True, comment="Covered time with that, ms; by slot"
        ),
        sa.Column(
            "sm_clock_mhz_ms",
            postgresql.ARRAY(sums),
            nullable=True,
            comment="SM clock times covered time, MHz ms; by slot",
        ),
        sa.Column(
            "sm_clock_ms", postgresql.ARRAY(sa.Integer()), nullable=True, comment="Covered time with that, ms; by slot"
        ),
        sa.Column(
            "mem_clock_mhz_ms",
            postgresql.ARRAY(sums),
            nullable=True,
            comment="Memory clock times covered time, MHz ms; by slot",
        ),
        sa.Column(
            "mem_clock_ms", postgresql.ARRAY(sa.Integer()), nullable=True, comment="Covered time with that, ms; by slot"
        ),
        sa.Column(
            "gpu_temp_max_c",
            postgresql.ARRAY(sa.SmallInteger()),
            nullable=True,
            comment="Greatest GPU temperature, °C; by slot",
        ),
        sa.Column(
            "mem_temp_max_c",
            postgresql.ARRAY(sa.SmallInteger()),
            nullable=True,
            comment="Greatest memory temperature, °C; by slot",
        ),
        sa.Column(
            "fan_pct",
            postgresql.ARRAY(sa.SmallInteger()),
            nullable=True,
            comment="Greatest fan speed, % of the maximum intended; by slot",
        ),
        sa.Column(
            "clock_event_reasons",
            postgresql.ARRAY(sa.BigInteger()),
            nullable=True,
            comment="Union of NVML's clock-event bits; by slot",
        ),
        sa.Column(
            "throttled_ms",
            postgresql.ARRAY(sa.Integer()),
            nullable=True,
            comment="Covered time in windows with power cap, slowdown or brake, ms; by slot",
        ),
        sa.Column(
            "pcie_tx_kib", postgresql.ARRAY(sa.BigInteger()), nullable=True, comment="Sent over PCIe, KiB; by slot"
        ),
        sa.Column(
            "pcie_rx_kib", postgresql.ARRAY(sa.BigInteger()), nullable=True, comment="Received over PCIe, KiB; by slot"
        ),
        sa.Column(
            "pcie_ms", postgresql.ARRAY(sa.Integer()), nullable=True, comment="Covered time with either, ms; by slot"
        ),
        sa.Column(
            "nvlink_tx_kib", postgresql.ARRAY(sa.BigInteger()), nullable=True, comment="Sent over NVLink, KiB; by slot"
        ),
        sa.Column(
            "nvlink_rx_kib",
            postgresql.ARRAY(sa.BigInteger()),
            nullable=True,
            comment="Received over NVLink, KiB; by slot",
        ),
        sa.Column(
            "nvlink_ms", postgresql.ARRAY(sa.Integer()), nullable=True, comment="Covered time with either, ms; by slot"
        ),
        sa.Column("ticks_taken", postgresql.ARRAY(sa.Integer()), nullable=True, comment="Readings taken; by slot"),
        sa.Column("ticks_expected", postgresql.ARRAY(sa.Integer()), nullable=True, comment="Readings due; by slot"),
        schema="gigawatch",
        comment=f"What the GPUs of one node did in {level}: folded windows",
    )
    op.create_index(
        f"gpu_{level}_node_id_time_idx", f"gpu_{level}", ["node_id", "time"], unique=True, schema="gigawatch"
    )
    op.create_index(
        f"gpu_{level}_time_idx",
        f"gpu_{level}",
        ["time"],
        unique=False,
        schema="gigawatch",
        postgresql_using="brin",
        postgresql_with={"pages_per_range": 32},
    )
    op.create_table(
        f"node_{level}",
        sa.Column("time", sa.DateTime(timezone=True), nullable=False, comment="Start of the bucket"),
        sa.Column("node_id", sa.Integer(), nullable=False),
        sa.Column("covered_ms", sa.BigInteger(), nullable=False, comment="Time with windows, ms"),
        sa.Column(
            "tick_power_mw", sa.BigInteger(), nullable=True, comment="Sum over the ticks of the GPUs' total power, mW"
        ),
        sa.Column("ticks_summed", sa.Integer(), nullable=False, comment="Ticks in that sum: all GPUs answered"),
        sa.Column("tick_power_min_mw", sa.Integer(), nullable=True, comment="Least of them, mW"),
        sa.Column("tick_power_max_mw", sa.Integer(), nullable=True, comment="Greatest of them, mW"),
        sa.Column("cpu_energy_mj", sa.BigInteger(), nullable=True, comment="Energy of the CPU packages by RAPL, mJ"),
        sa.Column("cpu_energy_ms", sa.BigInteger(), nullable=True, comment="Covered time with that, ms"),
        sa.Column("dram_energy_mj", sa.BigInteger(), nullable=True, comment="Energy of the memory by RAPL, mJ"),
        sa.Column("dram_energy_ms", sa.BigInteger(), nullable=True, comment="Covered time with that, ms"),
        sa.Column(
            "node_power_mw_ms",
            sa.BigInteger(),
            nullable=True,
            comment="Power of the whole node by hwmon times covered time, mW ms",
        ),
        sa.Column("node_power_ms", sa.BigInteger(), nullable=True, comment="Covered time with that, ms"),
        sa.Column(
            "node_power_max_mw", sa.Integer(), nullable=True, comment="Greatest power of the whole node by hwmon, mW"
        ),
        sa.Column("ticks_taken", sa.Integer(), nullable=False, comment="Readings taken"),
        sa.Column("ticks_expected", sa.Integer(), nullable=False, comment="Readings due"),
        sa.Column(
            "rejected_readings", sa.BigInteger(), nullable=False, comment="Counter readings refused as impossible"
        ),
        schema="gigawatch",
        comment=f"What one node did in {level}: folded windows",
    )
    op.create_index(
        f"node_{level}_node_id_time_idx", f"node_{level}", ["node_id", "time"], unique=True, schema="gigawatch"
    )
    op.create_index(
        f"node_{level}_time_idx",
        f"node_{level}",
        ["time"],
        unique=False,
        schema="gigawatch",
        postgresql_using="brin",
        postgresql_with={"pages_per_range": 32},
    )
    op.create_table(
        f"rack_{level}",
        sa.Column("time", sa.DateTime(timezone=True), nullable=False, comment="Start of the bucket"),
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("rack_id", sa.Integer(), nullable=True, comment="Absent for nodes that name no rack"),
        sa.Column("gpu_model", sa.Text(), nullable=False, comment="Model of the GPUs"),
        sa.Column("gpus", sa.Integer(), nullable=False, comment="GPUs with a window in the bucket"),
        sa.Column("gpus_known", sa.Integer(), nullable=False, comment="Those of them whose energy is known"),
        sa.Column("power_mw", sa.BigInteger(), nullable=False, comment="Sum over them of energy over covered time, mW"),
        sa.Column("covered_ms", sa.BigInteger(), nullable=False, comment="GPU-time with windows, ms"),
        sa.Column("energy_mj", sa.BigInteger(), nullable=False, comment="Energy, mJ"),
        sa.Column("energy_ms", sa.BigInteger(), nullable=False, comment="GPU-time for which the energy is known, ms"),
        sa.Column("energy_interpolated_mj", sa.BigInteger(), nullable=False, comment="Part interpolated over gaps, mJ"),
        sa.Column(
            "energy_integrated_mj", sa.BigInteger(), nullable=False, comment="Part integrated from polled power, mJ"
        ),
        sa.Column(
            "energy_estimated_mj", sa.BigInteger(), nullable=False, comment="Part estimated over counter resets, mJ"
        ),
        sa.Column(
            "gpu_util_pm_ms", sa.BigInteger(), nullable=False, comment="Utilisation times covered time, per mille ms"
        ),
        sa.Column("gpu_util_ms", sa.BigInteger(), nullable=False, comment="Covered GPU-time with that, ms"),
        sa.Column(
            "throttled_ms", sa.BigInteger(), nullable=False, comment="GPU-time held down by cap, slowdown or brake, ms"
        ),
        sa.Column("gpu_temp_max_c", sa.SmallInteger(), nullable=True, comment="Greatest GPU temperature, °C"),
        sa.UniqueConstraint(
            "time",
            "site_id",
            "rack_id",
            "gpu_model",
            name=op.f(f"rack_{level}_time_site_id_rack_id_gpu_model_key"),
            postgresql_nulls_not_distinct=True,
        ),
        schema="gigawatch",
        comment=f"GPUs of one model in a rack, in {level}: the sums of gpu_{level}",
        postgresql_with={"fillfactor": 80},
    )
    op.create_table(
        f"site_{level}",
        sa.Column("time", sa.DateTime(timezone=True), nullable=False, comment="Start of the bucket"),
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("gpu_model", sa.Text(), nullable=False, comment="Model of the GPUs"),
        sa.Column("gpus", sa.Integer(), nullable=False, comment="GPUs with a window in the bucket"),
        sa.Column("gpus_known", sa.Integer(), nullable=False, comment="Those of them whose energy is known"),
        sa.Column("power_mw", sa.BigInteger(), nullable=False, comment="Sum over them of energy over covered time, mW"),
        sa.Column("covered_ms", sa.BigInteger(), nullable=False, comment="GPU-time with windows, ms"),
        sa.Column("energy_mj", sa.BigInteger(), nullable=False, comment="Energy, mJ"),
        sa.Column("energy_ms", sa.BigInteger(), nullable=False, comment="GPU-time for which the energy is known, ms"),
        sa.Column("energy_interpolated_mj", sa.BigInteger(), nullable=False, comment="Part interpolated over gaps, mJ"),
        sa.Column(
            "energy_integrated_mj", sa.BigInteger(), nullable=False, comment="Part integrated from polled power, mJ"
        ),
        sa.Column(
            "energy_estimated_mj", sa.BigInteger(), nullable=False, comment="Part estimated over counter resets, mJ"
        ),
        sa.Column(
            "gpu_util_pm_ms", sa.BigInteger(), nullable=False, comment="Utilisation times covered time, per mille ms"
        ),
        sa.Column("gpu_util_ms", sa.BigInteger(), nullable=False, comment="Covered GPU-time with that, ms"),
        sa.Column(
            "throttled_ms", sa.BigInteger(), nullable=False, comment="GPU-time held down by cap, slowdown or brake, ms"
        ),
        sa.Column("gpu_temp_max_c", sa.SmallInteger(), nullable=True, comment="Greatest GPU temperature, °C"),
        sa.UniqueConstraint(
            "time",
            "site_id",
            "gpu_model",
            name=op.f(f"site_{level}_time_site_id_gpu_model_key"),
            postgresql_nulls_not_distinct=True,
        ),
        schema="gigawatch",
        comment=f"GPUs of one model in a site, in {level}: the sums of gpu_{level}",
        postgresql_with={"fillfactor": 80},
    )


def _make_scheduling() -> None:
    op.create_table(
        "site_second",
        sa.Column("time", sa.DateTime(timezone=True), nullable=False, comment="Start of the minute"),
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column(
            "power_mw",
            postgresql.ARRAY(sa.BigInteger()),
            nullable=False,
            comment="Sum of the nodes' GPU power in each second, mW",
        ),
        sa.Column("nodes", postgresql.ARRAY(sa.Integer()), nullable=False, comment="Nodes in that sum, in each second"),
        sa.UniqueConstraint("site_id", "time", name=op.f("site_second_site_id_time_key")),
        schema="gigawatch",
        comment="GPU power of each site, second by second: the sum of node_window's ticks",
    )
    op.create_table(
        "rollup",
        sa.Column("level", sa.Text(), nullable=False, comment="1m, 1h or 1d"),
        sa.Column(
            "closed",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="Buckets before it take windows by way of rollup_dirty alone",
        ),
        sa.Column("folded", sa.DateTime(timezone=True), nullable=False, comment="Buckets before it are folded"),
        sa.Column(
            "node_id", sa.Integer(), nullable=False, comment="Nodes before it are folded in the bucket `folded` as well"
        ),
        sa.PrimaryKeyConstraint("level", name=op.f("rollup_pkey")),
        schema="gigawatch",
        comment="How far the windows are folded",
    )
    op.create_table(
        "rollup_dirty",
        sa.Column(
            "level",
            sa.Text(),
            nullable=False,
            comment="1m, 1h or 1d; 1s for a node window that site_second lacks",
        ),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False, comment="Start of the bucket, or of the window"),
        sa.Column("node_id", sa.Integer(), nullable=False),
        schema="gigawatch",
        comment="What came after its bucket was closed, to be folded again",
    )
    op.create_index("rollup_dirty_level_time_idx", "rollup_dirty", ["level", "time"], unique=False, schema="gigawatch")
    op.create_table(
        "job",
        sa.Column("name", sa.Text(), nullable=False, comment="fold or retain"),
        sa.Column("leader", sa.Text(), nullable=False, comment="Host and process that ran it"),
        sa.Column("started", sa.DateTime(timezone=True), nullable=False, comment="When its last run began"),
        sa.Column(
            "finished", sa.DateTime(timezone=True), nullable=True, comment="When that run ended; absent while it runs"
        ),
        sa.Column("progress", sa.Text(), nullable=True, comment="What it is doing, or did"),
        sa.Column("error", sa.Text(), nullable=True, comment="Why it failed; absent where it did not"),
        sa.PrimaryKeyConstraint("name", name=op.f("job_pkey")),
        schema="gigawatch",
        comment="The scheduler's jobs: the last run of each",
    )


def _add_to_nodes() -> None:
    op.create_table(
        "gpu_slot",
        sa.Column("node_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column(
            "slot", sa.SmallInteger(), autoincrement=False, nullable=False, comment="Place in the node's arrays, from 1"
        ),
        sa.Column("gpu_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["gpu_id"], ["gigawatch.gpu.gpu_id"], name=op.f("gpu_slot_gpu_id_fkey")),
        sa.ForeignKeyConstraint(["node_id"], ["gigawatch.node.node_id"], name=op.f("gpu_slot_node_id_fkey")),
        sa.PrimaryKeyConstraint("node_id", "slot", name=op.f("gpu_slot_pkey")),
        sa.UniqueConstraint("gpu_id", "node_id", name=op.f("gpu_slot_gpu_id_node_id_key")),
        schema="gigawatch",
        comment="Which GPU each element of a node's arrays is about",
    )
    op.create_table(
        "node_now",
        sa.Column("node_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column(
            "last_seen", sa.DateTime(timezone=True), nullable=False, comment="When the server last stored a batch of it"
        ),
        sa.Column(
            "clock_offset_ms",
            sa.Integer(),
            nullable=False,
            comment="Node's clock minus the server's when the last batch arrived, ms",
        ),
        sa.Column(
            "time",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="Start of its newest window; the columns below are of that window",
        ),
        sa.Column("gpus", sa.SmallInteger(), nullable=True, comment="GPUs with a window"),
        sa.Column(
            "gpus_throttled", sa.SmallInteger(), nullable=True, comment="GPUs held down by power cap, slowdown or brake"
        ),
        sa.Column("power_mw", sa.BigInteger(), nullable=True, comment="Sum of the GPUs' energy over covered time, mW"),
        sa.Column(
            "power_limit_mw", sa.BigInteger(), nullable=True, comment="Sum of the GPUs' enforced power limits, mW"
        ),
        sa.Column("gpu_util_pm", sa.Integer(), nullable=True, comment="Sum of the GPUs' utilisation, per mille"),
        sa.Column("gpu_util_gpus", sa.SmallInteger(), nullable=True, comment="GPUs in that sum"),
        sa.Column("gpu_temp_max_c", sa.SmallInteger(), nullable=True, comment="Greatest GPU temperature, °C"),
        sa.Column("gpu_power_max_mw", sa.Integer(), nullable=True, comment="Greatest power of one of the GPUs, mW"),
        sa.Column(
            "gpu_util_max_pm",
            sa.SmallInteger(),
            nullable=True,
            comment="Greatest utilisation of one of the GPUs, per mille",
        ),
        sa.ForeignKeyConstraint(["node_id"], ["gigawatch.node.node_id"], name=op.f("node_now_node_id_fkey")),
        sa.PrimaryKeyConstraint("node_id", name=op.f("node_now_pkey")),
        schema="gigawatch",
        comment="Each node as it is now; written with its windows, so that pages need not look for the newest",
        postgresql_with={"fillfactor": 50},
    )
    op.execute("ALTER TABLE gigawatch.ingest_cursor SET (fillfactor = 50)")
    op.add_column(
        "node",
        sa.Column(
            "gpus", sa.SmallInteger(), server_default="0", nullable=False, comment="Physical GPUs that it has now"
        ),
        schema="gigawatch",
    )
    op.add_column(
        "node",
        sa.Column("gpu_model", sa.Text(), comment="Model of its GPUs; absent where it has none, or several models"),
        schema="gigawatch",
    )
    op.add_column(
        "node",
        sa.Column(
            "temp_slowdown_c", sa.SmallInteger(), comment="Least temperature at which one of its GPUs slows down, °C"
        ),
        schema="gigawatch",
    )
    op.execute("""
        INSERT INTO gigawatch.gpu_slot (node_id, slot, gpu_id)
        SELECT node_id, row_number() OVER (PARTITION BY node_id ORDER BY index NULLS LAST, gpu_id), gpu_id
        FROM gigawatch.gpu""")
    op.execute("""
        INSERT INTO gigawatch.node_now (node_id, last_seen, clock_offset_ms)
        SELECT node_id, last_seen, coalesce(clock_offset_ms, 0) FROM gigawatch.node""")
    op.execute("""
        UPDATE gigawatch.node SET gpus = now.gpus, gpu_model = now.gpu_model, temp_slowdown_c = now.temp_slowdown_c
        FROM (
            SELECT node_id, count(*) AS gpus, min(temp_slowdown_c) AS temp_slowdown_c,
                CASE WHEN min(model) = max(model) THEN min(model) END AS gpu_model
            FROM gigawatch.gpu WHERE removed IS NULL GROUP BY node_id
        ) AS now WHERE now.node_id = node.node_id""")
    op.drop_column("node", "last_seen", schema="gigawatch")
    op.drop_column("node", "clock_offset_ms", schema="gigawatch")


METRICS = {
    sa.Integer: ("energy_mj", "power_mean_mw", "power_min_mw", "power_max_mw", "power_limit_mw", "mem_used_mib"),
    sa.SmallInteger: (
        "gpu_util_pm", "mem_util_pm", "gpu_temp_max_c", "mem_temp_max_c", "sm_clock_mhz", "mem_clock_mhz", "fan_pct"
    ),
    sa.BigInteger: ("clock_event_reasons", "pcie_tx_kib", "pcie_rx_kib", "nvlink_tx_kib", "nvlink_rx_kib"),
}  # fmt: skip
COMMENTS = {
    "energy_mj": "Energy over covered_ms, mJ; by slot",
    "power_mean_mw": "Mean of the polled power, mW; by slot",
    "power_min_mw": "Least polled power, mW; by slot",
    "power_max_mw": "Greatest polled power, mW; by slot",
    "power_limit_mw": "Enforced power limit at the last tick, mW; by slot",
    "mem_used_mib": "Greatest memory in use, MiB; by slot",
    "gpu_util_pm": "Mean GPU utilisation, per mille; by slot",
    "mem_util_pm": "Mean memory-controller utilisation, per mille; by slot",
    "gpu_temp_max_c": "Greatest GPU temperature, °C; by slot",
    "mem_temp_max_c": "Greatest memory temperature, °C; by slot",
    "sm_clock_mhz": "Mean SM clock, MHz; by slot",
    "mem_clock_mhz": "Mean memory clock, MHz; by slot",
    "fan_pct": "Fan speed at the last tick, % of the maximum intended; by slot",
    "clock_event_reasons": "Union of NVML's clock-event bits over the ticks; by slot",
    "pcie_tx_kib": "Sent over PCIe, KiB; by slot",
    "pcie_rx_kib": "Received over PCIe, KiB; by slot",
    "nvlink_tx_kib": "Sent over NVLink, KiB; by slot",
    "nvlink_rx_kib": "Received over NVLink, KiB; by slot",
}


def _turn_windows() -> None:
    """Make a row for each node and window of the rows for each GPU and window."""
    op.rename_table("gpu_window", "gpu_window_0001", schema="gigawatch")
    op.execute("ALTER INDEX gigawatch.gpu_window_time_idx RENAME TO gpu_window_0001_time_idx")
    op.create_table(
        "gpu_window",
        sa.Column("time", sa.DateTime(timezone=True), nullable=False, comment="Start of the window"),
        sa.Column("node_id", sa.Integer(), nullable=False),
        sa.Column("covered_ms", sa.Integer(), nullable=False, comment="Time for which the energy is known, ms"),
        sa.Column(
            "slots", sa.SmallInteger(), nullable=False, comment="Slots of the node that the arrays are about, from 1 on"
        ),
        sa.Column("ticks_taken", sa.SmallInteger(), nullable=False, comment="Readings taken"),
        sa.Column("ticks_expected", sa.SmallInteger(), nullable=False, comment="Readings due"),
        sa.Column(
            "energy_method",
            sa.SmallInteger(),
            nullable=False,
            comment="0 no energy, 1 counter, 2 interpolated, 3 integrated, 4 estimated; the weakest used",
        ),
        sa.Column(
            "each",
            postgresql.ARRAY(sa.Integer(), dimensions=2),
            comment="By slot: covered_ms (0: no window), ticks_taken, ticks_expected, energy_method; "
            "absent where all slots are as the columns say",
        ),
        *(
            sa.Column(name, postgresql.ARRAY(kind()), comment=COMMENTS[name])
            for kind, names in METRICS.items()
            for name in names
        ),
        schema="gigawatch",
        comment="What the GPUs of one node did in one window",
    )
    metrics = [name for names in METRICS.values() for name in names]
    arrays = ", ".join(
        f"CASE WHEN count({name}) > 0 THEN array_agg({name} ORDER BY slot) END AS {name}" for name in metrics
    )
    # Slots without a window in the row are filled, so that an element's place is its GPU's slot.
    op.execute(f"""
        INSERT INTO gigawatch.gpu_window (time, node_id, covered_ms, slots, ticks_taken, ticks_expected, energy_method,
            each, {", ".join(metrics)})
        SELECT time, node_id, max(covered_ms), count(*), max(ticks_taken), max(ticks_expected),
            coalesce(max(energy_method), 0),
            array_agg(ARRAY[coalesce(covered_ms, 0), coalesce(ticks_taken::integer, 0),
                coalesce(ticks_expected::integer, 0), coalesce(energy_method::integer, 0)] ORDER BY slot),
            {arrays}
        FROM (
            SELECT rows.time, rows.node_id, slot, w.covered_ms, w.ticks_taken, w.ticks_expected, w.energy_method,
                {", ".join(f"w.{name}" for name in metrics)}
            FROM (
                SELECT w.time, s.node_id, max(s.slot) AS slots
                FROM gigawatch.gpu_window_0001 AS w JOIN gigawatch.gpu_slot AS s USING (gpu_id) GROUP BY 1, 2
            ) AS rows
            CROSS JOIN LATERAL generate_series(1, rows.slots) AS slot
            JOIN gigawatch.gpu_slot USING (node_id, slot)
            LEFT JOIN gigawatch.gpu_window_0001 AS w ON w.gpu_id = gpu_slot.gpu_id AND w.time = rows.time
        ) AS filled
        GROUP BY time, node_id""")
    op.execute("DROP TABLE gigawatch.gpu_window_0001")
    op.create_index("gpu_window_node_id_time_idx", "gpu_window", ["node_id", "time"], unique=True, schema="gigawatch")
    op.create_index(
        "gpu_window_time_idx",
        "gpu_window",
        ["time"],
        schema="gigawatch",
        postgresql_using="brin",
        postgresql_with={"pages_per_range": 32},
    )

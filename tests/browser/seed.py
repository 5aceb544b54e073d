"""A small fleet written straight into the store: sites, racks, models, and everything that can be wrong."""

import json
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

from api.rollup_sql import seconds_sql
from tests import flat

MODELS = {
    # name: (power limit W, slowdown °C, shutdown °C, memory MiB, has an energy counter)
    "NVIDIA H100 80GB HBM3": (700, 87, 92, 81_559, True),
    "NVIDIA B200": (1_000, 90, 95, 183_359, True),
    "NVIDIA L40S": (350, 92, 95, 46_068, True),
    "NVIDIA A100-SXM4-80GB": (400, 85, 90, 81_920, False),
}
PLACES = (
    # site, rack, model of its GPUs
    ("oslo", "r01", "NVIDIA H100 80GB HBM3"),
    ("oslo", "r02", "NVIDIA H100 80GB HBM3"),
    ("oslo", "r03", "NVIDIA B200"),
    ("oslo", "r04", "NVIDIA B200"),
    ("austin", "a01", "NVIDIA H100 80GB HBM3"),
    ("austin", "a02", "NVIDIA L40S"),
    ("austin", "a03", "NVIDIA A100-SXM4-80GB"),
)
SILENT = "oslo-r02-n02"
CLOCK_OFF = "austin-a01-n01"
LOST = "GPU-oslo-r01-n01-3"
THROTTLED = "GPU-oslo-r03-n01-0"
MIG = "GPU-austin-a03-n01-0"


def seed(
    connection: Connection,
    now: datetime,
    *,
    nodes_per_rack: int = 2,
    gpus_per_node: int = 4,
    history: timedelta = timedelta(hours=2),
    simulated: bool = False,
) -> None:
    """Sites, racks, nodes, GPUs, windows by the minute and by 10 s for the last 10 minutes, seconds, health, events."""
    for site, rack, model in PLACES:
        _place(connection, site, rack, model, nodes_per_rack, gpus_per_node, simulated)
    flat.make(connection)
    fine = now - timedelta(minutes=10)
    windows(connection, now - history, fine, 60)
    windows(connection, fine, now, 10)
    _faults(connection, now)
    connection.exec_driver_sql(seconds_sql("SELECT * FROM gigawatch.node_window"))
    flat.store(connection)
    _health_and_events(connection, now)
    connection.execute(text("UPDATE gigawatch.node_now SET last_seen = :now, clock_offset_ms = 12"), {"now": now})
    connection.execute(
        text(
            "UPDATE gigawatch.node_now SET last_seen = :then FROM gigawatch.node"
            " WHERE node.node_id = node_now.node_id AND hostname = :name"
        ),
        {"then": now - timedelta(minutes=42), "name": SILENT},
    )
    connection.execute(
        text(
            "UPDATE gigawatch.node_now SET clock_offset_ms = -4310 FROM gigawatch.node"
            " WHERE node.node_id = node_now.node_id AND hostname = :name"
        ),
        {"name": CLOCK_OFF},
    )


def _place(connection: Connection, site: str, rack: str, model: str, nodes: int, gpus: int, simulated: bool) -> None:
    limit_w, slowdown_c, shutdown_c, memory_mib, counter = MODELS[model]
    connection.execute(
        text("""
        WITH place AS (
            INSERT INTO gigawatch.site (name) VALUES (:site)
            ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING site_id
        ), rack AS (
            INSERT INTO gigawatch.rack (site_id, name) SELECT site_id, :rack FROM place RETURNING rack_id, site_id
        ), nodes AS (
            INSERT INTO gigawatch.node (machine_id, site_id, rack_id, hostname, simulated, agent_version,
                driver_version, cuda_version, cpu_model, first_seen)
            SELECT md5(:site || :rack || n), site_id, rack_id, format('%s-%s-n%s', CAST(:site AS text),
                CAST(:rack AS text), lpad(n::text, 2, '0')), :simulated, '0.1.0', '580.95.05', '13.0',
                'AMD EPYC 9654 96-Core Processor', now() - interval '20 days'
            FROM rack, generate_series(1, :nodes) AS n RETURNING node_id, hostname
        )
        INSERT INTO gigawatch.gpu (node_id, uuid, index, model, serial, pci_bus_id, vbios_version, mem_total_mib,
            power_limit_mw, power_limit_default_mw, power_limit_min_mw, power_limit_max_mw, temp_slowdown_c,
            temp_shutdown_c, energy_counter, power_scope)
        SELECT node_id, format('GPU-%s-%s', hostname, g), g, :model, '16500230' || node_id || g,
            format('00000000:%s:00.0', upper(lpad(to_hex(16 + 17 * g), 2, '0'))), '96.00.74.00.1A', :memory,
            :limit_mw, :limit_mw, :limit_mw / 4, :limit_mw, :slowdown, :shutdown, :counter, 'gpu'
        FROM nodes, generate_series(0, :gpus - 1) AS g"""),
        {
            "site": site, "rack": rack, "model": model, "nodes": nodes, "gpus": gpus, "simulated": simulated,
            "memory": memory_mib, "limit_mw": limit_w * 1000, "slowdown": slowdown_c, "shutdown": shutdown_c,
            "counter": counter,
        },
    )  # fmt: skip


def windows(connection: Connection, start: datetime, stop: datetime, length_s: int) -> None:
    """Windows of every GPU and node: load that swings by node, with noise that is the same each time."""
    values = {"start": start, "stop": stop, "length_s": length_s}
    connection.execute(
        text("""
        INSERT INTO flat_window (time, gpu_id, covered_ms, energy_mj, power_mean_mw, power_min_mw,
            power_max_mw, power_limit_mw, mem_used_mib, energy_method, ticks_taken, ticks_expected, gpu_util_pm,
            mem_util_pm, gpu_temp_max_c, mem_temp_max_c, sm_clock_mhz, mem_clock_mhz, fan_pct,
            clock_event_reasons, pcie_tx_kib, pcie_rx_kib, nvlink_tx_kib, nvlink_rx_kib)
        SELECT time, gpu_id, :length_s * 1000, power_mw * :length_s, power_mw, power_mw * 0.86,
            least(power_mw * 1.09, power_limit_mw * 1.02), power_limit_mw,
            mem_total_mib * (0.55 + 0.3 * load), CASE WHEN energy_counter THEN 1 ELSE 3 END, :length_s, :length_s,
            least(1000, load * 1050), load * 480, 31 + (temp_slowdown_c - 42) * load + noise * 6,
            CASE WHEN model NOT LIKE '%L40S' THEN 38 + (temp_slowdown_c - 40) * load END,
            1980 - 420 * greatest(0, load - 0.7), 2619, CASE WHEN model LIKE '%L40S' THEN 30 + 55 * load END,
            CASE WHEN load > 0.97 THEN 4 ELSE 0 END, load * 900000, load * 1400000, load * 9e6, load * 9.1e6
        FROM (
            SELECT *, (power_limit_mw * (0.17 + 0.8 * load))::integer AS power_mw
            FROM (
                SELECT gpu.*, greatest(0.03, least(1,
                    CASE WHEN node_id % 7 = 3 THEN 0.05 ELSE 0.72
                        + 0.16 * sin(extract(epoch FROM time)::float8 / (3600 + 400 * (node_id % 5)) + node_id)
                        + 0.10 * sin(extract(epoch FROM time)::float8 / 610 + rack_phase) END
                    + 0.12 * (noise - 0.5))) AS load
                FROM (
                    SELECT gpu.*, time, gpu.node_id % 6 AS rack_phase,
                        abs(hashtext(gpu_id::text || time::text)) % 1000 / 1000.0::float8 AS noise
                    FROM gigawatch.gpu
                    CROSS JOIN generate_series(CAST(:start AS timestamptz),
                        CAST(:stop AS timestamptz) - :length_s * interval '1 s',
                        :length_s * interval '1 s') AS time
                ) AS gpu
            ) AS loaded
        ) AS powered"""),
        values,
    )
    connection.execute(
        text("""
        INSERT INTO gigawatch.node_window (time, node_id, covered_ms, tick_ms, ticks_taken, ticks_expected,
            gpus_read, gpus_expected, gpu_power_mw, cpu_energy_mj, dram_energy_mj, node_power_mean_mw,
            node_power_max_mw, rejected_readings)
        SELECT time, node_id, :length_s * 1000, 1000, :length_s, :length_s, gpus, gpus,
            -- Noise of each node's own, and an oscillation that they have in common.
            ARRAY(SELECT (mw * (0.9 + 0.2 * (abs(hashtext(node_id::text || time::text || tick)) % 100) / 100.0
                    + 0.1 * sin(2 * pi() * (extract(epoch FROM time)::float8 + tick) / 31)))::int
                FROM generate_series(1, :length_s) AS tick),
            mw * 0.09 * :length_s, mw * 0.02 * :length_s, mw * 1.21, mw * 1.3, 0
        FROM (
            SELECT time, node_id, count(*) AS gpus, sum(power_mean_mw) AS mw
            FROM flat_window JOIN gigawatch.gpu USING (gpu_id)
            WHERE time >= :start AND time < :stop GROUP BY time, node_id
        ) AS node"""),
        values,
    )


def _faults(connection: Connection, now: datetime) -> None:
    values = {
        "now": now, "silent": SILENT, "lost": LOST, "throttled": THROTTLED, "mig": MIG,
        "instances": json.dumps([
            {"uuid": f"MIG-{number}", "gpu_instance_id": number, "compute_instance_id": 0, "profile": "3g.40gb",
             "mem_total_mib": 40_192}
            for number in (1, 2)
        ]),
    }  # fmt: skip
    for sql in (
        # The whole fleet unmeasured for some minutes, and one site for longer.
        "DELETE FROM flat_window WHERE time >= :now - interval '70 min' AND time < :now - interval '64 min'",
        """DELETE FROM flat_window USING gigawatch.gpu, gigawatch.node, gigawatch.site
        WHERE flat_window.gpu_id = gpu.gpu_id AND gpu.node_id = node.node_id AND node.site_id = site.site_id
            AND site.name = 'austin' AND time >= :now - interval '50 min' AND time < :now - interval '40 min'""",
        """DELETE FROM flat_window USING gigawatch.gpu, gigawatch.node
        WHERE flat_window.gpu_id = gpu.gpu_id AND gpu.node_id = node.node_id AND hostname = :silent
            AND time >= :now - interval '42 min'""",
        """DELETE FROM gigawatch.node_window USING gigawatch.node
        WHERE node_window.node_id = node.node_id AND hostname = :silent AND time >= :now - interval '42 min'""",
        """DELETE FROM flat_window USING gigawatch.gpu
        WHERE flat_window.gpu_id = gpu.gpu_id AND uuid = :lost AND time >= :now - interval '25 min'""",
        """UPDATE flat_window SET clock_event_reasons = 64 | 8, gpu_temp_max_c = temp_slowdown_c - 1,
            sm_clock_mhz = 1200
        FROM gigawatch.gpu WHERE flat_window.gpu_id = gpu.gpu_id AND uuid = :throttled
            AND time >= :now - interval '20 min'""",
        """UPDATE flat_window SET gpu_util_pm = NULL
        FROM gigawatch.gpu WHERE flat_window.gpu_id = gpu.gpu_id AND uuid = :mig""",
        """UPDATE gigawatch.gpu SET mig_enabled = true, mig_instances = CAST(:instances AS jsonb)
        WHERE uuid = :mig""",
    ):
        connection.execute(text(sql), values)


def _health_and_events(connection: Connection, now: datetime) -> None:
    values = {"now": now, "lost": LOST, "throttled": THROTTLED, "silent": SILENT, "clock": CLOCK_OFF}
    for sql in (
        """INSERT INTO gigawatch.gpu_health (time, gpu_id, ecc_volatile_corrected, ecc_volatile_uncorrected,
            ecc_aggregate_corrected, ecc_aggregate_uncorrected, rows_remapped_corrected,
            rows_remapped_uncorrected, row_remap_pending, row_remap_failed, pcie_replays, performance_state,
            processes)
        SELECT :now - interval '30 s', gpu_id, gpu_id % 5, 0, gpu_id % 9, 0, CASE WHEN uuid = :throttled THEN 1
            ELSE 0 END, 0, uuid = :throttled, false, 0, 0, jsonb_build_array(jsonb_build_object('pid', 4000 + gpu_id,
            'name', 'vllm::worker', 'mem_used_mib', 61440))
        FROM gigawatch.gpu""",
        """INSERT INTO gigawatch.event (time, node_id, gpu_id, kind, severity, code, message)
        SELECT :now - interval '25 min', node_id, gpu_id, 'xid', 'critical', 79,
            'XID 79: GPU has fallen off the bus' FROM gigawatch.gpu WHERE uuid = :lost""",
        """INSERT INTO gigawatch.event (time, node_id, gpu_id, kind, severity, message)
        SELECT :now - interval '25 min', node_id, gpu_id, 'gpu_lost', 'critical',
            'GPU 3 no longer answers' FROM gigawatch.gpu WHERE uuid = :lost""",
        """INSERT INTO gigawatch.event (time, node_id, gpu_id, kind, severity, code, message)
        SELECT :now - interval '19 min', node_id, gpu_id, 'xid', 'warning', 63,
            'XID 63: row remapping recorded' FROM gigawatch.gpu WHERE uuid = :throttled""",
        """INSERT INTO gigawatch.event (time, node_id, kind, severity, message)
        SELECT :now - interval '90 min', node_id, 'agent_started', 'info', 'Agent 0.1.0 started'
        FROM gigawatch.node WHERE hostname = :clock""",
        """INSERT INTO gigawatch.event (time, node_id, kind, severity, message)
        SELECT :now - interval '80 min', node_id, 'clock_step', 'warning', 'The clock stepped by -4.3 s'
        FROM gigawatch.node WHERE hostname = :clock""",
    ):
        connection.execute(text(sql), values)

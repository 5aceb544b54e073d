"""From the GPUs to the grid at 75,000 nodes: python -m bench.reconciliation FOLDER, which keeps the store.

Four sites of nodes of 8 GPUs in racks of 8, with a PDU's meter for each rack and a power meter in each node. Their
hours of two days are written as folding leaves them; report.reconciliation is asked as the report role asks it, each
best of five.
"""

import argparse
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, text

from bench.facility import best_ms, owned
from gigawatch import database, facility_readings
from gigawatch.embedded import EmbeddedServer
from migrations.run import migrate

SITES = 4
DAYS = 2
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
HOURS = "generate_series(%(start)s, %(stop)s - interval '1 hour', '1 hour') AS hour"
GROUP = """'NVIDIA H100', sum(gpus), sum(gpus), sum(gpus) * 600000, sum(gpus) * 3600000, sum(gpus) * 2160000000,
    sum(gpus) * 3600000, 0, 0, 0, 0, 0, 0, 60, 0, 0"""
STATEMENTS = (
    f"INSERT INTO gigawatch.site (name) SELECT 'site-' || n FROM generate_series(1, {SITES}) AS n",
    f"""
    INSERT INTO gigawatch.rack (site_id, name)
    SELECT site_id, 'rack-' || n FROM gigawatch.site CROSS JOIN generate_series(1, %(nodes)s / 8 / {SITES}) AS n""",
    """
    INSERT INTO gigawatch.node (machine_id, site_id, rack_id, hostname)
    SELECT rack_id || '-' || n, site_id, rack_id, rack_id || '-' || n
    FROM gigawatch.rack CROSS JOIN generate_series(1, 8) AS n""",
    """
    INSERT INTO gigawatch.gpu (node_id, uuid, index, model)
    SELECT node_id, node_id || '-' || n, n, 'NVIDIA H100' FROM gigawatch.node CROSS JOIN generate_series(1, 8) AS n""",
    "INSERT INTO gigawatch.gpu_slot SELECT node_id, index, gpu_id FROM gigawatch.gpu",
    """
    INSERT INTO gigawatch.meter (site_id, name, role) SELECT site_id, name, 'pdu' FROM gigawatch.rack""",
    """
    INSERT INTO gigawatch.meter_rack
    SELECT meter_id, rack_id FROM gigawatch.meter JOIN gigawatch.rack USING (site_id, name)""",
    f"""
    INSERT INTO gigawatch.gpu_1h (time, node_id, site_id, rack_id, slots, covered_ms, energy_mj, energy_ms)
    SELECT hour, node_id, site_id, rack_id, 8, ARRAY[3600000],
        array_fill(2160000000 + (100000000 * random())::bigint, ARRAY[8]), ARRAY[3600000]
    FROM {HOURS} CROSS JOIN gigawatch.node""",
    f"""
    INSERT INTO gigawatch.node_1h (time, node_id, covered_ms, tick_power_mw, ticks_summed, cpu_energy_mj, cpu_energy_ms,
        dram_energy_mj, dram_energy_ms, node_power_mw_ms, node_power_ms, ticks_taken, ticks_expected, rejected_readings)
    SELECT hour, node_id, 3600000, 4800000 * 3600::bigint, 3600, 1500000000, 3600000, 300000000, 3600000,
        6500000 * 3600000::bigint, 3600000, 3600, 3600, 0
    FROM {HOURS} CROSS JOIN gigawatch.node""",
    f"""
    INSERT INTO gigawatch.rack_1h
    SELECT hour, site_id, rack_id, {GROUP}
    FROM {HOURS} CROSS JOIN (SELECT site_id, rack_id, 8 AS gpus FROM gigawatch.node) AS its
    GROUP BY hour, site_id, rack_id""",
    f"""
    INSERT INTO gigawatch.site_1h
    SELECT hour, site_id, {GROUP}
    FROM {HOURS} CROSS JOIN (SELECT site_id, 8 AS gpus FROM gigawatch.node) AS its GROUP BY hour, site_id""",
    f"""
    INSERT INTO gigawatch.meter_1h (time, meter_id, covered_ms, energy_mj, energy_ms, energy_interpolated_mj,
        energy_integrated_mj, energy_estimated_mj, polled_mj, polled_ms, volume_ms, temp_ms, readings_taken,
        readings_expected, rejected_readings, stuck_h, reversed_h)
    SELECT hour, meter_id, 3600000, 190000000000, 3600000, 0, 0, 0, 190000000000, 3600000, 0, 0, 360, 360, 0, 0, 0
    FROM {HOURS} CROSS JOIN gigawatch.meter""",
    f"""
    INSERT INTO gigawatch.facility_1h
    SELECT hour, site_id, NULL, role, 1, 3600000, %(nodes)s / {SITES} * 25000000000, 3600000, 0, 0, 0, NULL, 0, NULL, 0
    FROM {HOURS} CROSS JOIN gigawatch.site CROSS JOIN unnest(ARRAY['utility', 'ups_in', 'ups_out', 'pdu']) AS role""",
    "VACUUM ANALYZE",
)


def filled(folder: Path, nodes: int) -> None:
    """Make a store in a new folder, and leave it stopped."""
    stop = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    with EmbeddedServer(folder) as server:
        engine = database.engine(server.url)
        migrate(engine)
        with owned(engine) as connection:
            for statement in STATEMENTS:
                connection.execute(statement, {"start": stop - DAYS * DAY, "stop": stop, "nodes": nodes})
        engine.dispose()


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="of a store; it is filled where there is none")
    parser.add_argument("--nodes", type=int, default=75_000)
    given = parser.parse_args()
    if not given.folder.exists():
        filled(given.folder, given.nodes)
    with EmbeddedServer(given.folder) as server:
        engine = database.engine(server.url)
        migrate(engine)
        with engine.connect() as connection:
            newest: datetime = connection.execute(text("SELECT max(time) FROM gigawatch.site_1h")).scalar_one()
        engine.dispose()
        stop = newest + HOUR
        reader = database.engine(server.url, role=database.REPORT_ROLE)
        for words, length, group_by in (
            ("an hour, by site", HOUR, "site"), ("an hour, by rack", HOUR, "rack"), ("an hour, by node", HOUR, "node"),
            ("a day, by site", DAY, "site"), ("a day, by rack", DAY, "rack"), ("a day, by node", DAY, "node"),
        ):  # fmt: skip

            def read(connection: Connection, of: tuple[Any, ...] = (stop - length, stop, group_by, "site-1")) -> None:
                facility_readings.reconciliation(connection, *of)

            print(f"| {words} | {best_ms(reader, read):,.0f} |", flush=True)
        reader.dispose()


if __name__ == "__main__":
    main()

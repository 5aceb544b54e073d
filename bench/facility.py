"""A year of 20 sites with 100 meters each, by the hour: python -m bench.facility FOLDER, which keeps the store.

Hours of meters are written as the fold of windows leaves them; days, sums and ratios are then folded by the very code
of the API. Sites have feeds, racks with budgets, the grid's carbon intensity by the hour and a certificate by the year;
the newest hour ends within a day, as most do. What pages ask is measured as the report role asks it, each best of five;
then the page itself, by the dashboard's own code: its reads, figures and JSON, without anything that was read a moment
ago, and with it.
"""

import argparse
import gc
import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine, text

from api.meter_rollups import topology_changed
from api.rollups import SETTLED, Folder
from bench.queries import page, quantile
from dashboard import recent
from gigawatch import database, facility_readings
from gigawatch.embedded import EmbeddedServer
from migrations.run import migrate

ROLES = (
    ("utility", 2, 1_300), ("generation", 1, 20), ("fuel", 2, 0), ("ups_in", 4, 265), ("ups_out", 4, 256),
    ("pdu", 24, 42), ("it", 40, 25), ("cooling", 8, 30), ("pump", 4, 5), ("lighting", 3, 2), ("water", 3, 0),
    ("heat_reuse", 1, 90), ("heat_removed", 2, 500), ("temperature", 2, 0),
)  # fmt: skip
"""Of each site: role, how many meters of 100, and the kWh of one in an hour."""
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
REPEATS = 5
PAGE_REPEATS = 20
PAGE_MS = 300
"""Limit of a page, at 95 %."""
AHEAD = {
    "all sites, 24 h": "?range=24h", "all sites, 7 d": "", "all sites, 30 d": "?range=30d",
    "all sites, 12 months": "?range=365d", "all sites, meters found": "?find=pdu-1&meters=-power",
}  # fmt: skip
"""What the dashboard reads ahead: who asks waits for what is of now alone."""
PAGES = AHEAD | {
    "a site, 24 h": "?site=site-1&range=24h", "a site, 7 d": "?site=site-1", "a site, 30 d": "?site=site-1&range=30d",
    "a site, 12 months": "?site=site-1&range=365d",
}  # fmt: skip


HOURS = """
    INSERT INTO gigawatch.meter_1h (time, meter_id, covered_ms, energy_mj, energy_ms, energy_interpolated_mj,
        energy_integrated_mj, energy_estimated_mj, polled_mj, polled_ms, power_min_mw, power_max_mw, volume_ml,
        volume_ms, temp_mc_ms, temp_ms, readings_taken, readings_expected, rejected_readings, stuck_h, reversed_h)
    SELECT hour, meter_id, 3600000, its.mj, its.ms, 0, 0, 0, its.mj, its.ms, its.mj / 4000, its.mj / 3000,
        CASE WHEN its.of_volume THEN 100000 END, CASE WHEN its.of_volume THEN 3600000 ELSE 0 END,
        CASE WHEN m.role = 'temperature' THEN 15000::bigint * 3600000 END,
        CASE WHEN m.role = 'temperature' THEN 3600000 ELSE 0 END, 360, 360, 0, 0, 0
    FROM generate_series(%(start)s, %(start)s + interval '23 hours', '1 hour') AS hour
    CROSS JOIN gigawatch.meter AS m
    JOIN (VALUES {roles}) AS it (role, count, kwh) USING (role)
    CROSS JOIN LATERAL (
        SELECT m.role IN ('water', 'fuel') AS of_volume,
            CASE WHEN it.kwh > 0 THEN (it.kwh * 3600000000::bigint * (0.9 + 0.2 * random()))::bigint END AS mj,
            CASE WHEN it.kwh > 0 THEN 3600000 ELSE 0 END AS ms
    ) AS its
    -- A meter is silent in one of two thousand hours.
    WHERE random() > 0.0005"""
WINDOWS = """
    INSERT INTO gigawatch.meter_window (time, meter_id, covered_ms, readings_taken, readings_expected, energy_method,
        energy_mj, power_mean_mw, rejected_readings)
    SELECT moment, meter_id, 10000, 1, 1, 1, 1000000000, 100000000, 0
    FROM generate_series(now() - interval '1 hour', now() + interval '1 hour', '10 s') AS moment, gigawatch.meter"""
INTENSITIES = """
    WITH told AS (
        INSERT INTO gigawatch.factor_import (site_id, source, version) SELECT site_id, 'bench', '1' FROM gigawatch.site
        RETURNING import_id, site_id
    )
    INSERT INTO gigawatch.grid_intensity (import_id, site_id, start, stop, method, instrument, g_per_kwh, estimated)
    SELECT import_id, site_id, hour, hour + interval '1 hour', 'location', NULL,
        round((300 + 200 * random())::numeric, 1), false
    FROM told CROSS JOIN generate_series(%(start)s, %(stop)s - interval '1 hour', '1 hour') AS hour
    UNION ALL
    SELECT import_id, site_id, %(start)s, %(stop)s, 'market', 'PPA', 12, false FROM told"""
PLACES = (
    """
    INSERT INTO gigawatch.meter_feed (meter_id, fed_id)
    SELECT upper.meter_id, fed.meter_id
    FROM (VALUES ('utility', 2, 'ups_in'), ('ups_in', 4, 'ups_out'), ('ups_out', 4, 'pdu'), ('pdu', 24, 'it'),
        ('utility', 2, 'cooling')) AS its (upper, count, fed)
    JOIN gigawatch.meter AS upper ON upper.role = its.upper
    JOIN gigawatch.meter AS fed ON fed.role = its.fed AND fed.site_id = upper.site_id
        AND mod(split_part(fed.name, '-', 2)::integer - split_part(upper.name, '-', 2)::integer, its.count) = 0""",
    """
    INSERT INTO gigawatch.rack (site_id, hall_id, name)
    SELECT site_id, hall_id, 'rack-' || split_part(name, '-', 2) FROM gigawatch.meter WHERE role = 'it'""",
    """
    INSERT INTO gigawatch.meter_rack (meter_id, rack_id)
    SELECT meter_id, rack_id FROM gigawatch.meter AS m JOIN gigawatch.rack ON rack.site_id = m.site_id
        AND rack.name = 'rack-' || split_part(m.name, '-', 2)
    WHERE m.role = 'it'""",
    """
    INSERT INTO gigawatch.power_budget (site_id, scope, name, budget_mw)
    SELECT site_id, 'site', name, 4000000000 FROM gigawatch.site
    UNION ALL SELECT site_id, 'hall', name, 1000000000 FROM gigawatch.hall
    UNION ALL SELECT site_id, 'rack', name, 40000000 FROM gigawatch.rack""",
)
"""What feeds what, and what may be drawn where."""
METERS = """
    INSERT INTO gigawatch.meter (site_id, name, role, hall_id, fuel_j_per_l, potable, breaker_ma, contract_mw, rated_mw,
        last_seen)
    SELECT site_id, role || '-' || n, role,
        CASE WHEN role IN ('pdu', 'it', 'cooling') THEN (
            SELECT hall_id FROM gigawatch.hall WHERE hall.site_id = site.site_id
            ORDER BY hall_id OFFSET mod(n, 2) LIMIT 1
        ) END,
        CASE role WHEN 'fuel' THEN 35640000 END, CASE role WHEN 'water' THEN n = 1 END,
        CASE role WHEN 'pdu' THEN 80000 END, CASE role WHEN 'utility' THEN 2000000000 END,
        CASE WHEN role LIKE 'ups%%' THEN 500000000 END, now()
    FROM gigawatch.site, (VALUES {roles}) AS it (role, count, kwh), generate_series(1, it.count) AS n"""


def fill(connection: "psycopg.Connection[Any]", sites: int, days: int, stop: datetime) -> None:
    """Sites with their meters, and what these counted in each hour."""
    run = connection.execute
    roles = ", ".join(f"('{role}', {count}, {kwh})" for role, count, kwh in ROLES)
    run("INSERT INTO gigawatch.site (name) SELECT 'site-' || n FROM generate_series(1, %s) AS n", [sites])
    run("INSERT INTO gigawatch.hall (site_id, name) SELECT site_id, unnest(ARRAY['A', 'B']) FROM gigawatch.site")
    run(METERS.format(roles=roles))
    for statement in PLACES:
        run(statement)
    run(INTENSITIES, {"start": stop - days * DAY, "stop": stop})
    run(
        "INSERT INTO gigawatch.rollup (level, closed, folded, node_id) VALUES ('meter_1h', %(it)s, %(it)s, 0)",
        {"it": stop},
    )
    for day in range(days):
        run(HOURS.format(roles=roles), {"start": stop - (days - day) * DAY})


def fold(engine: Engine, connection: "psycopg.Connection[Any]", stop: datetime) -> float:
    """Fold days, sums and ratios of all sites; the seconds that it took."""
    with engine.begin() as topology:
        topology_changed(topology, list(topology.scalars(text("SELECT site_id FROM gigawatch.site"))))
    began_s = time.monotonic()
    Folder(connection).run(stop + SETTLED)
    return time.monotonic() - began_s


def best_ms(engine: Engine, read: Callable[[Connection], object]) -> float:
    """The shortest of some tries."""
    took = []
    with engine.connect() as connection:
        for _ in range(REPEATS):
            began_s = time.monotonic()
            read(connection)
            took.append(time.monotonic() - began_s)
    return 1_000 * min(took)


def page_ms(engine: Engine, queries: Sequence[str], now: datetime) -> tuple[list[float], float]:
    """What the page took with each query, and its mean of processor time, here and in the database's process."""
    works, took = [page("/facility", query, now) for query in queries], []
    with engine.connect() as connection:
        backend = connection.scalar(text("SELECT pg_backend_pid()"))

        def used_s() -> float:
            user, system = Path(f"/proc/{backend}/stat").read_text().rpartition(") ")[2].split()[11:13]
            return time.process_time() + (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

        # As the dashboard answers: on a connection that it has had for a while, its modules kept out of garbage.
        page("/facility", "", now)(connection)
        gc.freeze()
        before_s = used_s()
        for work in works:
            began_s = time.monotonic()
            work(connection)
            took.append(1_000 * (time.monotonic() - began_s))
        return took, 1_000 * (used_s() - before_s) / len(works)


def measure_pages(engine: Engine, now: datetime) -> None:
    """Print what each page took, cold and again: the median, the 95th percentile and the processor time.

    Within its limit is what the dashboard reads ahead where it is so again, all else where it is cold. Of periods of
    one's own, each another week, all sites' other figures were read ahead.
    """
    kept = recent.KEPT_S, recent.FOLDED_KEPT_S, recent.HOURLY_KEPT_S
    recent.KEPT_S = recent.FOLDED_KEPT_S = recent.HOURLY_KEPT_S = 0.0
    colds = {name: page_ms(engine, [query] * PAGE_REPEATS, now) for name, query in PAGES.items()}
    recent.KEPT_S, recent.FOLDED_KEPT_S, recent.HOURLY_KEPT_S = kept
    for name, query in PAGES.items():
        page_ms(engine, [query], now)
        told(name, colds[name], page_ms(engine, [query] * PAGE_REPEATS, now), is_ahead=name in AHEAD)
    for name, site in (("all sites, a week of one's own", ""), ("a site, a week of one's own", "&site=site-2")):
        weeks = [now.replace(minute=0) - (number + 2) * 7 * DAY for number in range(PAGE_REPEATS)]
        own = [f"?from={it:%Y-%m-%dT%H:%MZ}&to={it + 7 * DAY:%Y-%m-%dT%H:%MZ}{site}" for it in weeks]
        told(name, page_ms(engine, own, now), page_ms(engine, own, now), is_ahead=False)


def told(name: str, cold: tuple[list[float], float], again: tuple[list[float], float], *, is_ahead: bool) -> None:
    """Print a page's line."""
    shown = [
        f"{quantile(all_ms, 0.5):.0f} | {quantile(all_ms, 0.95):.0f} | {cpu_ms:.0f}" for all_ms, cpu_ms in (cold, again)
    ]
    limit = "within" if quantile((again if is_ahead else cold)[0], 0.95) <= PAGE_MS else "above"
    print(f"| {name} | {' | '.join(shown)} | {limit} |", flush=True)


def filled(folder: Path, sites: int, days: int) -> None:
    """Make a store in a new folder, and leave it stopped."""
    stop = datetime.now(UTC).replace(hour=15, minute=0, second=0, microsecond=0) - DAY
    with EmbeddedServer(folder) as server:
        engine = database.engine(server.url)
        migrate(engine)
        with owned(engine) as connection:
            fill(connection, sites, days, stop)
            took_s = fold(engine, connection, stop)
            connection.execute("VACUUM ANALYZE")
        with engine.connect() as counting:
            hours = counting.scalar(text("SELECT count(*) FROM gigawatch.meter_1h"))
        print(f"{hours:,} hours of meters; {sites * days:,} days of sites folded in {took_s:.1f} s", flush=True)
        engine.dispose()


def owned(engine: Engine) -> "psycopg.Connection[Any]":
    """A connection of the store's owner, in autocommit."""
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(url, autocommit=True, options="-c timezone=UTC")


def measure(folder: Path) -> None:
    """Print what reads and pages take of the store in a folder."""
    with EmbeddedServer(folder) as server:
        engine = database.engine(server.url)
        migrate(engine)
        with owned(engine) as connection:
            connection.execute("TRUNCATE gigawatch.meter_window")
            connection.execute(WINDOWS)
            connection.execute("VACUUM ANALYZE gigawatch.meter_window")
            connection.execute("UPDATE gigawatch.meter SET last_seen = now()")
        with engine.connect() as marks:
            stop = facility_readings.facility_until(marks)
        reader = database.engine(server.url, role=database.REPORT_ROLE)
        for name, read in reads(stop).items():
            print(f"| {name} | {best_ms(reader, read):.0f} |", flush=True)
        measure_pages(reader, stop + timedelta(minutes=5))
        reader.dispose()
        engine.dispose()


def reads(stop: datetime) -> dict[str, Callable[[Connection], object]]:
    """What pages and reports ask of the year before a moment."""
    start = stop - 365 * DAY
    return {
        "PUE by month, fleet": lambda it: facility_readings.pue(it, start, stop, "1 month"),
        "PUE by month, each site": lambda it: facility_readings.pue(it, start, stop, "1 month", "site"),
        "PUE by day, fleet": lambda it: facility_readings.pue(it, start, stop, DAY),
        "PUE by day, one site": lambda it: facility_readings.pue(it, start, stop, DAY, "site", "site-1"),
        "PUE by day, each site": lambda it: facility_readings.pue(it, start, stop, DAY, "site"),
        "PUE by hour of a week, one site": lambda it: facility_readings.pue(
            it, stop - 7 * DAY, stop, HOUR, "site", "site-1"
        ),
        "PUE by hour of the year, one site": lambda it: facility_readings.pue(
            it, start, stop, HOUR, "site", "site-1", 2
        ),
        "energy by role and month, fleet": lambda it: facility_readings.facility(it, start, stop, "1 month"),
        "energy by role and day, one site": lambda it: facility_readings.facility(
            it, start, stop, DAY, "site", "site-1"
        ),
        "WUE by month, fleet": lambda it: facility_readings.water(it, start, stop, "1 month"),
        "ERF, ERE, REF, CER by month, fleet": lambda it: facility_readings.heat(it, start, stop, "1 month"),
        "the EU's form, one site": lambda it: facility_readings.eu_eed(it, "site-1", start.year),
        "cost by month, fleet": lambda it: facility_readings.facility_cost(it, start, stop, "1 month"),
        "coverage of each meter over a month, one site": lambda it: facility_readings.meter_coverage(
            it, stop - 30 * DAY, stop, "site-1"
        ),
        "coverage of each meter over a year, one site": lambda it: facility_readings.meter_coverage(
            it, start, stop, "site-1"
        ),
        "health of all meters": facility_readings.meter_health,
        "power ratio now": facility_readings.power_ratios_now,
        "PUE beside load and temperature, hours of a week, fleet": lambda it: facility_readings.pue_conditions(
            it, stop - 7 * DAY, stop, HOUR, None, 2
        ),
        "limits of feeds, fleet": lambda it: facility_readings.capacity(it, stop - 30 * DAY, stop, None, ("feed",)),
        "levels from the GPUs to the grid of a week, fleet": lambda it: facility_readings.reconciliation(
            it, stop - 7 * DAY, stop
        ),
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="of a store; it is filled where there is none")
    parser.add_argument("--sites", type=int, default=20)
    parser.add_argument("--days", type=int, default=365)
    given = parser.parse_args()
    if not given.folder.exists():
        filled(given.folder, given.sites, given.days)
    measure(given.folder)


if __name__ == "__main__":
    main()

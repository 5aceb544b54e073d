"""Deployments in a store as bench.stored fills it: python -m bench.deployed FOLDER adds them, or makes them anew.

Their rollups alone, as folding would have left them, in every bucket, with figures that differ from one deployment to
the next and from bucket to bucket. Each is on GPUs of one model in one site, but every tenth on those of two sites.
Prefill and decode of every 25th run apart. Of every fifth no host is metered, of every seventh half of the energy was
not observed, and every eleventh bucket of every ninth is not whole. Each site has prices and carbon intensities that
change by the hour, every second site prices that change by the quarter, and all a configured PUE. Windows and
assignments are not made.
"""

import argparse
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from api.deployment_sql import SERVED, USED
from bench.stored import DAY, HOUR, MINUTE
from gigawatch import database
from gigawatch.embedded import EmbeddedServer, installations
from gigawatch.schema import LATENCIES
from migrations.run import migrate

DEPLOYMENTS = 500
GPUS, ENGINES = 300, 38
BOUNDS = 22
"""Of a histogram, as vLLM's have about."""
DEPTHS = {"1m": (MINUTE, 1_440), "1h": (HOUR, 720), "1d": (DAY, 30)}


def deploy(
    connection: "psycopg.Connection[Any]",
    count: int,
    end: datetime,
    depths: Mapping[str, tuple[timedelta, int]] = DEPTHS,
    latencies: Sequence[str] = LATENCIES,
) -> None:
    """Make the rollups of so many deployments, that end at a full minute.

    Args:
        connection: of the store's owner, in autocommit.
        count: how many deployments.
        end: where the minutes end.
        depths: by level, the width of its buckets and how many there are to be.
        latencies: those of which there are histograms.
    """
    run = connection.execute
    for group in ("deployment", "serving", "latency"):
        for level in DEPTHS:
            run(f"TRUNCATE gigawatch.{group}_{level}")
    run("DELETE FROM gigawatch.deployment")
    run("DELETE FROM gigawatch.latency_bounds")
    run("DROP TABLE IF EXISTS pg_temp.member")
    # One row for each site and role of a deployment d.
    run(
        """
        CREATE TEMPORARY TABLE member AS
        SELECT d, d + place * 1000000 AS deployment_id, role, sites[1 + (d + site) %% cardinality(sites)] AS site_id,
            models[1 + d %% cardinality(models)] AS gpu_model
        FROM generate_series(1, %s) AS d
        CROSS JOIN LATERAL unnest(CASE d %% 25 WHEN 0 THEN ARRAY['prefill', 'decode'] ELSE ARRAY['both'] END)
            WITH ORDINALITY AS it (role, place)
        CROSS JOIN LATERAL generate_series(0, CASE d %% 10 WHEN 0 THEN 1 ELSE 0 END) AS site
        CROSS JOIN (SELECT (SELECT array_agg(site_id ORDER BY site_id) FROM gigawatch.site) AS sites,
            (SELECT array_agg(DISTINCT model) FROM gigawatch.gpu) AS models) AS places""",
        [count],
    )
    run(
        "INSERT INTO gigawatch.deployment (deployment_id, name, role) OVERRIDING SYSTEM VALUE"
        " SELECT DISTINCT deployment_id, 'deployment-' || d, role FROM pg_temp.member"
    )
    run(
        "INSERT INTO gigawatch.latency_bounds (bounds_id, bounds_us) OVERRIDING SYSTEM VALUE"
        " SELECT 1, array_agg(round(1000 * 1.6 ^ n)::bigint ORDER BY n) FROM generate_series(1, %s) AS n",
        [BOUNDS],
    )
    for level, (width, buckets) in depths.items():
        stop = end if level == "1m" else end.replace(minute=0) if level == "1h" else end.replace(hour=0, minute=0)
        _fill(connection, level, width, buckets, stop, latencies)
        run(
            "INSERT INTO gigawatch.rollup (level, closed, folded, node_id) VALUES (%(level)s, %(at)s, %(at)s, 0)"
            " ON CONFLICT (level) DO UPDATE SET closed = excluded.closed, folded = excluded.folded",
            {"level": f"deployment_{level}", "at": stop},
        )
        run(f"VACUUM (ANALYZE) gigawatch.deployment_{level}, gigawatch.serving_{level}, gigawatch.latency_{level}")
    _price(connection, end)
    run("VACUUM (ANALYZE) gigawatch.tariff, gigawatch.grid_intensity, gigawatch.configured_pue")


def _fill(
    connection: "psycopg.Connection[Any]",
    level: str,
    width: timedelta,
    buckets: int,
    stop: datetime,
    latencies: Sequence[str],
) -> None:
    minutes = width // MINUTE
    gpu_ms, engine_ms = 60_000 * minutes * GPUS, 60_000 * minutes * ENGINES
    energy = f"(500 + d + back %% 7)::bigint * {gpu_ms}"
    observed, metered = "CASE d %% 7 WHEN 0 THEN 1 ELSE 2 END", "CASE d %% 5 WHEN 0 THEN 0 ELSE 1 END"
    used = dict.fromkeys(USED, "0") | {
        **dict.fromkeys(("expected_ms", "covered_ms", "energy_ms"), f"{gpu_ms}::bigint"),
        "energy_mj": energy, "observed_mj": f"{energy} * {observed} / 2",
        "active_mj": f"(400 + d)::bigint * {gpu_ms} * {observed} / 2",
        "host_mj": f"150::bigint * {gpu_ms} * {metered}", "host_ms": f"{gpu_ms}::bigint * {metered}",
    }  # fmt: skip
    served = dict.fromkeys(SERVED, "0") | {
        **dict.fromkeys(("covered_ms", "observed_ms", "active_ms"), f"{engine_ms}::bigint"),
        **dict.fromkeys(("scrapes_taken", "scrapes_expected"), str(12 * minutes * ENGINES)),
        "prompt_tokens": f"{1_000_000 * minutes}::bigint", "running_request_ms": f"40::bigint * {engine_ms}",
        "generated_tokens": f"(500000 + d * 1000 + back)::bigint * {minutes}",
        "requests_finished": str(3_000 * minutes), "running_requests_max": "64", "kv_cache_use_max_pm": "700",
    }  # fmt: skip
    of_deployment = "%(stop)s - (back + 1) * %(width)s, deployment_id, site_id, gpu_model"
    source = "generate_series(%(buckets)s - 1, 0, -1) AS back CROSS JOIN pg_temp.member"
    whole = "NOT (d %% 9 = 0 AND back %% 11 = 0)"
    values = {"stop": stop, "width": width, "buckets": buckets, "latencies": list(latencies)}
    key = "time, deployment_id, site_id, gpu_model"
    connection.execute(
        f"INSERT INTO gigawatch.deployment_{level} ({key}, whole, gpus, gpus_silent, {', '.join(used)})"
        f" SELECT {of_deployment}, {whole}, {GPUS}, 0, {', '.join(used.values())} FROM {source}",
        values,
    )
    connection.execute(
        f"INSERT INTO gigawatch.serving_{level} ({key}, engine, model, whole, {', '.join(served)})"
        f" SELECT {of_deployment}, 'vllm', 'model-' || d %% 40, {whole}, {', '.join(served.values())} FROM {source}",
        values,
    )
    counts = (
        f"(SELECT array_agg((k * 7919 + d * 31) %% 997 * {minutes}::bigint) FROM generate_series(1, {BOUNDS + 1}) k)"
    )
    connection.execute(
        f"INSERT INTO gigawatch.latency_{level} ({key}, model, latency, bounds_id, counts)"
        f" SELECT {of_deployment}, 'model-' || d %% 40, latency, 1, {counts}"
        f" FROM {source} CROSS JOIN unnest(%(latencies)s::text[]) AS latency",
        values,
    )


def _price(connection: "psycopg.Connection[Any]", end: datetime) -> None:
    """Prices, carbon intensities and PUE of each site, over all that there is and a day beyond."""
    run = connection.execute
    for table in ("tariff", "grid_intensity", "configured_pue", "factor_import"):
        run(f"DELETE FROM gigawatch.{table}")
    run(
        "INSERT INTO gigawatch.factor_import (site_id, source, version)"
        " SELECT site_id, 'bench', '1' FROM gigawatch.site"
    )
    of_site = "INSERT INTO gigawatch.{} SELECT import_id, site_id, {} FROM gigawatch.factor_import"
    of_time = (
        " CROSS JOIN LATERAL (SELECT CASE WHEN {} THEN interval '15 min' ELSE interval '1 h' END) AS each (width)"
        " CROSS JOIN LATERAL generate_series(%(start)s, %(stop)s, each.width) WITH ORDINALITY AS it (time, place)"
    )
    values = {"start": end.replace(hour=0, minute=0) - 31 * DAY, "stop": end.replace(hour=0, minute=0) + 2 * DAY}
    columns = "(import_id, site_id, start, stop, {})"
    value = "(place * 7919 + site_id) %% 101"
    run(
        of_site.format("tariff " + columns.format("price_per_kwh, currency"),
                       f"time, time + each.width, 0.05 + {value} / 1000.0, 'EUR'")
        + of_time.format("site_id %% 2 = 0"), values,
    )  # fmt: skip
    run(
        of_site.format("grid_intensity " + columns.format("method, g_per_kwh, estimated"),
                       f"time, time + each.width, 'location', 100 + {value}, false")
        + of_time.format("false"), values,
    )  # fmt: skip
    for table, names, given in (
        ("grid_intensity", "method, instrument, g_per_kwh, estimated", "'market', 'PPA', 20, false"),
        ("configured_pue", "pue", "1.1 + site_id %% 10 / 100.0"),
    ):
        run(of_site.format(f"{table} {columns.format(names)}", f"%(start)s, %(stop)s, {given}"), values)


def main() -> None:
    """Add them to a store in a folder, and leave it stopped."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--deployments", type=int, default=DEPLOYMENTS)
    options = parser.parse_args()
    with EmbeddedServer(options.folder, installations()[0]) as server:
        engine = database.engine(server.url)
        migrate(engine)
        raw = engine.raw_connection()
        connection = raw.driver_connection
        assert isinstance(connection, psycopg.Connection)
        raw.detach()
        connection.autocommit = True
        row = connection.execute("SELECT folded FROM gigawatch.rollup WHERE level = '1m'").fetchone()
        assert row is not None
        deploy(connection, options.deployments, row[0])
        connection.close()
        engine.dispose()


if __name__ == "__main__":
    main()

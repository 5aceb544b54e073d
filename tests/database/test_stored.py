"""The store that benches ask is one that ingest and folding could have left."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, Engine, text

from bench.stored import DAY, HOUR, MINUTE, Depth, fill, freshen
from gigawatch.schema import LEVELS

NODES, GPUS = 32, 8
DEPTH = Depth(minutes=90, hours=49, all_minutes=5, all_hours=3, window_minutes=2, every=8)
END = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=1)
NEWEST = END - MINUTE
HOUR_NOW = NEWEST.replace(minute=0)
STARTS = {"1m": END - 3 * MINUTE, "1h": HOUR_NOW - 2 * HOUR, "1d": HOUR_NOW.replace(hour=0) - DAY}
"""Of a bucket of each level that all nodes have."""
ENERGY = {
    "windows": "SELECT sum(it) FROM gigawatch.gpu_window, unnest(energy_mj) AS it",
    "gpu": "SELECT sum(energy_mj) FROM expanded.gpu_{level}",
    "rack": "SELECT sum(energy_mj) FROM gigawatch.rack_{level}",
    "site": "SELECT sum(energy_mj) FROM gigawatch.site_{level}",
}


@pytest.fixture
def stored(engine: Engine) -> Engine:
    fill(engine, NODES, DEPTH, END)
    return engine


def one(connection: Connection, sql: str, **values: object) -> int:
    found = connection.execute(text(sql), values).scalar()
    return int(found or 0)


def test_a_filled_store_adds_up(stored: Engine) -> None:
    with stored.connect() as connection:
        for level, start in STARTS.items():
            sums = {
                name: one(connection, sql.format(level=level) + " WHERE time = :start", start=start)
                for name, sql in ENERGY.items()
                if name != "windows"
            }
            assert len(set(sums.values())) == 1, (level, sums)
            assert sums["gpu"] == sums["site"] > 0
            # All of the past of sites is there, and all of it of every eighth node.
            oldest = {
                group: connection.execute(text(f"SELECT min(time) FROM gigawatch.{group}_{level}")).scalar()
                for group in ("gpu", "node", "rack", "site")
            }
            assert len(set(oldest.values())) == 1, (level, oldest)
            nodes = one(connection, f"SELECT count(DISTINCT node_id) FROM gigawatch.gpu_{level} WHERE time = :start",
                        start=oldest["gpu"])  # fmt: skip
            assert nodes == NODES // DEPTH.every
        windows = one(connection, ENERGY["windows"] + " WHERE time >= :start AND time < :stop", start=NEWEST, stop=END)
        assert windows == one(connection, "SELECT sum(energy_mj) FROM gigawatch.site_1m WHERE time = :it", it=NEWEST)
        folded = "SELECT count(*) FROM gigawatch.rollup WHERE folded = closed AND level = ANY (:levels)"
        assert one(connection, folded, levels=list(LEVELS)) == len(LEVELS)


def test_views_find_in_a_filled_store_what_they_would_in_a_real_one(stored: Engine) -> None:
    freshen(stored)
    with stored.connect() as connection:
        # A past minute, by GPU and by group.
        minute = STARTS["1m"]
        by_gpu = one(connection, "SELECT round(1000 * sum(energy_j)) FROM report.power WHERE time = :it", it=minute)
        assert by_gpu == one(connection, "SELECT sum(energy_mj) FROM gigawatch.site_1m WHERE time = :it", it=minute)
        # An hour in which all is covered.
        hours = connection.execute(
            text("SELECT count(*), min(coverage), max(coverage), sum(energy_j) FROM report.energy_hourly"
                 " WHERE time = :it"), {"it": STARTS["1h"]},
        ).one()  # fmt: skip
        assert hours[:3] == (NODES * GPUS, 1, 1)
        powers = connection.execute(
            text("SELECT power_w, coverage, gpus FROM report.power_series(:start, :stop, '1 hour')"),
            {"start": HOUR_NOW - 48 * HOUR, "stop": HOUR_NOW},
        ).all()
        assert len(powers) == 48
        assert {(round(it.coverage, 6), it.gpus) for it in powers} == {(1, NODES * GPUS)}
        # Each GPU's power is cut to whole mW.
        expected_w = pytest.approx(float(hours.sum) / 3_600, abs=NODES * GPUS / 1_000)
        assert [it.power_w for it in powers] == [expected_w] * 48
        # Now: all report, with a window.
        now = connection.execute(
            text("SELECT count(*), count(*) FILTER (WHERE state = 'reporting'), count(power_w) FROM report.fleet_now")
        ).one()
        assert tuple(now) == (NODES * GPUS,) * 3
        nodes = connection.execute(text("SELECT sum(gpus), sum(gpus_reporting) FROM report.nodes_now")).one()
        assert tuple(nodes) == (NODES * GPUS,) * 2
        assert one(connection, "SELECT count(*) FROM report.gpu_health WHERE state = 'unknown'") == 0
        assert one(connection, "SELECT count(*) FROM report.site_seconds(:start, :stop)", start=END - 60 * MINUTE,
                   stop=END) == 3_600  # fmt: skip
        assert one(connection, "SELECT count(*) FROM report.events") > 0


def test_a_store_that_was_filled_long_ago_is_fresh_when_asked(engine: Engine) -> None:
    fill(engine, NODES, DEPTH, END - 3 * HOUR)
    for _ in range(2):
        freshen(engine)
        with engine.connect() as connection:
            found = one(connection, "SELECT count(power_w) FROM report.fleet_now WHERE state = 'reporting'")
        assert found == NODES * GPUS

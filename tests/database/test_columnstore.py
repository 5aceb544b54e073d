"""Compression of old chunks. Where the server cannot do it nothing happens; where it can, figures stay what they were.

No system package has TimescaleDB's community edition. The tests that need it are marked so and run when asked for, with
GIGAWATCH_TEST_COMMUNITY_URL naming an empty database of such a server (the image of docker-compose.yml has one).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import sqlalchemy
from sqlalchemy import Engine, text

from api import columnstore, status
from api.columnstore import SEGMENTS, compress, enabling
from api.retention import retain
from api.rollup_sql import METRICS, NODE_COLUMNS
from api.rollups import COMPRESS_LOCK, Folder
from api.scheduler import Scheduler
from gigawatch import database, readings
from gigawatch.database import REPORT_ROLE, Capabilities, Edition
from gigawatch.settings import Alerts, Retention
from migrations.run import migrate
from tests.browser import seed

AFTER = timedelta(hours=6)
NOW = datetime.now(UTC)


def psycopg_url(engine: Engine) -> str:
    return engine.url.set(drivername="postgresql").render_as_string(hide_password=False)


def fold(engine: Engine, now: datetime = NOW) -> int:
    # So low a limit, where there is one, would stop a fold that did not lift it.
    options = "-c timezone=UTC -c timescaledb.max_tuples_decompressed_per_dml_transaction=1"
    with psycopg.connect(psycopg_url(engine), autocommit=True, prepare_threshold=None, options=options) as connection:
        return Folder(connection).run(now)


def change(engine: Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(statement))


def test_without_the_community_edition_nothing_is_compressed_and_nothing_fails(engine: Engine) -> None:
    assert compress(engine, AFTER, NOW) == ""
    with engine.connect() as connection:
        assert all(it.compressed_chunks == it.compressed_bytes == 0 for it in readings.store_tables(connection))
        assert not database.capabilities(connection).columnstore


@pytest.mark.parametrize(
    ("version", "able"), [("2.29.2", True), ("2.18.0", True), ("2.23.0-dev", True), ("2.17.2", False)]
)
def test_the_columnstore_is_there_from_the_version_on_that_named_it(version: str, able: bool) -> None:
    assert Capabilities(17, version, Edition.TIMESCALEDB_COMMUNITY).columnstore == able
    assert not Capabilities(17, version, Edition.TIMESCALEDB_APACHE).columnstore


@pytest.fixture
def apache(timescaledb_server: object) -> Iterator[Engine]:
    """A store whose server knows the statements and refuses to carry them out."""
    url = timescaledb_server.create()  # type: ignore[attr-defined] # conftest's Server
    engine = database.engine(url)
    yield engine
    engine.dispose()
    timescaledb_server.drop(url)  # type: ignore[attr-defined]


@pytest.mark.parametrize("table", SEGMENTS)
def test_the_apache_edition_reads_the_statement_and_refuses_it_for_its_licence(apache: Engine, table: str) -> None:
    with pytest.raises(sqlalchemy.exc.DBAPIError, match='not supported under the current "apache" license'):
        change(apache, enabling(table, SEGMENTS[table]))
    with pytest.raises(sqlalchemy.exc.DBAPIError, match="unrecognized parameter"):
        change(apache, enabling(table, SEGMENTS[table]).replace("segmentby", "segmentsby"))


def test_a_table_that_cannot_be_compressed_is_an_error_of_the_job_and_keeps_nothing_else_from_being_done(
    apache: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with apache.begin() as connection:
        seed.seed(connection, NOW)
    fold(apache)
    change(apache, "UPDATE gigawatch.rollup SET folded = folded + interval '400 d'")
    told = Capabilities(17, "2.29.2", Edition.TIMESCALEDB_COMMUNITY)
    monkeypatch.setattr(columnstore, "capabilities", lambda _: told)
    scheduler = Scheduler(apache, Retention(windows_d=1), Alerts())
    with pytest.raises(sqlalchemy.exc.DBAPIError):
        scheduler._run("retain", scheduler._keep_within_bounds)
    with apache.connect() as connection:
        (job,) = readings.store_jobs(connection)
        assert job.error is not None and "license" in job.error
        assert readings.store_problems(readings.store_status(connection))[0].startswith("Job retain failed")


def test_late_data_wait_while_a_chunk_is_compressed_and_new_data_do_not(engine: Engine) -> None:
    with engine.begin() as connection:
        seed.seed(connection, NOW)
    fold(engine, NOW - timedelta(minutes=10))
    late = (NOW - timedelta(minutes=30)).replace(second=0, microsecond=0).isoformat()
    change(engine, f"INSERT INTO gigawatch.rollup_dirty SELECT '1m', '{late}', node_id FROM gigawatch.node")
    with psycopg.connect(psycopg_url(engine), autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [COMPRESS_LOCK])
        assert fold(engine) > 0
        left = connection.execute("SELECT count(*) FROM gigawatch.rollup_dirty WHERE level = '1m'").fetchone()
        assert left is not None and left[0] > 0
        folded = connection.execute("SELECT folded FROM gigawatch.rollup WHERE level = '1m'").fetchone()
        assert folded is not None and folded[0] > NOW - timedelta(minutes=3)
    assert fold(engine) > 0
    with engine.connect() as of_engine:
        assert of_engine.scalar(text("SELECT count(*) FROM gigawatch.rollup_dirty")) == 0


# From here on with a columnstore.

HOURS = 30
NODES = 3
LATER = NOW + timedelta(days=3)
START = (NOW - timedelta(hours=HOURS)).replace(minute=0, second=0, microsecond=0)


@contextmanager
def opened(url: str, role: str | None = None) -> Iterator[Engine]:
    engine = database.engine(url, pool_size=1, role=role)
    try:
        yield engine
    finally:
        engine.dispose()


WINDOWS = """
    INSERT INTO gigawatch.gpu_window (time, node_id, covered_ms, slots, ticks_taken, ticks_expected, energy_method,
        energy_mj, gpu_util_pm, gpu_temp_max_c)
    SELECT start, node_id, 10000, 2, 10, 10, 1, ARRAY[700000 + n, 650000 + n * 7 % 1000], ARRAY[n % 1000], '{60, 61}'
    FROM gigawatch.node, generate_series(0, :last) AS n,
        LATERAL (SELECT CAST(:start AS timestamptz) + n * interval '10 s' AS start) AS at
    WHERE n % 360 <> 7"""
"""All but a window of each hour, which is to come late."""
NODE_WINDOWS = """
    INSERT INTO gigawatch.node_window (time, node_id, covered_ms, tick_ms, gpu_power_mw, ticks_taken, ticks_expected,
        gpus_read, gpus_expected, rejected_readings)
    SELECT time, node_id, covered_ms, 1000, array_fill(135000, ARRAY[10]), 10, 10, 2, 2, 0 FROM gigawatch.gpu_window"""
LATE = """
    INSERT INTO gigawatch.gpu_window (time, node_id, covered_ms, slots, ticks_taken, ticks_expected, energy_method,
        energy_mj, gpu_util_pm, gpu_temp_max_c)
    SELECT CAST(:start AS timestamptz) + (hour * 360 + 7) * interval '10 s', node_id, 10000, 2, 10, 10, 1,
        '{500000, 400000}', '{500}', '{80}'
    FROM gigawatch.node, generate_series(0, :hours) AS hour"""
MARKS = """
    INSERT INTO gigawatch.rollup_dirty SELECT DISTINCT '1m', date_bin('1 minute', time, '2000-01-01Z'), node_id
    FROM gigawatch.gpu_window WHERE gpu_temp_max_c = '{80}'"""


@pytest.fixture(scope="module")
def community() -> str:
    """URL of a migrated store with a columnstore, with thirty hours of windows that are folded."""
    url = os.environ["GIGAWATCH_TEST_COMMUNITY_URL"]
    with opened(url) as engine:
        change(engine, "DROP SCHEMA IF EXISTS gigawatch, report, expanded CASCADE")
    with opened(url) as engine:
        migrate(engine)
        with engine.begin() as connection:
            assert database.capabilities(connection).columnstore
            for table in ("gpu_window", "gpu_1h", "node_1h"):
                connection.execute(text(f"SELECT set_chunk_time_interval('gigawatch.{table}', interval '6 h')"))
            connection.execute(text("INSERT INTO gigawatch.site (name) VALUES ('here')"))
            connection.execute(
                text(
                    "INSERT INTO gigawatch.node (machine_id, hostname, site_id)"
                    " SELECT 'm' || n, 'n' || n, site_id FROM gigawatch.site, generate_series(1, :nodes) AS n"
                ),
                {"nodes": NODES},
            )
            connection.execute(
                text("INSERT INTO gigawatch.gpu (uuid, node_id, index, model)"
                     " SELECT 'G' || node_id || '-' || slot, node_id, slot - 1, 'H100'"
                     " FROM gigawatch.node, generate_series(1, 2) AS slot")
            )  # fmt: skip
            connection.execute(
                text("INSERT INTO gigawatch.gpu_slot (node_id, slot, gpu_id)"
                     " SELECT node_id, index + 1, gpu_id FROM gigawatch.gpu")
            )  # fmt: skip
            connection.execute(text(WINDOWS), {"start": START, "last": HOURS * 360 - 1})
            connection.execute(text(NODE_WINDOWS))
            connection.execute(
                text("INSERT INTO gigawatch.gpu_health (time, gpu_id, processes)"
                     " SELECT CAST(:start AS timestamptz) - interval '90 d', gpu_id, '[]' FROM gigawatch.gpu"),
                {"start": START},
            )  # fmt: skip
    with opened(url) as engine:
        fold(engine)
    return url


def figures(engine: Engine) -> dict[str, object]:
    """What the store holds, each table by what adds up to the same only where its rows are the same."""
    sums = {
        "gpu_window": "count(*), sum(slots), sum(expanded.at(energy_mj, 1)), sum(expanded.at(gpu_util_pm, 2))",
        "node_window": "count(*), sum(covered_ms), sum((SELECT sum(mw) FROM unnest(gpu_power_mw) AS mw))",
    }
    for level in ("1m", "1h", "1d"):
        sums[f"gpu_{level}"] = "count(*), " + ", ".join(
            f"sum(expanded.at({it.name}, 1)), sum(expanded.at({it.name}, 2))" for it in METRICS
        )
        sums[f"node_{level}"] = "count(*), " + ", ".join(f"sum({name})" for name in NODE_COLUMNS)
        sums[f"site_{level}"] = "count(*), sum(gpus), sum(energy_mj), sum(covered_ms), max(gpu_temp_max_c)"
    with engine.connect() as connection:
        return {
            table: tuple(connection.execute(text(f"SELECT {what} FROM gigawatch.{table}")).one())
            for table, what in sums.items()
        }


def packed(url: str) -> dict[str, tuple[int, int]]:
    """Chunks of the tables and how many are compressed, as the report role may see them."""
    with opened(url, REPORT_ROLE) as engine, engine.connect() as connection:
        found = readings.store_tables(connection)
    for it in found:
        assert it.total_bytes == it.heap_bytes + it.index_bytes
        assert (it.compressed_chunks > 0) == (it.uncompressed_bytes is not None) == (it.compressed_bytes > 0), it
    return {it.table_name: (it.chunks, it.compressed_chunks) for it in found if it.chunks}


@pytest.mark.community
def test_old_chunks_are_compressed_once_and_hold_what_they_held(community: str) -> None:
    with opened(community) as engine:
        before = figures(engine)
        said = compress(engine, AFTER, NOW)
        assert "chunks of gpu_window" in said and "chunks of gpu_health" in said
        assert compress(engine, AFTER, NOW) == ""
        assert figures(engine) == before
    there = packed(community)
    chunks, compressed = there["gpu_window"]
    # Not those of the last six hours, nor the one that they began in.
    assert chunks - 3 <= compressed < chunks
    with opened(community) as engine, engine.connect() as connection:
        ends = connection.scalar(
            text("SELECT max(range_end) FROM timescaledb_information.chunks WHERE is_compressed"
                 " AND hypertable_name = 'gpu_window'")
        )  # fmt: skip
        assert ends <= NOW - AFTER
        shown = status.read(connection)
    tables = {it.table_name: it for it in shown.tables}
    size = tables["gpu_window"]
    assert size.uncompressed_bytes is not None and size.compressed_bytes < size.uncompressed_bytes / 2
    share = size.compressed_bytes / size.uncompressed_bytes
    assert f"{chunks}  {compressed}, to {share:.0%}".split() in [
        it.split()[-4:] for it in status.text(shown).splitlines()
    ]
    assert size.rows is None or size.rows <= HOURS * 360 * NODES


@pytest.mark.community
def test_late_data_are_folded_into_compressed_rollups_and_compressed_with_the_rest(community: str) -> None:
    with opened(community) as engine:
        # By then even hours are folded and old.
        fold(engine, LATER)
        assert "gpu_1m" in compress(engine, AFTER, LATER)
        with engine.begin() as connection:
            connection.execute(text(LATE), {"start": START, "hours": HOURS - 1})
            connection.execute(text(MARKS))
    with opened(community) as engine:
        fold(engine, LATER)
        found = figures(engine)
    with opened(community) as engine:
        assert "gpu_window" in compress(engine, AFTER, LATER)
        assert compress(engine, AFTER, LATER) == ""
        assert figures(engine) == found
        change(engine, "TRUNCATE gigawatch.gpu_1m, gigawatch.gpu_1h, gigawatch.gpu_1d, gigawatch.node_1m,"
                       " gigawatch.node_1h, gigawatch.node_1d, gigawatch.rack_1m, gigawatch.rack_1h, gigawatch.rack_1d,"
                       " gigawatch.site_1m, gigawatch.site_1h, gigawatch.site_1d, gigawatch.site_second,"
                       " gigawatch.rollup, gigawatch.rollup_dirty")  # fmt: skip
        fold(engine, LATER)
        assert figures(engine) == found
    assert found["gpu_window"][0] == HOURS * 360 * NODES


@pytest.mark.community
def test_compressed_chunks_are_removed_when_they_are_old(community: str) -> None:
    with opened(community) as engine:
        compress(engine, AFTER, LATER)
    assert packed(community)["gpu_window"][1] > 0
    with opened(community) as engine:
        assert "removed" in retain(engine, Retention(windows_d=1), LATER)
    assert "gpu_window" not in packed(community)

"""The store's own state, on each level of the store: views, reads, `gigawatch db status`, metrics."""

import json
import os
import signal
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psycopg
import pytest
from click.testing import CliRunner, Result
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, text

from api.commands import db
from api.counts import NAMES, Counts
from api.deployment_rollups import floor
from api.metrics import Metrics
from api.rollups import Folder
from api.scheduler import Scheduler
from gigawatch import database, readings, schema
from gigawatch.readings import StoreRollup, StoreStatus, StoreTable
from gigawatch.settings import Alerts, Retention
from tests.agents import wait_for
from tests.browser import seed
from tests.facility import HOUR, fold, hourly, place, send
from tests.servers import running_api


@pytest.fixture
def seeded(engine: Engine) -> Engine:
    """With two hours of windows, nothing folded."""
    with engine.begin() as connection:
        seed.seed(connection, datetime.now(UTC))
    return engine


@pytest.fixture
def folded(seeded: Engine) -> Engine:
    """The same, folded up to now."""
    url = seeded.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True, options="-c timezone=UTC") as connection:
        Folder(connection).run(datetime.now(UTC))
        connection.execute("ANALYZE")
    return seeded


def change(engine: Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(statement))


def asked(report_engine: Engine) -> StoreStatus:
    with report_engine.connect() as connection:
        return readings.store_status(connection)


def tables(status: StoreStatus) -> dict[str, StoreTable]:
    return {it.table_name: it for it in status.tables}


def test_an_empty_store_is_well_and_knows_no_times(report_engine: Engine) -> None:
    status = asked(report_engine)
    assert [it.level for it in status.rollups] == ["1m", "1h", "1d", "weighed_1h", "meter_1h", "facility_1d"]
    assert all(it.folded is it.lag_s is it.behind_s is None and it.dirty_buckets == 0 for it in status.rollups)
    assert status.jobs == []
    assert {"gpu_window", "site_second", "event", "node", "rollup"} <= tables(status).keys()
    assert all(it.oldest is it.newest is None and it.holds and it.total_bytes for it in status.tables)
    assert readings.store_problems(status) == []


def test_hours_by_prices_are_a_level_that_follows_hours(folded: Engine, report_engine: Engine) -> None:
    levels = {it.level: it for it in asked(report_engine).rollups}
    hours, weighed = levels["1h"], levels["weighed_1h"]
    assert weighed.folded == hours.folded is not None and weighed.behind_s == hours.behind_s
    for hour in (hours.folded - HOUR, hours.folded):
        change(folded, f"INSERT INTO gigawatch.rollup_dirty VALUES ('weighed_1h', '{hour}', 1)")
    (weighed,) = (it for it in asked(report_engine).rollups if it.level == "weighed_1h")
    assert (weighed.dirty_buckets, weighed.oldest_dirty) == (1, hours.folded - HOUR)


def test_tables_are_as_large_and_as_old_as_a_count_says(folded: Engine, report_engine: Engine) -> None:
    found = tables(asked(report_engine))
    with folded.connect() as connection:
        able = database.capabilities(connection)
        for name, table in found.items():
            rows = connection.scalar(text(f"SELECT count(*) FROM gigawatch.{name}"))
            assert table.rows == rows, name
            assert table.total_bytes == table.heap_bytes + table.index_bytes
            if table.oldest is not None or name in {"gpu_window", "gpu_1m", "node_1h", "rack_1m", "site_second"}:
                edges = connection.execute(text(f"SELECT min(time), max(time) FROM gigawatch.{name}")).one()
                assert (table.oldest, table.newest) == tuple(edges), name
        if able.hypertables:
            sizes = connection.scalar(text("SELECT hypertable_size('gigawatch.gpu_window')"))
            chunks = connection.scalar(text("SELECT count(*) FROM show_chunks('gigawatch.gpu_window')"))
        else:
            sizes = connection.scalar(text("SELECT pg_total_relation_size('gigawatch.gpu_window')"))
            chunks = 0
    assert (found["gpu_window"].total_bytes, found["gpu_window"].chunks) == (sizes, chunks)


def test_windows_that_nobody_folds_are_a_problem(seeded: Engine, report_engine: Engine) -> None:
    assert "No window was folded yet" in readings.store_problems(asked(report_engine))[0]


def test_lag_is_since_what_is_folded_and_behind_up_to_the_newest_window(folded: Engine, report_engine: Engine) -> None:
    status = asked(report_engine)
    assert readings.store_problems(status) == []
    minutes, hours, *_ = status.rollups
    assert minutes.lag_s is not None and 20 <= minutes.lag_s < 200
    assert hours.lag_s is not None and minutes.lag_s <= hours.lag_s < 3_800
    change(folded, "UPDATE gigawatch.rollup SET folded = date_trunc('minute', now()) - interval '10 min'")
    change(folded, "UPDATE gigawatch.node_now SET time = now() - interval '4 min'")
    status = asked(report_engine)
    minutes = status.rollups[0]
    assert minutes.lag_s is not None and 600 <= minutes.lag_s < 720
    # The second statement, and what is asked, come later than the first.
    assert minutes.behind_s is not None and 230 < minutes.lag_s - minutes.behind_s < 300
    assert "not folded into minutes" in readings.store_problems(status)[0]
    # Without newer windows there is nothing to fold.
    change(folded, "UPDATE gigawatch.node_now SET time = now() - interval '1 h'")
    status = asked(report_engine)
    assert status.rollups[0].behind_s == 0
    assert readings.store_problems(status) == []


def test_marks_are_counted_once_for_each_bucket_of_a_node(folded: Engine, report_engine: Engine) -> None:
    marked = datetime(2026, 1, 31, 12, tzinfo=UTC)
    change(
        folded,
        f"INSERT INTO gigawatch.rollup_dirty SELECT '1m', '{marked.isoformat()}'::timestamptz"
        " + n % 2 * interval '1 min', n % 3 FROM generate_series(0, 99) AS n",
    )
    minutes, hours, *_ = asked(report_engine).rollups
    assert (minutes.dirty_buckets, minutes.oldest_dirty) == (6, marked)
    assert (hours.dirty_buckets, hours.oldest_dirty) == (0, None)


def test_hours_of_meters_and_the_facility_s_days_are_levels_of_their_own(engine: Engine, report_engine: Engine) -> None:
    now = datetime.now(UTC)
    day = floor(now - timedelta(days=1), timedelta(days=1))
    send(engine, hourly("grid", day, int((now - day) / HOUR), kwh=1))
    place(engine, {"grid": {"role": "utility"}})
    fold(engine, now)
    change(engine, "ANALYZE")

    def levels() -> dict[str, StoreRollup]:
        status = asked(report_engine)
        assert status.rollups[0].folded is None  # there are no nodes' windows
        return {it.level: it for it in status.rollups}

    hours, days = levels()["meter_1h"], levels()["facility_1d"]
    assert hours.folded == days.folded == floor(now, HOUR)
    assert hours.lag_s is not None and 0 <= hours.lag_s < 3_700
    assert hours.behind_s == hours.dirty_buckets == days.dirty_buckets == 0
    found = tables(asked(report_engine))
    for name in ("meter_window", "meter_1h", "meter_1d", "facility_1h", "facility_1d"):
        assert found[name].rows and found[name].oldest == day, name
    # A day that waits holds back what is made of it; one that was made long ago waits for late data alone.
    change(engine, f"INSERT INTO gigawatch.rollup_dirty VALUES ('facility_1d', '{day - timedelta(days=9)}', 1)")
    assert levels()["facility_1d"].folded == hours.folded
    newest = floor(hours.folded - timedelta(seconds=1), timedelta(days=1))
    change(engine, f"INSERT INTO gigawatch.rollup_dirty VALUES ('facility_1d', '{newest}', 1)")
    days = levels()["facility_1d"]
    assert (days.folded, days.dirty_buckets, days.oldest_dirty) == (newest, 2, day - timedelta(days=9))
    # The newest window is an hour and more before now.
    change(engine, "UPDATE gigawatch.rollup SET folded = folded - interval '3 h' WHERE level = 'meter_1h'")
    assert levels()["meter_1h"].behind_s == pytest.approx(7_200, abs=1)
    assert "Windows of meters since" in readings.store_problems(asked(report_engine))[0]


JOBS = """INSERT INTO gigawatch.job (name, leader, started, finished, progress, error) VALUES
    ('fold', 'host:7', now() - interval '2 s', now(), '12 buckets folded', NULL),
    ('retain', 'host:7', now() - interval '5 s', NULL, NULL, NULL)"""


def test_jobs_say_how_they_went(engine: Engine, report_engine: Engine) -> None:
    change(engine, JOBS)
    fold, retain = asked(report_engine).jobs
    assert (fold.leader, fold.took_s, fold.progress, fold.error) == ("host:7", 2.0, "12 buckets folded", None)
    assert (retain.finished, retain.took_s) == (None, None)


def status_of(url: str, *options: str) -> Result:
    return CliRunner().invoke(db, ["status", "--database-url", url, *options])


def test_the_command_shows_it_and_its_exit_status_says_whether_all_is_well(folded: Engine, database_url: str) -> None:
    change(folded, JOBS)
    done = status_of(database_url)
    assert (done.exit_code, done.stderr) == (0, "")
    for words in (
        "PostgreSQL",
        f"schema {schema.REVISION}",
        "1m ",
        "facility_1d ",
        "gpu_window",
        "host:7",
        "12 buckets folded",
        "runs",
    ):
        assert words in done.stdout
    change(folded, "UPDATE gigawatch.job SET error = 'no room' WHERE name = 'fold'")
    done = status_of(database_url)
    assert done.exit_code == 1
    assert "failed: no room" in done.stdout
    assert "Job fold failed: no room" in done.stderr
    change(folded, "UPDATE gigawatch.job SET error = NULL")
    change(folded, "UPDATE gigawatch.rollup SET folded = now() - interval '6 min' WHERE level = '1m'")
    change(folded, "UPDATE gigawatch.node_now SET time = now()")
    done = status_of(database_url, "--json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert found.keys() == {"edition", "revision", "problems", "rollups", "jobs", "tables"}
    assert found["problems"] == [done.stderr.strip()]
    assert found["rollups"][0]["lag_s"] == pytest.approx(360, abs=10)


def test_the_command_says_what_to_do_about_a_store_of_another_version(engine: Engine, database_url: str) -> None:
    change(engine, "UPDATE gigawatch.alembic_version SET version_num = '0001'")
    done = status_of(database_url)
    assert done.exit_code == 5
    assert "gigawatch migrate" in done.output


def samples(body: str) -> dict[tuple[str, str], float]:
    """Value by name and first label's value, as Prometheus reads it."""
    return {
        (it.name, next(iter(it.labels.values()), "")): it.value
        for family in text_string_to_metric_families(body)
        for it in family.samples
    }


def test_metrics_are_prometheus_text_of_what_came_and_how_far_the_store_is(
    folded: Engine, database_url: str, tmp_path: Any
) -> None:
    # The jobs' state is this test's own.
    with running_api(database_url, tmp_path / "log", GIGAWATCH_SERVER__SCHEDULER="false") as api:
        change(folded, JOBS)
        with api.client("agent") as client:
            assert client.get("/metrics").status_code == 403
            assert client.get("/api/v1/store").status_code == 403
            now = datetime.now(UTC)
            start = now.replace(second=0, microsecond=0) - timedelta(minutes=1)
            batch = {
                "machine_id": "meter", "sent_at": now.isoformat(), "spool_id": "s", "seq": 0, "oldest_seq": 0,
                "inventory": {"hostname": "meter", "site": "here", "gpus": [{"uuid": "G", "index": 0, "model": "m"}]},
                "gpu_windows": [
                    {"gpu_uuid": "G", "start": start.isoformat(), "covered_ms": 10_000, "ticks_taken": 10,
                     "ticks_expected": 10, "energy_mj": 1, "energy_method": 1},
                    {"gpu_uuid": "G", "start": start.isoformat(), "covered_ms": -1},
                ],
            }  # fmt: skip
            for _ in range(2):
                assert client.post("/api/v1/batches", json=batch).status_code == 200
        assert httpx.get(f"{api.url}/metrics").status_code == 401
        with api.client("viewer") as client:
            answer = client.get("/metrics")
            status = client.get("/api/v1/store").json()
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = {it.name: it for it in text_string_to_metric_families(answer.text)}
    assert all(it.documentation and it.type in {"counter", "gauge"} for it in families.values())
    found = {name: value for (name, _), value in samples(answer.text).items() if name.startswith("gigawatch_ingest_")}
    assert found == {
        "gigawatch_ingest_batches_total": 2,
        "gigawatch_ingest_gpu_windows_total": 1,
        "gigawatch_ingest_node_windows_total": 0,
        "gigawatch_ingest_serving_windows_total": 0,
        "gigawatch_ingest_meter_windows_total": 0,
        "gigawatch_ingest_duplicates_total": 1,
        "gigawatch_ingest_refused_items_total": 1,
        "gigawatch_ingest_transactions_total": 2,
        "gigawatch_ingest_failed_transactions_total": 0,
        "gigawatch_ingest_turned_away_total": 0,
        "gigawatch_ingest_waiting_bytes": 0,
    }
    values = samples(answer.text)
    for rollup in status["rollups"]:
        level = rollup["level"]
        if rollup["folded"] is None:
            assert ("gigawatch_rollup_folded_timestamp_seconds", level) not in values
            continue
        folded_at = datetime.fromisoformat(rollup["folded"]).timestamp()
        assert values["gigawatch_rollup_folded_timestamp_seconds", level] == folded_at
        assert values["gigawatch_rollup_lag_seconds", level] == pytest.approx(rollup["lag_s"], abs=10)
        assert values["gigawatch_rollup_dirty_buckets", level] == rollup["dirty_buckets"]
    ended = datetime.fromisoformat(status["jobs"][0]["finished"]).timestamp()
    assert values["gigawatch_job_last_success_timestamp_seconds", "fold"] == ended
    assert values["gigawatch_job_last_duration_seconds", "fold"] == 2
    assert values["gigawatch_job_failed", "fold"] == 0
    assert ("gigawatch_job_last_success_timestamp_seconds", "retain") not in values


def test_every_process_tells_what_all_of_them_counted(database_url: str, tmp_path: Path) -> None:
    posts, batches = 60, "gigawatch_ingest_batches_total"
    settings = {"GIGAWATCH_SERVER__WORKERS": "2", "GIGAWATCH_SERVER__SCHEDULER": "false", "TMPDIR": str(tmp_path)}
    told = []
    with running_api(database_url, tmp_path / "log", **settings) as api:

        def scrape() -> float:
            # A connection of its own reaches either process.
            with api.client("viewer") as client:
                return samples(client.get("/metrics").text)[batches, ""]

        for post in range(posts):
            batch = {"machine_id": "m", "sent_at": datetime.now(UTC).isoformat(), "spool_id": "s", "seq": post,
                     "oldest_seq": 0}  # fmt: skip
            with api.client("agent") as client:
                assert client.post("/api/v1/batches", json=batch).status_code == 200
            told.append(scrape())
        assert told == [post + 1 for post in range(posts)]
        (folder,) = tmp_path.glob("gigawatch-counts-*")
        shares = [np.fromfile(path, np.int64)[NAMES.index("batches")] for path in folder.iterdir()]
        assert len(shares) == 2 and min(shares) > 0
        # What a process counted is not forgotten when it ends.
        os.kill(int(next(folder.iterdir()).name), signal.SIGKILL)
        wait_for("process in its place", lambda: len(list(folder.iterdir())) == 3)
        assert {scrape() for _ in range(10)} == {posts}
    assert not folder.exists()


def test_what_waited_in_a_process_that_ended_waits_no_more(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    other = np.arange(1, len(NAMES) + 1)
    (tmp_path / str(ended.pid)).write_bytes(other.tobytes())
    (tmp_path / "1").write_bytes(b"")
    counts = Counts(tmp_path)
    counts.add("batches", 5)
    counts.set("waiting_bytes", 7)
    assert list(counts.totals().values()) == [6, *range(2, len(NAMES)), 7]
    # A process may get the number of one that ended.
    assert Counts(tmp_path).totals() == {**counts.totals(), "waiting_bytes": 0}


@pytest.fixture
def metrics(report_engine: Engine) -> Metrics:
    return Metrics(report_engine, Counts(None))


def test_labels_may_hold_any_text(engine: Engine, metrics: Metrics) -> None:
    name = 'a "b" \\ c\nd'
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO gigawatch.job (name, leader, started, error) VALUES (:name, 'x', now(), 'e')"),
            {"name": name},
        )
    assert samples(metrics.text())["gigawatch_job_failed", name] == 1


def test_the_database_is_read_once_in_five_seconds(
    engine: Engine, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment_s = 1_000.0
    monkeypatch.setattr("api.metrics.time.monotonic", lambda: moment_s)
    change(engine, JOBS)
    metrics.text()
    change(engine, "UPDATE gigawatch.job SET error = 'e', finished = now() + interval '1 h'")
    before = samples(metrics.text())
    assert before["gigawatch_job_failed", "fold"] == 0
    moment_s += 5
    after = samples(metrics.text())
    assert after["gigawatch_job_failed", "fold"] == 1
    # The last good run is still known.
    success = ("gigawatch_job_last_success_timestamp_seconds", "fold")
    assert after[success] == before[success]


def test_counters_are_there_while_the_database_is_away(metrics: Metrics) -> None:
    away = Metrics(database.engine("postgresql://nobody@127.0.0.1:1/none"), Counts(None))
    values = samples(away.text())
    assert values["gigawatch_store_reachable", ""] == 0
    assert sum(name == "gigawatch_ingest_batches_total" for name, _ in values) == 1
    assert not any(name.startswith("gigawatch_rollup") for name, _ in values)
    assert samples(metrics.text())["gigawatch_store_reachable", ""] == 1


def test_a_job_s_last_error_stays_until_a_run_succeeds(engine: Engine) -> None:
    scheduler = Scheduler(engine, Retention(), Alerts())

    def seen() -> tuple[str | None, bool]:
        with engine.connect() as connection:
            (job,) = readings.store_jobs(connection)
        return job.error, job.finished is not None

    def fails() -> str:
        raise OSError("no room")

    def works() -> str:
        assert seen() == ("no room", False)
        return "all done"

    with pytest.raises(OSError, match="no room"):
        scheduler._run("fold", fails)
    assert seen() == ("no room", True)
    scheduler._run("fold", works)
    assert seen() == (None, True)

"""Rules run against a real store, as the process that leads runs them: robust, at once upon events, and once."""

import re
import resource
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
import sqlalchemy
from sqlalchemy import Connection, Engine, text

from api import scheduler as scheduling
from api.alerts import evaluation, login, states
from api.alerts.evaluation import EvaluationError, Observation, evaluate
from api.alerts.keeper import ALERTS, Keeper, bring_into_force
from api.alerts.rule import Override, Rule, Threshold
from api.alerts.states import Before
from api.alerts.telling import Telling
from api.counts import Counts
from api.decode import Parcel, decode
from api.metrics import Metrics
from api.retention import retain
from api.rollups import CLOSE_LOCK, Folder
from api.scheduler import Scheduler
from api.store import Store
from gigawatch import database, embedded
from gigawatch.embedded import EmbeddedServer, installations
from gigawatch.records import Event, Inventory, Severity
from gigawatch.settings import Alerts, Retention
from gigawatch.wire import MSGPACK, Batch, encode
from migrations.run import migrate
from tests.processes import processor_s

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = Alerts(rule_timeout_s=1, rule_max_rows=1_000)
EVENTS = (
    "SELECT hostname, max(code) AS value FROM report.events WHERE kind = 'xid' AND time > :now - interval '1 hour'"
    " GROUP BY hostname"
)
Rules = dict[str, Rule]


def rule(sql: str, **values: Any) -> Rule:
    usual: dict[str, Any] = {
        "name": "own", "origin": "own", "enabled": True, "about": "Own", "summary": "{host}: {value:.0f} °C",
        "sql": sql, "labels": ("host",), "severity": "warning", "unit": "°C", "for_s": 0, "keep_firing_for_s": 0,
        "interval_s": 3_600, "group_by": (),
    }  # fmt: skip
    return Rule(**{**usual, **values})


def run(engine: Engine, sql: str, **values: Any) -> list[Observation]:
    return evaluate(engine, rule(sql, **values), NOW, SETTINGS, unknown="all")


def rows(engine: Engine, sql: str, **values: Any) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(sql), values)]


def until(holds: Callable[[], bool], within_s: float = 60) -> None:
    end_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end_s, "it did not come to be"
        time.sleep(0.02)


# Evaluation.


def test_a_row_becomes_an_observation(rules_engine: Engine) -> None:
    sql = """SELECT 7 AS host, CAST(NULL AS text) AS rack, 81.5::numeric AS value, ARRAY['r2', 'r1', NULL] AS racks,
        true AS simulated, 'critical' AS severity, :now AS since, 3 AS gpus, NULL::integer AS none,
        repeat('é', 3000) AS long, '12:30' AS noon, '{"a": 1}'::jsonb AS document; """
    (found,) = run(rules_engine, sql, labels=("host", "rack"), summary="{host} {none} {since:%Y} {gpus:02d} {noon}")
    assert found == Observation(
        labels={"host": "7"}, value=81.5, severity="critical", racks=("r1", "r2"), simulated=True,
        summary="7 ? 2026 03 12:30",
        details={"since": NOW.isoformat(), "gpus": 3, "none": None, "long": "é" * 2_000, "noon": "12:30",
                 "document": '{"a": 1}'},
    )  # fmt: skip


@pytest.mark.parametrize("value", ["NULL", "'NaN'::double precision", "'Infinity'::real", "'-Infinity'::numeric"])
def test_what_is_no_number_is_no_data(rules_engine: Engine, value: str) -> None:
    (found,) = run(rules_engine, f"SELECT 'a' AS host, {value} AS value, 'NaN'::real AS other")
    assert (found.value, found.details, found.summary) == (None, {"other": None}, "a: ? °C")


def test_of_what_nobody_can_tell_only_what_has_an_alert_counts(engine: Engine, rules_engine: Engine) -> None:
    """Breakers of a site in the dark are more than a rule may give rows, and one of them has an alert."""
    with engine.begin() as connection:
        for name, number, state in (("own", 7, "firing"), ("own", 8, "resolved"), ("another", 9, "firing")):
            connection.execute(
                text(
                    "INSERT INTO gigawatch.alert (rule, fingerprint, labels, details, severity, state, summary,"
                    " started, held, resolved) VALUES (:name, :print, CAST(:labels AS jsonb), '{}', 'warning',"
                    " :state, 'x', now(), now(), :resolved)"
                ),
                {"name": name, "print": f"{number:032}", "state": state, "labels": f'{{"host": "{number}"}}',
                 "resolved": NOW if state == "resolved" else None},
            )  # fmt: skip
    sql = (
        "SELECT number AS host, NULL AS rack, CASE WHEN number > 19999 THEN 1 END AS value"
        " FROM generate_series(1, 20000) AS number"
    )
    silent = rule(sql, labels=("host", "rack"))
    found = evaluate(rules_engine, silent, NOW, SETTINGS)
    assert [(it.labels, it.value) for it in found] == [({"host": "7"}, None), ({"host": "20000"}, 1)]
    # What is not in the store as it is written there is not looked for.
    assert len(evaluate(rules_engine, rule("SELECT 0.5 AS host, CAST(NULL AS real) AS value"), NOW, SETTINGS)) == 1


def test_thresholds_are_values_by_site_rack_and_model(rules_engine: Engine) -> None:
    sneaky = "x'); DROP TABLE gigawatch.node; --"
    threshold = Threshold(
        value=5, unit="K", about="Margin",
        overrides=(
            Override(where={"site": "oslo", "rack": "r1"}, value=1),
            Override(where={"site": "oslo"}, value=2),
            Override(where={"rack": "r1"}, value=3),
            Override(where={"site": sneaky}, value=4),
        ),
    )  # fmt: skip
    sql = """SELECT site || coalesce(rack, '') AS host, :margin AS value, :now - interval '1 day' AS since
        FROM (VALUES ('oslo', 'r1'), ('oslo', 'r2'), ('oslo', NULL), ('nice', 'r1'), ('nice', 'r2'), (:sneaky, NULL))
        AS it (site, rack) WHERE :margin::double precision > 0 -- and so on"""
    with pytest.raises(EvaluationError, match=r"asks for :sneaky, and has :now, :margin"):
        run(rules_engine, sql, thresholds={"margin": threshold})
    sql = sql.replace(":sneaky", "'" + sneaky.replace("'", "''") + "'")
    found = run(rules_engine, sql, thresholds={"margin": threshold})
    assert {it.labels["host"]: it.value for it in found} == {
        "oslor1": 1, "oslor2": 2, "oslo": 2, "nicer1": 3, "nicer2": 5, sneaky: 4,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELEC 1", "syntax error"),
        ("SELECT 'a' AS host, 1 AS value FROM report.nothing", "does not exist"),
        ("SELECT 'a' AS host, 1 AS value FROM gigawatch.api_token", "permission denied"),
        ("SELECT 'a' AS host, 1 AS value) AS x; DROP TABLE gigawatch.node; SELECT (SELECT 1", "multiple commands"),
        ("SELECT U&\"pg\\005fsleep\"(1) AS host, 1 AS value", "may not have"),
        ("SELECT pg_advisory_lock(1)::text AS host, 1 AS value", "may not have"),
        ("SELECT pg_logical_emit_message(false, 'a', 'b')::text AS host, 1 AS value", "may not have"),
        ("COPY gigawatch.node TO STDOUT", "syntax error"),
        ("WITH it AS (DELETE FROM report.nodes RETURNING 1) SELECT 'a' AS host, 1 AS value", "data-modifying"),
        ("SELECT pg_sleep(30)::text AS host, 1 AS value", "longer than 1 s"),
        ("SELECT host, 1 AS value FROM generate_series(1, 1e12::bigint) AS host ORDER BY host DESC", "longer than 1 s"),
        ("SELECT generate_series(1, 1000000) AS host, 1 AS value", "more than 1,000 rows"),
        ("SELECT 'a' AS host", "gives no column value"),
        ("SELECT 1 AS value", "gives no column host"),
        ("SELECT 'a' AS host, 1 AS value FROM generate_series(1, 2)", "two rows of host=a"),
        ("SELECT 'a' AS host, 1 AS value, 2 AS value", "ambiguous|twice"),
        ("SELECT 'a' AS host, 1 AS value, 3", "has no name"),
        ("SELECT 'a' AS host, 'much' AS value", "invalid input syntax"),
        ("SELECT 'a' AS host, 1 AS value, 'dire' AS severity", "has 'dire'"),
        ("SELECT 'a' AS host, 1 / 0 AS value", "division by zero"),
        (f"SELECT 'a' AS host, 1 AS value, {', '.join(f'1 AS c{it}' for it in range(99))}", "gives 101 columns"),
    ],
)  # fmt: skip
def test_a_rule_that_is_wrong_says_why(rules_engine: Engine, sql: str, words: str) -> None:
    began_s = time.monotonic()
    with pytest.raises(EvaluationError, match=words):
        run(rules_engine, sql)
    assert time.monotonic() - began_s < 20
    # The next one on the same connection is as if nothing had been.
    assert len(run(rules_engine, "SELECT 'a' AS host, 1 AS value")) == 1


OF_TOKENS = "query_to_xml('SELECT * FROM gigawatch.api_token', true, true, '') AS of_owner"
SECRET = "query_to_xml('%s', true, true, '') AS host, 1 AS value"


@pytest.mark.parametrize("database_url", ["embedded"], indirect=True)
@pytest.mark.parametrize(
    ("sql", "words"),
    [
        # To be somebody else.
        ("RESET ROLE", "syntax error"),
        (f"SELECT set_config('role', 'none', true) AS host, 1 AS value, {OF_TOKENS}", "permission denied for schema"),
        ("SELECT set_config('role', 'gigawatch', true) AS host, 1 AS value", "permission denied to set role"),
        ("SELECT set_config('session_authorization', 'gigawatch', true) AS host, 1 AS value", "permission denied"),
        ("SELECT 'a' AS host, 1 AS value) AS x; RESET ROLE; SELECT * FROM (SELECT 1", "multiple commands"),
        ("SELECT 1 AS value) AS x; SET SESSION AUTHORIZATION gigawatch; SELECT * FROM (SELECT 1", "multiple commands"),
        *(
            (f"SELECT {SECRET % it}", "non-volatile function|COPY|query")
            for it in (
                "RESET ROLE", "SET SESSION AUTHORIZATION gigawatch", "COPY (SELECT 1) TO PROGRAM ''true''",
                "CREATE TEMP TABLE mine ()", "CREATE EXTENSION dblink", "DO $$ BEGIN END $$", "NOTIFY gigawatch_event",
            )
        ),
        ("DO $$ BEGIN PERFORM 1; END $$", "syntax error"),
        ("COPY (SELECT 1) TO PROGRAM 'true'", "syntax error"),
        # To write, and to read what is no figure.
        ("SELECT set_config('transaction_read_only', 'off', true) AS host, 1 AS value", "read-only"),
        ("SELECT lo_import('/etc/passwd')::text AS host, 1 AS value", "permission denied|read-only"),
        ("SELECT lo_from_bytea(0, 'x')::text AS host, 1 AS value", "read-only"),
        ("SELECT pg_read_file('/etc/passwd') AS host, 1 AS value", "permission denied"),
        ("SELECT pg_ls_dir('/') AS host, 1 AS value", "permission denied"),
        ("SELECT dblink('host=/', 'SELECT 1')::text AS host, 1 AS value", "does not exist"),
        ("SELECT rolpassword AS host, 1 AS value FROM pg_authid", "permission denied"),
        ("SELECT password AS host, 1 AS value FROM gigawatch.rule_login", "permission denied"),
        # To keep others from their work.
        (f"SELECT pg_advisory_lock({scheduling.LEADER_LOCK})::text AS host, 1 AS value", "permission denied"),
        (f"SELECT pg_try_advisory_xact_lock({CLOSE_LOCK})::text AS host, 1 AS value", "permission denied"),
        ("SELECT pg_terminate_backend(pid)::text AS host, 1 AS value FROM pg_stat_activity", "permission denied"),
        ("SELECT pg_cancel_backend(pid)::text AS host, 1 AS value FROM pg_stat_activity", "permission denied"),
        ("SELECT pg_logical_emit_message(false, 'a', 'b')::text AS host, 1 AS value", "permission denied"),
        ("SELECT pg_reload_conf()::text AS host, 1 AS value", "permission denied"),
        ("SELECT pg_switch_wal()::text AS host, 1 AS value", "permission denied"),
        ("SELECT left(set_config('search_path', repeat('a,', 100000) || 'a', true), 9) AS host, 1 AS value",
         "connection ended amid it: lost synchronization"),
        # To have more time and room than a rule has.
        ("SELECT concat(set_config('statement_timeout', '0', true), pg_sleep(30)) AS host, 1 AS value", "than 1 s"),
        ("SELECT concat(set_config('temp_file_limit', '-1', true)) AS host, 1 AS value", "permission denied"),
        ("SELECT 'a' AS host, repeat('x', 250000000)::integer AS value", "^invalid input syntax.{,1000}$|than 1 s"),
        ("SELECT 'a' AS host, 1 AS value, concat(repeat('x', 1e9::int), repeat('x', 1e9::int)) AS b", "memory| 1 s"),
        (
            "SELECT it AS host, 1 AS value, "
            + ", ".join(f"repeat('x', 100000) AS c{column}" for column in range(30))
            + " FROM generate_series(1, 1000) AS it",
            "more than 32 MiB|than 1 s",
        ),
    ],
)  # fmt: skip
def test_whatever_a_rule_tries_it_can_do_no_more_than_reports(
    rules_engine: Engine, monkeypatch: pytest.MonkeyPatch, sql: str, words: str
) -> None:
    # What is told beforehand holds nobody back.
    monkeypatch.setattr(evaluation, "_REFUSED", re.compile("(?!)"))
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began_s = time.monotonic()
    with pytest.raises(EvaluationError, match=words):
        run(rules_engine, sql)
    assert time.monotonic() - began_s < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 200 << 10
    assert len(run(rules_engine, "SELECT 'a' AS host, 1 AS value")) == 1


@pytest.mark.parametrize("database_url", ["embedded"], indirect=True)
def test_what_a_rule_may_do_leaves_nothing_behind(engine: Engine, rules_engine: Engine) -> None:
    with engine.connect() as listening:
        listening.execute(text("LISTEN gigawatch_event"))
        listening.commit()
        for harmless in (
            "pg_notify('gigawatch_event', 'xid')::text",
            "set_config('default_transaction_read_only', 'off', false)",
            "set_config('statement_timeout', '0', false)",
            "set_config('search_path', 'pg_temp', false)",
            "set_config('role', 'none', false)",
        ):
            assert len(run(rules_engine, f"SELECT {harmless} AS host, 1 AS value")) == 1
        driver: Any = listening.connection.driver_connection
        assert list(driver.notifies(timeout=0.3)) == []
    shown = "SELECT 'a' AS host, 1 AS value, " + ", ".join(
        f"current_setting('{name}') AS {name}"
        for name in ("default_transaction_read_only", "statement_timeout", "search_path", "temp_file_limit",
                     "log_min_messages", "idle_in_transaction_session_timeout")
    )  # fmt: skip
    (found,) = run(rules_engine, shown)
    assert found.details == {
        "default_transaction_read_only": "on", "statement_timeout": "1s", "search_path": "report",
        "temp_file_limit": "1GB", "log_min_messages": "fatal", "idle_in_transaction_session_timeout": "1min",
    }  # fmt: skip


@pytest.mark.parametrize("database_url", ["embedded"], indirect=True)
def test_what_is_wide_is_cut_off_and_keeps_the_leader_small(rules_engine: Engine) -> None:
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sql = """SELECT it AS host, 1 AS value, repeat('é', 50000000) AS more, repeat('x', 100000000) AS summary,
        ARRAY[repeat('r', 100000000), it::text] AS racks FROM generate_series(1, 3) AS it"""
    patient = Alerts(rule_timeout_s=60)
    found = evaluate(rules_engine, rule(sql), NOW, patient)
    assert [len(it.details["more"]) for it in found] == [2_000] * 3
    assert found[0].racks == ("1", "r" * 255) and len(found[0].summary) == 1_000
    many = "SELECT 'a' AS host, 1 AS value, ARRAY(SELECT generate_series(1, 1000000)::text) AS racks"
    (of_many,) = evaluate(rules_engine, rule(many), NOW, patient)
    assert len(of_many.racks or ()) == 10_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 100 << 10


@pytest.mark.parametrize("database_url", ["embedded"], indirect=True)
def test_what_the_database_does_not_end_is_ended_from_here(
    rules_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its own timer would run out in an hour.
    monkeypatch.setattr(evaluation, "MILLISECONDS_PER_SECOND", 3_600_000)
    began_s = time.monotonic()
    with pytest.raises(EvaluationError, match="longer than 1 s"):
        run(rules_engine, "SELECT pg_sleep(30)::text AS host, 1 AS value")
    assert 1.5 < time.monotonic() - began_s < 20


@pytest.mark.parametrize("database_url", ["embedded"], indirect=True)
def test_a_login_that_may_do_more_or_is_none_is_refused_in_words(engine: Engine, database_url: str) -> None:
    with engine.begin() as connection:
        role = connection.scalar(text("SELECT role FROM gigawatch.rule_login"))

    def refusal(settings: Alerts = SETTINGS) -> str:
        rules = login.rules_engine(engine, settings)
        with pytest.raises(EvaluationError) as error:
            run(rules, "SELECT 'a' AS host, 1 AS value")
        rules.dispose()
        return str(error.value)

    assert "has the rights of gigawatch:" in refusal(Alerts(rule_database_url=database_url))
    nobody = database_url.replace("gigawatch@", "nobody:s3cret@")
    assert 'role "nobody" does not exist' in refusal(Alerts(rule_database_url=nobody))
    assert "s3cret" not in refusal(Alerts(rule_database_url=nobody))
    with engine.begin() as connection:
        connection.execute(text(f"GRANT pg_read_all_data TO {role}"))
    assert "has the rights of pg_read_all_data: it may have those of gigawatch_report alone" in refusal()
    with engine.begin() as connection:
        connection.execute(text(f"REVOKE pg_read_all_data FROM {role}"))
        connection.execute(text("DELETE FROM gigawatch.rule_login"))
    assert "there is no login for rules: run `gigawatch migrate`" in refusal()


def test_a_rule_that_wants_the_machine_s_memory_fails_and_ends_nobody(
    public_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "MOST_PROCESS_MIB", 1_024)
    greedy = ", ".join(f"repeat('x', 400000000) AS c{column}" for column in range(20))
    with EmbeddedServer(public_dir / "store", next(it for it in installations() if not it.timescaledb)) as server:
        owner = database.engine(server.url)
        migrate(owner)
        rules = login.rules_engine(owner, Alerts())
        with owner.connect() as other:
            began = other.scalar(text("SELECT pg_postmaster_start_time()"))
            with pytest.raises(EvaluationError, match="out of memory"):
                evaluate(rules, rule(f"SELECT 'a' AS host, 1 AS value, {greedy}"), NOW, Alerts(rule_timeout_s=60))
            assert other.scalar(text("SELECT pg_postmaster_start_time()")) == began
        for engine in (owner, rules):
            engine.dispose()


def test_a_database_that_is_away_says_nothing_of_the_rule() -> None:
    with pytest.raises(sqlalchemy.exc.OperationalError):
        run(database.engine("postgresql://nobody@127.0.0.1:1/none"), "SELECT 'a' AS host, 1 AS value")


# Writing.


def test_ten_thousand_alerts_are_written_well_within_a_second(engine: Engine) -> None:
    of = rule("SELECT 1", for_s=0, keep_firing_for_s=60)
    found = [
        Observation(
            labels={"host": f"node-{number}", "site": "oslo"}, value=float(number), severity="warning", racks=None,
            simulated=False, summary="x" * 100, details={"gpus": 8, "since": NOW.isoformat()},
        )
        for number in range(10_000)
    ]  # fmt: skip
    # Fires; holds; ceases; ends.
    for step, observations in enumerate((found, found, [], [])):
        now = NOW + step * timedelta(minutes=1)
        with engine.begin() as connection:
            began_s = processor_s(connection)
            before = states.read(connection, of.name, now)
            states.write(connection, of.name, states.advance(of, before, observations, now), now)
            took_s = processor_s(connection) - began_s
        print(f"\nstep {step}: 10,000 alerts in {took_s:.2f} s")  # noqa: T201 # shown by pytest -s
        assert took_s < 2
    assert rows(engine, "SELECT state, count(*), min(resolved) FROM report.alerts GROUP BY 1") == [
        ("resolved", 10_000, NOW + timedelta(minutes=3))
    ]
    assert rows(engine, "SELECT change, count(*) FROM report.alert_changes GROUP BY 1 ORDER BY 1") == [
        ("fired", 10_000), ("resolved", 10_000),
    ]  # fmt: skip


def test_an_alert_is_read_as_it_was_written(engine: Engine) -> None:
    of = rule("SELECT 1", for_s=60)
    one = Observation(
        labels={"host": "a"}, value=1.5, severity="info", racks=("r1",), simulated=True, summary="hot", details={"n": 1}
    )
    other = msgspec.structs.replace(one, labels={"host": "b"}, racks=None, value=0.0)
    with engine.begin() as connection:
        empty = states.read(connection, of.name, NOW)
        assert empty == Before(alerts={}, returns={})
        states.write(connection, of.name, states.advance(of, empty, [one, other], NOW), NOW)
        pending = states.read(connection, of.name, NOW)
        assert {it.state for it in pending.alerts.values()} == {"pending"}
        assert states.advance(of, pending, [one, other], NOW).written == ()
        later = NOW + timedelta(minutes=1)
        states.write(connection, of.name, states.advance(of, pending, [one], later), later)
        (fired,) = states.read(connection, of.name, later).alerts.values()
        assert (fired.state, fired.racks, fired.labels, fired.fired) == ("firing", ("r1",), {"host": "a"}, later)
        states.write(connection, of.name, states.advance(of, states.read(connection, of.name, later), [], later), later)
        assert states.read(connection, of.name, later) == Before(alerts={}, returns={fired.fingerprint: 1})


def test_rules_that_are_gone_or_off_end_their_alerts(engine: Engine) -> None:
    rules = {name: rule("SELECT 1", name=name) for name in ("kept", "off", "gone")}
    seen = Observation(
        labels={"host": "a"}, value=1, severity="info", racks=None, simulated=False, summary="hot", details={}
    )
    with engine.begin() as connection:
        bring_into_force(connection, rules, NOW)
        connection.execute(text("UPDATE gigawatch.alert_rule SET evaluations = 5, error = 'x', failing_since = now()"))
        for name, of in rules.items():
            states.write(connection, name, states.advance(of, Before(alerts={}, returns={}), [seen], NOW), NOW)
        rules["off"] = msgspec.structs.replace(rules["off"], enabled=False)
        del rules["gone"]
        bring_into_force(connection, rules, NOW)
    assert rows(engine, "SELECT name, enabled, evaluations, error FROM report.alert_rules ORDER BY name") == [
        ("kept", True, 5, "x"), ("off", False, 5, None),
    ]  # fmt: skip
    assert rows(
        engine,
        "SELECT rule, state, note FROM report.alerts LEFT JOIN report.alert_changes AS it"
        " ON it.alert_id = alerts.alert_id AND change = 'resolved' ORDER BY rule",
    ) == [
        ("gone", "resolved", "rule removed"), ("kept", "firing", None), ("off", "resolved", "rule disabled"),
    ]  # fmt: skip
    retain(engine, Retention(), NOW + timedelta(days=9), 10)
    assert len(rows(engine, "SELECT FROM gigawatch.alert")) == 3
    assert "removed 2 rows of alert" in retain(engine, Retention(), NOW + timedelta(days=11), 10)
    assert rows(engine, "SELECT count(*) FROM gigawatch.alert_change") == [(1,)]


def test_repetitions_and_silences_that_are_over_are_removed_too(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO gigawatch.alert_delivery (key, target, group_key, why, state, created, notification)"
                " SELECT gen_random_uuid(), 'chat', '', why, state, :now, '{}'"
                " FROM (VALUES ('repeat', 'sent'), ('repeat', 'waiting'), ('new', 'sent')) AS it (why, state)"
            ),
            {"now": NOW},
        )
        connection.execute(
            text(
                "INSERT INTO gigawatch.alert_silence (kind, matchers, starts, ends, author, reason)"
                " VALUES ('silence', '[]', :now, :now, 'ada', 'fans')"
            ),
            {"now": NOW},
        )

    def kept(days: int) -> list[tuple[Any, ...]]:
        retain(engine, Retention(), NOW + timedelta(days=days), 10)
        return rows(
            engine,
            "SELECT (SELECT count(*) FROM gigawatch.alert_silence), array_agg(why || ' ' || state ORDER BY why, state)"
            " FROM gigawatch.alert_delivery",
        )

    assert kept(6) == [(1, ["new sent", "repeat sent", "repeat waiting"])]
    assert kept(8) == [(1, ["new sent", "repeat waiting"])]
    assert kept(11) == [(0, ["repeat waiting"])]


# The keeper.


class Counted(Telling):
    """What follows upon evaluations, counted."""

    def __init__(self) -> None:
        self.routed = 0
        self.running = False

    def start(self) -> None:
        self.running = True

    def stop(self) -> None:
        self.running = False

    def reload(self, connection: Connection) -> None:
        pass

    def wake(self) -> None:
        pass

    def route(self, connection: Connection, rules: Mapping[str, Rule], now: datetime, *, changed: bool) -> int:
        self.routed += changed
        return 0


@contextmanager
def kept(engine: Engine, rules_engine: Engine, rules: Rules) -> Iterator[Counted]:
    telling = Counted()
    keeper = Keeper(engine, rules_engine, SETTINGS, lambda _: rules, telling)
    keeper.start()
    try:
        yield telling
    finally:
        keeper.stop()
        assert not telling.running


def happen(engine: Engine, host: str, *codes: int) -> None:
    """Store events as the API does."""
    events = [
        Event(time=datetime.now(UTC), kind="xid", severity=Severity.CRITICAL, code=code, message="XID")
        for code in codes
    ]
    batch = Batch(machine_id=host, sent_at=datetime.now(UTC))
    body = encode(batch, inventory=Inventory(hostname=host, site="oslo"), events=events)
    writer = Store(engine, timedelta(days=7))
    writer.store([it for it in decode(body, MSGPACK, datetime.now(UTC), 300) if isinstance(it, Parcel)])
    writer.close()


def alerts(engine: Engine) -> list[tuple[Any, ...]]:
    return rows(engine, "SELECT rule, labels->>'host', state, value FROM report.alerts ORDER BY rule, alert_id")


def evaluations(engine: Engine, name: str) -> int:
    return int(
        rows(engine, "SELECT coalesce(max(evaluations), 0) FROM report.alert_rules WHERE name = :it", it=name)[0][0]
    )


def cut(engine: Engine) -> None:
    """End all other connections to the database, as its restart does."""
    rows(
        engine,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid() AND backend_type = 'client backend'",
    )


XID = rule(EVENTS, name="xid", labels=("hostname",), events=("xid",))


def test_an_event_is_an_alert_at_once(engine: Engine, rules_engine: Engine) -> None:
    rules = {"xid": XID, "deaf": msgspec.structs.replace(XID, name="deaf", events=("gpu_lost",))}
    took_ms = []

    def heard(number: int) -> None:
        until(lambda: sum(it[0] == "xid" for it in alerts(engine)) == number)

    with kept(engine, rules_engine, rules) as telling:
        until(lambda: evaluations(engine, "deaf") == evaluations(engine, "xid") == 1)
        for step in range(5):
            routed = telling.routed
            began_s = time.monotonic()
            happen(engine, f"node-{step}", 79)
            heard(step + 1)
            took_ms.append((time.monotonic() - began_s) * 1_000)
            until(lambda routed=routed: telling.routed > routed)
        # Nobody hears of a connection that ended: rules are evaluated once more when there is a new one.
        cut(engine)
        happen(engine, "node-5", 79)
        heard(6)
        until(lambda: evaluations(engine, "deaf") == 2)
        happen(engine, "node-6", 79)
        heard(7)
    print(f"\nfrom the event to its alert: {', '.join(f'{it:.0f}' for it in took_ms)} ms")  # noqa: T201 # as above
    assert min(took_ms) < 1_000


def test_a_rule_that_fails_harms_no_other(engine: Engine, report_engine: Engine, rules_engine: Engine) -> None:
    happen(engine, "node", 79)
    endless = "SELECT pg_sleep(60)::text AS host, 1 AS value"
    rules = {
        it.name: it
        for it in (
            rule("SELEC", name="broken", interval_s=1),
            *(rule(endless, name=f"endless_{number}", interval_s=1, events=("xid",)) for number in range(2)),
            rule("SELECT generate_series(1, 1000000) AS host, 1 AS value", name="many"),
            msgspec.structs.replace(XID, interval_s=1),
        )
    }
    with kept(engine, rules_engine, rules):
        until(lambda: evaluations(engine, "endless_1") >= 3 and evaluations(engine, "xid") >= 3)
        began_s = time.monotonic()
        happen(engine, "other", 48)
        until(lambda: len(alerts(engine)) == 2)
        assert time.monotonic() - began_s < 20
        missed = "SELECT name FROM report.alert_rules WHERE missed > 0"
        until(lambda: ("endless_0",) in rows(engine, missed))
    failing = dict(rows(engine, "SELECT name, error FROM report.alert_rules WHERE failing_since IS NOT NULL"))
    assert failing.keys() == {"broken", "endless_0", "endless_1", "many"}
    assert "syntax error" in failing["broken"] and "longer than 1 s" in failing["endless_0"]
    assert "more than 1,000 rows" in failing["many"]
    counted = rows(engine, "SELECT failures = evaluations, failures FROM report.alert_rules WHERE name = 'endless_0'")
    assert counted[0][0] and counted[0][1] >= 3
    assert rows(engine, "SELECT failures, rows, error FROM report.alert_rules WHERE name = 'xid'") == [(0, 2, None)]
    told = Metrics(report_engine, Counts(None)).text().splitlines()
    assert {'gigawatch_alerts_firing{severity="warning"} 2', 'gigawatch_alerts_firing{severity="critical"} 0',
            'gigawatch_alert_rule_failing{rule="endless_0"} 1', 'gigawatch_alert_rule_failing{rule="xid"} 0',
            f'gigawatch_alert_rule_failures_total{{rule="endless_0"}} {counted[0][1]}'} <= set(told)  # fmt: skip


def test_a_rule_that_fails_changes_no_alert_and_is_well_again(engine: Engine, rules_engine: Engine) -> None:
    rules = {"own": rule("SELECT 'a' AS host, 1 AS value")}
    with kept(engine, rules_engine, rules):
        until(lambda: len(alerts(engine)) == 1)
        for sql, error in (("SELEC", True), ("SELECT 'a' AS host, 2 AS value", False)):
            rules["own"] = rule(sql)
            rows_notify(engine)
            until(lambda error=error: rows(engine, "SELECT error IS NOT NULL FROM report.alert_rules") == [(error,)])
            assert [it[2] for it in alerts(engine)] == ["firing"]
        assert alerts(engine) == [("own", "a", "firing", 2)]
        # The database's clock was five hours ahead, and was set back.
        with engine.begin() as connection:
            connection.execute(text("UPDATE gigawatch.alert_rule SET evaluated = now() + interval '5 hours'"))
        rules["own"] = rule("SELECT 'a' AS host, 3 AS value")
        rows_notify(engine)
        until(lambda: alerts(engine) == [("own", "a", "firing", 3)])
        rules.clear()
        rows_notify(engine)
        until(lambda: alerts(engine) == [("own", "a", "resolved", 3)])
        assert rows(engine, "SELECT FROM report.alert_rules") == []


def test_a_database_that_is_lost_amid_reading_the_rules_leaves_none_out(
    engine: Engine, rules_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = iter([psycopg.OperationalError("the connection is lost")])

    def reload(_: Counted, __: object) -> None:
        for error in lost:
            raise error

    monkeypatch.setattr(Counted, "reload", reload)
    with kept(engine, rules_engine, {"own": rule("SELECT 'a' AS host, 1 AS value", interval_s=1)}):
        until(lambda: evaluations(engine, "own") >= 3)


def rows_notify(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text(f"NOTIFY {ALERTS}"))


def test_who_leads_next_goes_on_where_the_last_was(
    engine: Engine, rules_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    folding, fold = threading.Event(), threading.Event()

    def long_fold(*_: object) -> int:
        folding.set()
        assert fold.wait(60)
        return 0

    monkeypatch.setattr(Folder, "run", long_fold)
    monkeypatch.setattr(scheduling, "LEAD_EVERY_S", 0.2)
    rules = {"own": rule("SELECT 'a' AS host, 1 AS value", for_s=4, interval_s=1), "xid": XID}
    tellings: list[Counted] = []

    def keeper() -> Keeper:
        tellings.append(Counted())
        return Keeper(engine, rules_engine, SETTINGS, lambda _: rules, tellings[-1])

    def leads() -> int:
        return sum(it.running for it in tellings)

    first, second = (Scheduler(engine, Retention(), Alerts(), keeper) for _ in range(2))
    first.start()
    try:
        until(lambda: len(alerts(engine)) == 1)
        second.start()
        # A fold that goes on for long keeps nobody waiting.
        assert folding.wait(60)
        happen(engine, "node", 79)
        until(lambda: len(alerts(engine)) == 2)
        assert len(tellings) == 1
        (started,) = rows(engine, "SELECT started FROM report.alerts WHERE rule = 'own'")
        # The database is lost: one of them leads again, and only one.
        cut(engine)
        until(lambda: len(tellings) == 2 and leads() == 1)
        fold.set()
        happen(engine, "other", 79)
        until(lambda: len(alerts(engine)) == 3)
        first.stop()
        until(lambda: leads() == 1)
        until(lambda: ("own", "a", "firing", 1) in alerts(engine))
        own = rows(engine, "SELECT started, fired - started >= interval '3.5 s' FROM report.alerts WHERE rule = 'own'")
        assert own == [(*started, True)]
    finally:
        fold.set()
        for it in (first, second):
            if it._scheduler.running:
                it.stop()
    assert leads() == 0
    assert len(rows(engine, "SELECT FROM report.alert_changes WHERE change = 'fired'")) == 3

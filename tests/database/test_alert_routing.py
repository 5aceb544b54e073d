"""From rows of alerts to rows of the outbox, and what people do in between, on each level of the store."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from sqlalchemy import Connection, Engine, text

from api.alerts import inhibition, routing
from api.alerts.configuration import Configuration, Route, Target
from api.alerts.rule import Rule
from gigawatch.alerts import actions, readings, sending
from gigawatch.alerts.actions import Wrong
from gigawatch.alerts.matchers import parse
from gigawatch.alerts.notification import Notification
from gigawatch.alerts.readings import Counts

NOW = datetime.now(UTC).replace(microsecond=0)
"""May be long ago when a test begins: silences that are in force last for a day."""
CONFIGURATION = Configuration(
    targets={"calls": Target(kind="alertmanager", url="http://a.test")}, route=Route(target="calls")
)


def rule(name: str, **fields: Any) -> Rule:
    """A rule of which only its relations matter."""
    usual = {
        "origin": "own", "enabled": True, "about": "", "summary": "", "sql": "", "labels": (), "severity": "warning",
        "unit": "°C", "for_s": 0, "keep_firing_for_s": 0, "interval_s": 30, "group_by": ("rule", "site"),
    }  # fmt: skip
    return Rule(name=name, **{**usual, **fields})


RULES = {
    it.name: it
    for it in (
        rule("hot", runbook="https://docs.test/hot"),
        rule("feed_lost", inhibits=("agent_silent",)),
        rule("agent_silent"),
    )
}


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    """One transaction, rolled back in the end."""
    with engine.connect() as connection:
        yield connection


def fire(
    connection: Connection,
    name: str = "hot",
    *,
    severity: str = "warning",
    racks: list[str] | None = None,
    **labels: str,
) -> int:
    """An alert that fires; its number."""
    number = connection.scalar(
        text(
            "INSERT INTO gigawatch.alert (rule, fingerprint, labels, severity, state, value, summary, details, racks,"
            " started, held, fired) VALUES (:rule, md5(random()::text), CAST(:labels AS jsonb), :severity, 'firing',"
            """ 84.5, :summary, '{"limit": 80}', :racks, :now, :now, :now) RETURNING alert_id"""
        ),
        {
            "rule": name, "labels": json.dumps({"site": "oslo", **labels}), "severity": severity, "racks": racks,
            "now": NOW, "summary": f"{labels.get('hostname', 'all')} is hot",
        },
    )  # fmt: skip
    assert isinstance(number, int)
    return number


def end(connection: Connection, number: int) -> None:
    """It ends."""
    connection.execute(
        text("UPDATE gigawatch.alert SET state = 'resolved', resolved = :now WHERE alert_id = :number"),
        {"now": NOW, "number": number},
    )


def route(connection: Connection, second: float, configuration: Configuration = CONFIGURATION) -> list[Notification]:
    """Route at this second; what was put out."""
    before = connection.scalar(text("SELECT coalesce(max(delivery_id), 0) FROM gigawatch.alert_delivery"))
    inhibition.apply(connection, RULES)
    count = routing.route(connection, configuration, RULES, NOW + timedelta(seconds=second), "https://watch.test/")
    rows = connection.execute(
        text("SELECT * FROM gigawatch.alert_delivery WHERE delivery_id > :before ORDER BY delivery_id"),
        {"before": before},
    ).all()
    assert len(rows) == count
    assert len({row.key for row in rows}) == count
    return [msgspec.convert(row.notification, Notification) for row in rows]


def test_an_alert_becomes_a_notification_and_so_does_its_end(connection: Connection) -> None:
    number = fire(connection, hostname="n1", severity="critical")
    assert route(connection, 0) == []
    assert not routing.is_due(connection, NOW)
    assert routing.is_due(connection, NOW + timedelta(seconds=1))
    (told,) = route(connection, 1)
    assert (told.target, told.status, told.why, told.severity, told.title) == (
        "calls",
        "firing",
        "new",
        "critical",
        "n1 is hot",
    )
    assert told.group_labels == {"rule": "hot", "site": "oslo"}
    (alert,) = told.alerts
    assert alert.url == f"https://watch.test/alerts/{number}"
    assert (alert.value, alert.unit, alert.details, alert.runbook) == (
        84.5,
        "°C",
        {"limit": "80"},
        "https://docs.test/hot",
    )
    end(connection, number)
    assert route(connection, 30) == []
    (told,) = route(connection, 61)
    assert (told.status, told.why, told.alerts[0].status) == ("resolved", "resolved", "resolved")
    route(connection, 200)
    assert connection.scalar(text("SELECT count(*) FROM gigawatch.alert_group")) == 0


def test_many_are_one_notification_that_lists_a_hundred_and_says_how_many_more(connection: Connection) -> None:
    for number in range(150):
        fire(connection, hostname=f"n{number}", severity="critical" if number == 149 else "warning")
    assert route(connection, 0) == []
    (told,) = route(connection, 1)
    assert (len(told.alerts), told.left_out, told.firing, told.severity) == (100, 50, 150, "critical")
    assert told.alerts[0].labels["hostname"] == "n149"
    assert told.title == "150 firing: hot, oslo"
    assert told.common_labels == {"rule": "hot", "site": "oslo"}


def test_of_a_lost_feed_its_children_are_not_told(connection: Connection) -> None:
    for rack in range(40):
        fire(connection, "agent_silent", rack=f"r{rack}", hostname=f"n{rack}")
    feed = fire(connection, "feed_lost", racks=[f"r{rack}" for rack in range(40)], meter="ups-A", severity="critical")
    assert route(connection, 0) == []
    (told,) = route(connection, 1)
    assert [it.alert_id for it in told.alerts] == [feed]
    assert (
        connection.scalar(text("SELECT count(*) FROM gigawatch.alert WHERE inhibited_by = :feed"), {"feed": feed}) == 40
    )
    end(connection, feed)
    route(connection, 2)
    told_after = route(connection, 61)
    assert {it.rule for one in told_after for it in one.alerts} == {"agent_silent", "feed_lost"}


def test_a_site_that_is_summed_up_takes_the_place_of_its_gpus_in_one_notification(connection: Connection) -> None:
    gpus = [fire(connection, hostname=f"n{number}") for number in range(3)]
    route(connection, 0)
    assert [it.firing for it in route(connection, 1)] == [3]
    # With the site's alert come further ones of GPUs, and those that were told end.
    site, more = fire(connection), fire(connection, hostname="n3")
    for number in gpus:
        end(connection, number)
    (told,) = route(connection, 61)
    assert (told.status, told.title) == ("firing", "1 firing, 3 resolved: hot, oslo")
    assert [it.alert_id for it in told.alerts] == [site, *gpus]
    end(connection, more)
    assert route(connection, 200) == []


def test_what_a_rule_may_explain_waits_for_its_evaluation_but_not_for_ever(connection: Connection) -> None:
    connection.execute(
        text(
            "INSERT INTO gigawatch.alert_rule (name, origin, enabled, severity, about, summary, sql, thresholds, for_s,"
            " keep_firing_for_s, interval_s, evaluated)"
            " VALUES ('feed_lost', 'own', true, 'critical', '', '', '', '{}', 0, 0, 30, :before)"
        ),
        {"before": NOW - timedelta(seconds=5)},
    )
    number = fire(connection, "agent_silent", rack="r1", hostname="n1")
    connection.execute(
        text("UPDATE gigawatch.alert SET started = :then WHERE alert_id = :number"),
        {"then": NOW - timedelta(seconds=60), "number": number},
    )
    assert route(connection, 0) == [] == route(connection, 20)
    with connection.begin_nested() as attempt:
        connection.execute(
            text("UPDATE gigawatch.alert_rule SET evaluated = :now"), {"now": NOW + timedelta(seconds=8)}
        )
        assert route(connection, 21) == []
        assert [it.rule for one in route(connection, 22) for it in one.alerts] == ["agent_silent"]
        attempt.rollback()
    # It is not evaluated, for whatever reason.
    assert route(connection, 59) == [] == route(connection, 60)
    assert [it.rule for one in route(connection, 61) for it in one.alerts] == ["agent_silent"]


def test_a_silence_keeps_quiet_and_ends(connection: Connection) -> None:
    number = fire(connection, hostname="n1")
    silence = actions.silence(
        connection, [parse("hostname=~n[0-9]"), parse("rule=hot")], starts=NOW - timedelta(hours=1),
        ends=NOW + timedelta(days=1), author="ada", reason="new fans",
    )  # fmt: skip
    assert route(connection, 0) == [] == route(connection, 10)
    found = text("SELECT silenced_by FROM gigawatch.alert WHERE alert_id = :number")
    assert connection.scalar(found, {"number": number}) == silence
    assert routing.is_due(connection, NOW + timedelta(days=2))
    actions.end_silence(connection, silence, "ada")
    assert connection.execute(text("SELECT ends <= now(), ended_by FROM gigawatch.alert_silence")).one() == (
        True,
        "ada",
    )
    assert route(connection, 86_400) == []
    assert len(route(connection, 86_401)) == 1
    with pytest.raises(Wrong, match="no silence"):
        actions.end_silence(connection, silence, "ada")


@pytest.mark.parametrize(
    ("matchers", "hours", "author", "reason", "words"),
    [
        ([], 1, "ada", "why", "0 matchers"),
        (["hostname=~.*"], 1, "ada", "why", "would silence everything"),
        (["site=oslo"], -1, "ada", "why", "be over"),
        (["site=oslo"], 24 * 400, "ada", "why", "400 days"),
        (["site=oslo"], 1, " ", "why", "author"),
        (["site=oslo"], 1, "ada", "x" * 2_000, "reason"),
    ],
)
def test_a_silence_that_cannot_be_is_refused_in_words(
    connection: Connection, matchers: list[str], hours: int, author: str, reason: str, words: str
) -> None:
    with pytest.raises(Wrong, match=words):
        actions.silence(
            connection, [parse(it) for it in matchers], starts=datetime.now(UTC) - timedelta(hours=2),
            ends=datetime.now(UTC) + timedelta(hours=hours), author=author, reason=reason,
        )  # fmt: skip


def test_who_takes_an_alert_on_is_kept_and_it_is_not_repeated(connection: Connection) -> None:
    number = fire(connection, hostname="n1")
    route(connection, 0)
    assert len(route(connection, 1)) == 1
    assert actions.acknowledge(connection, [number, 12_345], "ada", "on my way") == 1
    with pytest.raises(Wrong, match="open and not acknowledged"):
        actions.acknowledge(connection, [number], "bob")
    assert route(connection, 5 * 3_600) == []
    found = connection.execute(
        text(
            "SELECT acknowledged_by, acknowledgement, (SELECT author FROM gigawatch.alert_change) FROM gigawatch.alert"
        )
    ).one()
    assert found == ("ada", "on my way", "ada")


def test_who_takes_alerts_on_and_who_evaluates_them_do_not_wait_for_each_other(engine: Engine) -> None:
    with engine.begin() as connection:
        numbers = [fire(connection, gpu_uuid=f"GPU-{place}") for place in range(2)]

    def take_on() -> int:
        with engine.begin() as connection:
            return actions.acknowledge(connection, numbers, "ada")

    def evaluate(connection: Connection, number: int) -> None:
        values = {"number": number}
        connection.execute(text("UPDATE gigawatch.alert SET value = 2 WHERE alert_id = :number"), values)

    with ThreadPoolExecutor() as pool:
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": actions.ALERTS_LOCK})
            evaluate(connection, numbers[1])
            taken = pool.submit(take_on)
            while not connection.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")):
                time.sleep(0.01)
            evaluate(connection, numbers[0])
        assert taken.result(10) == 2


def test_without_a_route_nobody_is_told_and_a_test_needs_a_target(connection: Connection) -> None:
    fire(connection, hostname="n1")
    assert route(connection, 0, Configuration()) == [] == route(connection, 100, Configuration())
    with pytest.raises(Wrong, match="No target is named 'calls'"):
        sending.send_test(connection, "calls", "ada")
    connection.execute(
        text("INSERT INTO gigawatch.alert_target (name, kind, address) VALUES ('calls', 'slack', 'https://a.test')")
    )
    number = sending.send_test(connection, "calls", "ada")
    row = connection.execute(text("SELECT * FROM gigawatch.alert_delivery")).one()
    assert (row.delivery_id, row.why, row.state) == (number, "test", "waiting")
    assert "sent by ada: nothing is wrong" in msgspec.convert(row.notification, Notification).alerts[0].summary


def test_notifications_are_in_a_transaction_with_what_is_told(engine: Engine) -> None:
    """A leader that dies before the commit told nothing and remembers nothing; its successor tells it."""
    with engine.begin() as connection:
        number = fire(connection, hostname="n1")
        route(connection, 0)
    with engine.connect() as connection:
        assert len(route(connection, 1)) == 1
        connection.rollback()
    with engine.begin() as connection:
        assert connection.scalar(text("SELECT count(*) FROM gigawatch.alert_delivery")) == 0
        (told,) = route(connection, 2)
        assert told.alerts[0].alert_id == number
        assert route(connection, 3) == []


def test_reads_give_each_row_of_each_view_its_type(connection: Connection) -> None:
    number = fire(connection, hostname="n1", severity="critical")
    quiet = fire(connection, hostname="n2")
    actions.silence(
        connection, [parse("hostname=n2")], starts=NOW, ends=NOW + timedelta(days=1), author="ada", reason="new fans"
    )
    connection.execute(
        text("INSERT INTO gigawatch.alert_target (name, kind, address) VALUES ('calls', 'slack', 'https://a.test')")
    )
    connection.execute(
        text(
            "INSERT INTO gigawatch.alert_rule (name, origin, enabled, severity, unit, about, summary, sql, thresholds,"
            " for_s, keep_firing_for_s, interval_s)"
            " VALUES ('hot', 'own', true, 'warning', '°C', '', '', '', '{}', 0, 0, 30)"
        )
    )
    route(connection, 0)
    route(connection, 1)
    actions.acknowledge(connection, [number], "ada")
    assert readings.counts(connection) == Counts(critical=1, warning=0, info=0)
    assert [it.alert_id for it in readings.alerts(connection)] == [number, quiet]
    assert [it.alert_id for it in readings.alerts(connection, quiet=True, site="oslo", rule="hot")] == [quiet]
    assert (
        readings.alerts(connection, severity="info")
        == []
        == readings.alerts(connection, states=("resolved",), since=NOW)
    )
    found = readings.alert(connection, number)
    assert found is not None
    assert (found.unit, found.acknowledged_by, found.details) == ("°C", "ada", {"limit": 80})
    assert [(it.change, it.author) for it in readings.changes(connection, number)] == [("acknowledged", "ada")]
    assert [(it.name, it.firing) for it in readings.rules(connection)] == [("hot", 2)]
    (silence,) = readings.silences(connection)
    assert (silence.state, silence.alerts, silence.matchers) == ("in force", 1, (parse("hostname=n2"),))
    assert [(it.name, it.waiting) for it in readings.targets(connection)] == [("calls", 1)]
    (delivery,) = readings.deliveries(connection, alert_id=number)
    assert (delivery.target, delivery.notification.alerts[0].alert_id) == ("calls", number)
    assert readings.deliveries(connection, alert_id=quiet) == [] == readings.deliveries(connection, state="dead")

"""Reads of alerts as the dashboard asks for them: by rule, what explains what, whom a silence would keep quiet."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, Engine

from gigawatch import facility_readings
from gigawatch.alerts import readings
from gigawatch.alerts.matchers import parse
from gigawatch.alerts.readings import Wanted
from tests.browser.alert_seed import MANY, PENDING, alert, alerts, rules
from tests.facility import place, send, window

MINUTE = timedelta(minutes=1)


@pytest.fixture
def report_connection(report_engine: Engine) -> Iterator[Connection]:
    """With the rights of who reads figures."""
    with report_engine.connect() as connection:
        yield connection


@pytest.fixture
def now(engine: Engine) -> datetime:
    """When a store was filled with alerts of every state."""
    now = datetime.now(UTC)
    with engine.begin() as connection:
        rules(connection, now)
        alerts(connection, now)
    return now


@pytest.mark.usefixtures("now")
def test_alerts_are_counted_by_kind_and_by_rule(report_connection: Connection) -> None:
    overview = readings.overview(report_connection)
    assert (overview.firing, overview.pending, overview.silenced, overview.explained) == (7, 1 + PENDING, 1, MANY)
    assert (overview.rules, overview.failing, overview.silences) == (9, 1, 2)
    told = (overview.targets, overview.routed_targets, overview.open_targets, overview.waiting, overview.dead)
    assert told == (3, 2, 1, 1, 1)
    counts = readings.counts(report_connection)
    assert (counts.critical, counts.warning, counts.info, counts.all, counts.worst) == (2, 4, 1, 7, "critical")
    groups = readings.alert_groups(report_connection, Wanted(states=("pending",)))
    assert [(it.rule, it.alerts, it.worst, it.sites) for it in groups] == [
        ("gpu_temperature", 1, "warning", ("oslo",)), ("power_cap", PENDING, "info", ("austin", "oslo")),
    ]  # fmt: skip
    (of_austin,) = readings.alert_groups(report_connection, Wanted(states=("pending",), site="austin"))
    assert of_austin.alerts == PENDING // 2


@pytest.mark.usefixtures("now")
def test_rules_with_many_alerts_are_left_out_where_asked_for(report_connection: Connection) -> None:
    pending = Wanted(states=("pending",))
    few = readings.alerts_wanted(report_connection, pending, most_of_rule=5)
    assert [it.rule for it in few] == ["gpu_temperature"]
    assert (few[0].unit, few[0].runbook) == ("K", "docs/runbooks/gpu_temperature.md")
    page = readings.alerts_wanted(report_connection, pending, limit=100, offset=100)
    assert len(page) == 1 + PENDING - 100
    loud = readings.alerts_wanted(report_connection, Wanted(states=("firing",), quiet=False))
    assert [it.severity for it in loud] == ["critical"] * 2 + ["warning"] * 4 + ["info"]
    assert [it.alert_id for it in readings.alerts_wanted(report_connection, Wanted(silenced=True))] == [9]
    assert {it.alert_id for it in loud} - set(readings.open_numbers(report_connection, Wanted(quiet=False))) == {2}


@pytest.mark.usefixtures("now")
def test_what_an_alert_explains_is_counted_by_rule(report_connection: Connection) -> None:
    found = readings.explained(report_connection, [1, 3])
    assert [(it.inhibited_by, it.rule, it.alerts) for it in found] == [
        (3, "agent_silent", MANY - 2), (3, "rack_silent", 2)
    ]  # fmt: skip
    rows = readings.alerts_wanted(report_connection, Wanted(explained_by=3), limit=3)
    assert [it.severity for it in rows] == ["critical", "critical", "warning"]


@pytest.mark.usefixtures("now")
def test_a_silence_s_matchers_hold_for_labels_rule_and_severity(report_connection: Connection) -> None:
    for matchers, number in (
        (['rule="xid_fatal"'], 1), (['hostname=~"oslo-x.*"', "severity=warning"], MANY - 2), (["site=nowhere"], 0),
    ):  # fmt: skip
        assert readings.silenced_by(report_connection, [parse(it) for it in matchers]) == number


def test_ended_alerts_are_those_of_the_period_the_last_first(
    engine: Engine, report_connection: Connection, now: datetime
) -> None:
    with engine.begin() as connection:
        for hours in (30, 40):
            ended = now - timedelta(hours=hours)
            alert(connection, "breaker", "info", {"site": "oslo"}, f"{hours} h", ended - MINUTE, state="resolved",
                  resolved=ended)  # fmt: skip
    day = Wanted(states=("resolved",), since=now - timedelta(hours=35), until=now)
    found = readings.alerts_wanted(report_connection, day)
    assert [it.summary for it in found] == ["austin-a03-n01: XID 48", "30 h"]
    groups = readings.alert_groups(report_connection, day)
    assert {it.rule: it.alerts for it in groups} == {"xid_fatal": 1, "breaker": 1}


@pytest.mark.usefixtures("now")
def test_deliveries_are_those_that_tell_of_an_alert(report_connection: Connection) -> None:
    xid = readings.alert(report_connection, 1)
    assert xid is not None
    lines = readings.delivery_lines(report_connection, of=xid)
    assert [(it.target, it.state, it.status) for it in lines] == [("chat", "dead", 410), ("pager", "sent", 200)]
    (waiting,) = readings.delivery_lines(report_connection, states=("waiting",))
    assert waiting.title == "1 feed_lost at oslo"
    line = readings.delivery_line(report_connection, lines[0].delivery_id)
    assert line == lines[0]


def test_a_meter_s_series_is_weighted_by_the_time_that_is_known(engine: Engine, report_connection: Connection) -> None:
    start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)
    place(engine, {"pdu": {"role": "pdu"}, "air": {"role": "temperature"}})
    send(engine, [
        # Three quarters of a minute at 4 kW as polled, a quarter at 8 kW by its register.
        window("pdu", start, covered_ms=45_000, power_mean_mw=4_000_000, energy_mj=1, current_max_ma=9_500),
        window("pdu", start + timedelta(seconds=45), covered_ms=15_000, energy_mj=120_000_000, current_max_ma=12_250),
        window("pdu", start + 3 * MINUTE, covered_ms=60_000, current_max_ma=1_000),
        window("air", start, covered_ms=60_000, temp_mean_mc=24_500),
    ])  # fmt: skip
    first, later = facility_readings.meter_series(report_connection, "oslo", "pdu", start, start + 5 * MINUTE, MINUTE)
    assert (first.time, first.power_w, first.current_max_a) == (start, pytest.approx(5_000), 12.25)
    assert (later.time, later.power_w, later.current_max_a) == (start + 3 * MINUTE, None, 1.0)
    (air,) = facility_readings.meter_series(report_connection, "oslo", "air", start, start + MINUTE, MINUTE)
    assert (air.power_w, air.temp_c) == (None, 24.5)
    gap = start + MINUTE
    assert facility_readings.meter_series(report_connection, "oslo", "pdu", gap, gap + MINUTE, MINUTE) == []

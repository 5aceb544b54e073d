"""What the pages of alerts say, without a browser."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dashboard import acting, alert_parts, alert_series, plots, theme
from dashboard.pages import alert_rules, alert_silences
from dashboard.view import Period
from gigawatch.alerts.matchers import Matcher
from gigawatch.alerts.readings import Alert, Counts, DeliveryLine, Overview, RuleNow

NOW = datetime(2026, 11, 23, 9, 40, tzinfo=UTC)
WELL = Overview(
    firing=0, pending=0, silenced=0, explained=0, rules=31, failing=0, evaluated=NOW - timedelta(seconds=9), silences=0,
    targets=1, routed_targets=1, open_targets=0, waiting=0, dead=0,
)  # fmt: skip


def alert(**more: Any) -> Alert:
    given: dict[str, Any] = {
        "alert_id": 7, "rule": "breaker", "labels": {}, "severity": "warning", "state": "firing", "value": 0.9,
        "unit": "1", "summary": "", "details": {}, "started": NOW, "fired": NOW, "resolved": None,
        "unknown_since": None, "flaps": 0, "inhibited_by": None, "silenced_by": None, "acknowledged": None,
        "acknowledged_by": None, "acknowledgement": None, "runbook": None, "simulated": False,
    }  # fmt: skip
    return Alert(**given | more)


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (None, "W", "–"), (81_300.0, "W", "81.3\u00a0kW"), (0.873, "1", "0.873"), (2_520, "s", "42\u00a0min"),
        (79, "XID", "XID\u00a079"), (27.44, "°C", "27\u00a0°C"), (2, "racks", "2\u00a0racks"),
        (1_234_567, None, "1\u202f234\u202f567"), (1, "GPUs", "1\u00a0GPU"), (1, "s", "1\u00a0s"),
        (0.5112, "J", "0.5112\u00a0J"), (-3, "K", "-3\u00a0K"),
    ],
)  # fmt: skip
def test_values_bear_their_rule_s_unit(value: float | None, unit: str | None, said: str) -> None:
    assert alert_parts.value(value, unit) == said


@pytest.mark.parametrize(
    ("name", "found", "said"),
    [
        ("power_before_w", 81_300.0, ("power before", "81.3\u00a0kW")), ("racks_silent", 2, ("racks silent", "2")),
        ("first_event", "2026-11-23T10:40:00+01:00", ("first event", "2026-11-23 09:40:00 UTC")),
        ("message", "off the bus", ("message", "off the bus")), ("placed", True, ("placed", "yes")),
        ("w", 3, ("w", "3")), ("silent_s", 75, ("silent", "1\u00a0min")),
    ],
)  # fmt: skip
def test_details_are_terms_with_their_unit(name: str, found: Any, said: tuple[str, str]) -> None:
    assert alert_parts.detail(name, found) == said


@pytest.mark.parametrize(
    ("more", "enabled", "tones"),
    [
        ({}, True, []), ({}, False, ["warn"]), ({"evaluated": None}, True, ["warn"]),
        ({"evaluated": NOW - timedelta(minutes=2, seconds=59)}, True, []),
        ({"evaluated": NOW - timedelta(minutes=4)}, True, ["bad"]), ({"failing": 2}, True, ["bad"]),
        ({"routed_targets": 0}, True, ["warn"]), ({"targets": 0, "routed_targets": 0}, True, ["warn"]),
        ({"open_targets": 1}, True, ["warn"]), ({"dead": 3}, True, ["warn"]),
    ],
)  # fmt: skip
def test_what_is_amiss_with_alerts_as_a_whole_is_said(more: dict[str, Any], enabled: bool, tones: list[str]) -> None:
    overview = Overview(**{name: getattr(WELL, name) for name in WELL.__struct_fields__} | more)
    assert [tone for tone, _ in alert_parts.amiss(overview, NOW, enabled=enabled)] == tones


@pytest.mark.parametrize(
    ("counts", "worst", "said"),
    [
        ((0, 0, 0), None, "no alert fires"), ((0, 0, 1), "info", "1 alert fires: 1 info"),
        ((1, 9_999, 0), "critical", "10\u202f000 alerts fire: 1 critical, 9\u202f999 warning"),
    ],
)  # fmt: skip
def test_the_count_says_the_worst(counts: tuple[int, int, int], worst: str | None, said: str) -> None:
    found = Counts(critical=counts[0], warning=counts[1], info=counts[2])
    assert (found.worst, alert_parts.said(found)) == (worst, said)
    assert bool(alert_parts.count_badge(found)) == (worst is not None)


def test_moments_that_are_near_are_marked_as_one_and_those_outside_not_at_all() -> None:
    period = Period(NOW - timedelta(minutes=30), NOW + timedelta(minutes=30), timedelta(minutes=1))
    ends = NOW + timedelta(minutes=20)
    assert alert_series.moments(alert(), period) == [(NOW, "began, fired")]
    late = alert(fired=NOW + timedelta(minutes=5), resolved=ends)
    assert [words for _, words in alert_series.moments(late, period)] == ["began", "fired", "resolved"]
    assert alert_series.moments(alert(started=NOW - timedelta(hours=1), fired=None), period) == []
    event = NOW - timedelta(minutes=20)
    told = alert(details={"first_event": event.isoformat()})
    assert alert_series.moments(told, period) == [(event, "event"), (NOW, "began, fired")]
    assert alert_series.moments(alert(details={"first_event": 3}), period) == [(NOW, "began, fired")]


def test_labels_stand_from_the_whole_to_the_part_and_lead_to_their_pages() -> None:
    its = {"team": "x", "gpu_uuid": "GPU/1", "rack": "r 1", "hostname": "n1", "site": "oslo"}
    assert [name for name, _ in alert_parts.in_order(its)] == ["site", "rack", "hostname", "gpu_uuid", "team"]
    assert alert_parts.places(alert(labels=its)) == [
        ("GPU", "/gpus/GPU%2F1"), ("Node", "/nodes?find=n1"), ("Rack", "/nodes?site=oslo&rack=r+1"),
        ("Site", "/facility?site=oslo"),
    ]  # fmt: skip


def test_runbooks_are_read_from_their_folder_alone() -> None:
    assert "How to confirm it" in (alert_parts.runbook("docs/runbooks/xid_fatal.md") or "")
    for elsewhere in (
        None,
        "docs/runbooks/../alerts.md",
        "https://example.com/docs/runbooks/xid_fatal.md",
        "/etc/passwd",
    ):
        assert alert_parts.runbook(elsewhere) is None
    assert "href='https://example.com/r'" in str(alert_rules.runbook("https://example.com/r"))
    assert "href" not in str(alert_rules.runbook("javascript://%0aalert(1)"))


def test_thresholds_name_where_they_are_others() -> None:
    said = {"margin_k": {"value": 5.0, "unit": "K", "about": "margin", "overrides": [
        {"where": {"site": "oslo", "gpu_model": "B200"}, "value": 3.0}]}}  # fmt: skip
    rule = RuleNow(
        name="r", origin="own", enabled=True, severity="info", unit="K", about="", summary="", runbook=None, sql="",
        thresholds=said, for_s=0, keep_firing_for_s=0, interval_s=15, evaluated=None, duration_ms=None, rows=None,
        error=None, failing_since=None, missed=0, firing=0, pending=0,
    )  # fmt: skip
    assert alert_rules.thresholds(rule) == [
        ("margin_k", "margin", "5\u00a0K", "3\u00a0K where site is oslo, gpu_model is B200")
    ]


def test_matchers_are_read_line_by_line() -> None:
    found = alert_silences.parse('rule=breaker\n\n rack=~"A1-.*" \n')
    assert found == [
        Matcher(label="rule", operator="=", value="breaker"), Matcher(label="rack", operator="=~", value="A1-.*")
    ]  # fmt: skip
    assert alert_silences.parse(None) == []
    with pytest.raises(ValueError, match="no regular expression"):
        alert_silences.parse("rack=~[")


@pytest.mark.parametrize(
    ("state", "attempts", "answer", "said"),
    [
        ("waiting", 0, None, "it waits"),
        ("sent", 1, "HTTP 202: accepted", "sent after 41\u00a0ms: HTTP 202: accepted"),
        ("waiting", 1, "timed out", "not taken, and tried again after 41\u00a0ms: timed out"),
        ("dead", 1, "HTTP 410: gone", "given up after 41\u00a0ms: HTTP 410: gone"),
    ],
)  # fmt: skip
def test_what_came_of_a_test_is_said(state: Any, attempts: int, answer: str | None, said: str) -> None:
    line = DeliveryLine(
        delivery_id=1, target="pager", why="test", state=state, created=NOW, due=NOW, attempts=attempts, duration_ms=41,
        status=None, answer=answer, title="",
    )  # fmt: skip
    assert acting.outcome(line).startswith(said)


def test_words_beside_a_moment_are_not_cut_off_at_the_end() -> None:
    period = Period(NOW - timedelta(minutes=30), NOW, timedelta(minutes=1))
    chart = alert_series.mark(
        plots.Chart(plots.blank(theme.LIGHT, period, height=100), ""),
        alert(started=NOW - timedelta(minutes=20), fired=NOW - timedelta(minutes=2)), period, theme.LIGHT,
    )  # fmt: skip
    assert [(it["text"], it["xanchor"]) for it in chart.figure["layout"]["annotations"]] == [
        ("began", "left"), ("fired", "right"),
    ]  # fmt: skip

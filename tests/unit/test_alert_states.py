"""Alerts' states, by what holds whatever a rule sees."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from api.alerts.evaluation import Observation, in_words
from api.alerts.rule import Rule
from api.alerts.states import Alert, Before, Change, Changes, advance, fingerprint
from gigawatch.alerts.notification import Severity

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
EVERY_S = 30
Seen = Sequence[Sequence[Observation]]


def rule(**values: Any) -> Rule:
    usual: dict[str, Any] = {
        "name": "hot", "origin": "own", "enabled": True, "about": "Hot", "summary": "{host} is hot", "sql": "SELECT 1",
        "labels": ("host",), "severity": "warning", "unit": "°C", "for_s": 0, "keep_firing_for_s": 0,
        "interval_s": EVERY_S, "group_by": (),
    }  # fmt: skip
    return Rule(**{**usual, **values})


def seen(host: str = "a", value: float | None = 1.0, severity: Severity = "warning") -> Observation:
    return Observation(
        labels={"host": host}, value=value, severity=severity, racks=None, simulated=False, summary=f"{host} is hot",
        details={},
    )  # fmt: skip


class Kept:
    """Alerts as a store would keep them."""

    def __init__(self, of: Rule) -> None:
        self.rule = of
        self.open: dict[str, Alert] = {}
        self.ended: list[Alert] = []
        self.told: list[tuple[datetime, Change]] = []
        self._numbers = 0

    def before(self, now: datetime) -> Before:
        returns: dict[str, int] = {}
        for time, change in self.told:
            if change.change in {"flapped", "resolved"} and time > now - timedelta(hours=1):
                returns[change.fingerprint] = returns.get(change.fingerprint, 0) + 1
        return Before(alerts=dict(self.open), returns=returns)

    def see(self, observations: Sequence[Observation], now: datetime) -> Changes:
        changes = advance(self.rule, self.before(now), observations, now)
        for alert_id in changes.gone:
            self.open = {key: it for key, it in self.open.items() if it.alert_id != alert_id}
        for written in changes.written:
            self._numbers += 1
            alert = msgspec.structs.replace(written, alert_id=written.alert_id or self._numbers)
            self.open[alert.fingerprint] = alert
            if alert.state == "resolved":
                self.ended.append(self.open.pop(alert.fingerprint))
        self.told += [(now, it) for it in changes.told]
        return changes


def states(of: Rule, values: Sequence[float | str | None]) -> list[str]:
    """The state after each evaluation of one thing: its value, or "absent"."""
    kept, found = Kept(of), []
    for step, value in enumerate(values):
        kept.see([] if isinstance(value, str) else [seen(value=value)], BEGIN + step * timedelta(seconds=EVERY_S))
        found.append(next((it.state for it in kept.open.values()), "none"))
    return found


rules = st.builds(
    lambda for_s, keep_s: rule(for_s=for_s, keep_firing_for_s=keep_s),
    st.sampled_from([0, 1, 30, 45, 90, 300]),
    st.sampled_from([0, 1, 60, 600, 7_200]),
)
rows = st.lists(
    st.builds(
        seen, st.sampled_from("abc"), st.one_of(st.none(), st.floats(0, 9)), st.sampled_from(["warning", "critical"])
    ),
    max_size=3,
    unique_by=lambda it: it.labels["host"],
)
histories = st.lists(st.tuples(st.integers(1, 400), rows), max_size=30)


@given(rules, histories)
def test_an_alert_fires_after_for_and_never_before(of: Rule, history: list[tuple[int, list[Observation]]]) -> None:
    kept, now = Kept(of), BEGIN
    held_s: dict[str, float] = {}
    last_known: dict[str, bool] = {}
    for wait_s, observations in history:
        now += timedelta(seconds=wait_s)
        by_host = {it.labels["host"]: it.value for it in observations}
        changes = kept.see(observations, now)
        fired = {it.fingerprint for it in changes.told if it.change == "fired"}
        for host in "abc":
            key = fingerprint(of.name, {"host": host})
            if host not in by_host:
                held_s.pop(host, None)
                last_known.pop(host, None)
            elif host in held_s:
                # What lies between two evaluations without data, or before one with data, cannot be known to have held.
                held_s[host] += wait_s if by_host[host] is not None or last_known[host] else 0
                last_known[host] = by_host[host] is not None
            elif by_host[host] is not None:
                held_s[host], last_known[host] = 0, True
            if key in fired:
                assert by_host[host] is not None
                assert held_s[host] >= of.for_s
        for alert in kept.open.values():
            if alert.state == "pending" and alert.unknown_since is None:
                assert now - alert.started < timedelta(seconds=of.for_s)


@given(rules, histories)
def test_what_fired_ends_with_a_row_that_says_so(of: Rule, history: list[tuple[int, list[Observation]]]) -> None:
    kept, now = Kept(of), BEGIN
    for wait_s, observations in history:
        now += timedelta(seconds=wait_s)
        before = {it.alert_id for it in kept.open.values() if it.state == "firing"}
        kept.see(observations, now)
        after = {it.alert_id for it in kept.open.values() if it.state == "firing"}
        ended = {it.alert_id for it in kept.ended}
        assert before <= after | ended
        assert not after & ended
    changes = [it.change for _, it in kept.told]
    firing = sum(it.state == "firing" for it in kept.open.values())
    assert changes.count("fired") == firing + len(kept.ended)
    assert changes.count("resolved") == len(kept.ended)
    for alert in kept.ended:
        assert alert.fired is not None and alert.resolved is not None and alert.ceased is not None
        assert alert.started <= alert.fired <= alert.held < alert.ceased <= alert.resolved
        assert alert.resolved - alert.ceased >= timedelta(seconds=of.keep_firing_for_s)


@given(rules, histories, rows)
def test_what_nobody_can_tell_changes_no_state(
    of: Rule, history: list[tuple[int, list[Observation]]], then: list[Observation]
) -> None:
    kept, now = Kept(of), BEGIN
    for wait_s, observations in history:
        now += timedelta(seconds=wait_s)
        kept.see(observations, now)
    nobody = [msgspec.structs.replace(seen(host), value=None) for host in "abc"]
    before = {key: it.state for key, it in kept.open.items()}
    for minutes in (1, 100):
        assert kept.see(nobody, now + timedelta(minutes=minutes)).told == ()
        assert {key: it.state for key, it in kept.open.items()} == before
        assert all(it.unknown_since is not None for it in kept.open.values())


@given(rules, histories)
def test_the_same_seen_twice_changes_nothing(of: Rule, history: list[tuple[int, list[Observation]]]) -> None:
    kept, now = Kept(of), BEGIN
    for wait_s, observations in history:
        now += timedelta(seconds=wait_s)
        kept.see(observations, now)
        assert kept.see(observations, now) == Changes(written=(), gone=(), told=())


def test_it_fires_at_for_exactly() -> None:
    assert states(rule(for_s=90), [1, 1, 1, 1]) == ["pending", "pending", "pending", "firing"]
    assert states(rule(for_s=91), [1, 1, 1, 1]) == ["pending"] * 4
    assert states(rule(), [1]) == ["firing"]


def test_a_pending_one_that_ceases_leaves_nothing() -> None:
    assert states(rule(for_s=60), [1, 1, "absent", 1, 1, 1]) == [
        "pending", "pending", "none", "pending", "pending", "firing",
    ]  # fmt: skip


def test_time_without_data_does_not_count() -> None:
    # Two evaluations without data put it off by two intervals.
    assert states(rule(for_s=90), [1, None, None, 1, 1, 1, 1]) == ["pending"] * 5 + ["firing"] * 2
    assert states(rule(), [None, 1, None, None, "absent"]) == ["none", "firing", "firing", "firing", "none"]


def test_time_in_which_nobody_looked_does_not_count() -> None:
    of = rule(for_s=300)
    for after in ([], [None]):
        kept, away = Kept(of), BEGIN + timedelta(hours=1)
        for step in range(3):
            kept.see([seen()], BEGIN + step * timedelta(seconds=EVERY_S))
        # It held for a minute when the server went away; its return counts as one interval.
        for value in after:
            kept.see([seen(value=value)], away - timedelta(seconds=EVERY_S))
        fired = [
            step
            for step in range(12)
            for it in kept.see([seen()], away + step * timedelta(seconds=EVERY_S)).told
            if it.change == "fired"
        ]
        assert fired == [7]
    # Evaluations that are always late come to it all the same.
    kept = Kept(of)
    told = [kept.see([seen()], BEGIN + step * timedelta(minutes=5)).told for step in range(12)]
    assert [len(it) for it in told] == [0] * 10 + [1, 0]


def test_a_clock_that_is_set_back_holds_nothing_up() -> None:
    kept, back = Kept(rule(for_s=60, keep_firing_for_s=60)), BEGIN - timedelta(hours=5)
    assert [kept.see([seen()], at).told for at in (BEGIN, BEGIN + timedelta(seconds=EVERY_S))] == [(), ()]
    assert kept.see([seen()], back).told == ()
    assert [it.change for it in kept.see([seen()], back + timedelta(seconds=EVERY_S)).told] == ["fired"]
    kept.see([], BEGIN)
    assert [len(kept.see([], back + timedelta(seconds=at)).told) for at in (60, 120)] == [0, 1]


def test_it_fires_on_for_keep_firing_for() -> None:
    assert states(rule(keep_firing_for_s=60), [1, "absent", "absent", "absent"]) == ["firing"] * 3 + ["none"]


def test_flapping_is_damped() -> None:
    kept, now = Kept(rule(keep_firing_for_s=60)), BEGIN
    # It holds for 30 s of every two minutes: it would end each time.
    for step in range(120):
        kept.see([seen()] if step % 4 == 0 else [], now + step * timedelta(seconds=EVERY_S))
    assert len(kept.ended) == 1
    (alert,) = kept.open.values()
    assert alert.flaps > 20
    # Then it ceases for good: it fires on for an hour, and not longer.
    last = now + 116 * timedelta(seconds=EVERY_S)
    assert alert.held == last
    for step in range(120, 240):
        kept.see([], now + step * timedelta(seconds=EVERY_S))
    assert kept.ended[-1].resolved is not None
    assert timedelta(minutes=30) < kept.ended[-1].resolved - last <= timedelta(hours=1, seconds=EVERY_S)


def test_a_severity_that_changes_is_told() -> None:
    kept = Kept(rule())
    kept.see([seen()], BEGIN)
    changes = kept.see([seen(severity="critical")], BEGIN + timedelta(minutes=1))
    assert [(it.change, it.note) for it in changes.told] == [("severity", "from warning to critical")]
    assert changes.written[0].severity == "critical"


def test_a_fingerprint_is_of_rule_and_labels() -> None:
    assert fingerprint("a", {"x": "1", "y": "2"}) == fingerprint("a", {"y": "2", "x": "1"})
    assert len({fingerprint("a", {"x": "1"}), fingerprint("b", {"x": "1"}), fingerprint("a", {"x": "2"})}) == 3
    assert len(fingerprint("a", {})) == 32


def test_a_summary_is_the_row_in_words() -> None:
    row = {"host": "n1", "value": 81.26, "gone": None, "at": BEGIN}
    assert in_words("{host}: {value:.1f} °C at {at:%H:%M}", row) == "n1: 81.3 °C at 00:00"
    assert in_words("{gone:.0f} {nobody} {gone!r}", row) == "? ? ?"
    # Nothing but columns is within reach, and nothing wrong in it is an error.
    assert in_words("{host.__class__} {host[0]} {}", row) == "? ? ?"
    assert in_words("{host:.1f} {value", row) == "{host:.1f} {value"
    assert in_words("{host:.1f} {value:999999999.1f}", row) == "n1 81.26"
    assert len(in_words("x" * 5_000, row)) == 1_000

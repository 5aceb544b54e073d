"""When targets are told of which alerts, and which alerts others explain: pure code, each moment by its second."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.alerts import grouping, inhibition, ways
from api.alerts.configuration import Configuration, Route, Target
from api.alerts.grouping import Group, News, Open
from api.alerts.inhibition import Firing
from api.alerts.rule import Rule
from gigawatch.alerts.notification import Severity

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
TARGETS = {"calls": Target(kind="alertmanager", url="http://a.test"), "chat": Target(kind="slack", url="http://b.test")}


def rule(name: str, **fields: Any) -> Rule:
    """A rule of which only its relations matter."""
    usual = {
        "origin": "own", "enabled": True, "about": "", "summary": "", "sql": "", "labels": (), "severity": "warning",
        "unit": None, "for_s": 0, "keep_firing_for_s": 0, "interval_s": 30, "group_by": ("rule", "site"),
    }  # fmt: skip
    return Rule(name=name, **{**usual, **fields})


RULES = {it.name: it for it in (rule("hot"), rule("xid"), rule("each", group_by=("...",)))}


def alert(number: int, severity: Severity = "warning", name: str = "hot", **fields: Any) -> Open:
    """An alert of oslo that fires."""
    usual: dict[str, Any] = {"is_firing": True, "is_quiet": False, "is_acknowledged": False}
    labels = {"site": "oslo", "gpu_uuid": f"GPU-{number}", **fields.pop("labels", {})}
    return Open(alert_id=number, rule=name, labels=labels, severity=severity, **{**usual, **fields})


class Desk:
    """Plans second by second, and keeps what there is to keep."""

    def __init__(self, route: Route, targets: dict[str, Target] = TARGETS) -> None:
        first = ways.first(Configuration(targets=targets, route=route))
        assert first is not None
        self.first = first
        self.groups: list[Group] = []

    def at(self, second: float, *alerts: Open) -> list[tuple[str, News]]:
        """What is told at this second, by target."""
        planned = grouping.plan(alerts, self.groups, self.first, RULES, BEGIN + timedelta(seconds=second))
        self.groups = [it.group for it in planned]
        return [(it.group.target, it.news) for it in planned if it.news is not None]

    def seconds(self, begin: int, end: int, *alerts: Open) -> list[tuple[int, str, str, int, int]]:
        """Each notification from begin to before end: second, target, why, firing, ended."""
        return [
            (second, target, news.why, len(news.firing), len(news.ended))
            for second in range(begin, end)
            for target, news in self.at(second, *alerts)
        ]


def test_alerts_that_come_together_are_told_together_after_group_wait() -> None:
    desk = Desk(Route(target="calls", group_wait="5s"))
    assert desk.seconds(0, 3, alert(1)) == []
    assert desk.seconds(3, 60, alert(1), alert(2)) == [(5, "calls", "new", 2, 0)]


def test_news_wait_for_the_interval_and_what_fires_on_for_the_repetition() -> None:
    desk = Desk(Route(target="calls", group_interval="1m", repeat_interval="10m"))
    assert desk.seconds(0, 20, alert(1)) == [(1, "calls", "new", 1, 0)]
    assert desk.seconds(20, 200, alert(1), alert(2)) == [(61, "calls", "changed", 2, 0)]
    assert desk.seconds(200, 1300, alert(1), alert(2)) == [
        (661, "calls", "repeat", 2, 0),
        (1261, "calls", "repeat", 2, 0),
    ]


def test_the_end_is_told_once_and_of_what_was_told_alone() -> None:
    desk = Desk(Route(target="calls"))
    ended = alert(1, is_firing=False)
    assert desk.at(0, alert(1)) == []
    assert desk.seconds(1, 5, alert(1)) == [(1, "calls", "new", 1, 0)]
    assert desk.seconds(5, 300, ended) == [(61, "calls", "resolved", 0, 1)]
    assert desk.groups == []
    # One that ended before it was told.
    assert desk.at(400, alert(2)) == []
    assert desk.seconds(401, 600) == []
    assert desk.groups == []


def test_what_is_critical_does_not_wait_for_the_interval_but_ever_longer_in_a_row() -> None:
    desk = Desk(Route(target="calls"))
    assert desk.seconds(0, 10, alert(1)) == [(1, "calls", "new", 1, 0)]
    assert desk.seconds(10, 15, alert(1, "critical")) == [(11, "calls", "changed", 1, 0)]
    # One more each second for five minutes, as when a site breaks down.
    told = [
        (second, news.why)
        for second in range(20, 320)
        for _, news in desk.at(second, *(alert(number, "critical") for number in range(1, second - 17)))
    ]
    assert [second for second, _ in told[:6]] == [21, 25, 33, 49, 81, 141]
    assert len(told) <= 12


def test_a_clock_that_is_set_back_puts_nothing_off() -> None:
    desk = Desk(Route(target="calls"))
    assert desk.seconds(10_000, 10_010, alert(1)) == [(10_001, "calls", "new", 1, 0)]
    desk.at(10_010, alert(1), alert(2, name="xid"))
    told = desk.seconds(0, 100, alert(1), alert(2, name="xid"), alert(3))
    assert told == [(1, "calls", "new", 1, 0), (60, "calls", "changed", 2, 0)]


def test_acknowledged_alerts_are_not_repeated_but_news_and_ends_are_told() -> None:
    desk = Desk(Route(target="calls", repeat_interval="5m"))
    assert desk.seconds(0, 60, alert(1)) == [(1, "calls", "new", 1, 0)]
    taken_on = alert(1, is_acknowledged=True)
    assert desk.seconds(60, 2000, taken_on) == []
    assert desk.seconds(2000, 2100, taken_on, alert(2)) == [(2000, "calls", "changed", 2, 0)]
    assert desk.seconds(2100, 2200, alert(1, is_firing=False), alert(2, is_acknowledged=True)) == [
        (2100, "calls", "resolved", 1, 1)
    ]


def test_quiet_alerts_are_not_told_and_the_end_of_those_that_became_quiet_is() -> None:
    desk = Desk(Route(target="calls"))
    assert desk.seconds(0, 100, alert(1, is_quiet=True)) == []
    assert desk.seconds(100, 150, alert(1)) == [(101, "calls", "new", 1, 0)]
    assert desk.seconds(150, 20_000, alert(1, is_quiet=True)) == []
    assert desk.seconds(20_000, 20_100, alert(1, is_quiet=True, is_firing=False)) == [
        (20_000, "calls", "resolved", 0, 1)
    ]


def test_routes_choose_targets_and_inherit_what_they_leave_out() -> None:
    desk = Desk(
        Route(
            target="chat",
            group_wait="2s",
            routes=(
                Route(target="calls", matchers=("severity=critical",), continue_=True),
                Route(target="calls", matchers=("site=bergen",), group_by=("...",)),
                Route(matchers=("severity=critical",), group_wait="4s"),
            ),
        )
    )
    told = desk.seconds(
        0, 20, alert(1), alert(2, "critical"), alert(3, labels={"site": "bergen"}), alert(4, labels={"site": "bergen"})
    )
    assert sorted(told) == [
        (2, "calls", "new", 1, 0), (2, "calls", "new", 1, 0), (2, "calls", "new", 1, 0), (2, "chat", "new", 1, 0),
        (4, "chat", "new", 1, 0),
    ]  # fmt: skip


def test_an_alertmanager_hears_of_all_that_fires_again_and_again() -> None:
    desk = Desk(Route(target="am"), {"am": Target(kind="alertmanager_api", url="http://a.test")})
    told = desk.seconds(0, 900, alert(1, is_acknowledged=True))
    assert [second for second, *_ in told] == [1, 301, 601]


def test_who_is_called_until_somebody_takes_it_on_hears_that_somebody_did() -> None:
    desk = Desk(Route(target="pager"), {"pager": Target(kind="pagerduty", secret_file="key")})
    assert desk.seconds(0, 10, alert(1)) == [(1, "pager", "new", 1, 0)]
    assert desk.seconds(10, 300, alert(1, is_acknowledged=True)) == [(11, "pager", "changed", 1, 0)]


def test_what_was_not_delivered_yet_is_not_repeated() -> None:
    desk = Desk(Route(target="calls", repeat_interval="2m"))
    assert desk.seconds(0, 10, alert(1)) == [(1, "calls", "new", 1, 0)]
    for second in range(10, 1_000):
        desk.groups = [msgspec.structs.replace(it, is_waiting=True) for it in desk.groups]
        assert desk.at(second, alert(1)) == []
    desk.groups = [msgspec.structs.replace(it, is_waiting=False) for it in desk.groups]
    assert [why for _, _, why, _, _ in desk.seconds(1_000, 1_100, alert(1))] == ["repeat"]


def test_ten_thousand_groups_are_told_together_but_for_the_first() -> None:
    desk = Desk(Route(target="calls", group_by=("...",)))
    quiet = [alert(number, is_quiet=True) for number in range(10_000, 11_000)]
    many = [*quiet, *(alert(number) for number in range(10_000))]
    desk.at(0, *many)
    told = desk.at(1, *many)
    assert len(told) == grouping.MOST_GROUPS + 1
    assert sorted(len(news.firing) for _, news in told)[-2:] == [1, 10_000 - grouping.MOST_GROUPS]
    # Those that are told together stay so, where there would be room for a group of their own, and end so.
    left = many[-5_000:]
    ends = [alert(number, is_firing=False) for number in range(5_000)]
    told = desk.at(61, *ends, *left)
    assert sorted(len(news.ended) for _, news in told)[-2:] == [1, 5_000 - grouping.MOST_GROUPS]
    assert desk.at(200, *left) == []
    (_, news), *others = desk.at(400, *(alert(it.alert_id, is_firing=False) for it in left))
    assert (news.why, len(news.ended), others) == ("resolved", 5_000, [])
    assert desk.at(500) == desk.groups == []


def test_the_end_is_told_where_another_route_took_it_meanwhile() -> None:
    critical = Route(target="calls", matchers=("severity=critical",))
    desk = Desk(Route(target="chat", routes=(critical,)))
    assert desk.seconds(0, 5, alert(1, "critical"), alert(2, "critical")) == [(1, "calls", "new", 2, 0)]
    # It gets better, and its group goes on without it.
    now = (alert(1), alert(2, "critical"), alert(3, "critical"))
    assert ("calls", "changed", 2) in {it[1:4] for it in desk.seconds(5, 100, *now)}
    ends = (alert(1, is_firing=False), *now[1:])
    assert {it[1:] for it in desk.seconds(100, 300, *ends)} == {("calls", "resolved", 2, 1), ("chat", "resolved", 0, 1)}


def test_a_severity_that_goes_up_and_down_is_told_as_it_gets_worse_and_not_each_time() -> None:
    desk = Desk(Route(target="calls"))
    told = []
    for second in range(3_600):
        told += desk.at(second, alert(1, "critical" if second // 15 % 2 else "warning"))
    assert 2 <= len(told) <= 14
    # That it got better for good is told too.
    assert [it[2] for it in desk.seconds(3_600, 4_300, alert(1, "warning"))] == ["changed"]


def test_a_group_of_a_route_that_is_gone_still_hears_of_the_end() -> None:
    desk = Desk(Route(target="calls", routes=(Route(matchers=("site=oslo",)),)))
    assert desk.seconds(0, 10, alert(1)) == [(1, "calls", "new", 1, 0)]
    old = desk.groups
    desk = Desk(Route(target="calls"))
    desk.groups = old
    assert (61, "calls", "resolved", 0, 1) in desk.seconds(10, 100, alert(1, is_firing=False))


@given(
    st.lists(
        st.lists(
            st.tuples(st.integers(1, 4), st.sampled_from(["info", "warning", "critical"]), st.booleans()), max_size=4
        ),
        min_size=1,
        max_size=60,
    )
)
def test_whatever_happens_a_target_knows_in_the_end_what_fires(story: list[list[tuple[int, Severity, bool]]]) -> None:
    """Each told end follows a told firing, nothing is told twice as new, and after calm all is known."""
    desk = Desk(Route(target="calls", group_interval="10s"))
    known: set[int] = set()
    rows: dict[int, Open] = {}
    for second, moment in enumerate([*story, *[story[-1]] * 70]):
        fires = {number: (severity, quiet) for number, severity, quiet in moment}
        for number in {*rows, *fires}:
            severity, quiet = fires.get(number, ("info", False))
            rows[number] = alert(number, severity, is_firing=number in fires, is_quiet=quiet)
        for _, news in desk.at(second, *rows.values()):
            assert known.issuperset(news.ended)
            known.difference_update(news.ended)
            known.update(news.firing)
    loud = {number for number, it in rows.items() if it.is_firing and not it.is_quiet}
    fires_on = {number for number, it in rows.items() if it.is_firing}
    assert loud <= known <= fires_on


SILENT = {
    it.name: it
    for it in (
        rule("site_silent", inhibits=("feed_lost", "rack_silent", "agent_silent")),
        rule("feed_lost", inhibits=("rack_silent", "agent_silent")),
        rule("rack_silent", inhibits=("agent_silent",), equal=("site", "rack")),
        rule("agent_silent"),
        rule("a", inhibits=("b",)),
        rule("b", inhibits=("a",)),
    )
}


def firing(number: int, name: str, racks: tuple[str, ...] | None = None, **labels: str) -> Firing:
    """An alert that fires."""
    return Firing(alert_id=number, rule=name, labels=labels, racks=racks)


def test_a_feed_explains_the_racks_that_it_covers_and_their_nodes_and_no_others() -> None:
    alerts = [
        firing(1, "agent_silent", site="oslo", rack="r1", hostname="n1"),
        firing(2, "agent_silent", site="oslo", rack="r9", hostname="n2"),
        firing(3, "agent_silent", site="bergen", rack="r1", hostname="n3"),
        firing(4, "agent_silent", site="oslo", hostname="n4"),
        firing(5, "rack_silent", ("r1",), site="oslo", rack="r1"),
        firing(6, "feed_lost", ("r1", "r2"), site="oslo", meter="ups-A"),
    ]
    assert inhibition.explained(alerts, SILENT) == {1: 6, 5: 6}
    assert inhibition.explained(alerts[:5], SILENT) == {1: 5}
    everything = [*alerts, firing(7, "site_silent", site="oslo")]
    assert inhibition.explained(everything, SILENT) == {1: 7, 2: 7, 4: 7, 5: 7, 6: 7}


def test_rules_that_name_each_other_do_not_both_fall_silent() -> None:
    found = inhibition.explained([firing(1, "a", site="x"), firing(2, "b", site="x")], SILENT)
    assert len(found) <= 1


@pytest.mark.parametrize("equal", [(), ("site",), ("site", "rack")])
def test_what_lacks_a_label_is_not_explained_by_what_lacks_it_too(equal: tuple[str, ...]) -> None:
    rules = {"up": rule("up", inhibits=("down",), equal=equal), "down": rule("down")}
    found = inhibition.explained([firing(1, "up"), firing(2, "down")], rules)
    assert found == ({2: 1} if not equal else {})


def test_a_site_that_is_summed_up_explains_the_others_of_its_rule_there() -> None:
    alerts = [
        firing(1, "agent_silent", site="oslo", hostname="n1"),
        firing(2, "agent_silent", site="bergen", hostname="n2"),
        firing(3, "rack_silent", site="oslo", rack="r1"),
        firing(4, "agent_silent", site="oslo"),
    ]
    assert inhibition.explained(alerts, SILENT) == {1: 4}
    # What explains both goes before it.
    assert inhibition.explained([*alerts, firing(5, "site_silent", site="oslo")], SILENT) == {1: 5, 3: 5, 4: 5}

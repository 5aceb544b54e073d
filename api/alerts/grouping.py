"""When a target is told of which alerts: pure, so that every case can be tried.

A group is what one route's target hears of together. Its first alert is told after group_wait; further ones, and those
that ended, group_interval after the last notification; what fires on without news, repeat_interval after it. What is
critical and new, or got worse, does not wait for the interval: it is told after group_wait, and in a row of such
notifications after twice the wait of the one before, until that is the interval.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

import msgspec
from msgspec import Struct

from api.alerts.payloads.alertmanager_api import SEND_AGAIN_S
from api.alerts.rule import Rule
from api.alerts.ways import ALL_LABELS, Way, all_below
from gigawatch.alerts.notification import SEVERITIES, Severity, Why

DEFAULT_GROUP_BY = ("rule", "site")
MOST_GROUPS = 50
"""Of a route. What would begin further ones is told together, so that no grouping makes ten thousand notifications."""
BETTER_AFTER = 10
"""So many intervals: a severity that goes up and down is not told each time."""


class Told(Struct, frozen=True, kw_only=True):
    """What a target was last told of an alert that fires."""

    severity: Severity
    is_acknowledged: bool = False


class Open(Struct, frozen=True, kw_only=True):
    """An alert that fires, or one that ended and whose targets do not know."""

    alert_id: int
    rule: str
    labels: Mapping[str, str]
    severity: Severity
    is_firing: bool
    is_quiet: bool
    """Whether a silence or another alert keeps it from being told."""
    has_ceased: bool = False
    """Whether its condition holds no more, and it fires on for a while: nobody needs to hear of it then who did not."""
    is_acknowledged: bool


class Group(Struct, frozen=True, kw_only=True):
    """What is kept of a group."""

    key: str
    target: str
    labels: Mapping[str, str]
    due: datetime | None = None
    told: datetime | None = None
    told_alerts: Mapping[int, Told] = {}
    is_waiting: bool = False
    """Whether a notification of it was not delivered yet: it is not repeated then."""
    hurried: int = 0
    """Notifications in a row that did not wait for the interval."""


class News(Struct, frozen=True, kw_only=True):
    """What there is to tell of a group."""

    why: Why
    firing: tuple[int, ...]
    ended: tuple[int, ...]


class Planned(Struct, frozen=True, kw_only=True):
    """A group as it is to be from now on."""

    group: Group
    news: News | None
    """To be told now; None: nothing is due."""


def labels_of(labels: Mapping[str, str], rule: str, severity: Severity) -> dict[str, str]:
    """What matchers see of an alert: its own labels, its rule and its severity."""
    return {**labels, "rule": rule, "severity": severity}


def plan(
    alerts: Iterable[Open], groups: Iterable[Group], first: Way, rules: Mapping[str, Rule], now: datetime
) -> list[Planned]:
    """All groups as they are to be, with what is to be told now; those that are left out need not be kept.

    Args:
        alerts: all that fire, and those that ended of which a group was told that they fire.
        groups: those that are kept.
        first: the way that all alerts begin on.
        rules: those in force.
        now: the time of all this.
    """
    kept = {it.key: it for it in groups}
    ways: dict[str, Way] = {}
    members: dict[str, dict[int, Open]] = {}
    by_id = {it.alert_id: it for it in alerts}
    begun: dict[str, int] = {}
    # The worst have groups of their own first.
    for alert in sorted(by_id.values(), key=lambda it: (-_level(it.severity), it.alert_id)):
        labels = labels_of(alert.labels, alert.rule, alert.severity)
        for taker in first.takers(labels) if alert.is_firing else ():
            group, rest = _group(taker, alert, labels, rules), _rest(taker)
            if rest.key in kept and alert.alert_id in kept[rest.key].told_alerts:
                group = rest
            elif group.key not in kept:
                if alert.is_quiet or alert.has_ceased:
                    continue
                of_route = _of_route(taker)
                if of_route not in begun:
                    begun[of_route] = sum(key.startswith(of_route) for key in kept)
                if begun[of_route] >= MOST_GROUPS:
                    group = rest
                else:
                    begun[of_route] += 1
            kept.setdefault(group.key, group)
            ways[group.key] = taker
            members.setdefault(group.key, {})[alert.alert_id] = alert
    by_target = {way.target: way for way in all_below(first)}
    planned = []
    for key, group in kept.items():
        # A group without alerts may be one of a route that is gone: its target still hears of the end of what it knows.
        way = ways.get(key) or by_target.get(group.target)
        if way is not None:
            found = _planned(group, way, members.get(key, {}), by_id, now)
            if not _is_over(found.group, way, now):
                planned.append(found)
    return planned


def _planned(group: Group, way: Way, members: Mapping[int, Open], by_id: Mapping[int, Open], now: datetime) -> Planned:
    if group.told is not None and group.told > now:
        # The clock was set back.
        group = msgspec.structs.replace(group, told=now)
    told = group.told_alerts
    telling = {
        number: it for number, it in members.items() if not (it.is_quiet or (it.has_ceased and number not in told))
    }
    new = [number for number in telling if number not in told]
    moved = [number for number, it in telling.items() if number in told and it.severity != told[number].severity]
    taken_on = [
        number
        for number, it in telling.items()
        if number in told and it.is_acknowledged and not told[number].is_acknowledged and way.hears_of_acknowledgement
    ]
    worse = [number for number in moved if _level(telling[number].severity) > _level(told[number].severity)]
    ended = [number for number in told if number not in by_id or not by_id[number].is_firing]
    # Of one that became quiet, or that another route takes now, its target knows that it fires, and is to hear of its
    # end.
    kept = {number: it for number, it in told.items() if number not in telling and number not in ended}
    is_urgent = bool(worse or taken_on) or any(telling[number].severity == SEVERITIES[-1] for number in new)
    after = 1 if new or worse or taken_on or ended else BETTER_AFTER if moved else None
    due = _due(group, way, telling, news_after=after, is_urgent=is_urgent, now=now)
    if due is None or due > now:
        return Planned(group=msgspec.structs.replace(group, due=due), news=None)
    why: Why = "repeat"
    if new or moved or taken_on:
        why = "changed" if told else "new"
    elif ended:
        why = "resolved"
    # At the interval's pace it is a row still, or each minute would begin with a burst.
    is_hurried = group.told is not None and now < group.told + 2 * _interval(way)
    group = msgspec.structs.replace(
        group,
        told=now,
        told_alerts={
            **kept,
            **{
                number: Told(severity=it.severity, is_acknowledged=it.is_acknowledged) for number, it in telling.items()
            },
        },
        hurried=group.hurried + 1 if is_hurried else 0,
    )
    due = _due(group, way, telling, news_after=None, is_urgent=False, now=now)
    return Planned(
        group=msgspec.structs.replace(group, due=due), news=News(why=why, firing=tuple(telling), ended=tuple(ended))
    )


def _due(
    group: Group, way: Way, telling: Mapping[int, Open], *, news_after: int | None, is_urgent: bool, now: datetime
) -> datetime | None:
    """When it is to be told next; None: there is nothing to tell. News wait for so many intervals."""
    first = now + timedelta(seconds=way.group_wait_s)
    if group.told is None:
        return min(group.due or first, first) if news_after else None
    if is_urgent:
        hurried_s = min(way.group_wait_s * 2 ** min(group.hurried, 30), way.group_interval_s)
        soon = max(first, group.told + timedelta(seconds=hurried_s))
        # Of what is due already the time stays, so that more of the same does not put it off.
        return min(group.due or soon, soon)
    if news_after:
        after_s = news_after * way.group_interval_s
    elif way.is_kept_alive and telling:
        after_s = SEND_AGAIN_S
    elif any(not it.is_acknowledged for it in telling.values()):
        after_s = way.repeat_interval_s
    else:
        return None
    again = group.told + timedelta(seconds=after_s)
    # A target that is away does not find a heap of the same when it is back.
    return again if news_after or not group.is_waiting else max(again, now + timedelta(seconds=way.group_interval_s))


def _is_over(group: Group, way: Way, now: datetime) -> bool:
    """Whether nothing needs to be kept of it any more."""
    is_told = group.told is not None and now < group.told + _interval(way)
    return group.due is None and not group.told_alerts and not is_told


def _group(way: Way, alert: Open, labels: Mapping[str, str], rules: Mapping[str, Rule]) -> Group:
    by = way.group_by
    if by is None:
        rule = rules.get(alert.rule)
        by = DEFAULT_GROUP_BY if rule is None or not rule.group_by else rule.group_by
    names = sorted(labels) if ALL_LABELS in by else [name for name in by if name in labels]
    chosen = {name: labels[name] for name in names}
    written = msgspec.json.encode(chosen, order="sorted").decode()
    return Group(key=f"{_of_route(way)}{written}", target=way.target, labels=chosen)


def _rest(way: Way) -> Group:
    """What a route's alerts are told in that would begin more groups than it may have."""
    return Group(key=f"{_of_route(way)}*", target=way.target, labels={})


def _of_route(way: Way) -> str:
    """What keys of a route's groups begin with."""
    return f"{way.target}{way.path}:"


def _interval(way: Way) -> timedelta:
    return timedelta(seconds=way.group_interval_s)


def _level(severity: Severity) -> int:
    return SEVERITIES.index(severity)

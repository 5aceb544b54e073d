"""From alerts to notifications: whom what fires, and what ended, is told to, through the outbox."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import msgspec
from sqlalchemy import Connection, Row, text

from api.alerts import grouping, ways
from api.alerts.configuration import Configuration
from api.alerts.grouping import Group, News, Open, Told
from api.alerts.rule import Rule
from gigawatch.alerts.matchers import Matcher, all_match
from gigawatch.alerts.notification import SEVERITIES, AlertTold, Notification

MOST_ALERTS = 100
"""In one notification; how many more there are is said."""
MOST_ALERTS_KEPT_ALIVE = 10_000
"""An Alertmanager has to hear of all, since it groups them itself."""


def is_due(connection: Connection, now: datetime) -> bool:
    """Whether a group is to be told, or a silence began or ended, so that route() has something to do."""
    return bool(
        connection.scalar(
            text(
                "SELECT EXISTS (SELECT FROM gigawatch.alert_group WHERE due <= :now)"
                " OR EXISTS (SELECT FROM gigawatch.alert JOIN gigawatch.alert_silence ON silence_id = silenced_by"
                " WHERE state = 'firing' AND ends <= :now)"
                " OR EXISTS (SELECT FROM gigawatch.alert_silence WHERE starts BETWEEN :now - interval '5 s' AND :now)"
            ),
            {"now": now},
        )
    )


def route(
    connection: Connection,
    configuration: Configuration,
    rules: Mapping[str, Rule],
    now: datetime,
    external_url: str | None = None,
) -> int:
    """Find out who is to be told of what, and put out what is due.

    Args:
        connection: of the store's owner, in the caller's transaction, which no other that changes alerts runs beside.
        configuration: the one in force.
        rules: those in force.
        now: the time of all this.
        external_url: of the dashboard.

    Returns:
        Notifications that were put out.
    """
    groups = _groups(connection)
    rows = _alerts(connection, {number for group in groups for number in group.told_alerts})
    silenced = _silence(connection, rows, now)
    first = ways.first(configuration)
    planned = []
    if first is not None:
        quiet = silenced.keys() | _awaiting(connection, rows, rules, now)
        planned = grouping.plan((_open(row, quiet) for row in rows), groups, first, rules, now)
    by_id = {row.alert_id: row for row in rows}
    told = [
        _notification(it.group, it.news, by_id, configuration, rules, external_url)
        for it in planned
        if it.news is not None
    ]
    _keep(connection, groups, [it.group for it in planned])
    _put_out(connection, told)
    return len(told)


def _groups(connection: Connection) -> list[Group]:
    rows = connection.execute(
        text(
            "SELECT key, target, labels, due, told, told_alerts, hurried, EXISTS (SELECT FROM gigawatch.alert_delivery"
            " WHERE group_key = alert_group.key AND alert_delivery.target = alert_group.target AND state = 'waiting')"
            " AS is_waiting FROM gigawatch.alert_group"
        )
    )
    return [
        Group(
            key=row.key, target=row.target, labels=row.labels, due=row.due, told=row.told, hurried=row.hurried,
            is_waiting=row.is_waiting,
            told_alerts={int(number): msgspec.convert(it, Told) for number, it in row.told_alerts.items()},
        )
        for row in rows
    ]  # fmt: skip


def _alerts(connection: Connection, told: Iterable[int]) -> Sequence[Row[Any]]:
    """What fires, and what ended of which a target was told."""
    return connection.execute(
        text(
            "SELECT alert_id, fingerprint, rule, labels, severity, state, value, summary, details, started, fired,"
            " ceased, resolved, inhibited_by, silenced_by, acknowledged_by, simulated FROM gigawatch.alert"
            " WHERE state = 'firing' OR alert_id = ANY(:told)"
        ),
        {"told": list(told)},
    ).all()


def _silence(connection: Connection, rows: Sequence[Row[Any]], now: datetime) -> dict[int, int]:
    """By number of an alert, the silence that keeps it quiet; and note that."""
    silences = [
        (row.silence_id, msgspec.convert(row.matchers, tuple[Matcher, ...]))
        for row in connection.execute(
            text(
                "SELECT silence_id, matchers FROM gigawatch.alert_silence"
                " WHERE starts <= :now AND ends > :now ORDER BY silence_id DESC"
            ),
            {"now": now},
        )
    ]
    found: dict[int, int] = {}
    for row in rows:
        labels = grouping.labels_of(row.labels, row.rule, row.severity)
        by = next((number for number, matchers in silences if all_match(matchers, labels)), None)
        if by is not None:
            found[row.alert_id] = by
    changed = [row.alert_id for row in rows if found.get(row.alert_id) != row.silenced_by]
    if changed:
        connection.execute(
            text(
                "UPDATE gigawatch.alert SET silenced_by = change.by"
                " FROM unnest(CAST(:ids AS bigint[]), CAST(:bys AS integer[])) AS change (alert_id, by)"
                " WHERE alert.alert_id = change.alert_id"
            ),
            {"ids": changed, "bys": [found.get(it) for it in changed]},
        )
    return found


def _awaiting(connection: Connection, rows: Sequence[Row[Any]], rules: Mapping[str, Rule], now: datetime) -> set[int]:
    """Alerts that a rule may explain that was not evaluated since they fired: a lost feed is told before its racks.

    A rule that is not evaluated, as one that fails for long, is waited for twice its interval.
    """
    found = connection.execute(text("SELECT name, evaluated FROM gigawatch.alert_rule WHERE enabled"))
    evaluated: dict[str, datetime | None] = {row.name: row.evaluated for row in found}
    explaining: dict[str, list[Rule]] = defaultdict(list)
    for rule in rules.values():
        for child in rule.inhibits if rule.name in evaluated else ():
            explaining[child].append(rule)
    return {
        row.alert_id
        for row in rows
        if row.state == "firing"
        for rule in explaining[row.rule]
        if now < row.fired + timedelta(seconds=2 * rule.interval_s)
        and ((at := evaluated[rule.name]) is None or at < row.fired)
    }


def _open(row: Row[Any], quiet: Set[int]) -> Open:
    return Open(
        alert_id=row.alert_id,
        rule=row.rule,
        labels=row.labels,
        severity=row.severity,
        is_firing=row.state == "firing",
        is_quiet=row.alert_id in quiet or row.inhibited_by is not None,
        has_ceased=row.ceased is not None,
        is_acknowledged=row.acknowledged_by is not None,
    )


def _notification(
    group: Group,
    news: News,
    by_id: Mapping[int, Row[Any]],
    configuration: Configuration,
    rules: Mapping[str, Rule],
    external_url: str | None,
) -> Notification:
    firing = [by_id[number] for number in news.firing]
    ended = [by_id[number] for number in news.ended if number in by_id]
    listed = sorted(firing, key=_worst_first) + sorted(ended, key=_worst_first)
    declared = configuration.targets.get(group.target)
    most = MOST_ALERTS_KEPT_ALIVE if declared and declared.kind == "alertmanager_api" else MOST_ALERTS
    told = tuple(_told(row, rules.get(row.rule), external_url) for row in listed[:most])
    everything = [grouping.labels_of(row.labels, row.rule, row.severity) for row in listed]
    common = dict(set(everything[0].items()).intersection(*(it.items() for it in everything))) if everything else {}
    of_severity = firing or ended
    return Notification(
        group_key=group.key,
        target=group.target,
        status="firing" if firing else "resolved",
        why=news.why,
        severity=max((row.severity for row in of_severity), key=SEVERITIES.index, default="info"),
        title=_title(group, firing, ended),
        group_labels=dict(group.labels),
        common_labels=common,
        firing=len(firing),
        resolved=len(ended),
        alerts=told,
        left_out=len(listed) - len(told),
        external_url=external_url,
    )


def _worst_first(row: Row[Any]) -> tuple[int, datetime, int]:
    return -SEVERITIES.index(row.severity), row.fired, row.alert_id


def _title(group: Group, firing: Sequence[Row[Any]], ended: Sequence[Row[Any]]) -> str:
    """As `3 firing: gpu_temperature, oslo`; of one alert its summary."""
    if len(firing) + len(ended) == 1:
        return str((firing or ended)[0].summary)
    counts = [f"{len(firing)} firing"] * bool(firing) + [f"{len(ended)} resolved"] * bool(ended)
    where = [value for name, value in group.labels.items() if name != "severity"]
    return f"{', '.join(counts)}: {', '.join(where) or 'all'}"


def _told(row: Row[Any], rule: Rule | None, external_url: str | None) -> AlertTold:
    return AlertTold(
        alert_id=row.alert_id,
        fingerprint=row.fingerprint,
        rule=row.rule,
        status="firing" if row.state == "firing" else "resolved",
        severity=row.severity,
        labels=row.labels,
        summary=row.summary,
        value=row.value,
        unit=None if rule is None else rule.unit,
        details={name: str(value) for name, value in row.details.items() if value is not None},
        started=row.started,
        fired=row.fired,
        resolved=row.resolved,
        runbook=None if rule is None else _runbook(rule, external_url),
        url=None if external_url is None else f"{external_url.rstrip('/')}/alerts/{row.alert_id}",
        acknowledged_by=row.acknowledged_by,
        simulated=row.simulated,
    )


def _runbook(rule: Rule, external_url: str | None) -> str | None:
    """Where it is told what to do: of a shipped rule on its page of the dashboard, if people can reach that."""
    if rule.origin == "own" or external_url is None:
        return rule.runbook
    return f"{external_url.rstrip('/')}/alerts/rules/{rule.name}"


def _keep(connection: Connection, before: Sequence[Group], after: Sequence[Group]) -> None:
    was = {it.key: it for it in before}
    gone = was.keys() - {it.key for it in after}
    if gone:
        connection.execute(text("DELETE FROM gigawatch.alert_group WHERE key = ANY(:keys)"), {"keys": list(gone)})
    changed = [it for it in after if it != was.get(it.key)]
    if not changed:
        return
    connection.execute(
        text(
            "INSERT INTO gigawatch.alert_group (key, target, labels, due, told, told_alerts, hurried)"
            " VALUES (:key, :target, CAST(:labels AS jsonb), :due, :told, CAST(:told_alerts AS jsonb), :hurried)"
            " ON CONFLICT (key) DO UPDATE SET due = excluded.due, told = excluded.told,"
            " told_alerts = excluded.told_alerts, hurried = excluded.hurried"
        ),
        [
            {
                "key": it.key, "target": it.target, "due": it.due, "told": it.told, "hurried": it.hurried,
                "labels": _json(it.labels), "told_alerts": _json({str(no): one for no, one in it.told_alerts.items()}),
            }
            for it in changed
        ],
    )  # fmt: skip


def _put_out(connection: Connection, told: Sequence[Notification]) -> None:
    if not told:
        return
    connection.execute(
        text(
            "INSERT INTO gigawatch.alert_delivery (key, target, group_key, why, notification)"
            " VALUES (:key, :target, :group_key, :why, CAST(:notification AS jsonb))"
        ),
        [
            {"key": uuid4(), "target": it.target, "group_key": it.group_key, "why": it.why, "notification": _json(it)}
            for it in told
        ],
    )
    connection.execute(text("SELECT pg_notify('gigawatch_delivery', '')"))


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()

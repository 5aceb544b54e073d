"""Named reads of alerts: like gigawatch.readings, for alerts, rules, silences, targets and what they were told."""

from datetime import datetime
from typing import Any, Literal, TypeVar
from uuid import UUID

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, text

from gigawatch.alerts.matchers import Matcher
from gigawatch.alerts.notification import Notification, Severity, Why

T = TypeVar("T")
State = Literal["pending", "firing", "resolved"]
DeliveryState = Literal["waiting", "sent", "dead"]


class Alert(Struct, frozen=True, kw_only=True):
    """Each time that a rule's condition held for one thing: report.alerts."""

    alert_id: int
    rule: str
    labels: dict[str, str]
    severity: Severity
    state: State
    value: float | None
    unit: str | None
    summary: str
    details: dict[str, Any]
    started: datetime
    """When its condition first held."""
    fired: datetime | None
    resolved: datetime | None
    unknown_since: datetime | None
    """Since when there are no data to tell; None: there are."""
    flaps: int
    inhibited_by: int | None
    """Number of the alert that explains it."""
    silenced_by: int | None
    """Number of the silence that keeps it quiet."""
    acknowledged: datetime | None
    acknowledged_by: str | None
    acknowledgement: str | None
    runbook: str | None
    simulated: bool


class Change(Struct, frozen=True, kw_only=True):
    """What became of an alert: report.alert_changes."""

    time: datetime
    change: str
    author: str | None
    note: str | None


class RuleNow(Struct, frozen=True, kw_only=True):
    """A rule in force with its last evaluation, and how many of its alerts are open: report.alert_rules."""

    name: str
    origin: Literal["shipped", "own"]
    enabled: bool
    severity: Severity
    unit: str | None
    about: str
    summary: str
    runbook: str | None
    sql: str
    thresholds: dict[str, Any]
    for_s: int
    keep_firing_for_s: int
    interval_s: int
    evaluated: datetime | None
    duration_ms: int | None
    rows: int | None
    error: str | None
    failing_since: datetime | None
    missed: int
    firing: int
    pending: int


class Silence(Struct, frozen=True, kw_only=True):
    """What nobody is told of for a while: report.alert_silences."""

    silence_id: int
    kind: Literal["silence", "maintenance"]
    matchers: tuple[Matcher, ...]
    starts: datetime
    ends: datetime
    author: str
    reason: str
    created: datetime
    ended_by: str | None
    state: Literal["to come", "in force", "ended"]
    alerts: int
    """Open ones that it keeps quiet."""


class TargetNow(Struct, frozen=True, kw_only=True):
    """Whom alerts are sent to, and how that goes: report.alert_targets."""

    name: str
    kind: str
    address: str
    failures: int
    open_until: datetime | None
    succeeded: datetime | None
    failed: datetime | None
    error: str | None
    waiting: int
    """Notifications that wait for it."""
    dead: int
    """Notifications that were given up."""


class Delivery(Struct, frozen=True, kw_only=True):
    """A notification for one target: report.alert_deliveries."""

    delivery_id: int
    key: UUID
    target: str
    why: Why
    state: DeliveryState
    created: datetime
    due: datetime
    attempts: int
    tried: datetime | None
    duration_ms: int | None
    status: int | None
    answer: str | None
    notification: Notification


class Counts(Struct, frozen=True, kw_only=True):
    """Alerts that fire and that nothing keeps quiet."""

    critical: int
    warning: int
    info: int


def counts(connection: Connection) -> Counts:
    """How many alerts fire, neither silenced nor explained by another."""
    return _typed(
        Counts,
        connection,
        "SELECT count(*) FILTER (WHERE severity = 'critical') AS critical,"
        " count(*) FILTER (WHERE severity = 'warning') AS warning, count(*) FILTER (WHERE severity = 'info') AS info"
        " FROM report.alerts WHERE state = 'firing' AND inhibited_by IS NULL AND silenced_by IS NULL",
    )[0]


def alerts(
    connection: Connection,
    *,
    states: tuple[State, ...] = ("firing", "pending"),
    site: str | None = None,
    rule: str | None = None,
    severity: Severity | None = None,
    quiet: bool | None = None,
    since: datetime | None = None,
    limit: int = 500,
    offset: int = 0,
) -> list[Alert]:
    """Alerts: those that fire first, the worst of them first, the newest of these first.

    Args:
        connection: that may read schema report.
        states: that they have.
        site: of this site alone.
        rule: of this rule alone.
        severity: of this severity alone.
        quiet: those alone that are silenced or explained by another, or those alone that are not.
        since: of the resolved, those alone that ended since then.
        limit: most of them.
        offset: of them to pass over.
    """
    return _typed(
        Alert,
        connection,
        f"{_ALERTS} WHERE state = ANY(:states) AND (CAST(:site AS text) IS NULL OR labels ->> 'site' = :site)"
        " AND (CAST(:rule AS text) IS NULL OR alerts.rule = :rule)"
        " AND (CAST(:severity AS text) IS NULL OR alerts.severity = :severity)"
        " AND (CAST(:quiet AS boolean) IS NULL OR (inhibited_by IS NOT NULL OR silenced_by IS NOT NULL) = :quiet)"
        " AND (CAST(:since AS timestamptz) IS NULL OR resolved IS NULL OR resolved >= :since)"
        " ORDER BY array_position(ARRAY['firing', 'pending', 'resolved'], state),"
        " CASE WHEN state <> 'resolved' THEN array_position(ARRAY['critical', 'warning', 'info'], alerts.severity) END,"
        " coalesce(resolved, fired, started) DESC, alert_id DESC LIMIT :limit OFFSET :offset",
        states=list(states), site=site, rule=rule, severity=severity, quiet=quiet, since=since,
        limit=limit, offset=offset,
    )  # fmt: skip


def alert(connection: Connection, alert_id: int) -> Alert | None:
    """The alert of this number."""
    return next(iter(_typed(Alert, connection, f"{_ALERTS} WHERE alert_id = :number", number=alert_id)), None)


def changes(connection: Connection, alert_id: int) -> list[Change]:
    """What became of an alert, the first first."""
    return _typed(
        Change,
        connection,
        "SELECT time, change, author, note FROM report.alert_changes WHERE alert_id = :number ORDER BY time",
        number=alert_id,
    )


def rules(connection: Connection) -> list[RuleNow]:
    """The rules in force: those that fail first, then by name."""
    return _typed(
        RuleNow,
        connection,
        "SELECT alert_rules.*, coalesce(firing, 0) AS firing, coalesce(pending, 0) AS pending FROM report.alert_rules"
        " LEFT JOIN (SELECT rule AS name, count(*) FILTER (WHERE state = 'firing') AS firing,"
        " count(*) FILTER (WHERE state = 'pending') AS pending FROM report.alerts WHERE state <> 'resolved'"
        " GROUP BY rule) AS open USING (name) ORDER BY failing_since IS NULL, name",
    )


def silences(connection: Connection, *, ended: bool = False, limit: int = 500) -> list[Silence]:
    """Silences in force or to come, and if `ended` those that are over: the newest first."""
    return _typed(
        Silence,
        connection,
        "SELECT alert_silences.*, CASE WHEN ends <= now() THEN 'ended' WHEN starts > now() THEN 'to come'"
        " ELSE 'in force' END AS state, (SELECT count(*) FROM report.alerts"
        " WHERE silenced_by = silence_id AND state <> 'resolved') AS alerts"
        " FROM report.alert_silences WHERE :ended OR ends > now() ORDER BY silence_id DESC LIMIT :limit",
        ended=ended,
        limit=limit,
    )


def targets(connection: Connection) -> list[TargetNow]:
    """The targets of the configuration in force, by name."""
    return _typed(
        TargetNow,
        connection,
        "SELECT alert_targets.*, coalesce(waiting, 0) AS waiting, coalesce(dead, 0) AS dead FROM report.alert_targets"
        " LEFT JOIN (SELECT target AS name, count(*) FILTER (WHERE state = 'waiting') AS waiting,"
        " count(*) FILTER (WHERE state = 'dead') AS dead FROM report.alert_deliveries WHERE state <> 'sent'"
        " GROUP BY target) AS open USING (name) ORDER BY name",
    )


def deliveries(
    connection: Connection,
    *,
    target: str | None = None,
    state: DeliveryState | None = None,
    alert_id: int | None = None,
    limit: int = 200,
) -> list[Delivery]:
    """Notifications, the newest first; of one target, in one state, or that tell of one alert."""
    return _typed(
        Delivery,
        connection,
        "SELECT * FROM report.alert_deliveries WHERE (CAST(:target AS text) IS NULL OR target = :target)"
        " AND (CAST(:state AS text) IS NULL OR state = :state)"
        " AND (CAST(:told AS jsonb) IS NULL OR notification @> CAST(:told AS jsonb))"
        " ORDER BY delivery_id DESC LIMIT :limit",
        target=target,
        state=state,
        told=None if alert_id is None else msgspec.json.encode({"alerts": [{"alert_id": alert_id}]}).decode(),
        limit=limit,
    )


_ALERTS = (
    "SELECT alerts.*, alert_rules.unit, alert_rules.runbook FROM report.alerts"
    " LEFT JOIN report.alert_rules ON alert_rules.name = alerts.rule"
)


def _typed(kind: type[T], connection: Connection, sql: str, **values: Any) -> list[T]:
    rows = connection.execute(text(sql), values)
    return [msgspec.convert(dict(row._mapping), kind, strict=False) for row in rows]

"""Named reads of alerts: like gigawatch.readings, for alerts, rules, silences, targets and what they were told."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar
from uuid import UUID

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, text

from gigawatch.alerts.matchers import Matcher, all_match
from gigawatch.alerts.notification import SEVERITIES, Notification, Severity, Why

T = TypeVar("T")
ENDED_IS_TOLD_WITHIN = timedelta(days=2)
"""Targets hear of an alert's end by then, if at all."""
State = Literal["pending", "firing", "resolved"]
DeliveryState = Literal["waiting", "sent", "dead"]
ENDED: tuple[State, ...] = ("resolved",)


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
    routed: bool
    """Whether a route leads to it: else it is told of tests alone."""
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


class DeliveryLine(Struct, frozen=True, kw_only=True):
    """A notification as a line of a list: without what it tells, which may be long."""

    delivery_id: int
    target: str
    why: Why
    state: DeliveryState
    created: datetime
    due: datetime
    attempts: int
    duration_ms: int | None
    status: int | None
    answer: str | None
    title: str


class Counts(Struct, frozen=True, kw_only=True):
    """Alerts that fire and that nothing keeps quiet."""

    critical: int
    warning: int
    info: int

    @property
    def all(self) -> int:
        """Of any severity."""
        return self.critical + self.warning + self.info

    @property
    def worst(self) -> Severity | None:
        """Severity of the worst of them; None: there is none."""
        return next((it for it in reversed(SEVERITIES) if getattr(self, it)), None)


class Overview(Struct, frozen=True, kw_only=True):
    """How many alerts there are of each kind, and whether anybody looks and anybody is told."""

    firing: int
    """Those that nothing keeps quiet, as of pending."""
    pending: int
    silenced: int
    explained: int
    rules: int
    """Enabled ones, as below."""
    failing: int
    """Rules whose last evaluation failed."""
    evaluated: datetime | None
    """When a rule was last evaluated; None: none ever was."""
    silences: int
    """In force or to come."""
    targets: int
    routed_targets: int
    """Those that a route leads to: others are told of tests alone."""
    open_targets: int
    """Targets whose circuit breaker is open."""
    waiting: int
    """Notifications that wait for their target longer than a minute."""
    dead: int
    """Notifications that were given up."""


class AlertGroup(Struct, frozen=True, kw_only=True):
    """The alerts of one rule."""

    rule: str
    alerts: int
    critical: int
    warning: int
    info: int
    acknowledged: int
    sites: tuple[str, ...]
    oldest: datetime
    """When the first of them began to fire, or to be pending, or ended; and the last."""
    newest: datetime

    @property
    def worst(self) -> Severity:
        """Severity of the worst of them."""
        return next(it for it in reversed(SEVERITIES) if getattr(self, it))


class Explained(Struct, frozen=True, kw_only=True):
    """Firing alerts of one rule that another alert explains."""

    inhibited_by: int
    """Its number."""
    rule: str
    alerts: int


class Wanted(Struct, frozen=True, kw_only=True):
    """Which alerts are meant."""

    states: tuple[State, ...] = ("firing", "pending")
    site: str | None = None
    rule: str | None = None
    severity: Severity | None = None
    quiet: bool | None = None
    """Those alone that are silenced or explained by another, or those alone that are not."""
    silenced: bool = False
    """Those alone that a silence keeps quiet."""
    explained_by: int | None = None
    """Those alone that the alert of this number explains."""
    since: datetime | None = None
    """Of the resolved, those alone that ended since then,"""
    until: datetime | None = None
    """and before then."""


def counts(connection: Connection) -> Counts:
    """How many alerts fire, neither silenced nor explained by another."""
    return _typed(
        Counts,
        connection,
        "SELECT count(*) FILTER (WHERE severity = 'critical') AS critical,"
        " count(*) FILTER (WHERE severity = 'warning') AS warning, count(*) FILTER (WHERE severity = 'info') AS info"
        " FROM report.alerts WHERE state = 'firing' AND inhibited_by IS NULL AND silenced_by IS NULL",
    )[0]


def overview(connection: Connection) -> Overview:
    """How many alerts there are of each kind, and whether anybody looks and anybody is told."""
    return _typed(
        Overview,
        connection,
        """
        SELECT * FROM (
            SELECT count(*) FILTER (WHERE state = 'firing' AND inhibited_by IS NULL AND silenced_by IS NULL) AS firing,
                count(*) FILTER (WHERE state = 'pending' AND inhibited_by IS NULL AND silenced_by IS NULL) AS pending,
                count(*) FILTER (WHERE silenced_by IS NOT NULL) AS silenced,
                count(*) FILTER (WHERE inhibited_by IS NOT NULL) AS explained
            FROM report.alerts WHERE state <> 'resolved'
        ) AS alert, (
            SELECT count(*) AS rules, count(failing_since) AS failing, max(evaluated) AS evaluated
            FROM report.alert_rules WHERE enabled
        ) AS rule, (
            SELECT count(*) AS silences FROM report.alert_silences WHERE ends > now()
        ) AS silence, (
            SELECT count(*) AS targets, count(*) FILTER (WHERE routed) AS routed_targets,
                count(*) FILTER (WHERE open_until > now()) AS open_targets
            FROM report.alert_targets
        ) AS target, (
            SELECT count(*) FILTER (WHERE state = 'waiting' AND created < now() - interval '1 minute') AS waiting,
                count(*) FILTER (WHERE state = 'dead') AS dead
            FROM report.alert_deliveries WHERE state <> 'sent'
        ) AS delivery""",
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
    wanted = Wanted(states=states, site=site, rule=rule, severity=severity, quiet=quiet, since=since)
    return alerts_wanted(connection, wanted, limit=limit, offset=offset)


def alerts_wanted(
    connection: Connection, wanted: Wanted, *, most_of_rule: int | None = None, limit: int = 500, offset: int = 0
) -> list[Alert]:
    """The alerts that are meant, in the order of alerts(); without those of rules that have more than most_of_rule."""
    condition, values = _wanted(wanted)
    counted = "" if most_of_rule is None else ", count(*) OVER (PARTITION BY rule) AS of_rule"
    few = "" if most_of_rule is None else "WHERE of_rule <= :most_of_rule"
    order = _LAST_FIRST if wanted.states == ENDED else _WORST_FIRST
    return _typed(
        Alert,
        connection,
        # What the rule says is looked up for the rows that are shown, not for those that are passed over.
        f"""
        {_ALERTS} FROM (
            SELECT * FROM (SELECT alerts.*{counted} FROM report.alerts WHERE {condition}) AS alert
            {few} ORDER BY {order} LIMIT :limit OFFSET :offset
        ) AS page ORDER BY {order}""",
        most_of_rule=most_of_rule,
        limit=limit,
        offset=offset,
        **values,
    )


def alert_groups(connection: Connection, wanted: Wanted) -> list[AlertGroup]:
    """The alerts that are meant, counted by rule: the worst rule first, of equals the one with the newest alert.

    Of those that have ended, which may be very many, the sites are not told.
    """
    condition, values = _wanted(wanted)
    site = "NULL" if wanted.states == ENDED else "labels ->> 'site'"
    return _typed(
        AlertGroup,
        connection,
        f"""
        SELECT rule, sum(alerts)::bigint AS alerts, sum(critical)::bigint AS critical,
            sum(warning)::bigint AS warning, sum(info)::bigint AS info, sum(acknowledged)::bigint AS acknowledged,
            coalesce(array_agg(site ORDER BY site) FILTER (WHERE site IS NOT NULL), '{{}}') AS sites,
            min(oldest) AS oldest, max(newest) AS newest
        FROM (
            SELECT rule, {site} AS site, count(*) AS alerts,
                count(*) FILTER (WHERE severity = 'critical') AS critical,
                count(*) FILTER (WHERE severity = 'warning') AS warning,
                count(*) FILTER (WHERE severity = 'info') AS info, count(acknowledged) AS acknowledged,
                min(coalesce(resolved, fired, started)) AS oldest, max(coalesce(resolved, fired, started)) AS newest
            FROM report.alerts WHERE {condition} GROUP BY 1, 2
        ) AS of_site
        GROUP BY rule
        ORDER BY sum(critical) = 0, sum(warning) = 0, newest DESC, rule""",
        **values,
    )


def explained(connection: Connection, alert_ids: Sequence[int]) -> list[Explained]:
    """What these alerts explain, counted by rule, the most first."""
    return _typed(
        Explained,
        connection,
        "SELECT inhibited_by, rule, count(*) AS alerts FROM report.alerts"
        " WHERE state <> 'resolved' AND inhibited_by = ANY(:numbers) GROUP BY 1, 2 ORDER BY 1, 3 DESC, 2",
        numbers=list(alert_ids),
    )


def open_numbers(connection: Connection, wanted: Wanted) -> list[int]:
    """Numbers of the alerts that are meant and that nobody took on."""
    condition, values = _wanted(wanted)
    sql = f"SELECT alert_id FROM report.alerts WHERE {condition} AND acknowledged IS NULL"
    return list(connection.scalars(text(sql), values))


def silenced_by(connection: Connection, matchers: Sequence[Matcher]) -> int:
    """How many alerts that have not ended a silence with these matchers would keep quiet."""
    rows = connection.execute(text("SELECT rule, severity, labels FROM report.alerts WHERE state <> 'resolved'"))
    return sum(all_match(matchers, {**row.labels, "rule": row.rule, "severity": row.severity}) for row in rows)


def rule_names(connection: Connection) -> list[str]:
    """Names of the rules in force."""
    return list(connection.scalars(text("SELECT name FROM report.alert_rules ORDER BY name")))


def rule(connection: Connection, name: str) -> RuleNow | None:
    """The rule in force of this name."""
    return next(iter(_typed(RuleNow, connection, f"{_RULES} WHERE name = :name", name=name)), None)


def alert(connection: Connection, alert_id: int) -> Alert | None:
    """The alert of this number."""
    return next(
        iter(_typed(Alert, connection, f"{_ALERTS} FROM report.alerts WHERE alert_id = :number", number=alert_id)), None
    )


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
    return _typed(RuleNow, connection, f"{_RULES} ORDER BY failing_since IS NULL, NOT enabled, name")


def silences(connection: Connection, *, ended: bool = False, limit: int = 500) -> list[Silence]:
    """Silences in force or to come, and if `ended` those that are over: the newest first."""
    return _typed(
        Silence,
        connection,
        """
        SELECT alert_silences.*, coalesce(alerts, 0) AS alerts,
            CASE WHEN ends <= now() THEN 'ended' WHEN starts > now() THEN 'to come' ELSE 'in force' END AS state
        FROM report.alert_silences
        LEFT JOIN (
            SELECT silenced_by AS silence_id, count(*) AS alerts FROM report.alerts WHERE state <> 'resolved' GROUP BY 1
        ) AS open USING (silence_id)
        WHERE :ended OR ends > now() ORDER BY silence_id DESC LIMIT :limit""",
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


def delivery_lines(
    connection: Connection,
    *,
    states: tuple[DeliveryState, ...] = ("waiting", "sent", "dead"),
    of: Alert | None = None,
    limit: int = 100,
) -> list[DeliveryLine]:
    """Notifications in one of the states, the newest first; those alone that tell of one alert."""
    told = None if of is None else msgspec.json.encode({"alerts": [{"alert_id": of.alert_id}]}).decode()
    return _typed(
        DeliveryLine,
        connection,
        f"{_LINES} WHERE state = ANY(:states)"
        # Only what was put out in its time can tell of it: the others need not be opened.
        " AND (CAST(:told AS jsonb) IS NULL OR created >= CAST(:since AS timestamptz)"
        " AND created < coalesce(CAST(:until AS timestamptz), 'infinity')"
        " AND notification @> CAST(:told AS jsonb)) ORDER BY delivery_id DESC LIMIT :limit",
        states=list(states),
        told=told,
        since=None if of is None else of.started,
        until=None if of is None or of.resolved is None else of.resolved + ENDED_IS_TOLD_WITHIN,
        limit=limit,
    )


def delivery_line(connection: Connection, delivery_id: int) -> DeliveryLine | None:
    """The notification of this number."""
    rows = _typed(DeliveryLine, connection, f"{_LINES} WHERE delivery_id = :number", number=delivery_id)
    return next(iter(rows), None)


_LINES = (
    "SELECT delivery_id, target, why, state, created, due, attempts, duration_ms, status, answer,"
    " notification ->> 'title' AS title FROM report.alert_deliveries"
)
_RULES = (
    "SELECT alert_rules.*, coalesce(firing, 0) AS firing, coalesce(pending, 0) AS pending FROM report.alert_rules"
    " LEFT JOIN (SELECT rule AS name, count(*) FILTER (WHERE state = 'firing') AS firing,"
    " count(*) FILTER (WHERE state = 'pending') AS pending FROM report.alerts WHERE state <> 'resolved'"
    " GROUP BY rule) AS open USING (name)"
)
_LAST_FIRST = "resolved DESC, alert_id DESC"
_WORST_FIRST = (
    "array_position(ARRAY['firing', 'pending', 'resolved'], state),"
    " CASE WHEN state <> 'resolved' THEN array_position(ARRAY['critical', 'warning', 'info'], severity) END,"
    " coalesce(resolved, fired, started) DESC, alert_id DESC"
)
_ALERTS = (
    "SELECT *, (SELECT unit FROM report.alert_rules WHERE name = rule) AS unit,"
    " (SELECT runbook FROM report.alert_rules WHERE name = rule) AS runbook"
)


def _wanted(wanted: Wanted) -> tuple[str, dict[str, Any]]:
    """The condition in SQL, and its values. What is not asked for is not in it, so that indexes are used."""
    conditions = {
        "site": "labels ->> 'site' = :site",
        "rule": "rule = :rule",
        "severity": "severity = :severity",
        "quiet": "(inhibited_by IS NOT NULL OR silenced_by IS NOT NULL) = :quiet",
        "explained_by": "inhibited_by = :explained_by",
        "since": "(resolved >= :since OR resolved IS NULL)" if len(wanted.states) > 1 else "resolved >= :since",
        "until": "(resolved < :until OR resolved IS NULL)" if len(wanted.states) > 1 else "resolved < :until",
    }
    values = {name: value for name, value in msgspec.structs.asdict(wanted).items() if value is not None}
    found = ["state = ANY(:states)", *(conditions[name] for name in values if name in conditions)]
    if "resolved" not in wanted.states:
        # Said as it is in the index of open alerts.
        found.append("state <> 'resolved'")
    if wanted.silenced:
        found.append("silenced_by IS NOT NULL")
    return " AND ".join(found), values | {"states": list(wanted.states)}


def _typed(kind: type[T], connection: Connection, sql: str, **values: Any) -> list[T]:
    rows = connection.execute(text(sql), values)
    return [msgspec.convert(dict(row._mapping), kind, strict=False) for row in rows]

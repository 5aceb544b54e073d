"""From observations to alerts: pending, firing, resolved; and their rows, written set by set."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec
from msgspec import Struct
from psycopg.types.json import Jsonb
from sqlalchemy import Connection, RowMapping, text

from api.alerts.evaluation import Observation
from api.alerts.rule import Rule
from gigawatch.alerts.notification import Severity

JITTER = timedelta(milliseconds=500)
"""Evaluations are not to the millisecond: one that comes this much too early does not put off what is due for another
interval, in which alerts that this one explains would be told."""
LONGEST_GAP = timedelta(minutes=1)
"""Two evaluations that are further apart, and by more than two intervals, say nothing of the time between them."""
FLAPS_WITHIN = timedelta(hours=1)
MOST_FLAPS = 2**15 - 1
LONGEST_KEEP_S = 3_600
"""What keep_firing_for grows to at most by flaps; a rule's own may be longer."""


class Alert(Struct, frozen=True, kw_only=True):
    """An alert that has not ended, as the store has it."""

    alert_id: int | None
    """None: it is new."""
    fingerprint: str
    labels: dict[str, str]
    severity: Severity
    state: Literal["pending", "firing", "resolved"]
    value: float | None
    summary: str
    details: dict[str, Any]
    racks: tuple[str, ...] | None
    simulated: bool
    started: datetime
    held: datetime
    ceased: datetime | None
    """When its condition was first seen not to hold any more; None while it holds."""
    unknown_since: datetime | None
    fired: datetime | None
    resolved: datetime | None
    flaps: int


class Before(Struct, frozen=True, kw_only=True):
    """A rule's alerts before an evaluation."""

    alerts: dict[str, Alert]
    """Those that have not ended, by fingerprint."""
    returns: dict[str, int]
    """By fingerprint, how often it came back, or ended, within the last hour."""


class Change(Struct, frozen=True, kw_only=True):
    """What became of an alert."""

    alert_id: int | None
    """None: of the new alert with this fingerprint."""
    fingerprint: str
    change: Literal["fired", "severity", "flapped", "resolved"]
    note: str | None = None


class Changes(Struct, frozen=True, kw_only=True):
    """What an evaluation comes to."""

    written: tuple[Alert, ...]
    """New and changed ones."""
    gone: tuple[int, ...]
    """Pending ones that leave no row."""
    told: tuple[Change, ...]


def fingerprint(rule: str, labels: Mapping[str, str]) -> str:
    """Of a rule and labels: 32 hexadecimal digits, the same wherever they are computed."""
    return hashlib.sha256(msgspec.json.encode([rule, sorted(labels.items())])).hexdigest()[:32]


def advance(rule: Rule, before: Before, observations: Sequence[Observation], now: datetime) -> Changes:
    """What an evaluation makes of a rule's alerts.

    A condition fires when it has held for `for`, at the first evaluation from then on. An alert whose condition ceased
    fires on for `keep_firing_for`, doubled by each time within the last hour that it came back, up to an hour. Where
    there are no data to tell, it stays what it is, and the time does not count towards `for`; nor does that in which
    nobody looked, since the server was away or the rule failed.

    Args:
        rule: what was evaluated.
        before: its alerts as they are.
        observations: what it gave, each of other labels.
        now: the time of the evaluation, later than that of the one before, unless the clock was set back.
    """
    written, told = [], []
    ceased = dict(before.alerts)
    for observation in observations:
        key = fingerprint(rule.name, observation.labels)
        alert = ceased.pop(key, None)
        if observation.value is None:
            if alert is not None and alert.unknown_since is None:
                written.append(msgspec.structs.replace(alert, unknown_since=now - _unseen(rule, alert, now)))
            continue
        after, changes = _held(rule, key, alert, observation, now)
        if after != alert:
            written.append(after)
        told += changes
    gone = []
    for alert in ceased.values():
        if alert.state == "pending":
            assert alert.alert_id is not None
            gone.append(alert.alert_id)
            continue
        since = min(alert.ceased or now, now)
        if now - since + JITTER >= _kept_firing(rule, before.returns.get(alert.fingerprint, 0)):
            after = msgspec.structs.replace(alert, state="resolved", ceased=since, unknown_since=None, resolved=now)
            told.append(Change(alert_id=alert.alert_id, fingerprint=alert.fingerprint, change="resolved"))
        else:
            after = msgspec.structs.replace(alert, ceased=since, unknown_since=None)
        if after != alert:
            written.append(after)
    return Changes(written=tuple(written), gone=tuple(gone), told=tuple(told))


def _held(
    rule: Rule, key: str, alert: Alert | None, observation: Observation, now: datetime
) -> tuple[Alert, list[Change]]:
    """An alert whose condition holds now, and what became of it."""
    started, state, fired, flaps = now, "pending", None, 0
    told: list[tuple[Literal["fired", "severity", "flapped"], str | None]] = []
    if alert is not None:
        started, state, fired, flaps = alert.started, alert.state, alert.fired, alert.flaps
        if state == "pending":
            started += _unseen(rule, alert, now)
        if alert.ceased is not None:
            flaps = min(flaps + 1, MOST_FLAPS)
            told.append(("flapped", None))
        if state == "firing" and alert.severity != observation.severity:
            told.append(("severity", f"from {alert.severity} to {observation.severity}"))
    if state == "pending" and now - started + JITTER >= timedelta(seconds=rule.for_s):
        state, fired = "firing", now
        told.append(("fired", None))
    alert_id = None if alert is None else alert.alert_id
    after = Alert(
        alert_id=alert_id,
        fingerprint=key,
        labels=observation.labels,
        severity=observation.severity,
        state=state,  # type: ignore[arg-type] # one of two
        value=observation.value,
        summary=observation.summary,
        details=observation.details,
        racks=observation.racks,
        simulated=observation.simulated,
        started=started,
        held=now,
        ceased=None,
        unknown_since=None,
        fired=fired,
        resolved=None,
        flaps=flaps,
    )
    return after, [Change(alert_id=alert_id, fingerprint=key, change=it, note=note) for it, note in told]


def _unseen(rule: Rule, alert: Alert, now: datetime) -> timedelta:
    """How long nobody has been able to tell whether its condition held; negative where the clock was set back."""
    if alert.unknown_since is not None:
        return now - alert.unknown_since
    gap, interval = now - alert.held, timedelta(seconds=rule.interval_s)
    if timedelta() <= gap <= max(2 * interval, LONGEST_GAP):
        return timedelta()
    # As evaluations that follow upon each other: one that is always late fires some time.
    return gap - interval if gap > interval else gap


def _kept_firing(rule: Rule, returns: int) -> timedelta:
    keep_s = rule.keep_firing_for_s
    # Beyond a dozen it is an hour in any case.
    return timedelta(seconds=max(keep_s, min(keep_s * 2 ** min(returns, 12), LONGEST_KEEP_S)))


def read(connection: Connection, rule: str, now: datetime) -> Before:
    """A rule's alerts as they are."""
    alerts = connection.execute(
        text(f"SELECT {', '.join(_COLUMNS)} FROM gigawatch.alert WHERE rule = :rule AND state <> 'resolved'"),
        {"rule": rule},
    ).mappings()
    returns = connection.execute(text(_RETURNS), {"rule": rule, "since": now - FLAPS_WITHIN})
    found = (_alert(row) for row in alerts)
    return Before(
        alerts={it.fingerprint: it for it in found}, returns={row.fingerprint: row.returns for row in returns}
    )


def _alert(row: RowMapping) -> Alert:
    return Alert(**{**row, "racks": None if row["racks"] is None else tuple(row["racks"])})


def write(connection: Connection, rule: str, changes: Changes, now: datetime) -> None:
    """Write what an evaluation came to."""
    if changes.gone:
        connection.execute(
            text("DELETE FROM gigawatch.alert WHERE alert_id = ANY (:gone)"), {"gone": list(changes.gone)}
        )
    known = [it for it in changes.written if it.alert_id is not None]
    if known:
        connection.execute(text(_UPDATE), {"rows": Jsonb(known, msgspec.json.encode)})
    new = [it for it in changes.written if it.alert_id is None]
    numbers: dict[str, int] = {}
    if new:
        inserted = connection.execute(text(_INSERT), {"rule": rule, "rows": Jsonb(new, msgspec.json.encode)})
        numbers = {row.fingerprint: row.alert_id for row in inserted}
    if changes.told:
        told = [(it.alert_id or numbers[it.fingerprint], it.change, it.note) for it in changes.told]
        numbers_told, kinds, notes = (list(column) for column in zip(*told, strict=True))
        connection.execute(text(_TELL), {"ids": numbers_told, "changes": kinds, "notes": notes, "now": now})


def end(connection: Connection, rules: Sequence[str], note: str, now: datetime) -> None:
    """End the alerts of rules that are evaluated no more.

    Args:
        connection: in a transaction.
        rules: their names.
        note: why, for people.
        now: the time.
    """
    values = {"rules": list(rules), "note": note, "now": now}
    connection.execute(text("DELETE FROM gigawatch.alert WHERE rule = ANY (:rules) AND state = 'pending'"), values)
    connection.execute(
        text(
            "WITH ended AS (UPDATE gigawatch.alert SET state = 'resolved', resolved = :now, unknown_since = NULL"
            " WHERE rule = ANY (:rules) AND state = 'firing' RETURNING alert_id)"
            " INSERT INTO gigawatch.alert_change (time, alert_id, change, note)"
            " SELECT :now, alert_id, 'resolved', :note FROM ended"
        ),
        values,
    )


_TYPES = {
    "alert_id": "bigint", "fingerprint": "text", "labels": "jsonb", "severity": "text", "state": "text",
    "value": "double precision", "summary": "text", "details": "jsonb", "racks": "text[]", "simulated": "boolean",
    "started": "timestamptz", "held": "timestamptz", "ceased": "timestamptz", "unknown_since": "timestamptz",
    "fired": "timestamptz", "resolved": "timestamptz", "flaps": "smallint",
}  # fmt: skip
_COLUMNS = tuple(_TYPES)
assert Alert.__struct_fields__ == _COLUMNS
_ROWS = f"jsonb_to_recordset(:rows) AS it ({', '.join(f'{name} {kind}' for name, kind in _TYPES.items())})"
_FIXED = {"alert_id", "fingerprint", "labels"}
_UPDATE = f"""
    UPDATE gigawatch.alert SET {", ".join(f"{name} = it.{name}" for name in _COLUMNS if name not in _FIXED)}
    FROM {_ROWS} WHERE alert.alert_id = it.alert_id"""
_NEW = ", ".join(name for name in _COLUMNS if name != "alert_id")
_INSERT = f"""
    INSERT INTO gigawatch.alert (rule, {_NEW}) SELECT :rule, {_NEW} FROM {_ROWS} RETURNING fingerprint, alert_id"""
_TELL = """
    INSERT INTO gigawatch.alert_change (time, alert_id, change, note)
    SELECT :now, it.* FROM unnest(CAST(:ids AS bigint[]), CAST(:changes AS text[]), CAST(:notes AS text[])) AS it"""
# Alerts of a year are many: those that ended within the hour, and those that have not, are found by index.
_RETURNS = """
    SELECT fingerprint, count(*) AS returns FROM (
        SELECT alert_id, fingerprint FROM gigawatch.alert WHERE rule = :rule AND state <> 'resolved'
        UNION ALL
        SELECT alert_id, fingerprint FROM gigawatch.alert WHERE rule = :rule AND resolved > :since
    ) AS recent JOIN gigawatch.alert_change USING (alert_id)
    WHERE change IN ('flapped', 'resolved') AND author IS NULL AND time > :since GROUP BY fingerprint"""

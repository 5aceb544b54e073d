"""What a target is to be told: alerts of one group, whatever the target speaks. It is what the outbox holds."""

from datetime import datetime
from typing import Literal, get_args

from msgspec import Struct

Severity = Literal["info", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""The worst last."""
Why = Literal["new", "changed", "resolved", "repeat", "test"]


def with_unit(number: str, unit: str | None, space: str = " ") -> str:
    """A value that is written already, with its rule's unit, as people read it: 0.82, 1 error, 79.4 °C, XID 79."""
    if unit is None or unit in {"", "1"}:
        return number
    # Of units only things that are counted are longer than three letters.
    one = number == "1" and len(unit) > 3 and unit.endswith("s")
    return space.join((unit, number) if unit == "XID" else (number, unit[:-1] if one else unit))


class AlertTold(Struct, frozen=True, kw_only=True):
    """An alert as it was when the notification was put out."""

    alert_id: int
    fingerprint: str
    rule: str
    status: Literal["firing", "resolved"]
    severity: Severity
    labels: dict[str, str]
    """Which thing it is about; without rule and severity."""
    summary: str
    value: float | None
    unit: str | None
    details: dict[str, str]
    """What explains it, as shown to people."""
    started: datetime
    """When its condition first held."""
    fired: datetime
    resolved: datetime | None
    runbook: str | None
    url: str | None
    """Of its page on the dashboard; absent where alerts.external_url is not set."""
    acknowledged_by: str | None
    simulated: bool


class Notification(Struct, frozen=True, kw_only=True):
    """Alerts of one group, the worst first."""

    group_key: str
    """The same for all notifications of one group: receivers thread by it."""
    target: str
    status: Literal["firing", "resolved"]
    """resolved where no alert of the group fires any more."""
    why: Why
    severity: Severity
    """The worst of those that fire, else of all."""
    title: str
    """In a few words: how many alerts of which rule, where."""
    group_labels: dict[str, str]
    common_labels: dict[str, str]
    firing: int
    """Alerts of the group that fire, those that are left out too."""
    resolved: int
    """Alerts that ended since the last notification, those that are left out too."""
    alerts: tuple[AlertTold, ...]
    left_out: int
    """Alerts that are not in `alerts`."""
    external_url: str | None
    """Of the dashboard."""

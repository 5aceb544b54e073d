"""Notifications for the tests of what targets are sent."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from api.alerts.configuration import Target
from api.alerts.payloads import KINDS
from api.alerts.payloads.request import Request, Telling
from gigawatch.alerts.notification import AlertTold, Notification

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def alert(number: int = 0, **more: Any) -> AlertTold:
    """A GPU's alert."""
    given: dict[str, Any] = {
        "alert_id": number,
        "fingerprint": f"{number:032x}",
        "rule": "xid_fatal",
        "status": "firing",
        "severity": "critical",
        "labels": {"site": "oslo", "hostname": f"node-{number}", "gpu_uuid": f"GPU-{number}"},
        "summary": f"node-{number}: XID 79, the GPU has fallen off the bus",
        "value": 79.0,
        "unit": None,
        "details": {"gpu_model": "H100 <SXM> & co.", "message": "*not* [bold](https://example.com)"},
        "started": NOW - timedelta(minutes=2),
        "fired": NOW - timedelta(minutes=2),
        "resolved": NOW if more.get("status") == "resolved" else None,
        "runbook": "https://docs.example.com/runbooks/xid_fatal",
        "url": f"https://watch.example.com/alerts/{number}",
        "acknowledged_by": None,
        "simulated": False,
    }
    return AlertTold(**given | more)


def notification(*alerts: AlertTold, **more: Any) -> Notification:
    """A group's notification, of one alert where none is given."""
    alerts = alerts or (alert(),)
    firing = sum(it.status == "firing" for it in alerts)
    severities = {it.severity for it in alerts}
    given: dict[str, Any] = {
        "group_key": "critical/{rule=xid_fatal,site=oslo}",
        "target": "pager",
        "status": "firing" if firing else "resolved",
        "why": "new",
        "severity": "critical",
        "title": f"{firing} xid_fatal at oslo",
        "group_labels": {"rule": "xid_fatal", "site": "oslo"},
        "common_labels": {"rule": "xid_fatal", "site": "oslo"}
        | ({"severity": alerts[0].severity} if len(severities) == 1 else {}),
        "firing": firing,
        "resolved": len(alerts) - firing,
        "alerts": alerts,
        "left_out": 0,
        "external_url": "https://watch.example.com",
    }
    return Notification(**given | more)


def telling(kind: str, told: Notification, **more: Any) -> Telling:
    """It on its way to a target of some kind."""
    target = Target(kind=kind, template=more.pop("template", None), **more)
    return Telling(notification=told, target=target, url="https://example.com/hook", secret="k3y", now=NOW)


def made(kind: str, told: Notification) -> tuple[Request, Any]:
    """The request that a target of some kind is sent, and its body's content."""
    request = KINDS[kind](telling(kind, told))
    return request, json.loads(request.body)

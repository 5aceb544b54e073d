"""Alertmanager's webhook, version 4, as its receivers know it.

Source: Prometheus' documentation, Configuration, `<webhook_config>`; Data of its package `template`.
"""

import re
from datetime import datetime
from typing import Any

from api.alerts.payloads.request import Request, Telling, json_request, value
from gigawatch.alerts.notification import AlertTold

NOT_ENDED = "0001-01-01T00:00:00Z"


def request(telling: Telling) -> Request:
    """The webhook's message."""
    told = telling.notification
    alerts = [_alert(it) for it in told.alerts]
    notes = [set(it["annotations"].items()) for it in alerts]
    return json_request(
        telling.url,
        {
            "version": "4",
            "groupKey": told.group_key,
            "truncatedAlerts": told.left_out,
            "status": told.status,
            "receiver": told.target,
            "groupLabels": named(told.group_labels),
            "commonLabels": named(told.common_labels),
            "commonAnnotations": dict(sorted(set.intersection(*notes))) if notes else {},
            "externalURL": told.external_url or "",
            "alerts": alerts,
        },
    )


def labels(alert: AlertTold) -> dict[str, str]:
    """An alert's labels by the names that Alertmanager's users know."""
    return named({**alert.labels, "rule": alert.rule, "severity": alert.severity})


def named(ours: dict[str, str]) -> dict[str, str]:
    """Labels with the rule's name where Alertmanager has it, and names that it takes."""
    return {"alertname" if name == "rule" else label_name(name): text for name, text in ours.items()}


def label_name(name: str) -> str:
    """A name as Prometheus takes it: letters, digits and underscores."""
    return re.sub(r"^(?=[0-9])|[^a-zA-Z0-9_]", "_", name)


def annotations(alert: AlertTold) -> dict[str, str]:
    """What explains an alert, by the names that are usual with Prometheus."""
    usual = {
        "summary": alert.summary,
        "description": "\n".join(f"{name}: {text}" for name, text in alert.details.items()),
        "runbook_url": alert.runbook,
        "value": value(alert),
        "acknowledged_by": alert.acknowledged_by,
        "simulated": "true" if alert.simulated else None,
    }
    details = {label_name(name): text for name, text in alert.details.items()}
    return details | {name: text for name, text in usual.items() if text}


def moment(time: datetime) -> str:
    """As RFC 3339."""
    return time.isoformat().replace("+00:00", "Z")


def _alert(alert: AlertTold) -> dict[str, Any]:
    return {
        "status": alert.status,
        "labels": labels(alert),
        "annotations": annotations(alert),
        "startsAt": moment(alert.started),
        "endsAt": moment(alert.resolved) if alert.resolved else NOT_ENDED,
        "generatorURL": alert.url or "",
        "fingerprint": alert.fingerprint,
    }

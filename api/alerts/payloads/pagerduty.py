"""PagerDuty's Events API v2: one incident for each group of alerts, by its dedup_key.

Source: PagerDuty/api-schema, reference/events-v2; developer.pagerduty.com, "Send an alert event": summary up to 1,024
characters, dedup_key up to 255, an event up to 512 KB.
"""

from typing import Any

from api.alerts.payloads.alertmanager import moment
from api.alerts.payloads.request import (
    Impossible,
    Request,
    Telling,
    about,
    all_acknowledged,
    clip,
    fitting,
    headline,
    json_request,
    key,
    more,
)

URL = "https://events.pagerduty.com/v2/enqueue"
"""Of accounts in the EU: https://events.eu.pagerduty.com/v2/enqueue."""
SIZE = 500_000


def request(telling: Telling) -> Request:
    """Trigger while something fires, acknowledge when all of it is acknowledged, else resolve."""
    told = telling.notification
    if not told.alerts:
        raise Impossible("the notification has no alert")
    worst = told.alerts[0]
    action = "resolve" if told.status == "resolved" else "acknowledge" if all_acknowledged(told) else "trigger"

    def event(shown: int) -> dict[str, Any]:
        details: dict[str, Any] = {"firing": told.firing, "resolved": told.resolved, **told.group_labels}
        details["alerts"] = [
            {"summary": it.summary, "status": it.status, "severity": it.severity, **about(it)}
            for it in told.alerts[:shown]
        ]
        if rest := more(told, shown):
            details["more"] = rest
        links = [("Alert", worst.url), ("Runbook", worst.runbook), ("Dashboard", told.external_url)]
        return {
            "routing_key": telling.secret,
            "event_action": action,
            "dedup_key": key(told.group_key),
            "client": "Gigawatch",
            **({"client_url": told.external_url} if told.external_url else {}),
            "links": [{"href": url, "text": text} for text, url in links if url],
            "payload": {
                "summary": clip(headline(told), 1_024),
                "source": worst.labels.get("hostname") or worst.labels.get("site") or "gigawatch",
                "severity": told.severity,
                "timestamp": moment(worst.started),
                "class": worst.rule,
                "group": ", ".join(told.group_labels.values()),
                "custom_details": details,
            },
        }

    return json_request(telling.url, fitting(event, len(told.alerts), SIZE))

"""Opsgenie's alert API: one alert for each group, by its alias.

Source: opsgenie/opsgenie-oas, CreateAlertPayload and CloseAlertPayload; docs.opsgenie.com, "Alert API": message up to
130 characters, description 15,000, details 8,000 together, entity 512, tags 20 of 50 each, note 25,000.
"""

from api.alerts.payloads.request import (
    Request,
    Telling,
    about,
    all_acknowledged,
    clip,
    headline,
    json_request,
    key,
    more,
    value,
)

URL = "https://api.opsgenie.com/v2/alerts"
"""Of accounts in the EU: https://api.eu.opsgenie.com/v2/alerts."""
PRIORITIES = {"critical": "P1", "warning": "P3", "info": "P5"}
DESCRIPTION = 15_000
NOTE = 25_000


def request(telling: Telling) -> Request:
    """Create while something fires, acknowledge when all of it is acknowledged, else close."""
    told = telling.notification
    alias = key(told.group_key)
    url, key_header = telling.url.rstrip("/"), {"Authorization": f"GenieKey {telling.secret}"}
    action = "close" if told.status == "resolved" else "acknowledge" if all_acknowledged(told) else None
    if action is not None:
        content = {"source": "Gigawatch", "note": clip(headline(told), NOTE)}
        return json_request(f"{url}/{alias}/{action}?identifierType=alias", content, **key_header)
    lines = []
    for alert in told.alerts:
        facts = ", ".join(f"{name}: {text}" for name, text in about(alert).items())
        lines.append(f"{alert.severity if alert.status == 'firing' else 'resolved'}: {alert.summary} ({facts})")
        lines += [url for url in (alert.url, alert.runbook) if url]
    if rest := more(told, len(told.alerts)):
        lines.append(rest)
    details = {clip(name, 100): clip(text, 200) for name, text in list(told.common_labels.items())[:20]}
    if told.alerts and (shown := value(told.alerts[0])) is not None:
        details["value"] = shown
    return json_request(
        url,
        {
            "message": clip(headline(told), 130),
            "alias": alias,
            "description": clip("\n".join(lines), DESCRIPTION),
            "details": details,
            "entity": clip(", ".join(told.group_labels.values()), 512),
            "tags": ["gigawatch", told.severity],
            "source": "Gigawatch",
            "priority": PRIORITIES[told.severity],
        },
        **key_header,
    )

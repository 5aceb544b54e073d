"""An Alertmanager's own API, POST /api/v2/alerts, as Prometheus pushes to it.

Source: prometheus/alertmanager, api/v2/openapi.yaml, postableAlerts. Alertmanager takes an alert for resolved at its
endsAt; without one, resolve_timeout (5 minutes) after it came. So what fires is sent again and again, as Prometheus
does (each minute, ending four sendings later), and ends by itself if we are gone for long.
"""

from datetime import timedelta

from api.alerts.payloads.alertmanager import annotations, labels, moment
from api.alerts.payloads.request import Request, Telling, json_request

PATH = "/api/v2/alerts"
SEND_AGAIN_S = 300
"""How often what fires must be told again, whatever the route's repeat_interval."""
LASTS = timedelta(seconds=4 * SEND_AGAIN_S)


def request(telling: Telling) -> Request:
    """All alerts of the notification."""
    alerts = []
    for alert in telling.notification.alerts:
        pushed = {
            "labels": labels(alert),
            "annotations": annotations(alert),
            "startsAt": moment(alert.started),
            "endsAt": moment(alert.resolved or telling.now + LASTS),
        }
        # An empty one is no URI, which the API refuses.
        alerts.append(pushed | ({"generatorURL": alert.url} if alert.url else {}))
    # People name an Alertmanager as Prometheus' configuration does, without the path.
    return json_request(telling.url.rstrip("/").removesuffix(PATH) + PATH, alerts)

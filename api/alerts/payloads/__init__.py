"""What each kind of target is sent: from a notification to a request, without sending it."""

from collections.abc import Callable

from api.alerts.payloads import alertmanager, alertmanager_api, opsgenie, pagerduty, slack, teams, template
from api.alerts.payloads.request import Request, Telling

KINDS: dict[str, Callable[[Telling], Request]] = {
    "alertmanager": alertmanager.request,
    "alertmanager_api": alertmanager_api.request,
    "slack": slack.request,
    "teams": teams.request,
    "pagerduty": pagerduty.request,
    "opsgenie": opsgenie.request,
    "template": template.request,
}
USUAL_URLS = {"pagerduty": pagerduty.URL, "opsgenie": opsgenie.URL}
"""Where kinds of targets are that all the world has at one place."""
SECRET_NEEDED = frozenset(USUAL_URLS)
"""Kinds whose secret_file holds their key; that of the others signs bodies."""

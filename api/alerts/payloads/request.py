"""What all payloads are made from and become."""

import hashlib
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

from api.alerts.configuration import Target
from gigawatch.alerts.notification import AlertTold, Notification, with_unit

JSON = "application/json"


class Telling(Struct, frozen=True, kw_only=True):
    """A notification on its way to a target."""

    notification: Notification
    target: Target
    url: str
    secret: str | None
    """What secret_file holds."""
    now: datetime
    """When it is sent, which may be long after it was put out."""


class Request(Struct, frozen=True, kw_only=True):
    """What is sent, by POST."""

    url: str
    body: bytes
    content_type: str = JSON
    headers: dict[str, str] = {}


class Impossible(Exception):
    """It cannot be made, and never will; the message says why."""


class NotYet(Exception):
    """It could not be made, and may be later; the message says why."""


def json_request(url: str, content: object, **headers: str) -> Request:
    """A request whose body is JSON."""
    return Request(url=url, body=msgspec.json.encode(content), headers=headers)


def clip(text: str, length: int) -> str:
    """The text, or its beginning where it is longer than a receiver takes (characters)."""
    return text if len(text) <= length else text[: length - 1] + "…"


def key(group_key: str) -> str:
    """Of a group, 64 hexadecimal digits: receivers bound the length of keys."""
    return hashlib.sha256(group_key.encode()).hexdigest()


def all_acknowledged(notification: Notification) -> bool:
    """Whether people have taken on all that fires."""
    firing = [it for it in notification.alerts if it.status == "firing"]
    return bool(firing) and len(firing) == notification.firing and all(it.acknowledged_by for it in firing)


def value(alert: AlertTold) -> str | None:
    """The alert's value with its unit, as people read it."""
    return None if alert.value is None else with_unit(f"{alert.value:.6g}", alert.unit)


def about(alert: AlertTold) -> dict[str, str]:
    """Facts of an alert, the ones by which it is found first."""
    facts = dict(alert.labels)
    if (shown := value(alert)) is not None:
        facts["value"] = shown
    facts["since"] = f"{alert.started:%Y-%m-%d %H:%M:%S} UTC"
    if alert.acknowledged_by:
        facts["acknowledged by"] = alert.acknowledged_by
    return facts | alert.details


def more(notification: Notification, shown: int) -> str | None:
    """How many alerts are not shown, in words."""
    hidden = notification.left_out + len(notification.alerts) - shown
    return f"and {hidden} more" if hidden else None


def headline(notification: Notification) -> str:
    """The title with what has become of it."""
    simulated = "SIMULATED " if any(it.simulated for it in notification.alerts) else ""
    status = "RESOLVED" if notification.status == "resolved" else notification.severity.upper()
    return f"{simulated}{status}: {notification.title}"


def fitting(build: Callable[[int], dict[str, Any]], alerts: int, size: int) -> dict[str, Any]:
    """Content with as many of the alerts as fit into a size in bytes; the first ones are the worst."""
    shown = alerts
    while True:
        content = build(shown)
        length = len(msgspec.json.encode(content))
        if length <= size or shown == 0:
            return content
        shown = min(shown - 1, shown * size // length)

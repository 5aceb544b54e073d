"""What people have sent: a test of a target, and once more what was given up. The leader sends it at once."""

from datetime import UTC, datetime
from uuid import UUID, uuid4

import msgspec
from sqlalchemy import Connection, text

from gigawatch.alerts.actions import Wrong
from gigawatch.alerts.notification import AlertTold, Notification


def send_test(connection: Connection, target: str, author: str) -> int:
    """Put a notification out that says that it is a test, in the caller's transaction, and give its delivery's number.

    It comes after all that waits for the target, which is tried at once.

    Args:
        connection: of the store's owner.
        target: name of the target.
        author: who wants it.

    Raises:
        Wrong: there is no such target.
    """
    _require_target(connection, target)
    key = uuid4()
    told = notification_of_test(target, author, key, datetime.now(UTC))
    number = connection.scalar(
        text(
            "INSERT INTO gigawatch.alert_delivery (key, target, group_key, why, notification)"
            " VALUES (:key, :target, :group_key, 'test', CAST(:told AS jsonb)) RETURNING delivery_id"
        ),
        {"key": key, "target": target, "group_key": told.group_key, "told": msgspec.json.encode(told).decode()},
    )
    assert isinstance(number, int)
    _try_at_once(connection, target)
    return number


def resend(connection: Connection, delivery_id: int) -> None:
    """Send a notification that was given up once more, in the caller's transaction: with its key, and before all newer.

    Raises:
        Wrong: there is none, or it was not given up, or its target is gone.
    """
    row = connection.execute(
        text("SELECT state, target FROM gigawatch.alert_delivery WHERE delivery_id = :number"), {"number": delivery_id}
    ).one_or_none()
    if row is None or row.state != "dead":
        raise Wrong(
            f"Notification {delivery_id} {'does not exist' if row is None else f'is {row.state}'}",
            "Only those that were given up can be sent again: state dead.",
        )
    _require_target(connection, row.target)
    connection.execute(
        text(
            # From here on it has all the time that a new one has.
            "UPDATE gigawatch.alert_delivery SET state = 'waiting', created = now(), due = now(), attempts = 0"
            " WHERE delivery_id = :number"
        ),
        {"number": delivery_id},
    )
    _try_at_once(connection, row.target)


def notification_of_test(target: str, author: str, key: UUID, now: datetime) -> Notification:
    """A notification that shows a target's receiver, and a template's author, what one looks like."""
    summary = f"This is a test of target {target}, sent by {author}: nothing is wrong"
    alert = AlertTold(
        alert_id=0, fingerprint=key.hex, rule="test", status="firing", severity="info", labels={"target": target},
        summary=summary, value=1.0, unit=None, details={}, started=now, fired=now, resolved=None, runbook=None,
        url=None, acknowledged_by=None, simulated=False,
    )  # fmt: skip
    return Notification(
        group_key=f"test:{key}", target=target, status="firing", why="test", severity="info",
        title=f"Test of target {target}", group_labels={"rule": "test"},
        common_labels={"rule": "test", "severity": "info", "target": target},
        firing=1, resolved=0, alerts=(alert,), left_out=0, external_url=None,
    )  # fmt: skip


def _require_target(connection: Connection, name: str) -> None:
    known = connection.scalars(text("SELECT name FROM gigawatch.alert_target ORDER BY name")).all()
    if name not in known:
        raise Wrong(
            f"No target is named {name[:200]!r}",
            f"Known are: {', '.join(known) or 'none'}. `gigawatch alert apply` configures them.",
        )


def _try_at_once(connection: Connection, target: str) -> None:
    """End back-off and breaker of a target: somebody who wants to see whether it works again does not wait for them."""
    for change in (
        "UPDATE gigawatch.alert_target SET open_until = NULL WHERE name = :target",
        "UPDATE gigawatch.alert_delivery SET due = now() WHERE state = 'waiting' AND target = :target",
        "NOTIFY gigawatch_delivery",
    ):
        connection.execute(text(change), {"target": target})

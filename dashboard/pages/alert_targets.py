"""Targets of alerts: whether they take what they are sent, and what they answered."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from dash import html
from sqlalchemy import Connection

from dashboard import alert_parts, quantities
from dashboard.alert_parts import button, counted, since
from dashboard.components import badge, panel, table
from dashboard.quantities import UNKNOWN
from dashboard.theme import Theme
from dashboard.view import View
from gigawatch.alerts import readings
from gigawatch.alerts.readings import DeliveryLine, TargetNow

SAID = "Whom alerts are sent to. Of addresses scheme and host alone are shown: paths may be secret. Times are UTC."
SHOWN = 100
"""Deliveries, of those that are not sent and of those that are."""
EXAMPLE = """targets:
  on-call:
    kind: alertmanager          # or slack, teams, pagerduty, …
    url: https://on-call.example.com/hooks/gigawatch
route:
  target: on-call"""
TRY = """gigawatch alert check alerts.yaml
gigawatch alert apply alerts.yaml
gigawatch alert send-test on-call"""
STATES = {"sent": ("sent", "ok"), "waiting": ("waiting", "warn"), "dead": ("given up", "bad")}
WHY = {"new": "new alerts", "changed": "changed", "resolved": "resolved", "repeat": "repeated", "test": "test"}


def render(connection: Connection, asked: View, _: Theme, now: datetime) -> Any:
    """The page."""
    targets = readings.targets(connection)
    dead = readings.delivery_lines(connection, states=("dead",), limit=SHOWN)
    newest = readings.delivery_lines(connection, states=("waiting", "sent"), limit=SHOWN)
    return alert_parts.page(
        connection, asked, "/alerts/targets", "Targets of alerts", SAID, now,
        panel("Targets", *([_targets(targets, now)] if targets else _how()), wide=True),
        *(
            [panel("Given up", deliveries(dead, now), wide=True, note="each can be sent again, with the same key")]
            if dead
            else []
        ),
        panel("Notifications", deliveries(newest, now), wide=True, note=f"the last {SHOWN}, the newest first"),
    )  # fmt: skip


def _targets(targets: Sequence[TargetNow], now: datetime) -> html.Div:
    def state(it: TargetNow) -> Any:
        if it.open_until is not None and it.open_until > now:
            wait = quantities.duration((it.open_until - now).total_seconds())
            return [badge("not asked for a while", "bad"), html.Span(f"tried again in {wait}", className="note")]
        if it.failures:
            return badge(f"failed {counted(it.failures, 'time')}", "warn")
        if not it.routed:
            return [badge("no route", "warn"), html.Span("it is told of tests alone", className="note")]
        return badge("well", "ok") if it.succeeded else badge("not asked yet")

    def failed(it: TargetNow) -> list[Any]:
        why = [html.Span(it.error, className="note failure")] if it.failures and it.error else []
        return [since(it.failed, now), *why]

    return table(
        "Targets of alerts",
        ["Target", "Kind", "Address", "State", "Last took", "Last failed", "Waiting", "Given up", "Act"],
        [
            [
                it.name,
                it.kind,
                html.Code(it.address),
                state(it),
                since(it.succeeded, now),
                failed(it),
                quantities.count(it.waiting),
                quantities.count(it.dead),
                button("send_test", it.name, "Send a test", f"to {it.name}"),
            ]
            for it in targets
        ],
        "No target is configured.",
        numbers=[6, 7],
        stacked=True,
    )


def _how() -> list[Any]:
    """What to do where there is none."""
    return [
        html.P("Say in a file whom to tell, and of what:"),
        html.Pre(EXAMPLE, tabIndex=0),
        html.P("Bring it into force, and see that a test arrives. docs/alerts.md has all that the file may say."),
        html.Pre(TRY, tabIndex=0),
    ]


def deliveries(found: Sequence[DeliveryLine], now: datetime, empty: str = "Nothing was put out.") -> html.Div:
    """Notifications as a table."""

    def answer(it: DeliveryLine) -> Any:
        if it.attempts == 0:
            return UNKNOWN
        # The answer begins with its status where there is one.
        took = f" in {quantities.latency(it.duration_ms / 1000)}" if it.duration_ms is not None else ""
        status = f"HTTP {it.status}" if it.status is not None else "no answer"
        return [f"{status}{took}", html.Span(it.answer, className="note failure") if it.answer else None]

    def state(it: DeliveryLine) -> Any:
        words, tone = STATES[it.state]
        wait = quantities.duration((it.due - now).total_seconds())
        again = it.state == "waiting" and it.due > now
        return [badge(words, tone), *([html.Span(f"again in {wait}", className="note")] if again else [])]

    def act(it: DeliveryLine) -> Any:
        dead = it.state == "dead"
        return button("resend", it.delivery_id, "Send again", f"notification {it.delivery_id}") if dead else None

    return table(
        "Notifications, the newest first",
        ["Number", "Target", "What", "State", "Put out", "Attempts", "Answer", "Act"],
        [
            [
                str(it.delivery_id),
                it.target,
                [html.Span(it.title), html.Span(WHY[it.why], className="note")],
                state(it),
                since(it.created, now),
                quantities.count(it.attempts),
                answer(it),
                act(it),
            ]
            for it in found
        ],
        empty,
        numbers=[5],
        stacked=True,
    )

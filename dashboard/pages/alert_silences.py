"""Silences and maintenance windows: in force, to come, ended; and a form to begin one."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from dash import dcc, html
from sqlalchemy import Connection

from dashboard import alert_parts, quantities
from dashboard.alert_parts import button, since
from dashboard.components import badge, panel, table
from dashboard.theme import Theme
from dashboard.view import View
from gigawatch.alerts import matchers, readings
from gigawatch.alerts.matchers import Matcher
from gigawatch.alerts.readings import Silence

SAID = "Nobody is told of alerts that a silence is of, while it is in force. Times are UTC."
DURATIONS = {
    "0.5": "30 minutes", "1": "1 hour", "2": "2 hours", "4": "4 hours", "8": "8 hours", "24": "1 day", "72": "3 days",
    "168": "7 days", "720": "30 days",
}  # fmt: skip
"""By hours."""
USUAL = "2"
MOST_TEXT = 5_000
ENDED = 100
"""Of silences that are over, the newest are shown."""


def render(connection: Connection, asked: View, _: Theme, now: datetime) -> Any:
    """The page."""
    silences = readings.silences(connection, ended=True, limit=1_000)
    parts = {state: [it for it in silences if it.state == state] for state in ("in force", "to come", "ended")}
    over = parts["ended"][:ENDED]
    last = html.Summary(f"The last: {alert_parts.counted(len(over), 'silence')}")
    # All are always there: were one to come or go, the page would be sent whole, and what somebody is writing lost.
    return alert_parts.page(
        connection, asked, "/alerts/silences", "Silences", SAID, now,
        panel("In force", _table(parts["in force"], now, "No silence is in force."), wide=True),
        panel("To come", _table(parts["to come"], now, "No silence is to come."), wide=True),
        _form(connection, asked, now),
        panel(
            "Ended",
            html.Details([last, _table(over, now, "")]) if over else html.P("No silence has ended.", className="empty"),
            wide=True,
        ),
    )  # fmt: skip


def _table(silences: Sequence[Silence], now: datetime, empty: str) -> html.Div:
    def when(it: Silence) -> Any:
        period = f"{it.starts:%Y-%m-%d %H:%M} to {it.ends:%Y-%m-%d %H:%M}"
        if it.state == "ended":
            note = f"ended by {it.ended_by}" if it.ended_by else "ended by its time"
        else:
            left = it.ends if it.state == "in force" else it.starts
            words = "ends in" if it.state == "in force" else "begins in"
            note = f"{words} {quantities.duration((left - now).total_seconds())}"
        return [html.Time(period), html.Span(note, className="note")]

    def what(it: Silence) -> list[Any]:
        kind = [" ", badge("maintenance")] if it.kind == "maintenance" else []
        return [html.Code(", ".join(map(str, it.matchers))), *kind]

    def act(it: Silence) -> Any:
        over = it.state == "ended"
        return None if over else button("end_silence", it.silence_id, "End", f"silence {it.silence_id}")

    return table(
        "Silences",
        ["Number", "Of alerts with", "When", "Why", "By", "Open alerts", "Act"],
        [
            [
                str(it.silence_id),
                what(it),
                when(it),
                html.Span(it.reason, className="reason"),
                [it.author, html.Span(since(it.created, now), className="note")],
                quantities.count(it.alerts),
                act(it),
            ]
            for it in silences
        ],
        empty,
        numbers=[5],
        stacked=True,
    )  # fmt: skip


def _form(connection: Connection, asked: View, now: datetime) -> html.Section:
    like = None if asked.like is None else readings.alert(connection, asked.like)
    begins = "" if like is None else "\n".join(
        f'{name}="{value}"' for name, value in [("rule", like.rule), *alert_parts.in_order(like.labels)]
    )  # fmt: skip
    durations = [html.Option(text, value=hours, selected=hours == USUAL) for hours, text in DURATIONS.items()]
    form = html.Form(
        [
            html.Label(
                [
                    "Alerts with all of these",
                    dcc.Textarea(
                        id="silence-matchers", name="matchers", value=begins, rows=6, required=True, spellCheck=False,
                        placeholder='rule=gpu_temperature\nsite=oslo\nrack=~"A1-.*"', maxLength=MOST_TEXT,
                    ),
                    html.Span(
                        "One a line: label, =, !=, =~ or !~ (a pattern), value. rule and severity are labels too.",
                        className="note",
                    ),
                ],
                htmlFor="silence-matchers", className="broad",
            ),
            html.P(id="silence-preview", role="status", className="broad preview"),
            html.Label(["For", html.Select(durations, id="silence-hours", name="hours")], htmlFor="silence-hours"),
            html.Label(
                ["From (UTC)", dcc.Input(id="silence-from", name="starts", type="text",
                                         placeholder=f"now, or {now:%Y-%m-%d} 22:00",
                                         autoComplete="off")],
                htmlFor="silence-from",
            ),
            html.Label(["Kind", html.Select([html.Option("Silence", value="silence"),
                                             html.Option("Maintenance, planned", value="maintenance")],
                                            id="silence-kind", name="kind")], htmlFor="silence-kind"),
            html.Label(
                ["Why", dcc.Input(id="silence-reason", name="reason", type="text", required=True, maxLength=1_000,
                                  placeholder="Who reads it should know what is done about it", autoComplete="off")],
                htmlFor="silence-reason", className="broad",
            ),
            html.Div(button("silence", "", "Silence these alerts", kind="submit"), className="broad"),
        ],
        className="form", **{"data-act": "silence"},
    )  # fmt: skip
    title = "New silence" if like is None else f"New silence, like alert {like.alert_id}"
    # Not a live part: a refresh would undo what somebody is writing.
    return html.Section([html.Header([html.H2(title, id="new")]), form], className="panel wide")


def parse(text: str | None) -> list[Matcher]:
    """Matchers, one a line.

    Raises:
        ValueError: one of them is none; the message says why.
    """
    return [matchers.parse(line) for line in (text or "")[:MOST_TEXT].splitlines() if line.strip()]


def preview(connection: Connection, text: str | None) -> list[Any]:
    """How many alerts a silence would keep quiet now, or why it cannot be."""
    try:
        meant = parse(text)
    except ValueError as error:
        return [badge("not yet", "warn"), f" {error}"]
    if not meant:
        return ["It says here how many of the open alerts that would silence."]
    if all(it.matches({}) for it in meant):
        return [badge("not yet", "warn"), " These hold for whatever has no such label: name one value at least."]
    number = readings.silenced_by(connection, meant)
    return ["Of the alerts that are open now it would silence ", html.B(quantities.count(number)), "."]

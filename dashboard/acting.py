"""What people do to alerts: theme.js says which button was pressed or which form was sent; here it is done or refused.

Who may is asked of the store anew, and a page of ours alone may ask: a browser keeps our cookie back where another's
page does, and says so.
"""

import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal

from msgspec import Struct
from sqlalchemy import Engine

from dashboard import quantities, view
from dashboard.access import AWAY, Access
from dashboard.alert_parts import counted
from dashboard.pages import alert_silences, alerts
from dashboard.view import View
from gigawatch.alerts import actions, readings, sending
from gigawatch.alerts.actions import Wrong
from gigawatch.alerts.readings import DeliveryLine

log = logging.getLogger(__name__)
SAID_FOR_S = 30
"""What came of it stays on the page so long."""
WAIT_S = 2.0
"""For a target's answer to a test; a later one is in the list."""
LOOK_EVERY_S = 0.1


class Done(Struct, frozen=True, kw_only=True):
    """What came of it."""

    words: str
    good: bool
    path: str
    """The page that says it,"""
    until: datetime
    """and how long."""


Fields = Mapping[str, str]


class Actions:
    """What can be done.

    Args:
        access: who may; its engine writes.
        reader: of the report role.
    """

    def __init__(self, access: Access, reader: Engine) -> None:
        self._access = access
        self._reader = reader
        self._acts: dict[str, Callable[[Fields, str, View], str]] = {
            "acknowledge": self._acknowledge,
            "acknowledge_rule": self._acknowledge_rule,
            "silence": self._silence,
            "end_silence": self._end_silence,
            "send_test": self._send_test,
            "resend": self._resend,
        }

    def do(self, wanted: Mapping[str, object], asked: View, path: str) -> Done:
        """Do what a button or form says, of the page at path that shows asked."""
        fields = {str(key): str(value)[: alert_silences.MOST_TEXT].replace("\0", "") for key, value in wanted.items()}
        act = self._acts.get(fields.get("act", ""))
        good = False
        try:
            actor = self._access.actor()
            if actor is None:
                words = "Not done: your token may look and not act. Log in with one of role operator."
            elif act is None:
                words = "Not done: this page is of another version. Load it again."
            else:
                words, good = act(fields, actor.name, asked), True
                log.info("%s: %s", actor.name, words)
        except Wrong as error:
            words = f"Not done. {error.problem}. {error.remedy}"
        except ValueError as error:
            words = f"Not done: {error}."
        except AWAY:
            words = "Not done: the database cannot be reached. Try again in a moment."
        return Done(words=words, good=good, path=path, until=datetime.now(UTC) + timedelta(seconds=SAID_FOR_S))

    def _acknowledge(self, fields: Fields, author: str, _: View) -> str:
        number = _number(fields)
        with self._access.engine.begin() as connection:
            actions.acknowledge(connection, [number], author, fields.get("note", ""))
        return f"Acknowledged alert {number} as {author}."

    def _acknowledge_rule(self, fields: Fields, author: str, asked: View) -> str:
        part, _, rule = fields["of"].partition(":")
        meant = alerts.wanted(View(site=asked.site, severity=asked.severity, rule=rule), part)
        with self._access.engine.begin() as connection:
            done = actions.acknowledge(connection, readings.open_numbers(connection, meant), author)
        return f"Acknowledged {counted(done, 'alert')} of {rule} as {author}."

    def _silence(self, fields: Fields, author: str, _: View) -> str:
        hours = fields.get("hours", "")
        if hours not in alert_silences.DURATIONS:
            raise ValueError(f"{hours[:20]!r} is none of the durations")
        typed = fields.get("starts", "").strip()
        starts = view.moment("from", typed) if typed else datetime.now(UTC)
        ends = starts + timedelta(hours=float(hours))
        kind: Literal["silence", "maintenance"] = "maintenance" if fields.get("kind") == "maintenance" else "silence"
        with self._access.engine.begin() as connection:
            number = actions.silence(
                connection, alert_silences.parse(fields.get("matchers")), starts=starts, ends=ends, author=author,
                reason=fields.get("reason", ""), kind=kind,
            )  # fmt: skip
        return f"Silence {number} is there, until {ends:%Y-%m-%d %H:%M} UTC, as {author}."

    def _end_silence(self, fields: Fields, author: str, _: View) -> str:
        number = _number(fields)
        with self._access.engine.begin() as connection:
            actions.end_silence(connection, number, author)
        return f"Ended silence {number} as {author}."

    def _send_test(self, fields: Fields, author: str, _: View) -> str:
        target = fields.get("of", "")
        with self._access.engine.begin() as connection:
            number = sending.send_test(connection, target, author)
        return f"Test {number} to {target}: {self._outcome(number)}"

    def _resend(self, fields: Fields, _: str, __: View) -> str:
        number = _number(fields)
        with self._access.engine.begin() as connection:
            sending.resend(connection, number)
        return f"Notification {number} goes out again: {self._outcome(number)}"

    def _outcome(self, number: int) -> str:
        """What a target answered, if it did so at once."""
        deadline_s = time.monotonic() + WAIT_S
        while True:
            with self._reader.connect() as connection:
                line = readings.delivery_line(connection, number)
            if line is None or line.attempts or time.monotonic() >= deadline_s:
                return outcome(line)
            time.sleep(LOOK_EVERY_S)


def outcome(line: DeliveryLine | None) -> str:
    """How a delivery went so far, in words."""
    if line is None or (line.state == "waiting" and not line.attempts):
        return "it waits; the list below says what comes of it."
    words = {"sent": "sent", "waiting": "not taken, and tried again", "dead": "given up"}[line.state]
    took = "" if line.duration_ms is None else f" after {quantities.latency(line.duration_ms / 1000)}"
    return f"{words}{took}: {line.answer or 'no answer'}"


def _number(fields: Fields) -> int:
    given = fields.get("of", "")
    if not (given.isascii() and given.isdigit() and len(given) < 19):
        raise ValueError(f"{given[:30]!r} is not a number")
    return int(given)

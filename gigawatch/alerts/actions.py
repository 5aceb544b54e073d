"""What people do to alerts, wherever they do it: silence and acknowledge them. The leader looks at once."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec
from sqlalchemy import Connection, text

from gigawatch.alerts.matchers import Matcher
from gigawatch.errors import ExitCode, GigawatchError

ALERTS_LOCK = 0x6769_6761
"""Held by each transaction that changes alerts: they would else wait for each other's rows crosswise, and a leader that
does not know yet that it leads no more would tell twice."""
MOST_MATCHERS = 20
MOST_DAYS = 366
MOST_WORDS = 1_000


class Wrong(GigawatchError):
    """What somebody asked for cannot be done."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy, ExitCode.DATA)


def silence(
    connection: Connection,
    matchers: Sequence[Matcher],
    *,
    starts: datetime,
    ends: datetime,
    author: str,
    reason: str,
    kind: Literal["silence", "maintenance"] = "silence",
) -> int:
    """Keep alerts quiet whose labels, rule and severity all the matchers hold for.

    Args:
        connection: of the store's owner, in the caller's transaction.
        matchers: at least one of which an empty label does not satisfy.
        starts: from when; it may be in the past.
        ends: until when.
        author: who wants it.
        reason: why.
        kind: a silence, or a maintenance window that was planned.

    Returns:
        The silence's number.

    Raises:
        Wrong: a value cannot be; the message names it.
    """
    if not 1 <= len(matchers) <= MOST_MATCHERS:
        raise Wrong(f"There are {len(matchers)} matchers", f"Give 1 to {MOST_MATCHERS}, as site=oslo.")
    if all(it.matches({}) for it in matchers):
        raise Wrong(
            f"{', '.join(map(str, matchers))} would silence everything that has no such label",
            "Give at least one matcher with a value, as rule=gpu_temperature.",
        )
    if ends <= starts or ends <= datetime.now(UTC):
        raise Wrong(
            f"It would end at {ends:%Y-%m-%d %H:%M} UTC, and be over", "Give an end in the future, after its start."
        )
    if ends - starts > timedelta(days=MOST_DAYS):
        raise Wrong(
            f"It would last {(ends - starts).days} days", f"Give {MOST_DAYS} days at most: no alert is for ever."
        )
    number = connection.scalar(
        text(
            "INSERT INTO gigawatch.alert_silence (kind, matchers, starts, ends, author, reason)"
            " VALUES (:kind, CAST(:matchers AS jsonb), :starts, :ends, :author, :reason) RETURNING silence_id"
        ),
        {
            "kind": kind, "matchers": msgspec.json.encode(matchers).decode(), "starts": starts, "ends": ends,
            "author": _words("author", author), "reason": _words("reason", reason),
        },
    )  # fmt: skip
    _look(connection)
    assert isinstance(number, int)
    return number


def end_silence(connection: Connection, silence_id: int, author: str) -> None:
    """End a silence now.

    Raises:
        Wrong: there is none of that number that has not ended.
    """
    done = connection.execute(
        text(
            "UPDATE gigawatch.alert_silence SET ends = greatest(starts, now()), starts = least(starts, now()),"
            " ended_by = :author WHERE silence_id = :number AND ends > now()"
        ),
        {"number": silence_id, "author": _words("author", author)},
    )
    if done.rowcount == 0:
        raise Wrong(f"There is no silence {silence_id} in force or to come", "See `gigawatch alert silences`.")
    _look(connection)


def acknowledge(connection: Connection, alert_ids: Sequence[int], author: str, note: str = "") -> int:
    """Say that somebody takes these alerts on: they are not told again while nothing changes.

    Returns:
        How many of them there are that have not ended and nobody had taken on.

    Raises:
        Wrong: none of them is open, or the note cannot be; the message says why.
    """
    values = {
        "numbers": list(alert_ids), "author": _words("author", author),
        "note": _words("note", note) if note.strip() else None,
    }  # fmt: skip
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": ALERTS_LOCK})
    done = connection.execute(
        text(
            "WITH taken AS ("
            "UPDATE gigawatch.alert SET acknowledged = now(), acknowledged_by = :author, acknowledgement = :note"
            " WHERE alert_id = ANY(:numbers) AND state <> 'resolved' AND acknowledged IS NULL RETURNING alert_id"
            ") INSERT INTO gigawatch.alert_change (alert_id, change, author, note)"
            " SELECT alert_id, 'acknowledged', :author, :note FROM taken"
        ),
        values,
    ).rowcount
    if not done:
        raise Wrong("None of these alerts is open and not acknowledged yet", "See `gigawatch alert list`.")
    _look(connection)
    return done


def _words(name: str, value: str) -> str:
    value = value.strip()
    if not 1 <= len(value) <= MOST_WORDS or "\0" in value:
        raise Wrong(f"The {name} is {value[:40]!r}", f"Give 1 to {MOST_WORDS:,} characters.")
    return value


def _look(connection: Connection) -> None:
    connection.execute(text("SELECT pg_notify('gigawatch_alerts', '')"))

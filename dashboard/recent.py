"""What was read a moment ago, for all who look at the same: ten people at one page ask the store once.

A value of now is kept for so few seconds that a page's own refresh always reads anew; its age shows in the badge at the
top as that of any other. While one reads, others who want the same wait for it.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection

T = TypeVar("T")
P = ParamSpec("P")
KEPT_S = 4.0
FOLDED_KEPT_S = 90.0
HOURLY_KEPT_S = 300.0
MOST = 500


class _Entry:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.read_s = 0.0
        self.until = 0.0
        self.value: Any = None


_entries: dict[Any, _Entry] = {}
_guard = threading.Lock()
_since_s = ContextVar("_since_s", default=0.0)


@contextmanager
def anew() -> Iterator[None]:
    """Within it, what was read before is read again, for all who come after."""
    token = _since_s.set(time.monotonic())
    try:
        yield
    finally:
        _since_s.reset(token)


def read(what: Callable[Concatenate[Connection, P], T], connection: Connection, *args: P.args, **given: P.kwargs) -> T:
    """What the named read gives, or gave within the last KEPT_S seconds to somebody else.

    Args:
        what: a function of gigawatch.readings.
        connection: of the report role.
        *args: its other arguments, all of them hashable.
        **given: the same.
    """
    return _read(KEPT_S, what, connection, *args, **given)


def read_folded(
    what: Callable[Concatenate[Connection, P], T], connection: Connection, *args: P.args, **given: P.kwargs
) -> T:
    """The same, within the last FOLDED_KEPT_S seconds: of figures up to one minute, until those up to the next come."""
    return _read(FOLDED_KEPT_S, what, connection, *args, **given)


def read_hourly(
    what: Callable[Concatenate[Connection, P], T], connection: Connection, *args: P.args, **given: P.kwargs
) -> T:
    """The same, within the last HOURLY_KEPT_S seconds: of periods that end where whole hours are known."""
    return _read(HOURLY_KEPT_S, what, connection, *args, **given)


def _read(kept_s: float, what: Callable[..., T], connection: Connection, *args: Any, **given: Any) -> T:
    entry = _entry((connection.engine.url, what, args, tuple(sorted(given.items()))))
    with entry.lock:
        began_s = time.monotonic()
        if began_s >= entry.until or entry.read_s < _since_s.get():
            entry.value = what(connection, *args, **given)
            entry.read_s = began_s
            entry.until = time.monotonic() + kept_s
        value: T = entry.value
        return value


def _entry(key: Any) -> _Entry:
    with _guard:
        if key not in _entries and len(_entries) >= MOST:
            now = time.monotonic()
            for other in [it for it, entry in _entries.items() if entry.until < now and not entry.lock.locked()]:
                del _entries[other]
        return _entries.setdefault(key, _Entry())

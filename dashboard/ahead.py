"""Energy per token, read before anybody asks for it.

It changes once a minute, when another minute is folded, and to read it of 500 deployments takes the store about a
second. So a thread reads for the new minute what was shown lately, and pages go on to that minute when it is done: who
looks on does not wait. Only who asks for what nobody asked for lately does.
"""

import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime

import sqlalchemy
from sqlalchemy import URL, Connection, Engine

from dashboard import recent
from dashboard.view import View
from gigawatch import token_readings

LATELY_S = 90.0
"""Pages that are looked at ask again within this time, even where the browser's tab is in the background."""
MOST_VIEWS = 10
"""Read ahead: those asked for last."""
LOOK_EVERY_S = 2.0
LATE_S = 30.0
"""Reading ahead that takes longer than this, or fails, holds nobody up."""
log = logging.getLogger(__name__)

Read = Callable[[Connection, View, datetime], object]
"""Reads all that a view shows of the minutes up to a moment."""


class Ahead(threading.Thread):
    """Reads ahead for all pages of one store.

    Args:
        reader: of the report role.
        read: what is to be kept by `recent`.
    """

    def __init__(self, reader: Engine, read: Read) -> None:
        super().__init__(name="reading ahead", daemon=True)
        self._reader = reader
        self._read = read
        self._ending = threading.Event()
        self._guard = threading.Lock()
        self._asked: dict[View, float] = {}
        """When each view was last asked for, by the monotonic clock, the latest last."""
        self._until: datetime | None = None
        self._looked_s = 0.0

    def run(self) -> None:
        """Look for another minute until told to stop."""
        while not self._ending.wait(LOOK_EVERY_S):
            try:
                self._look()
            except sqlalchemy.exc.SQLAlchemyError as error:
                # Who asks now reads for himself, and is told why it fails; here it is tried again.
                log.debug("reading ahead: %s", error)
                with self._guard:
                    self._until = None

    def stop(self) -> None:
        """End soon."""
        self._ending.set()

    def until(self, asked: View) -> datetime | None:
        """Up to when it was read ahead; None where that is not known, or was too long ago."""
        now_s = time.monotonic()
        with self._guard:
            self._asked.pop(asked, None)
            self._asked[asked] = now_s
            return self._until if now_s - self._looked_s < LATE_S else None

    def _look(self) -> None:
        with self._reader.connect() as connection:
            newest = token_readings.tokens_until(connection)
            if newest != self._until:
                for asked in self._views():
                    self._read(connection, asked, newest)
        with self._guard:
            self._until, self._looked_s = newest, time.monotonic()

    def _views(self) -> list[View]:
        """What was asked for lately, and the page as the navigation leads to it."""
        since_s = time.monotonic() - LATELY_S
        with self._guard:
            self._asked = {view: at_s for view, at_s in self._asked.items() if at_s >= since_s}
            lately = [*self._asked][-MOST_VIEWS:]
        return [*lately, *({View()} - {*lately})]


_of_store: dict[URL, Ahead] = {}


def start(reader: Engine, read: Read) -> Ahead:
    """Read ahead from now on, for all whose connections are to this reader's store."""
    thread = _of_store[reader.url] = Ahead(reader, read)
    thread.start()
    return thread


def until(connection: Connection, asked: View) -> datetime:
    """Up to when figures of deployments are known, and read ahead where somebody does that."""
    thread = _of_store.get(connection.engine.url)
    found = None if thread is None else thread.until(asked)
    return recent.read(token_readings.tokens_until, connection) if found is None else found

"""Energy per token and the facility, read before anybody asks for them.

They change once a minute, or an hour, when another is folded, and to read them of 500 deployments or of 20 sites takes
the store up to a second. So a thread for each reads what was shown lately for the new minute or hour, and pages go on
to that when it is done: who looks on does not wait. Only who asks for what nobody asked for lately does.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime

import sqlalchemy
from sqlalchemy import URL, Connection, Engine

from dashboard import recent
from dashboard.view import View

LATELY_S = 90.0
"""Pages that are looked at ask again within this time, even where the browser's tab is in the background."""
MOST_VIEWS = 10
"""Read ahead: those asked for last."""
LOOK_EVERY_S = 2.0
LATE_S = 30.0
"""Reading ahead that takes longer than this, or fails, holds nobody up."""
log = logging.getLogger(__name__)

Newest = Callable[[Connection], datetime]
"""Up to when figures are known."""
Read = Callable[[Connection, View, datetime], object]
"""Reads all that a view shows of figures up to a moment."""


class Ahead(threading.Thread):
    """Reads ahead for all views of one page of a store.

    Args:
        reader: of the report role.
        newest: what says that there is more to be read.
        read: what is to be kept by `recent`.
        always: views that are read though nobody asked: what the navigation opens.
        again_s: after so long all is read again though nothing is newer, before `recent` keeps it no longer.
    """

    def __init__(self, reader: Engine, newest: Newest, read: Read, always: Sequence[View], again_s: float) -> None:
        super().__init__(name="reading ahead", daemon=True)
        self._reader = reader
        self._newest = newest
        self._read = read
        self._always = always
        self._again_s = again_s
        self._ending = threading.Event()
        self._guard = threading.Lock()
        self._asked: dict[View, float] = {}
        """When each view was last asked for, by the monotonic clock, the latest last."""
        self._until: datetime | None = None
        self._looked_s = self._read_s = 0.0

    def run(self) -> None:
        """Look for what is newer, at once and from then on, until told to stop."""
        while not self._ending.is_set():
            try:
                self._look()
            except sqlalchemy.exc.SQLAlchemyError as error:
                # Who asks now reads for himself, and is told why it fails; here it is tried again.
                log.debug("reading ahead: %s", error)
                with self._guard:
                    self._until = None
            self._ending.wait(LOOK_EVERY_S)

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
            newest = self._newest(connection)
            now_s = time.monotonic()
            if newest != self._until or now_s - self._read_s >= self._again_s:
                with recent.anew():
                    for asked in self._views():
                        self._read(connection, asked, newest)
                self._read_s = now_s
        with self._guard:
            self._until, self._looked_s = newest, time.monotonic()

    def _views(self) -> list[View]:
        """What was asked for lately, and what always is read."""
        since_s = time.monotonic() - LATELY_S
        with self._guard:
            self._asked = {view: at_s for view, at_s in self._asked.items() if at_s >= since_s}
            lately = [*self._asked][-MOST_VIEWS:]
        return [*lately, *(it for it in self._always if it not in lately)]


_of_store: dict[tuple[URL, Newest], Ahead] = {}


def start(
    reader: Engine, newest: Newest, read: Read, always: Sequence[View] = (View(),), again_s: float = math.inf
) -> Ahead:
    """Read ahead from now on, for all whose connections are to this reader's store."""
    thread = _of_store[reader.url, newest] = Ahead(reader, newest, read, always, again_s)
    thread.start()
    return thread


def until(connection: Connection, newest: Newest, asked: View) -> datetime:
    """Up to when figures are known, and read ahead where somebody does that."""
    thread = _of_store.get((connection.engine.url, newest))
    found = None if thread is None else thread.until(asked)
    return recent.read(newest, connection) if found is None else found

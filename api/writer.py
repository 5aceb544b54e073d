"""The thread between requests and store: gathers what arrives within some milliseconds into one transaction."""

import asyncio
import logging
import queue
import threading
import time
from typing import NamedTuple

import psycopg
import sqlalchemy
from sqlalchemy import Engine

from api.decode import Parcel
from api.store import Outcome, Store

MOST_WAITING = 256
"""Batches that wait to be stored; beyond it requests are turned away, so that memory stays bounded."""
MOST_ROWS = 100_000
"""GPU windows in one transaction."""
log = logging.getLogger(__name__)


class Busy(Exception):
    """Too many batches wait already; ask again soon."""


class StoreUnreachable(Exception):
    """The database cannot be reached; nothing of the batch is acknowledged."""


class _Waiting(NamedTuple):
    parcel: Parcel
    answer: "asyncio.Future[Outcome]"
    loop: asyncio.AbstractEventLoop


class Writer:
    """Takes parcels from many requests and stores them in one thread.

    Args:
        engine: of the store's owner.
        gather_s: how long to wait for more once a parcel is there.
    """

    def __init__(self, engine: Engine, gather_s: float) -> None:
        self._store = Store(engine)
        self._gather_s = gather_s
        self._queue: queue.Queue[_Waiting | None] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._work, name="writer")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Store what waits, and end."""
        self._queue.put(None)
        self._thread.join()

    async def store(self, parcel: Parcel) -> Outcome:
        """The outcome of storing the parcel, after the commit.

        Raises:
            Busy: too many wait already.
            StoreUnreachable: the database is away.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Outcome] = loop.create_future()
        try:
            self._queue.put_nowait(_Waiting(parcel, answer, loop))
        except queue.Full as error:
            raise Busy(f"{MOST_WAITING} batches wait to be stored") from error
        return await answer

    def _work(self) -> None:
        ending = False
        while not ending:
            first = self._queue.get()
            if first is None:
                return
            gathered, ending = self._gather(first)
            self._answer(gathered)

    def _gather(self, first: _Waiting) -> tuple[list[_Waiting], bool]:
        """What arrives soon after the first, and whether the end was among it."""
        gathered, rows = [first], first.parcel.gpu_rows.count
        deadline = time.monotonic() + self._gather_s
        while rows < MOST_ROWS:
            try:
                waiting = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if waiting is None:
                return gathered, True
            gathered.append(waiting)
            rows += waiting.parcel.gpu_rows.count
        return gathered, False

    def _answer(self, gathered: list[_Waiting]) -> None:
        try:
            outcomes = self._store.store([waiting.parcel for waiting in gathered])
        except (psycopg.OperationalError, psycopg.InterfaceError, sqlalchemy.exc.DBAPIError) as error:
            log.warning("the database cannot be reached: %s", str(error).splitlines()[0])
            self._fail(gathered, StoreUnreachable("The database cannot be reached"))
        except Exception as error:
            # One batch that we did not foresee must not end the thread that all others need.
            log.exception("batches cannot be stored")
            self._fail(gathered, error)
        else:
            for waiting, outcome in zip(gathered, outcomes, strict=True):
                _tell(waiting, outcome)

    @staticmethod
    def _fail(gathered: list[_Waiting], error: Exception) -> None:
        for waiting in gathered:
            _tell(waiting, error)


def _tell(waiting: _Waiting, outcome: Outcome | Exception) -> None:
    """Hand the outcome to the request's own thread, if its client is still there."""

    def settle() -> None:
        if waiting.answer.done():
            return
        if isinstance(outcome, (Busy, StoreUnreachable)) or (
            isinstance(outcome, Exception) and not isinstance(outcome, Outcome)
        ):
            waiting.answer.set_exception(outcome)
        else:
            waiting.answer.set_result(outcome)

    try:
        waiting.loop.call_soon_threadsafe(settle)
    except RuntimeError:
        log.debug("the request's loop has ended")

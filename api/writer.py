"""The thread between requests and store: gathers what arrives within some milliseconds into one transaction."""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from itertools import islice
from typing import NamedTuple

import psycopg
import sqlalchemy
from sqlalchemy import Engine

from api.counts import WAITING_BYTES, Counts
from api.decode import Parcel
from api.store import Outcome, Store
from gigawatch.units import BYTES_PER_MIB
from gigawatch.wire import Receipt

MOST_ROWS = 40_000
"""GPU windows in one transaction, more or less: it takes some tenths of a second."""
log = logging.getLogger(__name__)


class Busy(Exception):
    """Too much waits already; ask again soon."""


class StoreUnreachable(Exception):
    """The database cannot be reached; nothing of the batch is acknowledged."""


class _Waiting(NamedTuple):
    parcels: list[Parcel]
    rows: int
    size_bytes: int
    answer: "asyncio.Future[list[Outcome]]"
    loop: asyncio.AbstractEventLoop


class Writer:
    """Takes parcels from many requests and stores them in one thread.

    Args:
        engine: of the store's owner.
        gather_s: how long to wait for more once a parcel is there.
        most_bytes: of batches that wait to be stored; beyond it requests are turned away, so that memory stays bounded.
        keep: how old a window may be to be taken.
        counts: where to count what is done.
    """

    def __init__(self, engine: Engine, gather_s: float, most_bytes: int, keep: timedelta, counts: Counts) -> None:
        self._store = Store(engine, keep)
        self._gather_s = gather_s
        self._most_bytes = most_bytes
        self._waiting_bytes = 0
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="writer")
        self.counts = counts

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Store what waits, and end."""
        self._queue.put(None)
        self._thread.join()

    async def store(self, parcels: list[Parcel], size_bytes: int) -> list[Outcome]:
        """The outcomes of storing the parcels of one request, after the commit.

        Args:
            parcels: one, or a relay's many.
            size_bytes: of the request's body.

        Raises:
            Busy: too much waits already.
            StoreUnreachable: the database is away.
        """
        # One request is always taken, however large. The event loop alone changes the sum.
        if self._waiting_bytes and self._waiting_bytes + size_bytes > self._most_bytes:
            self.counts.add("turned_away", 1)
            raise Busy(f"{self._waiting_bytes / BYTES_PER_MIB:.0f} MiB wait to be stored")
        self._wait(size_bytes)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[Outcome]] = loop.create_future()
        rows = sum(packed.windows.rows for parcel in parcels for packed in parcel.gpu_windows)
        try:
            self._queue.put(_Waiting(parcels, rows, size_bytes, answer, loop))
            # A client that went away does not take its batch out of the queue.
            return await asyncio.shield(answer)
        finally:
            answer.add_done_callback(lambda _: self._wait(-size_bytes))

    def _wait(self, size_bytes: int) -> None:
        self._waiting_bytes += size_bytes
        self.counts.set(WAITING_BYTES, self._waiting_bytes)

    def _work(self) -> None:
        ending = False
        while not ending:
            first = self._queue.get()
            if first is None:
                break
            gathered, ending = self._gather(first)
            self._answer(gathered)
        self._store.close()

    def _gather(self, first: _Waiting) -> tuple[list[_Waiting], bool]:
        """What arrives soon after the first, and whether the end was among it."""
        gathered, rows = [first], first.rows
        deadline = time.monotonic() + self._gather_s
        while rows < MOST_ROWS:
            try:
                waiting = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if waiting is None:
                return gathered, True
            gathered.append(waiting)
            rows += waiting.rows
        return gathered, False

    def _answer(self, gathered: list[_Waiting]) -> None:
        try:
            outcomes = self._store.store([parcel for waiting in gathered for parcel in waiting.parcels])
        except (psycopg.OperationalError, psycopg.InterfaceError, sqlalchemy.exc.DBAPIError) as error:
            log.warning("the database cannot be reached: %s", str(error).splitlines()[0])
            self.counts.add("failed", 1)
            self._fail(gathered, StoreUnreachable("The database cannot be reached"))
        except Exception as error:
            # One batch that we did not foresee must not end the thread that all others need.
            log.exception("batches cannot be stored")
            self.counts.add("failed", 1)
            self._fail(gathered, error)
        else:
            self.counts.add("transactions", 1)
            self._count(outcomes)
            left = iter(outcomes)
            for waiting in gathered:
                of_request = list(islice(left, len(waiting.parcels)))
                _settle(waiting, lambda future, found=of_request: future.set_result(found))  # type: ignore[misc]

    def _count(self, outcomes: list[Outcome]) -> None:
        receipts = [it for it in outcomes if isinstance(it, Receipt)]
        self.counts.add("batches", len(receipts))
        self.counts.add("duplicates", sum(it.duplicate for it in receipts))
        self.counts.add("gpu_windows", sum(it.gpu_windows for it in receipts))
        self.counts.add("node_windows", sum(it.node_windows for it in receipts))
        self.counts.add("refused", sum(refusal.count for it in receipts for refusal in it.refused))

    @staticmethod
    def _fail(gathered: list[_Waiting], error: Exception) -> None:
        for waiting in gathered:
            _settle(waiting, lambda future: future.set_exception(error))


def _settle(waiting: _Waiting, how: "Callable[[asyncio.Future[list[Outcome]]], None]") -> None:
    """Answer in the request's own thread, if its loop is still there."""
    try:
        waiting.loop.call_soon_threadsafe(how, waiting.answer)
    except RuntimeError:
        log.debug("the request's loop has ended")

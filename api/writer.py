"""The thread between requests and store: gathers what arrives within some milliseconds into one transaction."""

import asyncio
import collections
import logging
import threading
import time
from collections.abc import Sequence
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
ALONE_S = 0.005
"""How long a request waits for others where lately none came at the same time."""
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
        keep_hours: the same of a meter's window.
        counts: where to count what is done.
    """

    def __init__(
        self, engine: Engine, gather_s: float, most_bytes: int, keep: timedelta, keep_hours: timedelta, counts: Counts
    ) -> None:
        self._store = Store(engine, keep, keep_hours)
        self._gather_s = gather_s
        self._most_bytes = most_bytes
        self._waiting_bytes = 0
        self._waiting: collections.deque[_Waiting] = collections.deque()
        # Two counts, since each is written by one thread alone.
        self._rows_came = self._rows_taken = 0
        self._came = threading.Event()
        self._is_ending = False
        self._thread = threading.Thread(target=self._work, name="writer")
        self.counts = counts

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Store what waits, and end."""
        self._is_ending = True
        self._came.set()
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
        rows = sum([packed.rows for parcel in parcels for packed in parcel.gpu_windows])
        self._rows_came += rows
        self._waiting.append(_Waiting(parcels, rows, size_bytes, answer, loop))
        if not self._came.is_set():
            self._came.set()
        # A client that went away does not take its batch out of the queue: it is answered to nobody.
        return await answer

    def _wait(self, size_bytes: int) -> None:
        self._waiting_bytes += size_bytes
        self.counts.set(WAITING_BYTES, self._waiting_bytes)

    def _work(self) -> None:
        were_several = False
        while not (self._is_ending and not self._waiting):
            self._came.wait()
            # A transaction for a hundred nodes costs half of one for eight hundred. What comes is not waited for one
            # by one: each wake-up would take the interpreter from those who bring it.
            if not self._is_ending and self._rows_came - self._rows_taken < MOST_ROWS:
                time.sleep(self._gather_s if were_several else min(self._gather_s, ALONE_S))
            if gathered := self._gather():
                were_several = len(gathered) > 1
                self._answer(gathered)
            self._came.clear()
            if self._waiting or self._is_ending:
                self._came.set()
        self._store.close()

    def _gather(self) -> list[_Waiting]:
        """What waits, as much as goes in one transaction."""
        gathered, rows = [], 0
        while self._waiting and rows < MOST_ROWS:
            gathered.append(self._waiting.popleft())
            rows += gathered[-1].rows
        self._rows_taken += rows
        return gathered

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
            self._settle(gathered, [list(islice(left, len(waiting.parcels))) for waiting in gathered])

    def _count(self, outcomes: Sequence[Outcome]) -> None:
        receipts = [it for it in outcomes if isinstance(it, Receipt)]
        self.counts.add("batches", len(receipts))
        self.counts.add("duplicates", sum(it.duplicate for it in receipts))
        self.counts.add("gpu_windows", sum(it.gpu_windows for it in receipts))
        self.counts.add("node_windows", sum(it.node_windows for it in receipts))
        self.counts.add("serving_windows", sum(it.serving_windows for it in receipts))
        self.counts.add("meter_windows", sum(it.meter_windows for it in receipts))
        self.counts.add("refused", sum(refusal.count for it in receipts for refusal in it.refused))

    def _fail(self, gathered: Sequence[_Waiting], error: Exception) -> None:
        self._settle(gathered, [error] * len(gathered))

    def _settle(self, gathered: Sequence[_Waiting], results: Sequence[list[Outcome] | Exception]) -> None:
        """Answer all in the requests' own thread at once, if its loop is still there."""

        def settle() -> None:
            for waiting, result in zip(gathered, results, strict=True):
                self._wait(-waiting.size_bytes)
                if waiting.answer.done():
                    continue
                if isinstance(result, Exception):
                    waiting.answer.set_exception(result)
                else:
                    waiting.answer.set_result(result)

        try:
            gathered[0].loop.call_soon_threadsafe(settle)
        except RuntimeError:
            log.debug("the requests' loop has ended")

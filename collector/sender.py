"""Sends the spool's batches in order, each until the server has stored it."""

import logging
import random
import threading
from collections.abc import Callable

import msgspec

from collector.client import BatchRefused, Client, SequenceGap, ServerUnreachable, utc_now
from collector.spool import Spool
from gigawatch.errors import GigawatchError
from gigawatch.records import Event, Severity
from gigawatch.wire import Batch, Receipt

SHORTEST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0
log = logging.getLogger(__name__)


def pause_s(error: Exception, failures: int) -> float:
    """How long to wait after so many failures in a row, of which this is the last."""
    asked_s = error.retry_after_s if isinstance(error, ServerUnreachable) else None
    wait_s = min(LONGEST_PAUSE_S, asked_s or SHORTEST_PAUSE_S * 2 ** min(failures - 1, 10))
    # Spread, so that ten thousand agents do not come back in the same moment.
    return wait_s * random.uniform(0.75, 1.25)  # noqa: S311 # not a secret


class Sender(threading.Thread):
    """A thread that empties the spool.

    Args:
        spool: where the batches wait.
        client: the way to the server.
        report: called with what the fleet should know, such as a batch that the server refused.
    """

    def __init__(self, spool: Spool, client: Client, report: Callable[[Event], None]) -> None:
        super().__init__(name="sender", daemon=True)
        self._spool = spool
        self._client = client
        self._report = report
        self._new = threading.Event()
        self._ending = threading.Event()
        self._failures = 0

    def notify(self) -> None:
        """Say that a batch was added."""
        self._new.set()

    def finish(self, timeout_s: float) -> None:
        """Send what still can be sent in the time given, and end."""
        self._ending.set()
        self._new.set()
        self.join(timeout_s)

    def run(self) -> None:
        """Send until told to end; then only while the server takes batches."""
        while True:
            waiting = self._spool.first()
            if waiting is None:
                if self._ending.is_set():
                    return
                self._new.wait()
                self._new.clear()
                continue
            try:
                self._send(waiting.seq, waiting.oldest_seq, waiting.body)
                self._failures = 0
            except (ServerUnreachable, SequenceGap, GigawatchError) as error:
                if self._ending.is_set():
                    return
                self._failures += 1
                wait_s = pause_s(error, self._failures)
                log.log(
                    logging.WARNING if self._failures in {1, 10} else logging.DEBUG,
                    "%s; %d batches wait in the spool, next try in %.1f s",
                    error, self._spool.waiting(), wait_s,
                )  # fmt: skip
                self._ending.wait(wait_s)

    def _send(self, seq: int, oldest_seq: int, body: bytes) -> None:
        try:
            batch = msgspec.msgpack.decode(body, type=Batch)
            batch = msgspec.structs.replace(batch, sent_at=utc_now(), seq=seq, oldest_seq=oldest_seq)
            receipt = self._client.post(msgspec.msgpack.encode(batch))
        except BatchRefused as error:
            self._tell("batch_refused", f"The server refused batch {seq} whole: {error}")
        except msgspec.DecodeError as error:
            # Written by another version, or by a failing disk: it must not hold up those behind it.
            self._tell("batch_refused", f"Batch {seq} in the spool cannot be read: {error}")
        else:
            self._look_at(seq, receipt)
        self._spool.remove(seq)

    def _look_at(self, seq: int, receipt: Receipt) -> None:
        if receipt.refused:
            first = receipt.refused[0]
            count = sum(refusal.count for refusal in receipt.refused)
            self._tell(
                "items_refused",
                f"The server refused {count} items of batch {seq}; {first.where}: {first.error}",
            )

    def _tell(self, kind: str, message: str) -> None:
        log.error(message)
        self._report(Event(time=utc_now(), kind=kind, severity=Severity.WARNING, message=message[:1_000]))

"""Sends a relay's batches to the server, many agents' in one request, each until the server has settled it."""

import logging
import threading
import time
from collections.abc import Sequence
from datetime import timedelta

import msgspec
from msgspec import Struct

from collector.client import BatchRefused, Client, SequenceGap, ServerFailed, ServerUnreachable, utc_now
from collector.relay.spool import RelaySpool, Sender, Waiting
from collector.sender import pause_s
from collector.spool import SpoolFull
from gigawatch.errors import GigawatchError
from gigawatch.records import Event, Severity
from gigawatch.settings import Relay
from gigawatch.units import BYTES_PER_MIB, MILLISECONDS_PER_SECOND
from gigawatch.wire import Batch, Outcome, fits, merge

MOST_BYTES = 4 * BYTES_PER_MIB
"""Of one request's batches, but for a single one that is larger."""
TELL_DROPPED_S = 60.0
log = logging.getLogger(__name__)


class Counts(Struct):
    """What was sent since the relay began."""

    forwarded: int = 0
    duplicates: int = 0
    """Batches that the server had already, as after an answer that was lost."""
    refused: int = 0
    failures: int = 0
    """Requests that the server did not take."""


class _Held(Struct, frozen=True):
    """A spool whose next batch the server does not take now."""

    failures: int
    until_s: float


class Forwarder(threading.Thread):
    """A thread that empties the relay's spool.

    Args:
        spool: where the batches wait.
        client: the way to the server.
        relay: how many batches go in one request, and how long they are gathered.
    """

    def __init__(self, spool: RelaySpool, client: Client, relay: Relay) -> None:
        super().__init__(name="forwarder", daemon=True)
        self.counts = Counts()
        self._spool = spool
        self._client = client
        self._gather_s = relay.forward_ms / MILLISECONDS_PER_SECOND
        self._limit = relay.forward_batches
        self._most = relay.forward_batches
        self._new = threading.Event()
        self._ending = threading.Event()
        self._failures = 0
        self._held: dict[int, _Held] = {}
        self._told_s = float("-inf")

    def notify(self) -> None:
        """Say that batches were added."""
        self._new.set()

    def finish(self, timeout_s: float) -> None:
        """Send what still can be sent in the time given, and end."""
        self._ending.set()
        self._new.set()
        self.join(timeout_s)

    def run(self) -> None:
        """Send until told to end; then only while the server takes batches."""
        while True:
            self._new.clear()
            now_s = time.monotonic()
            due = next((spool for spool, held in self._held.items() if held.until_s <= now_s), None)
            if due is not None:
                # What was in trouble is tried alone, and spoils no other's request.
                waiting = self._spool.take(1, MOST_BYTES, (), due)
                if not waiting:
                    del self._held[due]
                    continue
            else:
                waiting = self._spool.take(self._most, MOST_BYTES, self._held)
            if not waiting:
                if self._ending.is_set():
                    return
                until_s = min((held.until_s for held in self._held.values()), default=None)
                self._new.wait(None if until_s is None else max(0.0, until_s - now_s))
                # More come in a moment, and go in the same request.
                self._ending.wait(self._gather_s)
                continue
            try:
                self._send(waiting)
            except (ServerUnreachable, BatchRefused, SequenceGap, SpoolFull, GigawatchError) as error:
                if self._ending.is_set():
                    return
                self._fail(waiting, error)
                continue
            self._failures = 0
            if due is None:
                self._most = min(self._limit, 2 * self._most)
                if len(waiting) < self._limit // 2:
                    self._ending.wait(self._gather_s)

    def _fail(self, waiting: Sequence[Waiting], error: Exception) -> None:
        """Go on with fewer batches: one may be to blame, or so many too much for a slow server or link."""
        self.counts.failures += 1
        self._most = max(1, len(waiting) // 2)
        to_blame = isinstance(error, (BatchRefused, ServerFailed))
        self._failures = 1 if to_blame else self._failures + 1
        wait_s = 0.0 if to_blame and len(waiting) > 1 else pause_s(error, self._failures)
        if len(waiting) == 1:
            self._hold(waiting[0].spool, error, wait_s)
        log.log(
            logging.WARNING if self._failures in {1, 10} else logging.DEBUG,
            "%s; %d batches wait, next try in %.1f s", error, self._spool.totals().batches, wait_s,
        )  # fmt: skip
        self._ending.wait(wait_s)

    def _hold(self, spool: int, error: Exception, wait_s: float = 0.0) -> None:
        """Pass a spool over for a while, beyond the time that the thread waits itself."""
        before = self._held.get(spool)
        failures = 1 if before is None else before.failures + 1
        self._held[spool] = _Held(failures, time.monotonic() + wait_s + pause_s(error, failures))

    def _send(self, waiting: Sequence[Waiting]) -> None:
        """Send the batches in one request, and settle what the server says of each."""
        settled = _Settled()
        sent, batches = [], []
        now = utc_now()
        for it in waiting:
            try:
                batch = msgspec.msgpack.decode(it.body, type=Batch)
            except msgspec.DecodeError as error:
                # Written by another version, or by a failing disk: it must not hold up those behind it.
                settled.refuse(it, f"Batch {it.seq} in a relay's spool cannot be read: {error}")
                continue
            sent.append(it)
            batches.append(
                msgspec.structs.replace(
                    batch,
                    # The node's clock, as far off as it was when the batch came.
                    sent_at=now + timedelta(seconds=it.sender.clock_offset_s),
                    spool_id=it.spool_id,
                    seq=it.seq,
                    oldest_seq=it.oldest_seq,
                )
            )
        try:
            outcomes = self._client.post_many(_merged(batches)) if batches else []
        except BatchRefused as error:
            if len(batches) > 1:
                raise
            outcomes = [Outcome(status=422, detail=str(error))]
        if len(outcomes) != len(sent):
            raise ServerUnreachable(f"the server answered {len(outcomes)} outcomes to {len(sent)} batches")
        self._settle(sent, outcomes, settled)

    def _settle(self, sent: Sequence[Waiting], outcomes: Sequence[Outcome], settled: "_Settled") -> None:
        stuck: dict[int, ServerUnreachable] = {}
        for it, outcome in zip(sent, outcomes, strict=True):
            if not self._judge(it, outcome, settled):
                reason = outcome.detail or f"it waits for batch {outcome.expected_seq}"
                stuck.setdefault(it.spool, ServerUnreachable(f"batch {it.seq} of {it.sender.machine_id}: {reason}"))
        self._spool.settle(settled.done, settled.events)
        for spool in settled.spools:
            self._held.pop(spool, None)
        for spool, error in stuck.items():
            if spool not in settled.spools:
                log.log(logging.DEBUG if spool in self._held else logging.WARNING, "The server does not take %s", error)
                self._hold(spool, error)
        if time.monotonic() - self._told_s > TELL_DROPPED_S:
            self._spool.tell_dropped()
            self._told_s = time.monotonic()

    def _judge(self, it: Waiting, outcome: Outcome, settled: "_Settled") -> bool:
        """Whether the server is done with the batch."""
        has_it = outcome.status == 409 and (outcome.expected_seq or 0) > it.seq
        if outcome.status == 200 or has_it:
            refused = outcome.receipt.refused if outcome.receipt else []
            duplicate = has_it or (outcome.receipt is not None and outcome.receipt.duplicate)
            self.counts.duplicates += duplicate
            self.counts.forwarded += not duplicate
            if refused:
                count = sum(refusal.count for refusal in refused)
                words = f"The server refused {count} items of batch {it.seq}; {refused[0].where}: {refused[0].error}"
                settled.tell(it, "items_refused", words)
            settled.settle(it)
            return True
        if outcome.status in {400, 422} and outcome.code != "clock":
            self.counts.refused += 1
            settled.refuse(it, f"The server refused batch {it.seq} whole: {outcome.status}: {outcome.detail}")
            return True
        return False


def _merged(batches: Sequence[Batch]) -> bytes:
    """The batches with their windows put together; those that the server will refuse stay with their batch."""
    gpus = [it.packed_gpu_windows for it in batches]
    nodes = [it.packed_node_windows for it in batches]
    gpus_fit = [it is not None and fits(it) for it in gpus]
    nodes_fit = [it is not None and fits(it) for it in nodes]
    return merge(
        [
            msgspec.structs.replace(
                it,
                packed_gpu_windows=None if gpu_fits else it.packed_gpu_windows,
                packed_node_windows=None if node_fits else it.packed_node_windows,
            )
            for it, gpu_fits, node_fits in zip(batches, gpus_fit, nodes_fit, strict=True)
        ],
        [it if it_fits else None for it, it_fits in zip(gpus, gpus_fit, strict=True)],
        [it if it_fits else None for it, it_fits in zip(nodes, nodes_fit, strict=True)],
    )


class _Settled:
    """What came of one request's batches."""

    def __init__(self) -> None:
        self.done: list[Waiting] = []
        self.spools: set[int] = set()
        self.events: list[tuple[Sender, Event]] = []

    def settle(self, it: Waiting) -> None:
        self.done.append(it)
        self.spools.add(it.spool)

    def refuse(self, it: Waiting, words: str) -> None:
        self.settle(it)
        self.tell(it, "batch_refused", words)

    def tell(self, it: Waiting, kind: str, words: str) -> None:
        """Report of the batch's node, in its name."""
        log.error("%s: %s", it.sender.machine_id, words)
        # Of an event that is refused no event is made: that might go on for ever.
        if not it.is_event:
            event = Event(time=utc_now(), kind=kind, severity=Severity.WARNING, message=words[:1_000])
            self.events.append((it.sender, event))

"""The relay as its clients see it: the paths of the API that agents use, and figures of the relay itself.

It speaks RSGI, the interface of the server granian, and commits what arrives together in one transaction.
"""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import msgspec
from granian.rsgi import HTTPProtocol, ProtocolClosed, ProtocolError, Scope
from msgspec import Struct

from collector.client import Hello, SequenceGap, utc_now
from collector.relay.access import Access
from collector.relay.forwarder import Forwarder
from collector.relay.intake import Arrival, decode
from collector.relay.spool import Outcome, RelaySpool
from collector.spool import SpoolFull
from gigawatch import __version__
from gigawatch.bodies import Unacceptable, decompress
from gigawatch.units import BYTES_PER_MIB
from gigawatch.wire import JSON, Receipt

GATHER_S = 0.003
"""How long arriving batches are gathered into one transaction."""
RECEIVE_S = 30.0
"""How long a body may take to come."""
MOST_WAITING = 4_096
"""Batches that are being received or stored; beyond it requests are turned away, so that memory stays bounded."""
MOST_BYTES = 128 * BYTES_PER_MIB
"""Of their bodies."""
RETRY_S = 1
FULL_RETRY_S = 10
REPORT_S = 60.0
log = logging.getLogger(__name__)


class Problem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a request was not served, as the API says it."""

    detail: str
    code: str | None = None
    expected_seq: int | None = None


class Counts(Struct):
    """What came since the relay began."""

    received: int = 0
    duplicates: int = 0
    refused: int = 0
    """Batches that got no receipt, whatever the reason."""


class _Waiting(NamedTuple):
    arrival: Arrival
    answer: "asyncio.Future[Outcome]"


class _Answer(NamedTuple):
    status: int
    body: bytes
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


class _Figure(NamedTuple):
    name: str
    kind: str
    """counter or gauge, as Prometheus has them."""
    value: float
    words: str


class Service:
    """Answers requests.

    Args:
        spool: where batches are kept before they are acknowledged.
        access: who may do what.
        forwarder: is told of new batches.
        max_body_mib: bound of one request's body, after decompression.
        max_clock_offset_s: a node whose clock is further off is refused.
    """

    def __init__(
        self, spool: RelaySpool, access: Access, forwarder: Forwarder, max_body_mib: int, max_clock_offset_s: float
    ) -> None:
        self.counts = Counts()
        self._spool = spool
        self._access = access
        self._forwarder = forwarder
        self._most_bytes = max_body_mib * BYTES_PER_MIB
        self._max_clock_offset_s = max_clock_offset_s
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._waiting: list[_Waiting] = []
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._batches = 0
        self._bytes = 0
        self._ending = False

    async def finish(self, timeout_s: float) -> None:
        """Take no new batch, and answer those that were being taken."""
        self._ending = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            log.warning("%d batches were still being received", self._batches)

    async def __rsgi__(self, scope: Scope, protocol: HTTPProtocol) -> None:
        """Answer one request."""
        try:
            answer = await self._answer(scope, protocol)
        except Unacceptable as error:
            answer = _refusal(error)
        except (ProtocolClosed, ProtocolError) as error:
            log.debug("a client went away: %s", error)
            return
        except Exception:
            # One request that we did not foresee must not pass for an answer.
            log.exception("a request cannot be served")
            answer = _problem(500, "The relay failed; its log says why")
        headers = [("content-type", answer.content_type), *answer.headers]
        protocol.response_bytes(answer.status, headers, answer.body)

    async def commit(self) -> None:
        """Store what arrives, for ever: all that is there in one transaction, and what comes meanwhile in the next."""
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            await asyncio.sleep(GATHER_S)
            self._arrived.clear()
            gathered, self._waiting = self._waiting, []
            try:
                arrivals = [waiting.arrival for waiting in gathered]
                outcomes = await loop.run_in_executor(self._writer, self._spool.append, arrivals)
            except SpoolFull as error:
                log.warning("the spool takes nothing: %s", error)
                refused = Unacceptable(503, f"The relay's spool takes nothing: {error}", retry_after_s=FULL_RETRY_S)
                self._fail(gathered, refused)
            except Exception as error:
                # What we did not foresee must not end the task that all others need.
                log.exception("batches cannot be spooled")
                self._fail(gathered, error)
            else:
                for waiting, outcome in zip(gathered, outcomes, strict=True):
                    if not waiting.answer.done():
                        waiting.answer.set_result(outcome)
                self._forwarder.notify()

    async def report(self) -> None:
        """Say in the log how it goes, for ever."""
        while True:
            await asyncio.sleep(REPORT_S)
            figures = await asyncio.to_thread(self._figures)
            log.info("%s", ", ".join(f"{name} {value:.15g}" for name, _, value, _ in figures))

    @staticmethod
    def _fail(gathered: list[_Waiting], error: Exception) -> None:
        for waiting in gathered:
            if not waiting.answer.done():
                waiting.answer.set_exception(error)

    async def _answer(self, scope: Scope, protocol: HTTPProtocol) -> _Answer:
        authorization = scope.headers.get("authorization") or ""
        match scope.method, scope.path:
            case "GET", "/healthz":
                return _Answer(200, b'{"status":"ok"}')
            case "GET", "/api/v1/hello":
                return self._hello(await self._access.require(authorization, "agent", "viewer"))
            case "GET", "/metrics":
                await self._access.require(authorization, "viewer")
                figures = await asyncio.to_thread(self._figures)
                return _Answer(200, _metrics(figures).encode(), "text/plain; version=0.0.4; charset=utf-8")
            case "POST", "/api/v1/batches":
                return await self._take(scope, protocol, authorization)
            case _, "/healthz" | "/api/v1/hello" | "/metrics" | "/api/v1/batches":
                raise Unacceptable(405, "Method Not Allowed")
            case _:
                raise Unacceptable(404, "A relay takes batches, and has no figures: ask the server")

    def _hello(self, role: str) -> _Answer:
        hello = Hello(
            server_time=utc_now(), version=__version__, role=role, max_clock_offset_s=self._max_clock_offset_s
        )
        return _Answer(200, msgspec.json.encode(hello))

    async def _take(self, scope: Scope, protocol: HTTPProtocol, authorization: str) -> _Answer:
        if self._ending or self._batches >= MOST_WAITING:
            raise Unacceptable(503, "The relay is ending" if self._ending else "Too many batches wait: try again soon",
                          retry_after_s=RETRY_S)  # fmt: skip
        self._batches += 1
        self._idle.clear()
        try:
            await self._access.require(authorization, "agent")
            outcome = await self._spool_body(scope, protocol)
        except BaseException:
            self.counts.refused += 1
            raise
        finally:
            self._batches -= 1
            if not self._batches:
                self._idle.set()
        if isinstance(outcome, Receipt):
            self.counts.received += 1
            self.counts.duplicates += outcome.duplicate
            return _Answer(200, msgspec.json.encode(outcome))
        self.counts.refused += 1
        if isinstance(outcome, SequenceGap):
            return _problem(409, str(outcome), code="gap", expected_seq=outcome.expected)
        return _problem(422, str(outcome))

    async def _spool_body(self, scope: Scope, protocol: HTTPProtocol) -> Outcome:
        """The outcome of spooling the request's batch, after the commit."""
        held = 0
        try:
            parts = []
            async with asyncio.timeout(RECEIVE_S):
                async for part in protocol:
                    held += len(part)
                    self._bytes += len(part)
                    self._check_size(held)
                    parts.append(bytes(part))
            body = decompress(b"".join(parts), scope.headers.get("content-encoding") or "", self._most_bytes)
            del parts
            self._bytes += len(body) - held
            held = len(body)
            content_type = scope.headers.get("content-type") or ""
            arrival = decode(body, content_type, utc_now(), self._max_clock_offset_s)
            answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
            self._waiting.append(_Waiting(arrival, answer))
            self._arrived.set()
            return await answer
        except TimeoutError as error:
            raise Unacceptable(408, f"The body did not come within {RECEIVE_S:g} s") from error
        finally:
            self._bytes -= held

    def _check_size(self, size: int) -> None:
        if size > self._most_bytes:
            raise Unacceptable(413, f"The body is larger than {self._most_bytes} bytes: send smaller batches")
        if self._bytes > MOST_BYTES:
            raise Unacceptable(503, "Too many batches wait: try again soon", retry_after_s=RETRY_S)

    def _figures(self) -> tuple[_Figure, ...]:
        """How the relay is doing, since it began and now."""
        totals, sent = self._spool.totals(), self._forwarder.counts
        return (
            _Figure("batches_received_total", "counter", self.counts.received, "Batches acknowledged, duplicates too"),
            _Figure(
                "batches_received_duplicate_total", "counter", self.counts.duplicates, "Of them, those that it had"
            ),
            _Figure("batches_not_taken_total", "counter", self.counts.refused, "Posts that got no receipt"),
            _Figure("batches_forwarded_total", "counter", sent.forwarded, "Batches that the server stored"),
            _Figure("batches_forwarded_duplicate_total", "counter", sent.duplicates, "Batches that the server had"),
            _Figure("batches_refused_total", "counter", sent.refused, "Batches that the server refused for good"),
            _Figure("batches_dropped_total", "counter", self._spool.dropped, "Batches that the spool's bounds dropped"),
            _Figure("upstream_failures_total", "counter", sent.failures, "Requests that the server did not take"),
            _Figure("batches_waiting", "gauge", totals.batches, "Batches in the spool"),
            _Figure("bytes_waiting", "gauge", totals.bytes, "Their size"),
            _Figure("oldest_waiting_seconds", "gauge", totals.oldest_s, "Age of the oldest of them"),
        )


def _metrics(figures: tuple[_Figure, ...]) -> str:
    """The figures in Prometheus' text format."""
    return "".join(
        f"# HELP gigawatch_relay_{name} {words}.\n# TYPE gigawatch_relay_{name} {kind}\n"
        f"gigawatch_relay_{name} {value:.15g}\n"
        for name, kind, value, words in figures
    )


def _refusal(error: Unacceptable) -> _Answer:
    headers = []
    if error.status == 401:
        headers.append(("www-authenticate", "Bearer"))
    if error.retry_after_s is not None:
        headers.append(("retry-after", str(error.retry_after_s)))
    return _problem(error.status, str(error), tuple(headers), code=error.code)


def _problem(status: int, detail: str, headers: tuple[tuple[str, str], ...] = (), **more: Any) -> _Answer:
    return _Answer(status, msgspec.json.encode(Problem(detail=detail, **more)), headers=headers)

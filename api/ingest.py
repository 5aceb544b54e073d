"""The way in: POST /api/v1/batches, without the framework that serves all else.

Thousands of agents post small batches each second, and FastAPI's way from a request to its function costs more than
storing the batch. The route is described in OpenAPI like the others (api.documents).
"""

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.exceptions import HTTPException

from api.access import Access
from api.decode import Parcel, decode
from api.documents import INGEST_PATH, Problem
from api.store import ForeignSpool, Outcome, SequenceGap
from api.writer import Busy, StoreUnreachable, Writer
from gigawatch import wire
from gigawatch.bodies import Unacceptable, decompress
from gigawatch.settings import Server
from gigawatch.units import BYTES_PER_MIB
from gigawatch.wire import Receipt

RETRY_SOON = {"Retry-After": "1"}
log = logging.getLogger(__name__)
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class Ingest:
    """Takes posts of batches, and leaves all else to the application.

    Args:
        application: for all else; its lifespan brings what `state` gives.
        server: settings.
        state: the application's, with `access` and `writer`.
    """

    def __init__(self, application: Application, server: Server, state: Any) -> None:
        self._application = application
        self._server = server
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI calls it."""
        if scope["type"] != "http" or scope["path"] != INGEST_PATH or scope["method"] != "POST":
            await self._application(scope, receive, send)
            return
        # Names are in lower case already, says ASGI.
        headers = dict(scope["headers"])
        extra: dict[str, str] = {}
        try:
            status, body = 200, await self._take(headers, receive)
        except HTTPException as error:
            status, body, extra = error.status_code, _problem(str(error.detail)), dict(error.headers or {})
        except Unacceptable as error:
            status, body = error.status, _problem(str(error), code=error.code)
        except Busy as error:
            status, body, extra = 503, _problem(f"{error}: try again soon"), RETRY_SOON
        except StoreUnreachable as error:
            status, body, extra = 503, _problem(f"{error}: nothing was stored, send it again"), RETRY_SOON
        except _Unstored as error:
            status, body = error.status, error.body
        except Exception:
            log.exception("a request failed")
            status, body = 500, _problem("Something failed here, and the server's log says what: nothing was stored")
        head = {"content-type": "application/json", "content-length": str(len(body)), **extra}
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(name.lower().encode(), value.encode()) for name, value in head.items()],
            }
        )
        await send({"type": "http.response.body", "body": body})

    async def _take(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """Store what the request brings; the body of the answer."""
        access: Access = self._state.access
        writer: Writer = self._state.writer
        role = (await access.holder_of(headers.get(b"authorization", b"").decode("latin-1"))).role
        if role not in {"agent", "admin"}:
            raise HTTPException(403, f"A token with role {role} may not do this: it needs agent")
        most_bytes = self._server.max_body_mib * BYTES_PER_MIB
        body = await _receive(receive, most_bytes)
        body = decompress(body, headers.get(b"content-encoding", b"").decode("latin-1"), most_bytes)
        content_type = headers.get(b"content-type", b"").decode("latin-1")
        found = decode(body, content_type, datetime.now(UTC), self._server.max_clock_offset_s)
        parcels = [it for it in found if isinstance(it, Parcel)]
        stored = iter(await writer.store(parcels, len(body)) if parcels else ())
        outcomes = [it if isinstance(it, Unacceptable) else next(stored) for it in found]
        if content_type.startswith(wire.BATCHES):
            return msgspec.json.encode([_of_relay(outcome) for outcome in outcomes])
        outcome = _of_relay(outcomes[0])
        if outcome.receipt is None:
            problem = _problem(outcome.detail or "", code=outcome.code, expected_seq=outcome.expected_seq)
            raise _Unstored(outcome.status, problem)
        return msgspec.json.encode(outcome.receipt)


class _Unstored(Exception):
    """The batch was not stored; the answer says why."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(body)
        self.status = status
        self.body = body


def _of_relay(outcome: Outcome | Unacceptable) -> wire.Outcome:
    match outcome:
        case Receipt():
            return wire.Outcome(status=200, receipt=outcome)
        case SequenceGap():
            return wire.Outcome(status=409, detail=str(outcome), code="gap", expected_seq=outcome.expected)
        case ForeignSpool():
            return wire.Outcome(status=422, detail=str(outcome))
        case Unacceptable():
            return wire.Outcome(status=outcome.status, detail=str(outcome), code=outcome.code)


async def _receive(receive: Receive, most_bytes: int) -> bytes:
    """The body as it came, never more than most_bytes."""
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Unacceptable(400, "The body was cut short")
        part = message.get("body", b"")
        size += len(part)
        if size > most_bytes:
            raise Unacceptable(413, f"The body is larger than {most_bytes} bytes: send smaller batches")
        parts.append(part)
        more = message.get("more_body", False)
    return b"".join(parts)


def _problem(detail: str, *, code: str | None = None, expected_seq: int | None = None) -> bytes:
    return msgspec.json.encode(Problem(detail=detail, code=code, expected_seq=expected_seq))

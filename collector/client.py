"""Posts batches to the API and says in one of four ways how it went."""

import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import urllib3
from msgspec import Struct

from gigawatch import __version__
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.settings import Agent
from gigawatch.wire import BATCHES, MSGPACK, Outcome, Receipt

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TIMEOUT = urllib3.Timeout(connect=5, read=30)
ASK_TIMEOUT = urllib3.Timeout(connect=5, read=5)
"""Of a question for which somebody waits."""
COMPRESSION_LEVEL = 3
log = logging.getLogger(__name__)


class ServerUnreachable(Exception):
    """The server cannot take batches now; the same batch may be sent again.

    Args:
        retry_after_s: how long the server asked to wait, if it did.
    """

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class ServerFailed(ServerUnreachable):
    """The server is there, and says that it failed: what it was sent may be to blame."""


class BatchRefused(Exception):
    """The server will never take this batch; the ones after it may be good."""


class SequenceGap(Exception):
    """The server waits for another batch number than the one it got."""

    def __init__(self, expected: int) -> None:
        super().__init__(f"the server waits for batch {expected}")
        self.expected = expected


class Hello(Struct, frozen=True, kw_only=True):
    """What the server says of itself."""

    server_time: datetime
    version: str
    role: str
    max_clock_offset_s: float


class Client:
    """A connection to the API, kept open between batches.

    Args:
        agent: where the server is and how to be let in.
        connections: how many are kept, for a client of several threads.

    Raises:
        GigawatchError: the token file or the certificates cannot be read.
    """

    def __init__(self, agent: Agent, connections: int = 1) -> None:
        self._url = agent.server_url.rstrip("/")
        self._headers = {
            "User-Agent": f"gigawatch/{__version__}",
            "Content-Type": MSGPACK,
            "Content-Encoding": "zstd",
            "Accept": "application/json",
        }
        token = read_token(agent)
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        if agent.ca_file and not Path(agent.ca_file).is_file():
            raise GigawatchError(
                f"agent.ca_file = {agent.ca_file!r} does not exist",
                "Name a PEM file with the certificates to trust.",
                ExitCode.CONFIGURATION,
            )
        self._pool = urllib3.PoolManager(maxsize=connections, timeout=TIMEOUT, retries=False, ca_certs=agent.ca_file)

    def hello(self) -> Hello:
        """What the server says of itself, if it is there and lets us in.

        Raises:
            GigawatchError: the token is refused, or the URL is not one of Gigawatch.
            ServerUnreachable: no answer, or one that a retry may better.
        """
        response = self._request("GET", "/api/v1/hello", None)
        if response.status in {401, 403}:
            raise GigawatchError(
                f"{self._url} refuses the token: {_detail(response)}",
                "Make one with `gigawatch token create --role agent NAME` and set agent.token_file.",
                ExitCode.CONFIGURATION,
            )
        try:
            hello = msgspec.json.decode(response.data, type=Hello)
        except msgspec.DecodeError as error:
            if response.status >= 500:
                raise ServerUnreachable(f"the server answered {response.status}") from error
            raise GigawatchError(
                f"{self._url} answers {response.status}, and not as a Gigawatch API does",
                "Set agent.server_url to the address that `gigawatch serve` prints.",
                ExitCode.CONFIGURATION,
            ) from error
        if hello.role not in {"agent", "admin"}:
            raise GigawatchError(
                f"{self._url} refuses the token: its role is {hello.role}, which may not send batches",
                "Make one with `gigawatch token create --role agent NAME` and set agent.token_file.",
                ExitCode.CONFIGURATION,
            )
        return hello

    def post(self, batch: bytes) -> Receipt:
        """Send one batch as gigawatch.wire.encode made it; returns after the server's commit.

        Raises:
            ServerUnreachable: not stored as far as we know; send it again.
            SequenceGap: send the expected number first.
            BatchRefused: never to be stored.
            GigawatchError: the token is refused.
        """
        response = self._request("POST", "/api/v1/batches", zstd.compress(batch, COMPRESSION_LEVEL))
        if response.status == 200:
            try:
                return msgspec.json.decode(response.data, type=Receipt)
            except msgspec.DecodeError as error:
                raise ServerUnreachable(f"the server's answer is malformed: {error}") from error
        raise self._refusal(response)

    def post_many(self, batches: bytes) -> list[Outcome]:
        """Send Batches in msgpack; what became of each, in order, after the server's commit.

        Raises:
            ServerUnreachable: nothing is known to be stored; send them again.
            BatchRefused: the request as a whole can never be taken, too large or with a batch that none can read.
            ServerFailed: one of the batches may be to blame.
            GigawatchError: the token is refused.
        """
        body = zstd.compress(batches, COMPRESSION_LEVEL)
        response = self._request("POST", "/api/v1/batches", body, {"Content-Type": BATCHES})
        if response.status == 200:
            try:
                return msgspec.json.decode(response.data, type=list[Outcome])
            except msgspec.DecodeError as error:
                raise ServerUnreachable(f"the server's answer is malformed: {error}") from error
        if response.status == 415:
            # An older server: what relays hold waits until it was upgraded.
            raise ServerUnreachable(f"{self._url} takes no batches of relays: upgrade the server")
        raise self._refusal(response)

    def role(self, secret: str) -> str | None:
        """The role of another's token; None: it is not good.

        Raises:
            ServerUnreachable: the server cannot say.
        """
        response = self._request("GET", "/api/v1/hello", None, {"Authorization": f"Bearer {secret}"}, ASK_TIMEOUT)
        if response.status in {401, 403}:
            return None
        try:
            return msgspec.json.decode(response.data, type=Hello).role
        except msgspec.DecodeError as error:
            raise ServerUnreachable(f"the server answered {response.status}", _retry_after_s(response)) from error

    def _refusal(self, response: urllib3.BaseHTTPResponse) -> Exception:
        """What an answer other than 200 to batches means."""
        detail = _detail(response)
        if response.status in {401, 403}:
            return GigawatchError(
                f"{self._url} refuses the token: {detail}",
                "Make one with `gigawatch token create --role agent NAME` and set agent.token_file.",
                ExitCode.CONFIGURATION,
            )
        if response.status == 422 and _answer(response).get("code") == "clock":
            # Dropping batches would lose what was measured: they wait until the clock was set right.
            return ServerUnreachable(detail)
        if response.status == 409:
            try:
                return SequenceGap(int(_answer(response)["expected_seq"]))
            except (ValueError, KeyError):
                return ServerUnreachable(f"the server answered 409: {detail}")
        if response.status in {400, 413, 415, 422}:
            return BatchRefused(f"{response.status}: {detail}")
        kind = ServerFailed if response.status == 500 else ServerUnreachable
        return kind(f"the server answered {response.status}: {detail}", _retry_after_s(response))

    def close(self) -> None:
        """Close the connection."""
        self._pool.clear()

    def _request(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str] | None = None,
        timeout: urllib3.Timeout = TIMEOUT,
    ) -> urllib3.BaseHTTPResponse:
        """The answer; headers go before those of every request."""
        all_headers = {**self._headers, **(headers or {})}
        url = self._url + path
        try:
            return self._pool.request(method, url, body=body, headers=all_headers, redirect=False, timeout=timeout)
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            raise ServerUnreachable(f"{self._url} cannot be reached: {error}") from error


def greet(client: Client) -> Hello | None:
    """Learn early what no retry would mend: a wrong token, a wrong address, a clock that is off.

    None: the server is away, so that nothing was learnt.
    """
    try:
        answer = client.hello()
    except ServerUnreachable as error:
        log.warning("%s; what comes is spooled until it can", error)
        return None
    offset_s = (utc_now() - answer.server_time).total_seconds()
    if abs(offset_s) > answer.max_clock_offset_s:
        raise GigawatchError(
            f"This machine's clock is {offset_s:+.0f} s off the server's",
            "Set it right, e.g. with chrony or systemd-timesyncd: windows would land in the wrong time.",
            ExitCode.CLOCK,
        )
    return answer


def read_token(agent: Agent) -> str | None:
    """The token from the settings or from the file that they name."""
    if agent.token_file is None:
        return agent.token
    try:
        return Path(agent.token_file).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise GigawatchError(
            f"agent.token_file = {agent.token_file!r} cannot be read: {error}",
            "Name a file that holds the token on its only line.",
            ExitCode.CONFIGURATION,
        ) from error


def _answer(response: urllib3.BaseHTTPResponse) -> dict[str, Any]:
    """The answer as an object; empty where it is none."""
    try:
        return msgspec.json.decode(response.data, type=dict[str, Any])
    except msgspec.DecodeError:
        return {}


def _detail(response: urllib3.BaseHTTPResponse) -> str:
    detail = _answer(response).get("detail")
    return str(detail)[:500] if detail else response.data[:200].decode("utf-8", "replace") or "no reason given"


def _retry_after_s(response: urllib3.BaseHTTPResponse) -> float | None:
    try:
        return float(response.headers["Retry-After"])
    except (KeyError, ValueError):
        return None


def utc_now() -> datetime:
    """Now, with its zone."""
    return datetime.now(UTC)

"""Runs the real relay as a process of its own, and an HTTP server that answers it as the API's contract says."""

import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import msgspec

from collector.client import zstd
from gigawatch.wire import BATCHES, Batch, Outcome, Receipt
from tests.agents import environment
from tests.merged import apart
from tests.processes import Answering, free_port

TOKENS = {"relay-secret": "agent", "agent-secret": "agent", "viewer-secret": "viewer", "admin-secret": "admin"}


class Upstream:
    """A server that takes relays' batches by the contract, and has troubles on request."""

    def __init__(self) -> None:
        self.tokens = dict(TOKENS)
        self.stored: list[Batch] = []
        self.duplicates = 0
        self.requests: list[int] = []
        """How many batches came in each request."""
        self.asked: list[str] = []
        """SHA-256 of each token that was asked about."""
        self.trouble: Callable[[list[Batch]], int | None] = lambda batches: None
        """The status to answer a request as a whole with, if not what became of its batches."""
        self.delay_s = 0.0
        self.lose_answers = False
        """Store, but hang up in place of an answer."""
        self.judge: Callable[[Batch], Outcome | None] = lambda batch: None
        self.cursors: dict[str, tuple[str, int]] = {}
        self.connections: list[socket.socket] = []
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                upstream.connections.append(self.connection)

            def do_GET(self) -> None:
                secret = self.headers.get("Authorization", "").removeprefix("Bearer ")
                upstream.asked.append(hashlib.sha256(secret.encode()).hexdigest())
                role = upstream.tokens.get(secret)
                if role is None:
                    self._answer(401, {"detail": "The token is not known, or was revoked"})
                    return
                hello = {"server_time": datetime.now(UTC), "version": "1", "role": role, "max_clock_offset_s": 300.0}
                self._answer(200, hello)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                time.sleep(upstream.delay_s)
                assert self.headers["Content-Type"] == BATCHES
                assert self.headers["Authorization"] == "Bearer relay-secret"
                batches = apart(zstd.decompress(body))
                status = upstream.trouble(batches)
                if status is not None:
                    self._answer(status, {"detail": "trouble"})
                    return
                outcomes = upstream.take(batches)
                if upstream.lose_answers:
                    self.close_connection = True
                    return
                self._answer(200, outcomes)

            def _answer(self, status: int, content: object) -> None:
                body = msgspec.json.encode(content)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # the base class names it
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request: object, client_address: object) -> None:
                """A relay that was killed needs no answer."""

        self._server = Server(("127.0.0.1", self._port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Go away, until start()."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.connections.clear()

    def take(self, batches: list[Batch]) -> list[Outcome]:
        with self._lock:
            self.requests.append(len(batches))
            return [self._take(batch) for batch in batches]

    def _take(self, batch: Batch) -> Outcome:
        judged = self.judge(batch)
        if judged is not None:
            return judged
        now = datetime.now(UTC)
        if batch.spool_id is None or batch.seq is None:
            self.stored.append(batch)
            return Outcome(status=200, receipt=Receipt(server_time=now))
        oldest = batch.seq if batch.oldest_seq is None else batch.oldest_seq
        machine_id, next_seq = self.cursors.setdefault(batch.spool_id, (batch.machine_id, oldest))
        if machine_id != batch.machine_id:
            return Outcome(status=422, detail="spool_id belongs to another machine_id")
        if batch.seq < next_seq:
            self.duplicates += 1
            return Outcome(status=200, receipt=Receipt(duplicate=True, next_seq=next_seq, server_time=now))
        expected = next_seq if batch.oldest_seq is None else max(next_seq, oldest)
        if batch.seq != expected:
            return Outcome(status=409, code="gap", detail="gap", expected_seq=expected)
        self.cursors[batch.spool_id] = machine_id, batch.seq + 1
        self.stored.append(batch)
        return Outcome(status=200, receipt=Receipt(next_seq=batch.seq + 1, server_time=now))


@contextmanager
def running_upstream() -> Iterator[Upstream]:
    upstream = Upstream()
    upstream.start()
    try:
        yield upstream
    finally:
        upstream.stop()


class Relay(Answering):
    """`gigawatch collect --relay`."""

    def __init__(self, data_dir: Path, server_url: str, token: str, settings: dict[str, str]) -> None:
        self.data_dir = data_dir
        data_dir.mkdir(parents=True, exist_ok=True)
        of_relay = {
            "GIGAWATCH_STORE__DATA_DIR": str(data_dir),
            "GIGAWATCH_AGENT__SERVER_URL": server_url,
            "GIGAWATCH_AGENT__TOKEN": token,
        }
        super().__init__(
            data_dir / "relay.log",
            ["collect", "--relay"],
            environment(None, **of_relay, **settings),
            "GIGAWATCH_RELAY__PORT",
        )

    def client(self, secret: str = "agent-secret") -> httpx.Client:
        """A client with this token."""
        return self.client_with(secret)

    def figures(self) -> dict[str, float]:
        """What it says at /metrics."""
        with self.client("viewer-secret") as client:
            lines = client.get("/metrics").raise_for_status().text.splitlines()
        pairs = [line.removeprefix("gigawatch_relay_").split() for line in lines if not line.startswith("#")]
        return {name: float(value) for name, value in pairs}


@contextmanager
def running_relay(data_dir: Path, server_url: str, token: str = "relay-secret", **settings: str) -> Iterator[Relay]:
    """A running relay that is stopped in the end. Settings are environment variables."""
    relay = Relay(data_dir, server_url, token, settings)
    relay.start()
    try:
        yield relay
    finally:
        relay.stop()

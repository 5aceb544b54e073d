"""Serves the metrics of simulated engines over HTTP, as their own servers would: one address, a path for each."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from gigawatch import __version__
from gigawatch.ports import require_free

Metrics = Callable[[float], bytes | None]
"""An engine's metrics at a time, s since 1970 UTC; None where nothing answers."""


class MetricsServer(ThreadingHTTPServer):
    """A server of its own thread, which answers each request in another.

    Args:
        host: address to listen on.
        port: 0 is any that is free.

    Raises:
        GigawatchError: the port is taken or may not be used.
    """

    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        require_free(host, port, "port", "--metrics-port")
        super().__init__((host, port), _Handler)
        self.engines: Mapping[str, Metrics] = {}
        """By the names of their nodes."""
        self.clock: Callable[[], float] = time.time

    @property
    def url(self) -> str:
        """Its address, with a slash at the end."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}/"

    def url_of(self, name: str) -> str:
        """Address of an engine's metrics."""
        return f"{self.url}{name}/metrics"

    @contextmanager
    def serving(self) -> Iterator["MetricsServer"]:
        """Serve within the block."""
        thread = threading.Thread(target=self.serve_forever, args=(0.1,), name="metrics", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: MetricsServer
    server_version = f"gigawatch/{__version__}"

    def do_GET(self) -> None:
        """Answer with an engine's metrics, or at the root with the addresses of all."""
        name, _, rest = self.path.split("?")[0].removeprefix("/").partition("/")
        engine = self.server.engines.get(name)
        if not name:
            addresses = "".join(f"{self.server.url_of(it)}\n" for it in sorted(self.server.engines))
            self._answer(HTTPStatus.OK, addresses.encode())
        elif engine is None or rest != "metrics":
            self._answer(HTTPStatus.NOT_FOUND, f"{self.server.url} lists the engines.\n".encode())
        elif (text := engine(self.server.clock())) is None:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, b"The node is off.\n")
        else:
            self._answer(HTTPStatus.OK, text)

    def _answer(self, status: HTTPStatus, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", CONTENT_TYPE_PLAIN_0_0_4)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: it is asked every few seconds."""

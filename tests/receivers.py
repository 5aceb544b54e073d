"""A receiver of alerts on loopback, well behaved or as bad as they get."""

import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from msgspec import Struct


class Received(Struct, frozen=True):
    """A request as it came."""

    time_s: float
    """By the monotonic clock."""
    path: str
    headers: dict[str, str]
    """By names in lower case."""
    body: bytes

    @property
    def key(self) -> str:
        """Of the delivery."""
        return self.headers["x-gigawatch-delivery"]


Behaviour = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Keeps each request, and then behaves as its receiver is told to."""

    server: "Receiver"

    def do_POST(self) -> None:
        """Take it in."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): text for name, text in self.headers.items()}
        self.server.received.append(Received(time.monotonic(), self.path, headers, body))
        self.close_connection = True
        self.server.behaviour(self)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 # http.server's
        """Keep quiet."""


class Receiver(ThreadingHTTPServer):
    """Listens on a free port of 127.0.0.1 from the start of `with` to its end."""

    daemon_threads = True

    def __init__(self, behaviour: Behaviour, certificate: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behaviour = behaviour
        self.received: list[Received] = []
        self.sent_bytes = 0
        self.ended = threading.Event()
        self._scheme = "http" if certificate is None else "https"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"{self._scheme}://127.0.0.1:{self.server_port}/hook"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who hangs up early, or speaks no TLS, is what tests want."""

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.shutdown()
        self.server_close()


def answers(status: int, body: bytes = b"", **headers: str) -> Behaviour:
    """It answers so."""

    def behave(handler: Handler) -> None:
        handler.send_response(status)
        for name, text in headers.items():
            handler.send_header(name.replace("_", "-"), text)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return behave


def hangs(handler: Handler) -> None:
    """It never answers."""
    handler.server.ended.wait()


def drips(handler: Handler) -> None:
    """It answers a byte at a time, and never ends."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    while not handler.server.ended.wait(0.02):
        handler.wfile.write(b"x")


def lingers(handler: Handler) -> None:
    """It says that it took it, and then does not come to an end."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    while not handler.server.ended.wait(0.02):
        handler.wfile.write(b"x")


def floods(handler: Handler) -> None:
    """It answers with a gigabyte."""
    handler.send_response(500)
    handler.send_header("Content-Length", str(1 << 30))
    handler.end_headers()
    piece = b"x" * (1 << 16)
    for _ in range(1 << 14):
        handler.wfile.write(piece)
        handler.server.sent_bytes += len(piece)


def sends(raw: bytes, again: bytes = b"") -> Behaviour:
    """It sends these bytes, and then others for as long as anybody takes them."""

    def behave(handler: Handler) -> None:
        handler.wfile.write(raw)
        while again:
            handler.wfile.write(again)
            handler.server.sent_bytes += len(again)

    return behave


def breaks_off(handler: Handler) -> None:
    """It closes the connection amid its answer."""
    handler.wfile.write(b"HTTP/1.1 200 O")


def in_turn(*behaviours: Behaviour) -> Behaviour:
    """One after the other, and the last from then on."""
    left = list(behaviours)

    def behave(handler: Handler) -> None:
        behaviour = left.pop(0) if len(left) > 1 else left[0]
        behaviour(handler)

    return behave


def self_signed(folder: Path, host: str) -> Path:
    """A file with a key and a certificate of a host (or an address) that nobody else signed."""
    path = folder / "certificate.pem"
    kind = "IP" if host[0].isdigit() else "DNS"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", f"/CN={host}", "-addext", f"subjectAltName={kind}:{host}"]
    subprocess.run([*command, *names, "-keyout", path, "-out", folder / "cert"], check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + (folder / "cert").read_bytes())
    return path

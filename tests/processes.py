"""Runs a verb of `gigawatch` as a process of its own, to be killed and started again."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
from sqlalchemy import Connection, text

GIGAWATCH = [sys.executable, "-m", "gigawatch"]
READY_TIMEOUT_S = 90
STOP_TIMEOUT_S = 60
PORTS = range(10_000, 32_768)
"""Below those that Linux gives out itself, to connections and to who asks for any port."""


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port that is free, and likely to be so still when it is used."""
    while True:
        port = secrets.choice(PORTS)
        with socket.socket(type=kind) as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def processor_s(connection: Connection) -> float:
    """What this process and the database's of a connection have used of processors: elapsed time is that of all that
    the machine does."""
    backend = connection.scalar(text("SELECT pg_backend_pid()"))
    user, system = Path(f"/proc/{backend}/stat").read_text(encoding="ascii").rpartition(") ")[2].split()[11:13]
    return time.process_time() + (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


class Process:
    """A verb with its options and settings, which are environment variables; what it says goes to a file."""

    def __init__(self, log: Path, arguments: list[str], environment: dict[str, str]) -> None:
        self.log = log
        self.environment = environment
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*GIGAWATCH, "-v", *self._arguments],
                env=self.environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        """The first of its processes."""
        assert self._process is not None
        return self._process

    @property
    def pid(self) -> int:
        """Of that."""
        return self.process.pid

    def kill(self) -> None:
        """SIGKILL to all its processes at once, as the kernel's out-of-memory killer does."""
        os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM, as systemd does; the exit status, 0 where it was never started."""
        if self._process is None:
            return 0
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def words(self) -> str:
        """What it has said."""
        return self.log.read_text(encoding="utf-8")


class Answering(Process):
    """One that serves on a port."""

    def __init__(self, log: Path, arguments: list[str], environment: dict[str, str], port_setting: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__(log, arguments, {port_setting: str(self.port), **environment})

    def start(self) -> None:
        """Start it and wait until it answers."""
        super().start()
        deadline = time.monotonic() + READY_TIMEOUT_S
        while True:
            try:
                httpx.get(f"{self.url}/healthz", timeout=1).raise_for_status()
                return
            except httpx.HTTPError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"it does not start: {self.words()}") from None
                time.sleep(0.05)

    def client_with(self, secret: str) -> httpx.Client:
        """A client with this token."""
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {secret}"}, timeout=30)

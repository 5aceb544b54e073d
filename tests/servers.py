"""Runs the real API as a process of its own, to be killed and started again."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from gigawatch import database, tokens
from gigawatch.tokens import ROLES, Role

READY_TIMEOUT_S = 30


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Api:
    """`gigawatch serve` on a database, with a token of each role."""

    def __init__(self, database_url: str, log: Path, settings: dict[str, str]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        self.tokens = _tokens(database_url)
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("GIGAWATCH_")},
            "GIGAWATCH_STORE__DATABASE_URL": database_url,
            "GIGAWATCH_SERVER__PORT": str(self.port),
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of its first process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it answers."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gigawatch", "-v", "serve"],
                env=self._environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + READY_TIMEOUT_S
        while True:
            try:
                httpx.get(f"{self.url}/healthz", timeout=1).raise_for_status()
                return
            except httpx.HTTPError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"the API does not start: {self.log.read_text()}") from None
                time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL to all its processes at once."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.terminate()
        try:
            return self._process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def client(self, role: Role = "admin") -> httpx.Client:
        """A client with a token of this role."""
        headers = {"Authorization": f"Bearer {self.tokens[role]}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30)


@contextmanager
def running_api(database_url: str, log: Path, **settings: str) -> Iterator[Api]:
    """A running API that is stopped in the end. Settings are environment variables."""
    api = Api(database_url, log, settings)
    api.start()
    try:
        yield api
    finally:
        api.stop()


def _tokens(database_url: str) -> dict[Role, str]:
    engine = database.engine(database_url, pool_size=1)
    with engine.begin() as connection:
        made = {role: tokens.create(connection, f"test-{role}-{time.time_ns()}", role) for role in ROLES}
    engine.dispose()
    return made

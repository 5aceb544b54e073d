"""Runs the real API as a process of its own, to be killed and started again."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from gigawatch import database, tokens
from gigawatch.tokens import ROLES, Role
from tests.processes import Answering


class Api(Answering):
    """`gigawatch serve` on a database, with a token of each role."""

    def __init__(self, database_url: str, log: Path, settings: dict[str, str]) -> None:
        self.tokens = _tokens(database_url)
        clean = {key: value for key, value in os.environ.items() if not key.startswith("GIGAWATCH_")}
        environment = {**clean, "GIGAWATCH_STORE__DATABASE_URL": database_url, **settings}
        super().__init__(log, ["serve"], environment, "GIGAWATCH_SERVER__PORT")

    def client(self, role: Role = "admin") -> httpx.Client:
        """A client with a token of this role."""
        return self.client_with(self.tokens[role])


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

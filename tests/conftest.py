"""What every test may ask for: a real database of each level, made anew from a template for each test."""

import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import Engine

from api.alerts import login
from gigawatch import database
from gigawatch.embedded import SUPERUSER, EmbeddedServer, installations
from gigawatch.settings import Alerts
from migrations.run import migrate

# A shell's background job ignores Ctrl-C, and so would all that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# That an example is late, or slow to make, says how busy the machine is. Examples share a test's store knowingly.
settings.register_profile(
    "gigawatch", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.load_profile("gigawatch")

LEVELS = ("embedded", "timescaledb")
MEMORY = Path("/dev/shm")  # noqa: S108 # of our own name below it
MEMORY_NEEDED_BYTES = 4 << 30
_numbers = itertools.count()


class Server:
    """A running PostgreSQL with a migrated template database."""

    def __init__(self, embedded: EmbeddedServer) -> None:
        self.embedded = embedded
        self.admin = f"user={SUPERUSER} host={embedded.data_dir / 'socket'} dbname=postgres"
        with psycopg.connect(self.admin, autocommit=True) as connection:
            # A database that goes away with its test need not outlive a power cut: dropping it took 3 s of writing out.
            # Nor is a query of a few rows worth compiling (0.2 s instead of 0.01 s): who only reads never does.
            for setting in ("fsync", "full_page_writes", "jit"):
                connection.execute(f"ALTER SYSTEM SET {setting} = off")
            connection.execute("SELECT pg_reload_conf()")
            connection.execute("CREATE DATABASE template_gigawatch")
        engine = database.engine(self.url("template_gigawatch"))
        migrate(engine)
        engine.dispose()
        with psycopg.connect(self.admin, autocommit=True) as connection:
            # TimescaleDB's workers would come back to it, and a template must be at rest.
            connection.execute("ALTER DATABASE template_gigawatch ALLOW_CONNECTIONS false")
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'template_gigawatch'"
            )

    def url(self, name: str) -> str:
        """The URL of a database of this server."""
        return self.embedded.url.replace("/gigawatch?", f"/{name}?")

    def create(self, template: str = "template_gigawatch") -> str:
        """A new database's URL."""
        name = f"test_{os.getpid()}_{next(_numbers)}"
        with psycopg.connect(self.admin, autocommit=True) as connection:
            # With the checkpoint that it makes, no test leaves the log of another's writing behind.
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Drop a database, ending its connections."""
        name = url.rpartition("?")[0].rpartition("/")[2]
        with psycopg.connect(self.admin, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def public_folder() -> Iterator[Path]:
    """A temporary folder that the database's user can enter where the tests run as root; in memory if there is room.

    A new database for each test is a thousand files, which take a tenth of the time there.
    """
    in_memory = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MEMORY_NEEDED_BYTES
    path = Path(tempfile.mkdtemp(prefix="gigawatch-", dir=MEMORY if in_memory else None))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def public_dir() -> Iterator[Path]:
    """Such a folder for one test."""
    with public_folder() as path:
        yield path


def _serve(level: str) -> Iterator[Server]:
    timescaledb = level == "timescaledb"
    fitting = [found for found in installations() if found.timescaledb == timescaledb]
    if not fitting:
        pytest.fail(f"no PostgreSQL for level {level!r}: run tests/install-system-packages", pytrace=False)
    with public_folder() as path, EmbeddedServer(path, fitting[0]) as embedded:
        yield Server(embedded)


@pytest.fixture(scope="session")
def embedded_server() -> Iterator[Server]:
    """PostgreSQL from the wheel."""
    yield from _serve("embedded")


@pytest.fixture(scope="session")
def timescaledb_server() -> Iterator[Server]:
    """PostgreSQL with TimescaleDB."""
    yield from _serve("timescaledb")


@pytest.fixture(params=LEVELS)
def database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A migrated, empty database: the test runs once on each level of the store."""
    server: Server = request.getfixturevalue(f"{request.param}_server")
    url = server.create()
    yield url
    server.drop(url)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine of the store's owner on database_url."""
    engine = database.engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def report_engine(database_url: str) -> Iterator[Engine]:
    """An engine on database_url that can only read schema report."""
    engine = database.engine(database_url, role=database.REPORT_ROLE, statement_timeout_s=30)
    yield engine
    engine.dispose()


@pytest.fixture
def rules_engine(engine: Engine) -> Iterator[Engine]:
    """An engine on database_url as rules of alerts have it."""
    rules = login.rules_engine(engine, Alerts())
    yield rules
    rules.dispose()

"""The store: engines with their pools, what the server can do, and the border where its errors become ours.

Nothing outside this module asks whether TimescaleDB is there.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

import psycopg
import sqlalchemy
from msgspec import Struct
from sqlalchemy import Connection, Engine, text
from sqlalchemy.engine import URL, make_url

from gigawatch.errors import ExitCode, GigawatchError

OLDEST_POSTGRESQL = 15
REPORT_ROLE = "gigawatch_report"
CONNECT_TIMEOUT_S = 10


class Edition(StrEnum):
    """The store's three levels."""

    POSTGRESQL = "PostgreSQL"
    TIMESCALEDB_APACHE = "TimescaleDB, Apache edition"
    TIMESCALEDB_COMMUNITY = "TimescaleDB, community edition"


class Capabilities(Struct, frozen=True):
    """What the server is, and so what it can do."""

    postgresql: int
    """Major version."""
    timescaledb: str | None
    edition: Edition

    @property
    def hypertables(self) -> bool:
        """Facts can be hypertables, and old chunks dropped at once."""
        return self.timescaledb is not None

    @property
    def columnstore(self) -> bool:
        """Chunks can be compressed, by the names that this has had since TimescaleDB 2.18."""
        return self.edition is Edition.TIMESCALEDB_COMMUNITY and _numbers(self.timescaledb) >= (2, 18)

    def __str__(self) -> str:
        """As people read it, e.g. in `gigawatch doctor`."""
        if self.timescaledb is None:
            return f"PostgreSQL {self.postgresql}"
        return f"PostgreSQL {self.postgresql} with {self.edition} {self.timescaledb}"


def engine(
    url: str,
    *,
    pool_size: int = 10,
    statement_timeout_s: float | None = None,
    role: str | None = None,
    application: str = "gigawatch",
) -> Engine:
    """An engine on the store, in UTC; it connects on first use.

    Args:
        url: postgresql://user:password@host:port/database.
        pool_size: connections kept; as many again may be opened for a moment.
        statement_timeout_s: how long one statement may take; None: no bound.
        role: the role to take after login; with REPORT_ROLE the engine can only read schema report.
        application: name of the connections in pg_stat_activity.

    Raises:
        GigawatchError: the URL is not one of PostgreSQL.
    """
    # All names in our SQL have their schema; a role named like one must not make it the default. Views over many chunks
    # or partitions gain nothing from compiled plans: a report took 0.2 s longer.
    options = ["-c timezone=UTC", "-c search_path=public", "-c jit=off"]
    if statement_timeout_s is not None:
        options.append(f"-c statement_timeout={round(statement_timeout_s * 1000)}")
    if role is not None:
        options.append(f"-c role={role} -c default_transaction_read_only=on")
        # What is read often is prepared, and then planned for any values: for all nodes where one was asked for.
        options.append("-c plan_cache_mode=force_custom_plan")
        # Sums by minute and group fit in memory, and helpers cost more than they bring for what takes a few hundredths
        # of a second, on a machine that takes windows in at the same time.
        options.append("-c work_mem=32MB -c max_parallel_workers_per_gather=0")
    return sqlalchemy.create_engine(
        _parse(url),
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_pre_ping=True,
        connect_args={
            "options": " ".join(options),
            "connect_timeout": CONNECT_TIMEOUT_S,
            "application_name": application,
        },
    )


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except sqlalchemy.exc.ArgumentError:
        parsed = None
    if parsed is None or parsed.get_backend_name() not in {"postgresql", "postgres"}:
        raise GigawatchError(
            # A password may stand in it, so that only its scheme is shown.
            f"The database URL is not one of PostgreSQL (it begins with {url.partition(':')[0][:20]!r})",
            "Write postgresql://user:password@host:port/database.",
            ExitCode.CONFIGURATION,
        )
    return parsed.set(drivername="postgresql+psycopg")


def capabilities(connection: Connection) -> Capabilities:
    """What the server is.

    Raises:
        GigawatchError: it is older than the oldest that Gigawatch supports.
    """
    version = connection.scalar(text("SELECT current_setting('server_version_num')::integer")) or 0
    major = version // 10_000
    if major < OLDEST_POSTGRESQL:
        raise GigawatchError(
            f"The database is PostgreSQL {major}, and Gigawatch needs {OLDEST_POSTGRESQL} or newer",
            "Upgrade it, or leave out --database-url to use the embedded one.",
            ExitCode.CONFIGURATION,
        )
    extension = connection.scalar(text("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'"))
    if extension is None:
        return Capabilities(major, None, Edition.POSTGRESQL)
    # The Apache edition has the functions of the columnstore as well, and refuses to run them.
    community = connection.scalar(text("SELECT current_setting('timescaledb.license', true)")) == "timescale"
    edition = Edition.TIMESCALEDB_COMMUNITY if community else Edition.TIMESCALEDB_APACHE
    return Capabilities(major, extension, edition)


def hypertables(connection: Connection) -> set[str]:
    """Names of our tables that are hypertables."""
    if not capabilities(connection).hypertables:
        return set()
    names = text(
        "SELECT hypertable_name FROM timescaledb_information.hypertables WHERE hypertable_schema = 'gigawatch'"
    )
    return set(connection.scalars(names))


def _numbers(version: str | None) -> tuple[int, ...]:
    """Of a version like 2.29.2 or 2.23.0-dev, those that are compared: (2, 29)."""
    return tuple(int(number) for number in (version or "0.0").split(".")[:2])


@contextmanager
def border(url: URL | str | None = None) -> Iterator[None]:
    """Turn what the driver raises when the store is out of reach into an error that people can act on."""
    try:
        yield
    except (sqlalchemy.exc.OperationalError, psycopg.OperationalError) as error:
        place = f" at {make_url(url).render_as_string(hide_password=True)}" if url is not None else ""
        raise GigawatchError(
            f"The database{place} cannot be reached: {_first_line(error)}",
            "Is it running, and are host, port, user and password right?",
            ExitCode.UNREACHABLE,
        ) from error


def _first_line(error: BaseException) -> str:
    cause: Any = getattr(error, "orig", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    # A URL in the driver's words would carry the password.
    return re.sub(r"(://[^:/@\s]+):[^@\s]+@", r"\1:***@", lines[0]) if lines else type(cause).__name__

"""Bring a database to this version's schema: tables by Alembic, then views if they changed."""

import hashlib
import logging
import re
from graphlib import TopologicalSorter
from pathlib import Path

import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, text

from gigawatch import schema
from gigawatch.database import REPORT_ROLE, border, capabilities
from gigawatch.errors import ExitCode, GigawatchError
from migrations import rules

HERE = Path(__file__).parent
LOCK = 0x6769_6761  # "giga"; the same for every process that migrates
LOCK_TIMEOUT_S = 60
log = logging.getLogger(__name__)


def migrate(engine: Engine) -> None:
    """Bring the database to this version, in one transaction and under an advisory lock.

    Raises:
        GigawatchError: the database is out of reach, of a newer version, or locked by another process.
    """
    with border(engine.url):
        _add_timescaledb(engine)
        try:
            with engine.begin() as connection:
                connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'"))
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
                connection.execute(text("CREATE SCHEMA IF NOT EXISTS gigawatch"))
                present = _revision(connection)
                if present is not None:
                    schema.refuse_newer(present)
                config = _config()
                config.attributes["connection"] = connection
                if present != schema.REVISION:
                    # Views hold on to the tables that are to change; they are made again below.
                    _drop_views(connection)
                command.upgrade(config, "head")
                _make_hypertables(connection)
                _make_views(connection)
                rules.prepare(connection)
        except sqlalchemy.exc.OperationalError as error:
            if "lock timeout" in str(error):
                raise GigawatchError(
                    f"Another process has held a lock on the schema for {LOCK_TIMEOUT_S} s",
                    "Is another `gigawatch migrate` running, or a long transaction open? Try again after it.",
                    ExitCode.UNREACHABLE,
                ) from error
            raise


def _revision(connection: Connection) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table_schema": "gigawatch"})
    return context.get_current_revision()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(HERE))
    return config


def _add_timescaledb(engine: Engine) -> None:
    """Create the extension where the server offers it; without it everything works, with plain tables."""
    with engine.connect() as connection:
        offered = connection.scalar(
            text("SELECT installed_version IS NULL FROM pg_available_extensions WHERE name = 'timescaledb'")
        )
        if not offered:
            return
        try:
            connection.execute(text("CREATE EXTENSION IF NOT EXISTS timescaledb"))
            connection.commit()
        except sqlalchemy.exc.DBAPIError as error:
            log.warning("TimescaleDB is installed but cannot be used, going on without it: %s", error.orig)


def _make_hypertables(connection: Connection) -> None:
    if not capabilities(connection).hypertables:
        return
    for table, interval in schema.hypertables.items():
        connection.execute(
            text(
                "SELECT create_hypertable(:table, by_range('time', CAST(:interval AS interval)),"
                " create_default_indexes => false, migrate_data => true, if_not_exists => true)"
            ),
            {"table": f"gigawatch.{table}", "interval": interval},
        )


def _make_views(connection: Connection) -> None:
    """Drop schemas report and expanded and make them again from views/, if a file changed since the last time."""
    files = view_files()
    digest = hashlib.sha256("\0".join(files.values()).encode()).hexdigest()
    present = connection.scalar(
        text("SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = 'report'")
    )
    if present is not None and digest in present:
        return
    _drop_views(connection)
    connection.execute(text("CREATE SCHEMA expanded"))
    connection.execute(text("CREATE SCHEMA report"))
    driver = connection.connection.driver_connection
    assert driver is not None
    for sql in files.values():
        driver.execute(sql)
    connection.execute(text(f"COMMENT ON SCHEMA report IS 'Figures for people and reports; files {digest}'"))
    _grant(connection)


def _drop_views(connection: Connection) -> None:
    connection.execute(text("DROP SCHEMA IF EXISTS report, expanded CASCADE"))


def _grant(connection: Connection) -> None:
    """Let the report role read schema report and nothing else, and let ourselves take that role.

    Raises:
        GigawatchError: the role is missing or not ours to take, and this user may not change that.
    """
    # Roles belong to the whole server: another database of it may have made this one, at this moment.
    make_role = f"""
        DO $$ BEGIN
            IF to_regrole('{REPORT_ROLE}') IS NULL THEN
                CREATE ROLE {REPORT_ROLE} NOLOGIN;
            END IF;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
        END $$"""
    # From PostgreSQL 16 on, a role's maker may give it to others but not take it, until it says so.
    modern = (connection.scalar(text("SELECT current_setting('server_version_num')::integer")) or 0) >= 160_000
    may_take = f"pg_has_role(current_user, '{REPORT_ROLE}', '{'SET' if modern else 'MEMBER'}')"
    take_role = f"""
        DO $$ BEGIN
            IF NOT {may_take} THEN
                GRANT {REPORT_ROLE} TO CURRENT_USER{" WITH SET TRUE" if modern else ""};
            END IF;
        END $$"""
    try:
        with connection.begin_nested():
            connection.execute(text(make_role))
            connection.execute(text(take_role))
    except sqlalchemy.exc.ProgrammingError as error:
        user = connection.scalar(text("SELECT current_user"))
        raise GigawatchError(
            f"The database's user {user} may not make or take the role {REPORT_ROLE}: {error.orig}",
            f"As a superuser, once: CREATE ROLE {REPORT_ROLE} NOLOGIN; GRANT {REPORT_ROLE} TO {user};",
            ExitCode.CONFIGURATION,
        ) from error
    connection.execute(text(f"GRANT USAGE ON SCHEMA report TO {REPORT_ROLE}"))
    connection.execute(text(f"GRANT SELECT ON ALL TABLES IN SCHEMA report TO {REPORT_ROLE}"))
    connection.execute(text("REVOKE ALL ON ALL FUNCTIONS IN SCHEMA report FROM PUBLIC"))
    connection.execute(text(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA report TO {REPORT_ROLE}"))


def view_files() -> dict[str, str]:
    """SQL by name of the file without its ending, each after those that its header `-- needs: a, b` names."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted((HERE / "views").glob("*.sql"))}
    needs = {
        name: [word.strip() for word in found[1].split(",")] if (found := _NEEDS.search(sql)) else []
        for name, sql in texts.items()
    }
    return {name: texts[name] for name in TopologicalSorter(needs).static_order()}


_NEEDS = re.compile(r"^-- needs: (.+)$", re.MULTILINE)

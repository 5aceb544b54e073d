"""Migrations against the declared schema, on each level of the store."""

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text
from sqlalchemy.exc import ProgrammingError

import migrations
from api.alerts import login
from api.alerts.evaluation import EvaluationError
from gigawatch import database, schema
from gigawatch.database import Capabilities, Edition
from gigawatch.embedded import EmbeddedServer, installations
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.settings import Alerts
from migrations.run import migrate, view_files


def test_migrations_make_the_declared_schema(engine: Engine) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.check(config)  # raises where the two differ


def test_the_declared_revision_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    assert ScriptDirectory.from_config(config).get_current_head() == schema.REVISION


def test_facts_are_hypertables_where_timescaledb_is(engine: Engine) -> None:
    with engine.connect() as connection:
        able = database.capabilities(connection)
        if able.edition is Edition.POSTGRESQL:
            assert able == Capabilities(18, None, Edition.POSTGRESQL)
            return
        names = connection.scalars(text("SELECT hypertable_name FROM timescaledb_information.hypertables")).all()
    assert set(names) == set(schema.hypertables)


def test_nothing_of_ours_waits_for_plans_to_be_compiled(engine: Engine, report_engine: Engine) -> None:
    for it in (engine, report_engine):
        with it.connect() as connection:
            asked = connection.execute(text("SELECT setting, source FROM pg_settings WHERE name = 'jit'")).one()
        assert tuple(asked) == ("off", "client")


def test_migrating_twice_and_at_once_changes_nothing(engine: Engine) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            migrate(engine)
        except BaseException as error:  # noqa: BLE001 # a thread's failure must reach the test
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with engine.connect() as connection:
        schema.require_revision(connection)


def test_a_newer_database_is_refused(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE gigawatch.alembic_version SET version_num = '9999'"))
    with pytest.raises(GigawatchError, match="newer Gigawatch") as caught:
        migrate(engine)
    assert caught.value.exit_code == ExitCode.SCHEMA


def test_an_old_database_is_named_as_such(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM gigawatch.alembic_version"))
        with pytest.raises(GigawatchError, match="gigawatch migrate"):
            schema.require_revision(connection)


def test_changed_views_are_made_again(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("COMMENT ON SCHEMA report IS 'of another version'"))
        connection.execute(text("DROP VIEW report.events"))
    migrate(engine)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT * FROM report.events")).all() == []


def test_every_column_of_every_view_has_a_comment(engine: Engine) -> None:
    with engine.connect() as connection:
        bare = connection.execute(
            text("""
                SELECT attrelid::regclass::text, attname FROM pg_attribute
                JOIN pg_class ON pg_class.oid = attrelid
                WHERE relnamespace = 'report'::regnamespace AND relkind = 'v' AND attnum > 0
                    AND col_description(attrelid, attnum) IS NULL""")
        ).all()
    assert bare == []


def test_every_view_file_says_what_it_means() -> None:
    for name, sql in view_files().items():
        header = sql[: sql.index("CREATE")]
        for part in ("Definition:", "Missing data:") if name != "events" else ("Definition:",):
            assert part in header, f"views/{name}.sql lacks {part!r}"


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM gigawatch.node",
        "SELECT secret_sha256 FROM gigawatch.api_token",
        "INSERT INTO gigawatch.site (name) VALUES ('x')",
        "CREATE TABLE report.mine ()",
    ],
)
def test_the_report_role_can_only_read_schema_report(report_engine: Engine, statement: str) -> None:
    with (
        report_engine.connect() as connection,
        pytest.raises(ProgrammingError, match="permission denied"),
    ):
        connection.execute(text("SET default_transaction_read_only = off"))
        connection.commit()
        connection.execute(text(statement))


@pytest.fixture
def bare_server(public_dir: Path) -> Iterator[EmbeddedServer]:
    """A server of this test's own: roles belong to a whole server."""
    with EmbeddedServer(public_dir / "store", next(it for it in installations() if not it.timescaledb)) as server:
        yield server


def owned(server: EmbeddedServer, name: str, attributes: str) -> str:
    """A new database whose owner is no superuser; its URL."""
    engine = database.engine(server.url)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"CREATE ROLE {name} LOGIN {attributes}"))
        connection.execute(text(f"CREATE DATABASE {name} OWNER {name}"))
    engine.dispose()
    return server.url.replace("gigawatch@/gigawatch?", f"{name}@/{name}?")


def reads(url: str) -> bool:
    """Whether the owner can take the report role and read."""
    reader = database.engine(url, role=database.REPORT_ROLE)
    with reader.connect() as connection:
        found = connection.execute(text("SELECT * FROM report.nodes")).all()
    reader.dispose()
    return found == []


def rules_run(engine: Engine) -> bool:
    """Whether the login for rules can be logged in as, and reads."""
    rules = login.rules_engine(engine, Alerts())
    with rules.connect() as connection:
        found = connection.execute(text("SELECT count(*) FROM nodes")).scalar()
    rules.dispose()
    return found == 0


def test_an_owner_who_is_no_superuser_can_migrate_and_read(bare_server: EmbeddedServer) -> None:
    url = owned(bare_server, "maker", "CREATEROLE")
    # As most servers have it: who is not at home there needs a password.
    (bare_server.cluster / "pg_hba.conf").write_text(
        "local all gigawatch,maker trust\nlocal all all scram-sha-256\n", encoding="ascii"
    )
    engine, superuser = database.engine(url), database.engine(bare_server.url)
    with superuser.begin() as connection:
        connection.execute(text("SELECT pg_reload_conf()"))
    migrate(engine)
    migrate(engine)
    assert reads(url) and rules_run(engine)
    with engine.begin() as connection:
        role = connection.scalar(text("SELECT role FROM gigawatch.rule_login"))
        # A server to which the database was restored does not have it.
        connection.execute(text(f"DROP ROLE {role}"))
    with pytest.raises(EvaluationError, match="the login for rules is refused"):
        rules_run(engine)
    migrate(engine)
    assert rules_run(engine)
    with superuser.begin() as connection:
        connection.execute(text(f"ALTER ROLE {role} PASSWORD 'another'"))
    with pytest.raises(EvaluationError, match=r"the login for rules is refused .*password authentication failed"):
        rules_run(engine)
    engine.dispose()
    superuser.dispose()


def test_an_owner_who_may_not_make_roles_is_told_what_a_superuser_must_do(
    bare_server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    url = owned(bare_server, "plain", "")
    engine = database.engine(url)
    with pytest.raises(GigawatchError, match="may not make or take the role") as caught:
        migrate(engine)
    superuser = database.engine(bare_server.url)
    with superuser.begin() as connection:
        # The remedy's own words are the cure.
        for statement in caught.value.remedy.partition(": ")[2].split(";"):
            if statement.strip():
                connection.execute(text(statement))
    migrate(engine)
    assert reads(url)
    (warning,) = [it.getMessage() for it in caplog.records if "login for the rules" in it.getMessage()]
    with pytest.raises(EvaluationError, match="there is no login for rules"):
        rules_run(engine)
    made = re.search(r"CREATE ROLE .* IN ROLE \w+", warning)
    assert made is not None
    with superuser.begin() as connection:
        connection.execute(text(made[0]))
    superuser.dispose()
    named = Alerts(rule_database_url=url.replace("plain@", "gigawatch_rules@"))
    rules = login.rules_engine(engine, named)
    with rules.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM nodes")).scalar() == 0
    rules.dispose()
    engine.dispose()


@pytest.mark.parametrize("level", ["embedded", "timescaledb"])
def test_windows_of_the_first_schema_are_turned_into_rows_of_a_node(level: str, request: pytest.FixtureRequest) -> None:
    """Two nodes; a GPU without a window in the second minute, one without a counter, and one that was removed."""
    server = request.getfixturevalue(f"{level}_server")
    url = server.create("template0")
    engine = database.engine(url)
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    try:
        with engine.begin() as connection:
            connection.execute(text("CREATE SCHEMA gigawatch"))
            config.attributes["connection"] = connection
            command.upgrade(config, "0001")
            for sql in (
                "INSERT INTO gigawatch.site (name) VALUES ('oslo')",
                (
                    "INSERT INTO gigawatch.node (machine_id, site_id, hostname, clock_offset_ms)"
                    " VALUES ('a', 1, 'node-a', 7), ('b', 1, 'node-b', NULL)"
                ),
                (
                    "INSERT INTO gigawatch.gpu (node_id, uuid, index, model, removed)"
                    " VALUES (1, 'GPU-1', 1, 'H100', NULL),"
                    " (1, 'GPU-0', 0, 'H100', NULL), (2, 'GPU-2', 0, 'B200', NULL), (2, 'GPU-3', NULL, 'B200', now())"
                ),
                (
                    "INSERT INTO gigawatch.gpu_window (time, gpu_id, covered_ms, energy_mj, energy_method, ticks_taken,"
                    " ticks_expected, gpu_util_pm)"
                    " SELECT time, gpu_id, 60000, CASE WHEN gpu_id <> 3 THEN gpu_id * 1000 END,"
                    " CASE WHEN gpu_id <> 3 THEN 1 END, 59, 60, gpu_id * 10 FROM gigawatch.gpu,"
                    " unnest(ARRAY['2026-01-01 00:00Z', '2026-01-01 00:01Z']::timestamptz[]) AS time"
                    " WHERE gpu_id <> 1 OR time = '2026-01-01 00:00Z'"
                ),
            ):
                connection.execute(text(sql))
        migrate(engine)
        with engine.connect() as connection:
            rows = connection.execute(
                text("SELECT to_char(time, 'MI'), gpu_uuid, energy_j, gpu_util_pct, energy_method, ticks_taken"
                     " FROM report.gpu_windows ORDER BY 2, 1")
            ).all()  # fmt: skip
            nodes = connection.execute(
                text("SELECT hostname, site, gpus, gpu_models, clock_offset_s FROM report.nodes ORDER BY 1")
            ).all()
        assert [tuple(row) for row in rows] == [
            ("00", "GPU-0", 2, 2, "counter", 59), ("01", "GPU-0", 2, 2, "counter", 59),
            ("00", "GPU-1", 1, 1, "counter", 59),
            ("00", "GPU-2", None, 3, None, 59), ("01", "GPU-2", None, 3, None, 59),
            ("00", "GPU-3", 4, 4, "counter", 59), ("01", "GPU-3", 4, 4, "counter", 59),
        ]  # fmt: skip
        assert [tuple(row) for row in nodes] == [
            ("node-a", "oslo", 2, ["H100"], 0.007),
            ("node-b", "oslo", 1, ["B200"], 0),
        ]
    finally:
        engine.dispose()
        server.drop(url)

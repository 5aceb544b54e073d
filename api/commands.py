"""The verbs `gigawatch serve`, `gigawatch token` and `gigawatch db`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import click
import msgspec
from sqlalchemy import Engine

from api import status
from gigawatch import database, settings, tokens
from gigawatch.connections import BACKLOG, MOST_CONNECTIONS, allow_open_files
from gigawatch.embedded import EmbeddedServer
from gigawatch.errors import ExitCode
from gigawatch.ports import require_free
from gigawatch.schema import require_revision
from gigawatch.settings import Settings, Store
from gigawatch.tokens import Role

STORE_FLAGS = (
    click.option("--database-url", help="The database; by default the embedded one in the data directory."),
    click.option("--data-dir", help="Folder of the embedded database."),
)


def _store_flags(command: Any) -> Any:
    for flag in reversed(STORE_FLAGS):
        command = flag(command)
    return command


@contextmanager
def _database_url(store: Store) -> Iterator[str]:
    """The database's URL; the embedded one is started where none is named."""
    if store.database_url is not None:
        yield store.database_url
    else:
        with EmbeddedServer(Path(store.data_dir)) as server:
            yield server.url


@contextmanager
def _open(store: Store) -> Iterator[Engine]:
    """An engine on a database that answers and has this version's schema."""
    with _database_url(store) as url:
        engine = database.engine(url, pool_size=1)
        try:
            with database.border(url), engine.connect() as connection:
                require_revision(connection)
            yield engine
        finally:
            engine.dispose()


@click.command()
@_store_flags
@click.option("--host", help="Address to listen on; default 127.0.0.1.")
@click.option("--port", type=int, help="Port to listen on; default 8600.")
@click.option("--workers", type=int, help="Processes that serve; default 1.")
@click.pass_obj
def serve(
    config: Path | None,
    /,
    database_url: str | None,
    data_dir: str | None,
    host: str | None,
    port: int | None,
    workers: int | None,
) -> None:
    """Serve the HTTP API: agents send batches, people and programs read figures.

    The database must have this version's schema: run `gigawatch migrate` first. Agents need a token:

    \b
      gigawatch token create --role agent node-7 > agent.token
    """
    loaded = settings.load(
        config,
        {
            "store.database_url": database_url,
            "store.data_dir": data_dir,
            "server.host": host,
            "server.port": port,
            "server.workers": workers,
        },
    )
    require_free(loaded.server.host, loaded.server.port, "server.port", "--port")
    with _open(loaded.store) as engine:
        _hand_down(loaded, engine.url.render_as_string(hide_password=False))
        _run(loaded)


def _hand_down(loaded: Settings, url: str) -> None:
    """Put the settings in force where the serving processes read theirs: the environment."""
    for section in ("store", "server", "retention"):
        for key, value in msgspec.to_builtins(getattr(loaded, section)).items():
            if value is not None:
                os.environ[f"GIGAWATCH_{section.upper()}__{key.upper()}"] = str(value)
    os.environ["GIGAWATCH_STORE__DATABASE_URL"] = url.replace("postgresql+psycopg://", "postgresql://", 1)


def _run(loaded: Settings) -> None:
    from granian import Granian  # noqa: PLC0415 # only a server needs it
    from granian.constants import Interfaces  # noqa: PLC0415
    from granian.log import LogLevels  # noqa: PLC0415

    host = "127.0.0.1" if loaded.server.host in {"0.0.0.0", "::"} else loaded.server.host  # noqa: S104 # compared
    address = f"http://{f'[{host}]' if ':' in host else host}:{loaded.server.port}"
    allow_open_files()
    click.echo(f"The API is at {address}, described at {address}/docs", err=True)
    Granian(
        "api.app:create",
        factory=True,
        address=loaded.server.host,
        port=loaded.server.port,
        interface=Interfaces.ASGI,
        workers=loaded.server.workers,
        backlog=BACKLOG,
        backpressure=MOST_CONNECTIONS,
        respawn_failed_workers=True,
        workers_kill_timeout=10,
        log_level=LogLevels.warning,
        websockets=False,
    ).serve()


@click.group()
def token() -> None:
    """Make, list and revoke tokens of the API and the dashboard.

    The store keeps their SHA-256 alone: a secret is shown once, when it is made.
    """


@token.command()
@_store_flags
@click.option(
    "--role",
    type=click.Choice(get_args(Role)),
    required=True,
    help="agent may send batches, viewer may read, admin may do both.",
)
@click.argument("name")
@click.pass_obj
def create(config: Path | None, /, database_url: str | None, data_dir: str | None, role: Role, name: str) -> None:
    """Make a token for NAME and print its secret, the only time."""
    with _of(config, database_url, data_dir) as engine, engine.begin() as connection:
        click.echo(tokens.create(connection, name, role))


@token.command("list")
@_store_flags
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_(config: Path | None, /, database_url: str | None, data_dir: str | None, as_json: bool) -> None:
    """List the tokens, the revoked ones too."""
    with _of(config, database_url, data_dir) as engine, engine.connect() as connection:
        found = tokens.listing(connection)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
        return
    for it in found:
        state = f"revoked {it.revoked:%Y-%m-%d %H:%M} UTC" if it.revoked else "good"
        click.echo(f"{it.name}  {it.role}  made {it.created:%Y-%m-%d %H:%M} UTC  {state}")


@token.command()
@_store_flags
@click.argument("name")
@click.pass_obj
def revoke(config: Path | None, /, database_url: str | None, data_dir: str | None, name: str) -> None:
    """Make the token of NAME useless, within ten seconds."""
    with _of(config, database_url, data_dir) as engine, engine.begin() as connection:
        tokens.revoke(connection, name)
    click.echo(f"Revoked {name}.")


@click.group()
def db() -> None:
    """Look after the store."""


@db.command("status")
@_store_flags
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def status_(config: Path | None, /, database_url: str | None, data_dir: str | None, as_json: bool) -> None:
    """Show how the store is doing: what is folded, what its jobs did, how large its tables are.

    \b
    folded up to      windows before this are in minutes (1m), hours (1h) and days (1d)
    lag               time since then: up to a bucket and half a minute is as it should be
    buckets waiting   buckets of nodes to be folded again, since data came late
    rows              as PostgreSQL last estimated them

    \b
    Exit status: 0 where all is well; 1 where a job failed last time, or minutes are folded more than
    5 minutes late while newer windows are there: what it is goes to standard error.

    \b
      gigawatch db status --json | jq '.rollups[] | {level, lag_s}'
    """
    with _of(config, database_url, data_dir) as engine, engine.connect() as connection:
        found = status.read(connection)
    click.echo(msgspec.json.format(msgspec.json.encode(found)).decode() if as_json else status.text(found))
    for problem in found.problems:
        click.echo(f"\n{problem}", err=True)
    if found.problems:
        raise SystemExit(ExitCode.FAILURE)


@contextmanager
def _of(config: Path | None, database_url: str | None, data_dir: str | None) -> Iterator[Engine]:
    loaded = settings.load(config, {"store.database_url": database_url, "store.data_dir": data_dir})
    with _open(loaded.store) as engine, database.border(engine.url):
        yield engine

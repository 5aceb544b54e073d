"""The verbs `gigawatch serve`, `gigawatch token` and `gigawatch db`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import click
import msgspec
from sqlalchemy import Engine

from api import status
from api.counts import sharing
from gigawatch import database, serving, settings, tokens
from gigawatch.connections import BACKLOG, MOST_CONNECTIONS, allow_open_files
from gigawatch.errors import ExitCode
from gigawatch.serving import store_flags
from gigawatch.tokens import Role


@click.command()
@store_flags
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
    allow_open_files()
    with sharing():
        serving.serve(
            "api.app:create",
            config,
            loaded,
            "server",
            "The API is at {address}, described at {address}/docs",
            interface="asgi",
            workers=loaded.server.workers,
            backlog=BACKLOG,
            backpressure=MOST_CONNECTIONS,
        )


@click.group()
def token() -> None:
    """Make, list and revoke tokens of the API and the dashboard.

    The store keeps their SHA-256 alone: a secret is shown once, when it is made.
    """


@token.command()
@store_flags
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
    with store_of(config, database_url, data_dir) as engine, engine.begin() as connection:
        click.echo(tokens.create(connection, name, role))


@token.command("list")
@store_flags
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_(config: Path | None, /, database_url: str | None, data_dir: str | None, as_json: bool) -> None:
    """List the tokens, the revoked ones too."""
    with store_of(config, database_url, data_dir) as engine, engine.connect() as connection:
        found = tokens.listing(connection)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
        return
    for it in found:
        state = f"revoked {it.revoked:%Y-%m-%d %H:%M} UTC" if it.revoked else "good"
        click.echo(f"{it.name}  {it.role}  made {it.created:%Y-%m-%d %H:%M} UTC  {state}")


@token.command()
@store_flags
@click.argument("name")
@click.pass_obj
def revoke(config: Path | None, /, database_url: str | None, data_dir: str | None, name: str) -> None:
    """Make the token of NAME useless, within ten seconds."""
    with store_of(config, database_url, data_dir) as engine, engine.begin() as connection:
        tokens.revoke(connection, name)
    click.echo(f"Revoked {name}.")


@click.group()
def db() -> None:
    """Look after the store."""


@db.command("status")
@store_flags
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
    with store_of(config, database_url, data_dir) as engine, engine.connect() as connection:
        found = status.read(connection)
    click.echo(msgspec.json.format(msgspec.json.encode(found)).decode() if as_json else status.text(found))
    for problem in found.problems:
        click.echo(f"\n{problem}", err=True)
    if found.problems:
        raise SystemExit(ExitCode.FAILURE)


@contextmanager
def store_of(config: Path | None, database_url: str | None, data_dir: str | None) -> Iterator[Engine]:
    """An engine on the store that settings and flags name, also while `gigawatch up` runs on it."""
    loaded = settings.load(config, {"store.database_url": database_url, "store.data_dir": data_dir})
    with serving.opened(loaded.store, beside=True) as engine, database.border(engine.url):
        yield engine

"""What the verbs that work on a store begin with: their flags, the store itself, and the processes that serve it."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import click
import msgspec
from sqlalchemy import Engine

from gigawatch import database
from gigawatch.embedded import EmbeddedServer, InUse
from gigawatch.errors import GigawatchError
from gigawatch.ports import require_free
from gigawatch.schema import require_revision
from gigawatch.settings import Dashboard, Server, Settings, Store

Section = Literal["server", "dashboard"]
STORE_FLAGS = (
    click.option("--database-url", help="The database; by default the embedded one in the data directory."),
    click.option("--data-dir", help="Folder of the embedded database."),
)


def store_flags(command: Any) -> Any:
    """Decorate a verb with the flags that say which store it works on."""
    for flag in reversed(STORE_FLAGS):
        command = flag(command)
    return command


@contextmanager
def running(store: Store, *, beside: bool = False) -> Iterator[str]:
    """The database's URL; the embedded one is started where none is named.

    Args:
        store: its settings.
        beside: also where another process, such as `gigawatch up`, has started the embedded one and will stop it.
    """
    if store.database_url is not None:
        yield store.database_url
        return
    server = EmbeddedServer(Path(store.data_dir))
    with ExitStack() as stack:
        try:
            stack.enter_context(server)
        except InUse:
            if not beside:
                raise
        yield server.url


@contextmanager
def opened(store: Store, *, beside: bool = False) -> Iterator[Engine]:
    """An engine on a database that answers and has this version's schema; arguments as of running()."""
    with running(store, beside=beside) as url:
        engine = database.engine(url, pool_size=1)
        try:
            with database.border(url), engine.connect() as connection:
                require_revision(connection)
            yield engine
        finally:
            engine.dispose()


def serve(application: str, config: Path | None, loaded: Settings, section: Section, said: str, **options: Any) -> None:
    """Serve until we are stopped.

    Args:
        application: module and name of the function that makes it, in each serving process.
        config: the file of settings that was named.
        loaded: the settings in force.
        section: server or dashboard: where its address is set.
        said: what to tell people first, with {address} in it.
        options: of Granian.
    """
    from granian import Granian  # noqa: PLC0415 # only a server needs it
    from granian.log import LogLevels  # noqa: PLC0415

    place: Server | Dashboard = getattr(loaded, section)
    require_free(place.host, place.port, f"{section}.port", "--port")
    with opened(loaded.store) as engine:
        hand_down(config, loaded, engine.url.render_as_string(hide_password=False), section)
        # The serving processes have connections of their own.
        engine.dispose()
        click.echo(said.format(address=_address(place.host, place.port)), err=True)
        Granian(
            application,
            factory=True,
            address=place.host,
            port=place.port,
            respawn_failed_workers=True,
            workers_kill_timeout=10,
            log_level=LogLevels.warning,
            websockets=False,
            **options,
        ).serve()


def hand_down(config: Path | None, loaded: Settings, url: str, section: Section) -> None:
    """Put the settings in force where the serving processes read theirs: the environment.

    Flags say something of the store and of a section alone; all else is in the file.
    """
    if config is not None:
        os.environ["GIGAWATCH_CONFIG"] = str(config.absolute())
    for name in ("store", section):
        for key, value in msgspec.to_builtins(getattr(loaded, name)).items():
            if value is not None:
                os.environ[f"GIGAWATCH_{name.upper()}__{key.upper()}"] = str(value)
    os.environ["GIGAWATCH_STORE__DATABASE_URL"] = url.replace("postgresql+psycopg://", "postgresql://", 1)


def handed_down(store: Store) -> str:
    """The database's URL in a serving process.

    Raises:
        GigawatchError: store.database_url is not set.
    """
    if store.database_url is None:
        raise GigawatchError("store.database_url is not set", "`gigawatch serve` and `gigawatch dashboard` set it.")
    return store.database_url


def _address(host: str, port: int) -> str:
    """Where people find on this machine what listens on a host's port."""
    if host in {"0.0.0.0", "::"}:  # noqa: S104 # compared
        host = "127.0.0.1"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"

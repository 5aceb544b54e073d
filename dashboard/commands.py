"""The verb `gigawatch dashboard`."""

import ipaddress
import os
from pathlib import Path

import click
import msgspec

from gigawatch import database, settings
from gigawatch.embedded import EmbeddedServer
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.ports import require_free
from gigawatch.schema import require_revision
from gigawatch.settings import Settings


@click.command()
@click.option("--database-url", help="The database; by default the embedded one in the data directory.")
@click.option("--data-dir", help="Folder of the embedded database.")
@click.option("--host", help="Address to listen on; default 127.0.0.1.")
@click.option("--port", type=int, help="Port to listen on; default 8601.")
@click.option("--open-access", is_flag=True, default=None, help="Need no token; on a loopback address only.")
@click.pass_obj
def dashboard(
    config: Path | None,
    /,
    database_url: str | None,
    data_dir: str | None,
    host: str | None,
    port: int | None,
    open_access: bool | None,
) -> None:
    """Serve the web app: the fleet, its nodes and GPUs, live.

    People log in with a token of role viewer or admin:

    \b
      gigawatch token create --role viewer ada
    """
    loaded = settings.load(
        config,
        {
            "store.database_url": database_url,
            "store.data_dir": data_dir,
            "dashboard.host": host,
            "dashboard.port": port,
            "dashboard.open_access": open_access,
        },
    )
    if loaded.dashboard.open_access and not _is_loopback(loaded.dashboard.host):
        raise GigawatchError(
            f"dashboard.open_access with dashboard.host = {loaded.dashboard.host!r} would let everybody in",
            "Leave out open_access, or listen on 127.0.0.1.",
            ExitCode.CONFIGURATION,
        )
    require_free(loaded.dashboard.host, loaded.dashboard.port, "dashboard.port", "--port")
    if loaded.store.database_url is not None:
        _run(loaded, loaded.store.database_url)
    else:
        with EmbeddedServer(Path(loaded.store.data_dir)) as server:
            _run(loaded, server.url)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _run(loaded: Settings, url: str) -> None:
    from granian import Granian  # noqa: PLC0415 # only a server needs it
    from granian.constants import Interfaces  # noqa: PLC0415
    from granian.log import LogLevels  # noqa: PLC0415

    engine = database.engine(url, pool_size=1)
    with database.border(url), engine.connect() as connection:
        require_revision(connection)
    engine.dispose()
    # The serving process reads its settings from the environment.
    os.environ["GIGAWATCH_STORE__DATABASE_URL"] = url
    os.environ["GIGAWATCH_STORE__DATA_DIR"] = loaded.store.data_dir
    os.environ["GIGAWATCH_STORE__STATEMENT_TIMEOUT_S"] = str(loaded.store.statement_timeout_s)
    os.environ["GIGAWATCH_STORE__POOL_SIZE"] = str(loaded.store.pool_size)
    os.environ["GIGAWATCH_DASHBOARD__OPEN_ACCESS"] = str(loaded.dashboard.open_access).lower()
    os.environ["GIGAWATCH_DASHBOARD__REFRESH_S"] = str(loaded.dashboard.refresh_s)
    for field, value in msgspec.structs.asdict(loaded.retention).items():
        if value is not None:
            os.environ[f"GIGAWATCH_RETENTION__{field.upper()}"] = str(value)
    click.echo(f"The dashboard is at http://{loaded.dashboard.host}:{loaded.dashboard.port}/", err=True)
    Granian(
        "dashboard.app:create",
        factory=True,
        address=loaded.dashboard.host,
        port=loaded.dashboard.port,
        interface=Interfaces.WSGI,
        # One process, whose threads wait for the database.
        workers=1,
        blocking_threads=4,
        respawn_failed_workers=True,
        workers_kill_timeout=10,
        log_level=LogLevels.warning,
        websockets=False,
    ).serve()

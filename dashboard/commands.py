"""The verb `gigawatch dashboard`."""

import ipaddress
from pathlib import Path

import click

from gigawatch import serving, settings
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.serving import store_flags


@click.command()
@store_flags
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

    People log in with a token of role viewer, operator (who may silence and acknowledge alerts too) or admin:

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
    serving.serve(
        "dashboard.app:create",
        config,
        loaded,
        "dashboard",
        "The dashboard is at {address}/",
        interface="wsgi",
        # One process, whose threads wait for the database.
        workers=1,
        blocking_threads=4,
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

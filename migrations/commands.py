"""The verb `gigawatch migrate`."""

from pathlib import Path

import click

from gigawatch import database, serving, settings
from gigawatch.serving import store_flags


@click.command()
@store_flags
@click.pass_obj
def migrate(config: Path | None, /, database_url: str | None, data_dir: str | None) -> None:
    """Bring the database's schema to this version.

    Runs in one transaction and under a lock, so that any number of processes may call it at once. `gigawatch
    up` does this by itself.
    """
    from migrations.run import migrate as run  # noqa: PLC0415 # Alembic is slow to import

    store = settings.load(config, {"store.database_url": database_url, "store.data_dir": data_dir}).store
    with serving.running(store) as url:
        run(database.engine(url))
    click.echo("The database's schema is up to date.")

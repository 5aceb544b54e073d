"""The verb `gigawatch migrate`."""

from pathlib import Path

import click

from gigawatch import database, settings


@click.command()
@click.option("--database-url", help="The database to migrate; by default that of the settings.")
@click.option("--data-dir", help="Folder of the embedded database, where there is no --database-url.")
@click.pass_obj
def migrate(config: Path | None, /, database_url: str | None, data_dir: str | None) -> None:
    """Bring the database's schema to this version.

    Runs in one transaction and under a lock, so that any number of processes may call it at once. `gigawatch
    up` does this by itself.
    """
    from gigawatch.embedded import EmbeddedServer  # noqa: PLC0415 # only where there is no URL
    from migrations.run import migrate as run  # noqa: PLC0415 # Alembic is slow to import

    store = settings.load(config, {"store.database_url": database_url, "store.data_dir": data_dir}).store
    if store.database_url is None:
        with EmbeddedServer(Path(store.data_dir)) as server:
            run(database.engine(server.url))
    else:
        run(database.engine(store.database_url))
    click.echo("The database's schema is up to date.")

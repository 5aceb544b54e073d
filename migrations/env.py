"""How Alembic reaches the store: over the connection that migrations.run gives it."""

from alembic import context

from gigawatch.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table_schema="gigawatch",
    include_schemas=True,
    include_name=lambda name, kind, _: kind != "schema" or name == "gigawatch",
    compare_type=True,
    compare_server_default=False,
)
context.run_migrations()

"""Alembic's entry point; the connection is handed over by ``autonat.storage.store``."""

from alembic import context

from autonat.storage.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()

"""Alembic's environment: migrates over the connection, and in the transaction, that `engine.migrate` hands in."""

from alembic import context

from triage.ledger.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite's DDL is transactional when BEGIN is said explicitly, as we do.
    transactional_ddl=True,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()

"""How Alembic reaches the database: through the connection that `Database.migrate` hands over."""

from alembic import context
from sqlmodel import SQLModel

connection = context.config.attributes.get("connection")
if connection is None:
    raise SystemExit("migrations run through perdure: `perdure doctor --migrate`, or start a worker")

context.configure(
    connection=connection,
    target_metadata=SQLModel.metadata,
    render_as_batch=True,
    transaction_per_migration=False,
)
context.run_migrations()

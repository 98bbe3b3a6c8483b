"""Memory: which run a record belongs to, so that a recall can look at what was remembered just before and after."""

import hashlib

import rfc8785
import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the column and its index, and fill it for the records that are there."""
    op.add_column("memory_record", sa.Column("thread", sa.String(), nullable=False, server_default=""))
    connection = op.get_bind()
    runs = connection.execute(
        sa.text(
            "SELECT record.version_id, record.scope_key, "
            "source.namespace, source.workflow_id, source.first_execution_run_id "
            "FROM memory_record AS record JOIN memory_source AS source ON source.version_id = record.version_id"
        )
    ).all()
    if runs:
        connection.execute(
            sa.text("UPDATE memory_record SET thread = :thread WHERE version_id = :version_id"),
            [{"version_id": version_id, "thread": _thread([str(part) for part in run])} for version_id, *run in runs],
        )
    op.create_index("ix_memory_record_thread", "memory_record", ["thread", "recorded_at", "version_id"])


def downgrade() -> None:
    """Drop them."""
    op.drop_index("ix_memory_record_thread", "memory_record")
    with op.batch_alter_table("memory_record") as batch:
        batch.drop_column("thread")


def _thread(run: list[str]) -> str:
    return hashlib.sha256(rfc8785.dumps(run)).hexdigest()[:32]

"""Add the memory records and the outbox that feeds the vector index."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from perdure.storage import UtcDateTime

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the two tables."""
    op.create_table(
        "memory_record",
        sa.Column("version_id", sa.String(), nullable=False),
        sa.Column("memory_id", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("write_key", sa.String(), nullable=False),
        sa.Column("scope_key", sa.String(), nullable=False),
        sa.Column("scope_tenant", sa.String(), nullable=False),
        sa.Column("scope_agent", sa.String(), nullable=True),
        sa.Column("scope_user", sa.String(), nullable=True),
        sa.Column("scope_session", sa.String(), nullable=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=True),
        sa.Column("content", sa.String(), nullable=False),
        sa.Column("content_hash", sa.String(), nullable=False),
        sa.Column("valid_from", UtcDateTime(), nullable=False),
        sa.Column("valid_to", UtcDateTime(), nullable=True),
        sa.Column("recorded_at", UtcDateTime(), nullable=False),
        sa.Column("superseded_at", UtcDateTime(), nullable=True),
        sa.Column("expires_at", UtcDateTime(), nullable=True),
        sa.Column("source", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("version_id"),
        sa.UniqueConstraint("scope_key", "memory_id", "version", name="uq_memory_record_version"),
        sa.UniqueConstraint("write_key", name="uq_memory_record_write_key"),
        sa.CheckConstraint("source <> ''", name="ck_memory_record_source"),
    )
    op.create_index("ix_memory_record_expires_at", "memory_record", ["expires_at"])
    op.create_table(
        "memory_outbox",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("version_id", sa.String(), nullable=False),
        sa.Column("queued_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_memory_outbox_version_id", "memory_outbox", ["version_id"])


def downgrade() -> None:
    """Drop the two tables."""
    op.drop_table("memory_outbox")
    op.drop_table("memory_record")

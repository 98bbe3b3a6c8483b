"""How memories lie in SQL: the versions, and what the vector index does not reflect yet."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

# Whoever needs all tables of this room, as the migrations' test does, imports this module.
from perdure.memory import conversation_tables  # noqa: F401
from perdure.storage import UtcDateTime


class MemoryRow(SQLModel, table=True):
    """One version of one memory. Rows are added; of a row that stands, only `superseded_at` is ever set."""

    __tablename__ = "memory_record"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it
    __table_args__ = (
        sa.UniqueConstraint("scope_key", "memory_id", "version", name="uq_memory_record_version"),
        sa.UniqueConstraint("write_key", name="uq_memory_record_write_key"),
        sa.CheckConstraint("source <> ''", name="ck_memory_record_source"),
        sa.Index("ix_memory_record_expires_at", "expires_at"),
    )

    version_id: str = Field(primary_key=True)
    """UUIDv5 of scope, memory id and version; also the id of the point in the vector index."""
    memory_id: str
    version: int
    write_key: str
    """Digest of the step and its argument, so that the same write happens once."""

    scope_key: str
    """Digest of the four scope columns, so that one equality selects exactly one scope."""
    scope_tenant: str
    scope_agent: str | None = None
    scope_user: str | None = None
    scope_session: str | None = None

    kind: str
    subject: str | None = None
    content: str
    content_hash: str

    valid_from: datetime = Field(sa_type=UtcDateTime)
    """From when it is true in the world."""
    valid_to: datetime | None = Field(default=None, sa_type=UtcDateTime)
    recorded_at: datetime = Field(sa_type=UtcDateTime)
    """From when we know it."""
    superseded_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    """From when a later version of the same memory holds instead."""
    expires_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    source: str


class OutboxRow(SQLModel, table=True):
    """A version whose state in SQL changed and that the vector index has not been told of yet."""

    __tablename__ = "memory_outbox"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it
    # AUTOINCREMENT: a number is never given out twice, so what was applied can be deleted by number.
    __table_args__ = {"sqlite_autoincrement": True}

    seq: int | None = Field(
        default=None,
        sa_column=sa.Column(sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=True),
    )
    version_id: str = Field(index=True)
    queued_at: datetime = Field(sa_type=UtcDateTime)

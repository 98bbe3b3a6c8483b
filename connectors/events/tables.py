"""What is kept of the stream of events: the events in their order, and how far its readers have come."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from perdure.storage import UtcDateTime

_Long = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite counts up by itself only in an INTEGER


class StreamRow(SQLModel, table=True):
    """One event of the stream. Rows are only ever added, and a later row has a higher cursor."""

    __tablename__ = "stream"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it
    __table_args__ = {"sqlite_autoincrement": True}

    cursor: int | None = Field(default=None, primary_key=True, sa_type=_Long)
    id: str = Field(unique=True)
    """The same event twice has the same one."""
    type: str
    source: str
    subject: str
    data: str
    """JSON."""
    at: datetime = Field(sa_type=UtcDateTime)


class CursorRow(SQLModel, table=True):
    """How far a reader has come: of the stream, or the stream itself of the ledger's events."""

    __tablename__ = "stream_cursor"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it

    reader: str = Field(primary_key=True)
    cursor: int = Field(sa_type=_Long)
    at: datetime = Field(sa_type=UtcDateTime)

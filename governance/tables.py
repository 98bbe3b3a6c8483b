"""What governance keeps in the database: approvals, and payloads too large for a history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import Field, SQLModel, col

from perdure.storage import UtcDateTime, now


class ApprovalRow(SQLModel, table=True):
    """One request to people and what became of it. The history is the evidence; this is what lists and inboxes read."""

    __tablename__ = "approval"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it

    namespace: str = Field(primary_key=True)
    workflow_id: str = Field(primary_key=True)
    first_execution_run_id: str = Field(primary_key=True)
    approval: str = Field(primary_key=True)
    run_id: str
    workflow_type: str
    question: str
    of: str
    risk: str
    about: str
    """JSON."""
    digest: str
    asked_at: datetime = Field(sa_type=UtcDateTime)
    deadline: datetime = Field(sa_type=UtcDateTime, index=True)
    state: str = Field(default="open", index=True)
    """open, decided, expired or withdrawn."""
    verdict: str | None = None
    by: str | None = None
    comment: str | None = None
    verified: bool | None = None
    via: str | None = None
    closed_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class PayloadRow(SQLModel, table=True):
    """One large payload under the SHA-256 of its bytes."""

    __tablename__ = "payload"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it

    sha256: str = Field(primary_key=True)
    content: bytes
    stored_at: datetime = Field(sa_type=UtcDateTime)


async def insert_payloads(connection: AsyncConnection, rows: Mapping[str, bytes], *, sqlite: bool) -> None:
    """Write ROWS (address to bytes); those that are there already stay."""
    stored_at = now()
    values = [{"sha256": address, "content": content, "stored_at": stored_at} for address, content in sorted(rows.items())]
    await connection.execute(insert_ignore(PayloadRow, sqlite=sqlite), values)


async def select_payloads(connection: AsyncConnection, addresses: Sequence[str]) -> dict[str, bytes]:
    """Return the bytes of those ADDRESSES that are there."""
    query = sa.select(col(PayloadRow.sha256), col(PayloadRow.content)).where(col(PayloadRow.sha256).in_(addresses))
    return {address: bytes(content) for address, content in await connection.execute(query)}


def insert_ignore(table: type[SQLModel], *, sqlite: bool) -> sa.Insert:
    """Return an INSERT into TABLE that leaves a row alone whose primary key is there already."""
    if sqlite:
        return _sqlite_insert(table).on_conflict_do_nothing()
    return postgresql.insert(table).on_conflict_do_nothing()


_sqlite_insert = sqlite.insert

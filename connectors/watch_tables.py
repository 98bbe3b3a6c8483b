"""What is kept about how ledger and target agree: the stream of events, reports and findings, contracts."""

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


class ReportRow(SQLModel, table=True):
    """One comparison of the ledger with a target."""

    __tablename__ = "reconciliation"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it

    id: str = Field(primary_key=True)
    connector: str = Field(index=True)
    report: str
    """The `Report` as JSON."""
    at: datetime = Field(sa_type=UtcDateTime)


class FindingRow(SQLModel, table=True):
    """Something in which ledger and target differ, as it stands after the last comparison."""

    __tablename__ = "finding"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it

    id: str = Field(primary_key=True)
    connector: str = Field(index=True)
    action: str
    kind: str
    state: str = Field(index=True)
    key: str
    remote_ref: str
    certain: bool
    detail: str
    facts: str
    """JSON."""
    recorded: str
    """JSON."""
    at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    first_report: str
    last_report: str
    opened_at: datetime = Field(sa_type=UtcDateTime)
    closed_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    closed_by: str
    repair: str
    """The key of the effect that repaired it."""
    openings: int


class ConnectorRow(SQLModel, table=True):
    """A connector as a worker last served it."""

    __tablename__ = "connector"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it

    name: str = Field(primary_key=True)
    version: str
    facts: str
    """The `ConnectorFacts` as JSON."""
    seen_at: datetime = Field(sa_type=UtcDateTime)


class ContractRow(SQLModel, table=True):
    """A contract that was relied on. The last one of a connector's version is in force."""

    __tablename__ = "contract"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it

    id: int | None = Field(default=None, primary_key=True)
    connector: str = Field(index=True)
    version: str
    """The connector's, which relies on it."""
    digest: str
    contract: str
    """The `Contract` as JSON."""
    relied: str
    """JSON: per action the digest of what it is declared as."""
    accepted_by: str
    """Empty: nobody was asked, it was the first of this version."""
    at: datetime = Field(sa_type=UtcDateTime)


class ContractCheckRow(SQLModel, table=True):
    """The last comparison of a contract with the live one: what the ledger looks at before it acts."""

    __tablename__ = "contract_check"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it

    connector: str = Field(primary_key=True)
    version: str = Field(primary_key=True)
    relied_on: str
    """Digest of the contract in force."""
    live: str
    """Digest of what the target said."""
    contract: str
    """What the target said, as JSON."""
    changes: str
    """JSON."""
    verdict: str
    blocked: str
    """JSON: the names of the actions that must not act."""
    at: datetime = Field(sa_type=UtcDateTime)

"""What is kept of comparisons: reports, and findings as they stand."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Field, SQLModel

from perdure.storage import UtcDateTime


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

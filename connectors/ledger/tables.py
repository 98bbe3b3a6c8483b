"""What the ledger keeps in the database: effects as they stand, and every transition that brought them there."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from perdure.storage import UtcDateTime

_HOLDS = sa.text("state NOT IN ('failed', 'compensated') AND NOT beside")


class LedgerRow(SQLModel, table=True):
    """The one row that tells this database from others. Whoever moves the data to another database moves it along."""

    __tablename__ = "ledger"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it

    id: str = Field(primary_key=True)


class EffectRow(SQLModel, table=True):
    """One execution of an action. `perdure.connectors.contracts.Effect` says what the columns mean."""

    __tablename__ = "effect"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it
    __table_args__ = (
        # What failed or was undone lets go of its business key by itself.
        sa.Index("ux_effect_business_key", "business_key", unique=True, sqlite_where=_HOLDS, postgresql_where=_HOLDS),
    )

    key: str = Field(primary_key=True)
    action: str
    args: str
    """Canonical JSON (RFC 8785), as `args_digest` is over it."""
    args_digest: str
    namespace: str
    workflow_id: str = Field(index=True)
    first_execution_run_id: str
    run_id: str
    """The run that asked first; only for people, it is no part of the key."""
    workflow_type: str
    step: str
    item: str
    generation: int
    state: str = Field(index=True)
    fence: int
    lease_until: datetime | None = Field(default=None, sa_type=UtcDateTime)
    doubt_until: datetime | None = Field(default=None, sa_type=UtcDateTime)
    sent: int
    first_sent_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    last_sent_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    looks: int
    response: str | None = None
    """JSON."""
    response_digest: str
    remote_ref: str
    confirmed_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    confirmed_by: str | None = None
    error: str
    undo_of: str | None = Field(default=None, index=True)
    business_key: str | None = None
    contradicts: str | None = Field(default=None, index=True)
    beside: bool = Field(default=False, sa_column_kwargs={"server_default": sa.false()})
    given_up: bool = Field(default=False, sa_column_kwargs={"server_default": sa.false()})
    created_at: datetime = Field(sa_type=UtcDateTime)
    updated_at: datetime = Field(sa_type=UtcDateTime)


class EffectEventRow(SQLModel, table=True):
    """One transition of an effect. Rows are only ever added; the id orders them."""

    __tablename__ = "effect_event"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it

    id: int | None = Field(default=None, primary_key=True)
    key: str = Field(index=True)
    fence: int
    before: str | None = None
    after: str
    at: datetime = Field(sa_type=UtcDateTime)
    note: str
    by: str | None = None
    verified: bool | None = None


class DependentRow(SQLModel, table=True):
    """A step of another run that relies on an effect. `perdure.connectors.contracts.Asker` says what the columns mean."""

    __tablename__ = "effect_asker"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it

    effect: str = Field(primary_key=True)
    key: str = Field(primary_key=True, index=True)
    workflow_id: str
    run_id: str
    step: str
    at: datetime = Field(sa_type=UtcDateTime)

"""What the database holds about model calls: one row a provider call, no prompt and no answer."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from perdure.storage import UtcDateTime


class ModelCallRow(SQLModel, table=True):
    """One call to a provider. Written before it as `sent`; a row that stays so was cut off and may have been charged."""

    __tablename__ = "model_call"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it
    __table_args__ = (
        sa.Index("ix_model_call_step", "namespace", "workflow_id", "first_execution_run_id", "step"),
        sa.Index("ix_model_call_sent_at", "sent_at"),
    )

    call_id: str = Field(primary_key=True, max_length=32)
    namespace: str
    workflow_id: str
    first_execution_run_id: str
    run_id: str
    step: str
    attempt: int
    ordinal: int
    """1, or 2 for the call that asked for an invalid answer again."""
    task: str
    tier: str
    deployment: str
    model: str
    """The model that was asked for."""
    model_version: str
    """The model that answered, as the provider calls it; empty until then."""
    outcome: str
    """sent, answered, invalid, refused, unavailable, ambiguous (may have been charged) or cancelled."""
    error: str
    """What failed: `429`, `time-out`...; empty if nothing did."""
    status: int | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False
    """Whether the tokens are our estimate, because the provider did not count them."""
    cost_nano_usd: int = Field(default=0, sa_type=sa.BigInteger)
    prompt_digest: str
    answer_digest: str
    sent_at: datetime = Field(sa_type=UtcDateTime)
    settled_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    milliseconds: int = 0

"""What the database holds about models: calls without their prompts, what budgets have left, and kept answers."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from perdure.storage import UtcDateTime


def _text() -> str:
    column: str = Field(default="", sa_column_kwargs={"server_default": ""})
    return column


def _number() -> int:
    column: int = Field(default=0, sa_type=sa.BigInteger, sa_column_kwargs={"server_default": "0"})
    return column


_SENT = sa.text("outcome = 'sent'")
_KEPT = sa.text("answer IS NOT NULL")


class ModelCallRow(SQLModel, table=True):
    """One call to a provider. Written before it as `sent`; one that nobody settles becomes ambiguous: see calls.py."""

    __tablename__ = "model_call"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it
    __table_args__ = (
        sa.Index("ix_model_call_step", "namespace", "workflow_id", "first_execution_run_id", "step"),
        sa.Index("ix_model_call_sent_at", "sent_at"),
        sa.Index(
            "ix_model_call_canary",
            "canary",
            "sent_at",
            sqlite_where=sa.text("canary != ''"),
            postgresql_where=sa.text("canary != ''"),
        ),
        sa.Index("ix_model_call_sent", "due_at", sqlite_where=_SENT, postgresql_where=_SENT),
        sa.Index("ix_model_call_answer", "settled_at", sqlite_where=_KEPT, postgresql_where=_KEPT),
    )

    call_id: str = Field(primary_key=True, max_length=32)
    namespace: str
    workflow_id: str
    first_execution_run_id: str
    run_id: str
    step: str
    attempt: int
    ordinal: int
    """1. Calls from before 0.2 that asked for an invalid answer again, in the same attempt, have 2."""
    task: str
    tier: str
    deployment: str
    model: str
    """The model that was asked for."""
    model_version: str
    """The model that answered, as the provider calls it; empty until then."""
    outcome: str
    """sent, answered, invalid, unsure, refused, unavailable, ambiguous (may have been charged), cancelled.

    Cached and denied, by a budget, were no calls.
    """
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
    tenant: str = Field(default="default", sa_column_kwargs={"server_default": "default"})
    agent: str = _text()
    workflow_type: str = _text()
    switched: str = _text()
    """Why it did not go to the first deployment of the tier; empty if it did."""
    repairs: str = _text()
    """What had to be mended before the answer could be read."""
    lane: str = _text()
    arm: str = _text()
    """The arm of its run, `canary` or `control`, where there is a canary."""
    canary: str = _text()
    """Which, as NAME@VERSION."""
    trial: bool = Field(default=False, sa_column_kwargs={"server_default": sa.false()})
    """Whether the arms are compared by it: it was the first of its step, and in the canary's arm of what that tries."""
    overridden: bool | None = None
    """Whether a person has corrected its answer; None: nobody has said."""
    prompt_version: str = _text()
    reserved_nano_usd: int = _number()
    """The most that it could cost: held back before it, and what may have been charged if nobody saw the answer."""
    saved_nano_usd: int = _number()
    """What it would have cost besides, had it not come out of the cache or gone in a batch."""
    cached_tokens: int = _number()
    """How many of the prompt's tokens the provider had cached."""
    due_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    """When it will have failed, if nobody has settled it before."""
    held_in: str = _text()
    """The budgets that hold money back for it, as JSON: name, subject and since of each."""
    answer: str | None = Field(default=None, sa_type=sa.Text)
    """What it has brought, as JSON, for an hour and for a later attempt of its step only: see recovery.py."""
    confidence: float | None = None
    """How sure the model said it was, 0 to 1."""
    prompt_bytes: int = _number()
    """How long the question was."""
    escalation: str = _text()
    """The version of the learned escalation that judged the answer; `static`: none was in force."""


class BudgetRow(SQLModel, table=True):
    """What a budget holds back and has spent, for one subject, such as a run, and one day or month."""

    __tablename__ = "model_budget"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it

    budget: str = Field(primary_key=True)
    subject: str = Field(primary_key=True)
    """The run, workflow type, agent, tenant or task; empty for all of them together."""
    since: str = Field(primary_key=True)
    """The day or month in UTC; empty for ever."""
    reserved_nano_usd: int = Field(sa_type=sa.BigInteger)
    spent_nano_usd: int = Field(sa_type=sa.BigInteger)
    """With what calls may have cost whose answer nobody saw."""
    raised_nano_usd: int = Field(sa_type=sa.BigInteger)
    """By how much people have raised what the file allows."""


class BudgetRaiseRow(SQLModel, table=True):
    """Who raised a budget, once for each step that asked or each command."""

    __tablename__ = "model_budget_raise"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it

    id: str = Field(primary_key=True)
    budget: str
    subject: str
    since: str
    nano_usd: int = Field(sa_type=sa.BigInteger)
    by: str
    """Nobody has verified the name yet."""
    why: str
    at: datetime = Field(sa_type=UtcDateTime)


class AnswerRow(SQLModel, table=True):
    """An answer that is kept for a time, for tasks with `cache`, or a question that is being asked."""

    __tablename__ = "model_answer"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it
    __table_args__ = (sa.Index("ix_model_answer_expires_at", "expires_at"),)

    key: str = Field(primary_key=True)
    """The digest of all that the answer depends on, the tenant among it."""
    tenant: str
    task: str
    model: str
    model_version: str
    value: str | None = Field(default=None, sa_type=sa.Text)
    """The answer as JSON; None while it is asked for."""
    answer_digest: str
    confidence: float | None = None
    prompt_tokens: int
    completion_tokens: int
    cost_nano_usd: int = Field(sa_type=sa.BigInteger)
    expires_at: datetime = Field(sa_type=UtcDateTime)
    holder: str
    """The call that asks, or has asked."""
    held_until: datetime = Field(sa_type=UtcDateTime)
    """When it will have failed, if it has not said anything before."""


class ModelVersionRow(SQLModel, table=True):
    """Which version of a model answered last, as the provider calls it."""

    __tablename__ = "model_version"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it

    model: str = Field(primary_key=True)
    version: str
    seen_at: datetime = Field(sa_type=UtcDateTime)


class LabelRow(SQLModel, table=True):
    """Somebody said whether an answer was right. The last word about an answer counts; no prompt or answer is in it."""

    __tablename__ = "model_label"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it
    __table_args__ = (sa.Index("ix_model_label_task", "task", "at"),)

    id: str = Field(primary_key=True)
    """The step that said it, or what stands for it: said twice it is one label."""
    answer: str
    """The call whose answer it was, or the task, model and question of one that was not made here."""
    task: str
    question: str
    """The digest of the prompt. Answers to the same question have the same."""
    tier: str
    deployment: str
    model: str
    confidence: float | None = None
    prompt_bytes: int
    cost_nano_usd: int = Field(sa_type=sa.BigInteger)
    correct: bool
    by: str
    """Nobody has verified the name yet."""
    source: str
    """step, approval, command or import."""
    at: datetime = Field(sa_type=UtcDateTime)


class EscalationRow(SQLModel, table=True):
    """What was learned about a task, and whether it holds. The newest version of a task decides; no row is ever changed."""

    __tablename__ = "model_escalation"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it

    task: str = Field(primary_key=True)
    version: int = Field(primary_key=True)
    adopted: bool
    """False: it did not beat the tier on the answers kept aside, so the tier alone decides."""
    parameters: str = Field(sa_type=sa.Text)
    """What was learned, as JSON."""
    evidence: str = Field(sa_type=sa.Text)
    """The comparison that it was adopted or refused by, as JSON."""
    by: str
    at: datetime = Field(sa_type=UtcDateTime)


class CanaryRow(SQLModel, table=True):
    """A canary, in one version, and how it stands."""

    __tablename__ = "model_canary"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it

    id: str = Field(primary_key=True)
    """NAME@VERSION."""
    name: str = Field(index=True)
    tier: str
    """The tier of its tasks: whoever asks a larger one has escalated."""
    adopting: str = Field(sa_type=sa.Text)
    """What to write into models.toml to have for good what it tries."""
    rule: str = Field(sa_type=sa.Text)
    """What it is rolled back by, as JSON."""
    since: datetime = Field(sa_type=UtcDateTime)
    """When its first call was made, or the first after a reset."""
    state: str
    """running, rolled back or promoted."""
    by: str
    """Who said so; empty: the rule. Nobody has verified the name yet."""
    why: str = Field(sa_type=sa.Text)
    at: datetime = Field(sa_type=UtcDateTime)


class CanaryArmRow(SQLModel, table=True):
    """What came of the calls that an arm of a canary is compared by."""

    __tablename__ = "model_canary_arm"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it

    canary: str = Field(primary_key=True)
    arm: str = Field(primary_key=True)
    calls: int
    failed: int
    """Calls that brought no answer."""
    valid: int
    """Answers that fitted and were sure enough."""
    unsure: int
    """Answers that fitted and were not."""
    judged: int
    overridden: int
    """Those of the judged answers that a person has corrected."""
    log_milliseconds: float
    """The sum of the logarithms of what answers took."""
    cost_nano_usd: int = Field(sa_type=sa.BigInteger)
    """What answers have cost."""


class CanaryDecisionRow(SQLModel, table=True):
    """What was decided about a canary, by a person or by the rule. No row is ever changed."""

    __tablename__ = "model_canary_decision"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it

    id: str = Field(primary_key=True)
    canary: str = Field(index=True)
    state: str
    by: str
    why: str = Field(sa_type=sa.Text)
    at: datetime = Field(sa_type=UtcDateTime)

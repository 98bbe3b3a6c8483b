"""How conversations lie in SQL: each message once, under a digest that covers all before it; summaries; whose they are."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from perdure.storage import UtcDateTime


class MessageRow(SQLModel, table=True):
    """One message. Rows are added and never changed; a run that was reset or forked goes on from an earlier one."""

    __tablename__ = "message"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it
    __table_args__ = (
        sa.Index("ix_message_position", "conversation", "position"),
        sa.Index("ix_message_run", "workflow_id", "first_execution_run_id"),
    )

    id: str = Field(primary_key=True)
    """The digest of the message before it, the role, the name and the content."""
    before: str
    """The message before it; empty: it is the first."""
    conversation: str
    """The digest of the run and the conversation's name: what a first message comes after."""
    position: int
    """Counted from 1, over everything."""
    number: int
    """Counted from 1, without states: how many messages there are up to here."""
    state: str
    """The newest state up to here, itself included; empty: there is none."""
    role: str
    name: str
    content: str
    """Canonical JSON."""
    tokens: int
    namespace: str
    workflow_id: str
    first_execution_run_id: str
    """Who wrote it, so that the messages of a run can be erased."""
    stored_at: datetime = Field(sa_type=UtcDateTime)


class SummaryRow(SQLModel, table=True):
    """What stands for the oldest messages of a conversation, and which model call made it."""

    __tablename__ = "message_summary"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it

    id: str = Field(primary_key=True)
    """The digest of the last message it stands for, the summary before it, and the task."""
    conversation: str = Field(index=True)
    position: int
    number: int
    """It stands for the messages up to this one."""
    content: str
    record: str
    """JSON: the model call's record, so that a retry has the same answer."""
    stored_at: datetime = Field(sa_type=UtcDateTime)


class ConversationRow(SQLModel, table=True):
    """One conversation of a run, and that it was erased or may not be."""

    __tablename__ = "conversation"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it
    __table_args__ = (sa.Index("ix_conversation_run", "workflow_id", "first_execution_run_id"),)

    id: str = Field(primary_key=True)
    """What its first message comes after: `MessageRow.conversation`."""
    name: str
    namespace: str
    workflow_id: str
    first_execution_run_id: str
    begun_at: datetime = Field(sa_type=UtcDateTime)
    legal_hold: bool = False
    """Whether it may not be erased."""
    erased_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    erased_from: int | None = None
    """The position from which on something was erased. 1: all of it, and nothing can be said in it any more."""
    receipt_id: str | None = None


class AnswerSourceRow(SQLModel, table=True):
    """That an answer, and so everything after it, was given by a model that was shown a version of a memory."""

    __tablename__ = "message_source"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it

    version_id: str = Field(primary_key=True)
    conversation: str = Field(primary_key=True, index=True)
    position: int = Field(primary_key=True)
    """Of the answer."""

"""How memories lie in SQL: the versions and where they come from, what the index does not reflect yet, what was erased."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from perdure.storage import UtcDateTime


class MemoryRow(SQLModel, table=True):
    """One version of one memory. What was said in a row never changes, only when it ends and who may drop it."""

    __tablename__ = "memory_record"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it
    __table_args__ = (
        sa.UniqueConstraint("scope_key", "memory_id", "version", name="uq_memory_record_version"),
        sa.UniqueConstraint("write_key", name="uq_memory_record_write_key"),
        sa.CheckConstraint("source <> ''", name="ck_memory_record_source"),
        sa.Index("ix_memory_record_expires_at", "expires_at"),
        sa.Index("ix_memory_record_chain", "scope_key", "chain", "recorded_at"),
        sa.Index("ix_memory_record_listed", "scope_key", "recorded_at", "version_id"),
        sa.Index("ix_memory_record_forgotten_at", "forgotten_at"),
        sa.Index("ix_memory_record_thread", "thread", "recorded_at", "version_id"),
    )

    version_id: str = Field(primary_key=True)
    """UUIDv5 of scope, memory id, epoch and version; also the id of the point in the vector index."""
    memory_id: str
    version: int
    epoch: int = 0
    """How often the memory of this name was erased before."""
    chain: str = ""
    """Which memory or fact it is a version of: of all versions in a chain, the last that applies is what holds."""
    thread: str = ""
    """Digest of the scope and the run that remembered it: a recall looks at what came just before and after."""
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
    predicate: str | None = None
    content: str
    content_hash: str
    confidence: float | None = None
    importance: float | None = None
    labels: list[str] = Field(default_factory=list, sa_type=sa.JSON)

    valid_from: datetime = Field(sa_type=UtcDateTime)
    """From when it is true in the world."""
    valid_to: datetime | None = Field(default=None, sa_type=UtcDateTime)
    recorded_at: datetime = Field(sa_type=UtcDateTime)
    """From when we know it."""
    superseded_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    """From when a later version of the same chain holds instead."""
    expires_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    """What its time to live came to. Never changes, so that what was read then can be read again."""
    forgotten_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    """From when somebody said that it is over, or wrong."""
    forgotten_as: str | None = None
    """`expire` or `retract`."""
    erased_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    """When what it said was removed. The row stays where an older version would otherwise seem to hold again."""
    retention_class: str = "standard"
    legal_hold: bool = False
    pinned: bool = False
    source: str


class SourceRow(SQLModel, table=True):
    """Where a version comes from. Every version has one, written together with it."""

    __tablename__ = "memory_source"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it
    __table_args__ = (
        sa.CheckConstraint("workflow_id <> '' AND step <> ''", name="ck_memory_source_step"),
        sa.Index("ix_memory_source_run", "namespace", "workflow_id", "first_execution_run_id"),
    )

    version_id: str = Field(
        sa_column=sa.Column(
            sa.String(), sa.ForeignKey("memory_record.version_id", ondelete="CASCADE"), primary_key=True, nullable=False
        )
    )
    namespace: str
    workflow_id: str
    first_execution_run_id: str
    run_id: str = ""
    workflow_type: str = ""
    step: str
    event: int = 0
    actor: str = ""
    model: str = ""
    model_step: str = ""
    cost_nano_usd: int = Field(default=0, sa_type=sa.BigInteger)
    uri: str = ""


class DerivedRow(SQLModel, table=True):
    """That one version was made from another: when the other is erased, so is this one."""

    __tablename__ = "memory_derived"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it

    version_id: str = Field(
        sa_column=sa.Column(
            sa.String(), sa.ForeignKey("memory_record.version_id", ondelete="CASCADE"), primary_key=True, nullable=False
        )
    )
    from_version_id: str = Field(primary_key=True, index=True)


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


class IndexRow(SQLModel, table=True):
    """Which vector index follows this database. There is one row."""

    __tablename__ = "memory_index"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it

    id: int | None = Field(default=1, primary_key=True)
    database_id: str
    """Names this database where several use one Qdrant server."""
    holder: str = ""
    """Names the index: the URL of a server, or what is written in the folder."""
    place: str = ""
    """Where it is, for people."""
    generation: str = ""
    """Whose vectors are in force."""
    embedder: str = ""
    """What the settings call that embedder; empty if it was handed in."""
    settled: bool = False
    """Whether it holds all that is not in the outbox."""
    since: datetime = Field(sa_type=UtcDateTime)


class AccessRow(SQLModel, table=True):
    """That a step's recall returned a version, or, without a version, that it found nothing; and what came of it."""

    __tablename__ = "memory_access"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it
    __table_args__ = (
        sa.Index("ix_memory_access_scope", "scope_key", "accessed_at"),
        sa.Index("ix_memory_access_run", "namespace", "workflow_id", "first_execution_run_id", "step"),
    )

    access_id: str = Field(primary_key=True)
    """UUIDv5 of the step, the query and the version, so that a retried recall counts once."""
    scope_key: str
    scope_tenant: str
    version_id: str | None = Field(default=None, index=True)
    memory_id: str | None = None
    rank: int = 0
    score: float = 0.0
    namespace: str
    workflow_id: str
    first_execution_run_id: str
    step: str
    query_digest: str
    accessed_at: datetime = Field(sa_type=UtcDateTime)
    cited: bool | None = None
    """Whether the answer that the recall was for relied on it; None as long as nobody has said."""
    useful: int | None = None
    """1 useful, 0 neither, -1 misleading; None as long as nobody has said."""


class ReceiptRow(SQLModel, table=True):
    """That something was erased, when and for whom; nothing of what it was."""

    __tablename__ = "erasure_receipt"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it

    receipt_id: str = Field(primary_key=True)
    """UUIDv5 of the step that asked for it."""
    scope_tenant: str
    scope_key: str
    cause: str
    """`erase` if somebody asked for it, `retention` if its time was over."""
    why: str = ""
    requested_by: str = ""
    source: str
    erased_at: datetime = Field(sa_type=UtcDateTime)
    memories: int
    versions: int
    conversations: int = 0
    messages: int = 0
    """How many messages of conversations, and summaries."""
    completed_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    """When the files of the database and the index held nothing of it any more."""


class TombstoneRow(SQLModel, table=True):
    """A version that was erased: neither an import nor a retried step brings it back."""

    __tablename__ = "memory_tombstone"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it

    version_id: str = Field(primary_key=True)
    receipt_id: str = Field(index=True)
    memory_key: str = Field(index=True)
    """Digest of scope and memory id."""
    epoch: int
    step_key: str = Field(index=True)
    """Digest of scope, chain and the step that wrote it, without what it wrote."""


class SubjectKeyRow(SQLModel, table=True):
    """The key under which a scope's content may lie elsewhere, e.g. in histories. Erasing the scope destroys it."""

    __tablename__ = "memory_key"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it

    scope_key: str = Field(primary_key=True)
    scope_tenant: str
    key: str | None = None
    created_at: datetime = Field(sa_type=UtcDateTime)
    destroyed_at: datetime | None = Field(default=None, sa_type=UtcDateTime)

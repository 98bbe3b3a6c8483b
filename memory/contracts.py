"""What memory and its callers say to each other. Pure models: safe to import in workflow code."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from pydantic import Field, model_validator

from perdure.lineage import Frozen, StepRef

Kind = Literal["working", "episodic", "semantic", "procedural", "document"]


class Scope(Frozen):
    """Whose memory it is. A read sees exactly the records of its scope; there is no scope that means everyone's."""

    tenant: str = Field(default="default", min_length=1)
    agent: str | None = None
    user: str | None = None
    session: str | None = None

    @model_validator(mode="after")
    def _names_somebody(self) -> Scope:
        if self.agent is None and self.user is None and self.session is None:
            raise ValueError("a scope needs an agent, a user or a session; a tenant alone would be everyone in it")
        return self

    def __str__(self) -> str:
        parts = [f"{name}={value}" for name, value in self if value is not None and name != "tenant"]
        return f"{self.tenant}:" + ",".join(parts)


def customer(name: str, *, tenant: str = "default") -> Scope:
    """Return the scope of the customer called NAME."""
    return Scope(tenant=tenant, user=name)


class MemoryRecord(Frozen):
    """One version of a fact, episode or document, as it was read from SQL."""

    memory_id: str
    version: int
    version_id: str
    scope: Scope
    kind: Kind
    subject: str | None = None
    content: str
    content_hash: str
    valid_from: datetime
    valid_to: datetime | None = None
    recorded_at: datetime
    superseded_at: datetime | None = None
    """From when a later version holds instead. Only `history` tells: at the moment of a recall nobody knew."""
    expires_at: datetime | None = None
    source: str
    """Where it came from: `namespace/workflow/first-run/step`, or what a caller outside a run names."""


class RecallHit(Frozen):
    """One record that a recall returned, with the score that put it there (cosine, -1 to 1, higher is nearer)."""

    record: MemoryRecord
    score: float


class RecallReceipt(Frozen):
    """What a recall returned and from which index: enough to repeat and to prove it."""

    query_digest: str
    scope: Scope
    as_of: datetime
    """The moment whose knowledge was asked for."""
    returned: tuple[tuple[str, int, float], ...] = ()
    """(memory id, version, score), best first."""
    index_version: str = ""


class Recall(Frozen):
    """The records that bear on a query, best first, and the receipt."""

    hits: tuple[RecallHit, ...] = ()
    receipt: RecallReceipt

    @property
    def texts(self) -> list[str]:
        """The contents, best first."""
        return [hit.record.content for hit in self.hits]


class RecallCall(Frozen):
    """The argument of the activity `perdure.recall`."""

    step: StepRef
    query: str
    scope: Scope
    limit: int = Field(default=5, ge=1, le=100)
    as_of: datetime | None = None


class RememberCall(Frozen):
    """The argument of the activity `perdure.remember`."""

    step: StepRef
    scope: Scope
    content: str = Field(min_length=1)
    kind: Kind = "episodic"
    subject: str | None = None
    memory_id: str | None = None
    """Names the memory whose next version this is; None makes a new memory, named after the step."""
    ttl: timedelta | None = None
    valid_from: datetime | None = None


class Remembered(Frozen):
    """What was written. Writing again from the same step returns the same."""

    memory_id: str
    version: int
    content_hash: str

"""What memory and its callers say to each other. Pure models: safe to import in workflow code."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from perdure import moved
from perdure.errors import InvalidInput
from perdure.lineage import Frozen, StepRef

Kind = Literal["working", "episodic", "semantic", "procedural", "document"]


class Scope(Frozen):
    """Whose memory it is. A read sees exactly the records of its scope; there is no scope that means everyone's."""

    tenant: str = Field(default="default", min_length=1)
    agent: str | None = None
    user: str | None = None
    session: str | None = None

    @model_validator(mode="after")
    def _require_owner(self) -> Scope:
        if self.agent is None and self.user is None and self.session is None:
            raise ValueError("a scope needs an agent, a user or a session; a tenant alone would be everyone in it")
        for part, name in self:
            if name is not None and not name.strip():
                raise ValueError(f"the scope's {part} {name!r} names nobody; leave it out, or give a name")
        return self

    def __str__(self) -> str:
        parts = [f"{name}={value}" for name, value in self if value is not None and name != "tenant"]
        return f"{self.tenant}:" + ",".join(parts)


def customer(name: str, *, tenant: str = "default") -> Scope:
    """Return the scope of the customer called NAME. Raises `InvalidInput` if that is no name."""
    if not name.strip():
        raise InvalidInput("a customer without a name is nobody: what is remembered of one would be of all of them")
    return Scope(tenant=tenant, user=name)


class CompactModel(Frozen):
    """A model that leaves out on the wire what was left at its default: a history keeps every byte of every call."""

    @model_serializer(mode="wrap")
    def _serialize(self, serialize: SerializerFunctionWrapHandler) -> dict[str, object]:
        plain: dict[str, object] = serialize(self)
        fields = type(self).model_fields
        return {name: value for name, value in plain.items() if getattr(self, name) != fields[name].default}


class Origin(CompactModel):
    """What a memory was made from, besides the step that wrote it."""

    actor: str = ""
    """The person or agent who said it."""
    event: int = 0
    """How many events the run's history had when it was said."""
    model: str = ""
    """The model whose answer it is."""
    model_step: str = ""
    """The step of the same run in which the model gave that answer."""
    cost_nano_usd: int = Field(default=0, ge=0)
    """What it cost to come to know it."""
    uri: str = ""
    """The document or message that says so."""
    derived_from: tuple[str, ...] = ()
    """The `version_id` of each memory that went into it. When one of them is erased, so is this one."""


class Provenance(Origin):
    """Where a version comes from: the step that wrote it, and what it was made from."""

    step: StepRef


class MemoryRecord(Frozen):
    """One version of a fact, episode or document, as it was read from SQL.

    On the wire it leaves out what was never said, for a recall's result stays in the history.
    """

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
    predicate: str | None = None
    """What is said of the subject, e.g. `lives in`: a scope holds one record of a subject and predicate at a time."""
    confidence: float | None = None
    importance: float | None = None
    labels: tuple[str, ...] = ()
    retention: str = "standard"
    """The retention class, which says how long it is kept after its end."""
    legal_hold: bool = False
    """Whether it may not be erased."""
    pinned: bool = False
    forgotten_at: datetime | None = None
    """From when it was said to be over or wrong. As with `superseded_at`, only `history` tells."""
    forgotten_as: str | None = None
    """`expire` if its time was over, `retract` if it was wrong."""
    erased_at: datetime | None = None
    """When its content was removed; only its times are left."""
    provenance: Provenance | None = None
    """In full, where `get`, `history` and `list` return the record."""

    @model_serializer(mode="wrap")
    def _serialize(self, serialize: SerializerFunctionWrapHandler) -> dict[str, object]:
        plain: dict[str, object] = serialize(self)
        return {name: value for name, value in plain.items() if name not in _OMITTED_IF_EMPTY or value not in _EMPTY}


class Why(Frozen):
    """Why a record came where it did: what each sign gave, in sum the score. docs/recall.md says what they are."""

    dense: float = 0.0
    """The cosine with the question."""
    dense_rank: int | None = None
    """Its place by meaning, from 1; None if the index named it for another reason."""
    lexical: float = 0.0
    """For the words it shares with the question."""
    lexical_rank: int | None = None
    """Its place by words, from 1."""
    previous: float = 0.0
    """For the record that the same run remembered just before."""
    following: float = 0.0
    """For the one just after."""
    thread: float = 0.0
    """For the best records of the same run."""
    other_subject: float = 0.0
    """Against it, because the question names another subject."""
    recency: float = 0.0
    importance: float = 0.0
    subjects: tuple[str, ...] = ()
    """The words of the question that were taken for subjects."""
    duplicates: tuple[str, ...] = ()
    """The `version_id` of records that say the same and were left out."""

    @property
    def total(self) -> float:
        """The sum."""
        signs = self.dense, self.lexical, self.previous, self.following, self.thread, self.other_subject
        return sum(signs) + self.recency + self.importance


class RecallHit(Frozen):
    """One record that a recall returned, with the score that put it there: higher is better, within one recall."""

    record: MemoryRecord
    score: float
    why: Why | None = None
    """Where the call asked to `explain`."""

    @model_serializer(mode="wrap")
    def _serialize(self, serialize: SerializerFunctionWrapHandler) -> dict[str, object]:
        plain: dict[str, object] = serialize(self)
        return plain if self.why is not None else {name: plain[name] for name in plain if name != "why"}


class RecallReceipt(Frozen):
    """What a recall returned and from which index: enough to repeat and to prove it."""

    query_digest: str
    scope: Scope
    as_of: datetime
    """The moment whose knowledge was asked for."""
    valid_at: datetime | None = None
    """The moment in the world that was asked about, where it is another one."""
    returned: tuple[tuple[str, int, float], ...] = ()
    """(memory id, version, score), best first."""
    index_version: str = ""
    ranking: str = ""
    """Which weights put them in this order."""


class Recall(Frozen):
    """The records that bear on a query, best first, and the receipt."""

    hits: tuple[RecallHit, ...] = ()
    receipt: RecallReceipt

    @property
    def texts(self) -> list[str]:
        """The contents, best first."""
        return [hit.record.content for hit in self.hits]


class RecallCall(CompactModel):
    """The argument of the activity `perdure.recall`."""

    step: StepRef
    query: str
    scope: Scope
    limit: int = Field(default=5, ge=1, le=100)
    as_of: datetime | None = None
    """Both of the times below; None means now."""
    valid_at: datetime | None = None
    """When it should hold in the world; None means `as_of`. May lie in the future."""
    known_at: datetime | None = None
    """Whose knowledge is asked for; None means `as_of`."""
    kinds: tuple[Kind, ...] = ()
    """Only records of these kinds; empty means all."""
    subject: str | None = None
    """Only records of exactly this subject."""
    since: datetime | None = None
    """Only records whose `valid_from` is not before that."""
    before: datetime | None = None
    """Only records whose `valid_from` is before that."""
    recency: float = Field(default=0.0, ge=0, le=10)
    """What a record of now gets added to its score; one that is `half_life` old gets half of it."""
    half_life: timedelta = Field(default=timedelta(days=30), gt=timedelta(0))
    importance: float = Field(default=0.0, ge=0, le=10)
    """What a record of importance 1 gets added to its score; one without a stated importance gets half of it."""
    duplicates: bool = False
    """Whether also records come that say the same as one before them."""
    explain: bool = False
    """Whether each hit says why it came."""


class RememberCall(CompactModel):
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
    """From when it holds in the world; None means from when it is recorded."""
    valid_to: datetime | None = None
    """Until when; then what was said before holds again."""
    predicate: str | None = None
    """With a subject it names a fact that can have one value at a time: the next one supersedes it."""
    confidence: float | None = Field(default=None, ge=0, le=1)
    importance: float | None = Field(default=None, ge=0, le=1)
    labels: tuple[str, ...] = ()
    retention: str = Field(default="standard", min_length=1, max_length=50)
    legal_hold: bool = False
    expected: int | None = None
    """The version that this one follows; `InvalidInput` if another was written meanwhile. 0: there is none yet."""
    origin: Origin = Origin()


class RememberResult(Frozen):
    """What was written. Writing again from the same step returns the same."""

    memory_id: str
    version: int
    content_hash: str
    version_id: str = ""
    erased: bool = False
    """Nothing was written: what this step wrote, or was derived from, has been erased since."""


_OMITTED_IF_EMPTY = frozenset(
    ("predicate", "confidence", "importance", "labels", "retention", "legal_hold", "pinned", "forgotten_at", "forgotten_as")
) | {"erased_at", "provenance"}
"""The fields that a record leaves out on the wire where they say nothing."""
_EMPTY: tuple[object, ...] = (None, False, [], (), "standard")

if not TYPE_CHECKING:
    __getattr__ = partial(moved.find, __name__)  # what 0.1.0 called otherwise. Remove after 2027-06

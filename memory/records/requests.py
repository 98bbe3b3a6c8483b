"""What callers say to memory besides remember and recall. Pure models: safe to import in workflow code."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from pydantic import Field, model_validator

from perdure.lineage import Frozen, StepRef
from perdure.memory.contracts import (
    CompactModel,
    Kind,
    MemoryRecord,
    Origin,
    RecallCall,
    RecallReceipt,
    Scope,
    Why,
)

ForgetMode = Literal["expire", "retract", "erase"]
"""Its time is over / it was wrong; both stay readable as of then. Or every byte of it goes, and of what came from it."""


class GetCall(Frozen):
    """The argument of the activity `perdure.get_memory`."""

    step: StepRef
    scope: Scope
    memory_id: str
    as_of: datetime | None = None
    valid_at: datetime | None = None
    known_at: datetime | None = None


class GetResult(Frozen):
    """What held; None if nothing did."""

    record: MemoryRecord | None = None


class ListCall(Frozen):
    """The argument of the activity `perdure.list_memories`: which records of a scope, in the order they were recorded."""

    step: StepRef
    scope: Scope
    kinds: tuple[Kind, ...] = ()
    subject: str | None = None
    predicate: str | None = None
    label: str | None = None
    as_of: datetime | None = None
    valid_at: datetime | None = None
    known_at: datetime | None = None
    limit: int = Field(default=100, ge=1, le=1000)
    after: str = ""
    """The `next` of the page before."""


class RecordPage(Frozen):
    """One page of records."""

    records: tuple[MemoryRecord, ...] = ()
    next: str = ""
    """Where the next page begins; empty at the end."""


class HistoryCall(Frozen):
    """The argument of the activity `perdure.memory_history`."""

    step: StepRef
    scope: Scope
    memory_id: str


class History(Frozen):
    """Every stored version of a memory, oldest first."""

    records: tuple[MemoryRecord, ...] = ()


class UpdateCall(Frozen):
    """The argument of the activity `perdure.update_memory`: what changes. The rest stays as the last version has it."""

    step: StepRef
    scope: Scope
    memory_id: str
    content: str | None = Field(default=None, min_length=1)
    labels: tuple[str, ...] | None = None
    confidence: float | None = Field(default=None, ge=0, le=1)
    importance: float | None = Field(default=None, ge=0, le=1)
    retention: str | None = None
    ttl: timedelta | None = None
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    expected: int | None = None
    """The version that was read; `InvalidInput` if another was written meanwhile."""
    origin: Origin = Origin()


class ForgetCall(Frozen):
    """The argument of the activity `perdure.forget`. Exactly one of MEMORY_ID, SUBJECT and EVERYTHING says which."""

    step: StepRef
    scope: Scope
    how: ForgetMode
    memory_id: str | None = None
    subject: str | None = None
    everything: bool = False
    narrower: bool = False
    """Also in the scopes that name more than this one: of a user, also the records of each session and agent."""
    why: str = ""
    by: str = ""
    dry_run: bool = False

    @model_validator(mode="after")
    def _require_one_choice(self) -> ForgetCall:
        if (self.memory_id is not None) + (self.subject is not None) + self.everything != 1:
            raise ValueError("say which: a memory_id, a subject, or everything=True")
        return self


class ForgetResult(Frozen):
    """What was forgotten, or would be."""

    how: ForgetMode
    memories: tuple[str, ...] = ()
    """The first hundred."""
    versions: int = 0
    receipt: str = ""
    """Of an erasure: the id of its receipt."""
    conversations: tuple[str, ...] = ()
    """Of an erasure: the first hundred conversations of which something went, as WORKFLOW_ID/FIRST_RUN/NAME."""
    messages: int = 0
    """Of an erasure: how many messages, and summaries, of conversations."""
    complete: bool = True
    """Of an erasure: whether the files hold nothing of it any more. If not, the worker goes on trying."""
    dry_run: bool = False


class ImportResult(Frozen):
    """What an import did."""

    added: int = 0
    """Versions that were not here."""
    erased: int = 0
    """Versions that were here and that the export says were erased; what was derived from them among them."""
    complete: bool = True
    """Whether the files hold nothing any more of what was erased. If not, the worker goes on trying."""


class FeedbackCall(Frozen):
    """The argument of the activity `perdure.feedback`: what became of records that this run recalled."""

    step: StepRef
    scope: Scope
    version_ids: tuple[str, ...] = Field(min_length=1)
    cited: bool | None = None
    useful: int | None = Field(default=None, ge=-1, le=1)
    recalled_by: str = ""
    """The step that recalled them; empty means every one of the run."""


class PinCall(Frozen):
    """The argument of the activity `perdure.pin`."""

    step: StepRef
    scope: Scope
    memory_id: str
    pinned: bool = True


class HoldCall(Frozen):
    """The argument of the activity `perdure.hold`: from now on nobody may erase it, or again they may."""

    step: StepRef
    scope: Scope
    memory_id: str | None = None
    """None means every record of the scope."""
    held: bool = True


class ChangeCount(Frozen):
    """How many stored versions, or uses, it concerned."""

    count: int
    conversations: int = 0


class ConversationsCall(Frozen):
    """Which conversations are meant: of a run, of a scope, or both; of neither means all."""

    workflow_id: str | None = None
    first_execution_run_id: str | None = None
    """None means every run of WORKFLOW_ID."""
    namespace: str | None = None
    """None means whichever namespace they ran in."""
    name: str | None = None
    """None means all of them."""
    scope: Scope | None = None
    narrower: bool = False
    limit: int = Field(default=100, ge=1)


class ConversationInfo(Frozen):
    """A conversation, without what was said in it."""

    namespace: str
    workflow_id: str
    first_execution_run_id: str
    name: str
    messages: int
    begun_at: datetime
    last_at: datetime | None = None
    legal_hold: bool = False
    erased_at: datetime | None = None
    """When all of it, or its end, was erased."""
    receipt: str = ""


class EraseConversationsCall(Frozen):
    """The argument of the activity `perdure.erase_conversations`: what a run said, whoever it was about."""

    step: StepRef
    workflow_id: str
    first_execution_run_id: str | None = None
    """None means every run of WORKFLOW_ID."""
    namespace: str | None = None
    """None means whichever namespace they ran in."""
    name: str | None = None
    """None means all of its conversations."""
    why: str = ""
    by: str = ""
    dry_run: bool = False


class ConsolidateCall(Frozen):
    """The argument of the activity `perdure.consolidate`: one record in place of several.

    CONTENT says what they say together; it is yours, e.g. a model's answer. With RETIRE they expire, pinned ones excepted.
    """

    step: StepRef
    scope: Scope
    version_ids: tuple[str, ...] = Field(min_length=1)
    content: str = Field(min_length=1)
    kind: Kind = "semantic"
    subject: str | None = None
    predicate: str | None = None
    labels: tuple[str, ...] = ()
    confidence: float | None = Field(default=None, ge=0, le=1)
    retire: bool = True
    origin: Origin = Origin()


class EnforceRetention(Frozen):
    """The argument of the workflow and activity `perdure.sweep_memory`."""

    step: StepRef | None = None
    dry_run: bool = False
    limit: int = Field(default=10_000, ge=1)
    """No more versions than this in one sweep."""


class OverdueVersion(Frozen):
    """A version whose time is over."""

    memory_id: str
    version: int
    version_id: str
    retention: str
    ended_at: datetime


class RetentionReport(Frozen):
    """What a sweep erased, or would."""

    versions: int = 0
    held: int = 0
    """Whose time is over and that a legal hold keeps."""
    due: tuple[OverdueVersion, ...] = ()
    """The first hundred."""
    receipts: tuple[str, ...] = ()
    complete: bool = True
    dry_run: bool = False


class VerifyCall(Frozen):
    """The argument of the activity `perdure.verify_memory`."""

    vectors: bool = True
    """Embed every text again and compare; without, only which points there are and when and for whom they count."""


class IndexReport(Frozen):
    """How the index and SQL differ. Each tuple names at most a hundred versions; the counts are complete."""

    records: int
    points: int
    waiting: int = 0
    """Changes that the index has not been told of yet."""
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    misplaced: tuple[str, ...] = ()
    """In the index for another scope or time."""
    misread: tuple[str, ...] = ()
    """With another vector than the text's."""
    damaged: tuple[str, ...] = ()
    """Whose text in SQL is not the one that was written."""
    divergent: int = 0
    """How many versions differ in any of these ways."""
    unfinished: int = 0
    """Erasures whose bytes may still be in files."""

    @property
    def sound(self) -> bool:
        """Whether nothing differs."""
        return not self.divergent and not self.unfinished


class ReindexCall(Frozen):
    """The argument of the activity `perdure.reindex_memory`."""


class StatsCall(Frozen):
    """The argument of the activity `perdure.memory_stats`."""

    scope: Scope | None = None
    tenant: str | None = None


class RecordUse(Frozen):
    """How one version was used."""

    memory_id: str
    version_id: str
    recalls: int
    runs: int
    cited: int
    useful: int
    cost_nano_usd: int
    """What it cost to come to know it."""

    @property
    def cost_per_recall(self) -> float:
        """Nano-dollars for each time it was of use."""
        return self.cost_nano_usd / self.recalls if self.recalls else float(self.cost_nano_usd)


class MemoryStats(Frozen):
    """How much is known, and how much it is used."""

    memories: int = 0
    versions: int = 0
    live: int = 0
    """Versions that hold now."""
    by_kind: dict[str, int] = {}
    """Of those that hold now."""
    held: int = 0
    erased: int = 0
    waiting: int = 0
    recalls: int = 0
    with_hits: int = 0
    returned: int = 0
    """Records that recalls returned, counted each time."""
    judged: int = 0
    """Of these, how many somebody said were cited or not."""
    cited: int = 0
    cost_nano_usd: int = 0
    most_used: tuple[RecordUse, ...] = ()

    @property
    def hit_rate(self) -> float:
        """The share of recalls that found something."""
        return self.with_hits / self.recalls if self.recalls else 0.0


class ExplainedReceipt(RecallReceipt):
    """What the activity `perdure.find_memories` returns: a receipt and, where the call asked to explain, why for each."""

    why: tuple[Why, ...] = ()


class MemoryRequest(CompactModel):
    """The argument of the workflow `perdure.memory_request`: one thing that only the owner of the index can do."""

    find: RecallCall | None = None
    forget: ForgetCall | None = None
    verify: VerifyCall | None = None
    reindex: ReindexCall | None = None
    erase: EraseConversationsCall | None = None

    @model_validator(mode="after")
    def _require_one(self) -> MemoryRequest:
        if sum(value is not None for _, value in self) != 1:
            raise ValueError("ask for one thing: find, forget, verify, reindex or erase")
        return self


class MemoryAnswer(Frozen):
    """What came of a `MemoryRequest`."""

    found: ExplainedReceipt | None = None
    forgotten: ForgetResult | None = None
    verified: IndexReport | None = None
    reindexed: ChangeCount | None = None

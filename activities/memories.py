"""The activities around memory besides remember and recall. The work is in memory/; this translates."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from temporalio import activity

from perdure.errors import NotFound
from perdure.memory.contracts import RecallCall, RememberResult
from perdure.memory.records.requests import (
    ChangeCount,
    ConsolidateCall,
    EnforceRetention,
    EraseConversationsCall,
    ExplainedReceipt,
    FeedbackCall,
    ForgetCall,
    ForgetResult,
    GetCall,
    GetResult,
    History,
    HistoryCall,
    HoldCall,
    IndexReport,
    ListCall,
    MemoryStats,
    PinCall,
    RecordPage,
    ReindexCall,
    RetentionReport,
    StatsCall,
    UpdateCall,
    VerifyCall,
)

if TYPE_CHECKING:
    from perdure.activities.rooms import Rooms


class MemoryActivities:
    """The activities that work in ROOMS. Their names are on the wire and never change."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    @activity.defn(name="perdure.get_memory")
    async def get(self, call: GetCall) -> GetResult:
        """Read one memory."""
        times = {"as_of": call.as_of, "valid_at": call.valid_at, "known_at": call.known_at}
        try:
            return GetResult(record=await self._rooms.open.memory.get(call.memory_id, call.scope, **times))
        except NotFound:
            return GetResult()

    @activity.defn(name="perdure.list_memories")
    async def list(self, call: ListCall) -> RecordPage:
        """Read a page of records."""
        return await self._rooms.open.memory.list(call)

    @activity.defn(name="perdure.memory_history")
    async def history(self, call: HistoryCall) -> History:
        """Read every version of a memory."""
        return History(records=tuple(await self._rooms.open.memory.history(call.memory_id, call.scope)))

    @activity.defn(name="perdure.update_memory")
    async def update(self, call: UpdateCall) -> RememberResult:
        """Write the next version with what changes."""
        return await self._rooms.open.memory.update(call)

    @activity.defn(name="perdure.forget")
    async def forget(self, call: ForgetCall) -> ForgetResult:
        """End or erase memories."""
        return await self._rooms.open.memory.forget(call)

    @activity.defn(name="perdure.erase_conversations")
    async def erase_conversations(self, call: EraseConversationsCall) -> ForgetResult:
        """Erase what a run said."""
        return await self._rooms.open.memory.erase_conversations(call)

    @activity.defn(name="perdure.feedback")
    async def feedback(self, call: FeedbackCall) -> ChangeCount:
        """Write down what became of recalled records."""
        return await self._rooms.open.memory.feedback(call)

    @activity.defn(name="perdure.pin")
    async def pin(self, call: PinCall) -> ChangeCount:
        """Pin a memory."""
        return await self._rooms.open.memory.pin(call)

    @activity.defn(name="perdure.hold")
    async def hold(self, call: HoldCall) -> ChangeCount:
        """Keep memories from being erased."""
        return await self._rooms.open.memory.hold(call)

    @activity.defn(name="perdure.consolidate")
    async def consolidate(self, call: ConsolidateCall) -> RememberResult:
        """Write one record in place of several."""
        return await self._rooms.open.memory.consolidate(call)

    @activity.defn(name="perdure.find_memories")
    async def find(self, call: RecallCall) -> ExplainedReceipt:
        """Recall, and return the receipt only: what the records say is left to SQL, so that no history holds it."""
        found = await self._rooms.open.memory.recall(call)
        why = tuple(hit.why for hit in found.hits if hit.why is not None)
        return ExplainedReceipt(**dict(found.receipt), why=why)

    @activity.defn(name="perdure.sweep_memory")
    async def sweep(self, call: EnforceRetention) -> RetentionReport:
        """Erase what is over for long enough."""
        swept = await self._rooms.open.memory.sweep(call)
        meter = activity.metric_meter()
        if not call.dry_run:
            counter = meter.create_counter("perdure_memory_swept", "Versions of memories that a sweep erased")
            counter.add(swept.versions)
        meter.create_gauge("perdure_memory_held", "Versions that are over and that a legal hold keeps").set(swept.held)
        return swept

    @activity.defn(name="perdure.verify_memory")
    async def verify(self, call: VerifyCall) -> IndexReport:
        """Compare the index with SQL."""
        return await self._rooms.open.memory.verify(call)

    @activity.defn(name="perdure.reindex_memory")
    async def reindex(self, call: ReindexCall) -> ChangeCount:
        """Fill the index anew."""
        return ChangeCount(count=await self._rooms.open.memory.reindex())

    @activity.defn(name="perdure.memory_stats")
    async def stats(self, call: StatsCall) -> MemoryStats:
        """Count."""
        return await self._rooms.open.memory.stats(call)

    def all(self) -> tuple[Callable[..., object], ...]:
        """Return the activities to register with a worker."""
        return (
            *(self.get, self.list, self.history, self.update, self.forget, self.feedback, self.pin, self.hold),
            *(self.consolidate, self.find, self.sweep, self.verify, self.reindex, self.stats),
            self.erase_conversations,
        )

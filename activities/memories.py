"""The activities around memory besides remember and recall. The work is in memory/; this translates."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from temporalio import activity

from perdure.errors import NotFound
from perdure.memory.contracts import RecallCall, Remembered
from perdure.memory.records.requests import (
    Changed,
    ConsolidateCall,
    EraseConversationsCall,
    FeedbackCall,
    ForgetCall,
    Forgotten,
    Found,
    GetCall,
    Got,
    History,
    HistoryCall,
    HoldCall,
    ListCall,
    Listed,
    MemoryStats,
    PinCall,
    ReindexCall,
    StatsCall,
    SweepCall,
    Swept,
    UpdateCall,
    Verified,
    VerifyCall,
)

if TYPE_CHECKING:
    from perdure.memory.store import Memory


class MemoryActivities:
    """The activities of one worker. Their names are on the wire and never change."""

    def __init__(self) -> None:
        self._memory: Memory | None = None

    def open(self, memory: Memory | None) -> None:
        """Work with MEMORY from now on."""
        self._memory = memory

    @property
    def memory(self) -> Memory:
        """What is open."""
        if self._memory is None:
            raise RuntimeError("the rooms are not open: run the worker with PerdurePlugin, which opens them")
        return self._memory

    @activity.defn(name="perdure.get_memory")
    async def get(self, call: GetCall) -> Got:
        """Read one memory."""
        times = {"as_of": call.as_of, "valid_at": call.valid_at, "known_at": call.known_at}
        try:
            return Got(record=await self.memory.get(call.memory_id, call.scope, **times))
        except NotFound:
            return Got()

    @activity.defn(name="perdure.list_memories")
    async def list(self, call: ListCall) -> Listed:
        """Read a page of records."""
        return await self.memory.list(call)

    @activity.defn(name="perdure.memory_history")
    async def history(self, call: HistoryCall) -> History:
        """Read every version of a memory."""
        return History(records=tuple(await self.memory.history(call.memory_id, call.scope)))

    @activity.defn(name="perdure.update_memory")
    async def update(self, call: UpdateCall) -> Remembered:
        """Write the next version with what changes."""
        return await self.memory.update(call)

    @activity.defn(name="perdure.forget")
    async def forget(self, call: ForgetCall) -> Forgotten:
        """End or erase memories."""
        return await self.memory.forget(call)

    @activity.defn(name="perdure.erase_conversations")
    async def erase_conversations(self, call: EraseConversationsCall) -> Forgotten:
        """Erase what a run said."""
        return await self.memory.erase_conversations(call)

    @activity.defn(name="perdure.feedback")
    async def feedback(self, call: FeedbackCall) -> Changed:
        """Write down what became of recalled records."""
        return await self.memory.feedback(call)

    @activity.defn(name="perdure.pin")
    async def pin(self, call: PinCall) -> Changed:
        """Pin a memory."""
        return await self.memory.pin(call)

    @activity.defn(name="perdure.hold")
    async def hold(self, call: HoldCall) -> Changed:
        """Keep memories from being erased."""
        return await self.memory.hold(call)

    @activity.defn(name="perdure.consolidate")
    async def consolidate(self, call: ConsolidateCall) -> Remembered:
        """Write one record in place of several."""
        return await self.memory.consolidate(call)

    @activity.defn(name="perdure.find_memories")
    async def find(self, call: RecallCall) -> Found:
        """Recall, and return the receipt only: what the records say is left to SQL, so that no history holds it."""
        found = await self.memory.recall(call)
        why = tuple(hit.why for hit in found.hits if hit.why is not None)
        return Found(**dict(found.receipt), why=why)

    @activity.defn(name="perdure.sweep_memory")
    async def sweep(self, call: SweepCall) -> Swept:
        """Erase what is over for long enough."""
        swept = await self.memory.sweep(call)
        meter = activity.metric_meter()
        if not call.dry_run:
            counter = meter.create_counter("perdure_memory_swept", "Versions of memories that a sweep erased")
            counter.add(swept.versions)
        meter.create_gauge("perdure_memory_held", "Versions that are over and that a legal hold keeps").set(swept.held)
        return swept

    @activity.defn(name="perdure.verify_memory")
    async def verify(self, call: VerifyCall) -> Verified:
        """Compare the index with SQL."""
        return await self.memory.verify(call)

    @activity.defn(name="perdure.reindex_memory")
    async def reindex(self, call: ReindexCall) -> Changed:
        """Fill the index anew."""
        return Changed(count=await self.memory.reindex())

    @activity.defn(name="perdure.memory_stats")
    async def stats(self, call: StatsCall) -> MemoryStats:
        """Count."""
        return await self.memory.stats(call)

    def all(self) -> tuple[Callable[..., object], ...]:
        """Return the activities to register with a worker."""
        return (
            *(self.get, self.list, self.history, self.update, self.forget, self.feedback, self.pin, self.hold),
            *(self.consolidate, self.find, self.sweep, self.verify, self.reindex, self.stats),
            self.erase_conversations,
        )

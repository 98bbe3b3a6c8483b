"""What is done with memories besides remembering and recalling: list, change, hold, forget, move, check, count."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime

import sqlalchemy as sa
import structlog
from sqlmodel import col

from perdure.errors import NotFound, Unreachable
from perdure.lineage import Lineage, StepRef
from perdure.memory.contracts import Remembered, Scope
from perdure.memory.conversations import erasure as conversations
from perdure.memory.erasure import archive, erasing
from perdure.memory.index import Feed, verify
from perdure.memory.records import (
    Moment,
    Written,
    consolidate,
    forgetting,
    listed,
    records_of,
    sayable,
    scope_key,
    scope_of,
    update,
    usage,
)
from perdure.memory.records.requests import (
    Changed,
    ConsolidateCall,
    ConversationsCall,
    Conversed,
    EraseConversationsCall,
    FeedbackCall,
    ForgetCall,
    Forgotten,
    HoldCall,
    ListCall,
    Listed,
    MemoryStats,
    PinCall,
    Restored,
    StatsCall,
    SweepCall,
    Swept,
    UpdateCall,
    Verified,
    VerifyCall,
)
from perdure.memory.tables import MemoryRow
from perdure.storage import Database

TABLES = (
    *("memory_record", "memory_source", "memory_derived", "memory_access", "memory_outbox", "memory_key"),
    *("message", "message_summary", "message_source", "conversation", "run_scope"),
    *("model_answer", "model_call"),
)
"""What an erasure takes rows from."""
_WHICH = {"workflow_id", "first_execution_run_id", "namespace", "name"}
TRACES = 100
"""For more texts than this, writing a database file anew is less work than looking for each of them."""
log = structlog.get_logger(__name__)


class Keeping(ABC):
    """The part of `Memory` that keeps the records in order."""

    _database: Database
    _feed: Feed
    _retention: forgetting.Retention

    async def list(self, call: ListCall) -> Listed:
        """Return a page of the records that hold at the two times of CALL, in the order in which they were recorded."""
        sayable(**dict(call))
        moment = Moment.of(call, self._now())
        query = listed(call, moment, scope_key(call.scope)).limit(call.limit + 1)
        found = await self._database.query(
            lambda connection: records_of(connection, connection.execute(query), with_end=False)
        )
        page = found[: call.limit]
        more = len(found) > call.limit
        return Listed(records=tuple(page), next=f"{page[-1].recorded_at.isoformat()}/{page[-1].version_id}" if more else "")

    async def update(self, call: UpdateCall) -> Remembered:
        """Write the next version of a memory with what CALL changes; the rest stays. Raises `NotFound` if none holds."""
        sayable(**dict(call))
        if call.content is not None:
            await self._feed.prepare(call.content)
        written = await self._database.transact(lambda connection: update(connection, call, self._now()))
        await self._wrote(written)
        return written.remembered

    async def consolidate(self, call: ConsolidateCall) -> Remembered:
        """Write one record in place of several of its scope, derived from them, and let those expire."""
        sayable(**dict(call))
        await self._feed.prepare(call.content)
        written = await self._database.transact(lambda connection: consolidate(connection, call, self._now()))
        await self._wrote(written)
        return written.remembered

    async def feedback(self, call: FeedbackCall) -> Changed:
        """Write down whether records that the run of CALL recalled were cited, and of use."""
        sayable(**dict(call))
        return Changed(count=await self._database.transact(lambda connection: usage.feed_back(connection, call)))

    async def pin(self, call: PinCall) -> Changed:
        """Keep a memory from being retired by a consolidation, or let it go again. Raises `NotFound` if there is none."""
        sayable(**dict(call))
        return self._some(await self._database.transact(lambda connection: forgetting.pin(connection, call)), call)

    async def hold(self, call: HoldCall) -> Changed:
        """Keep a memory, or all of a scope and its conversations, from being erased, or let it go again.

        Raises `NotFound` if there is none.
        """
        sayable(**dict(call))

        def work(connection: sa.Connection) -> Changed:
            talks = conversations.of_scope(connection, call.scope) if call.memory_id is None else []
            held = conversations.hold(connection, talks, held=call.held)
            return Changed(count=forgetting.hold(connection, call), conversations=held)

        changed = await self._database.transact(work)
        return changed if changed.conversations else self._some(changed.count, call)

    async def forget(self, call: ForgetCall) -> Forgotten:
        """End what CALL means, or erase it with all that was derived from it. Raises `OnHold` if a hold keeps any of that.

        What was ended stays readable as of then. Of what was erased, no byte stays in the database, the index or a cache.
        Derived from it are also the answers in conversations that a model gave with it, and what was said after them; of a
        scope of which everything goes, also its conversations.
        """
        sayable(**dict(call))
        now = self._now()
        if call.how != "erase":
            done, changed = await self._database.transact(lambda connection: forgetting.forget(connection, call, now))
            await self._wrote_at(now, changed)
            return done
        order = erasing.Order(step=call.step, scope=call.scope, cause="erase", why=call.why, by=call.by)
        where = forgetting.selected(call)

        def work(connection: sa.Connection) -> erasing.Erased:
            rows = erasing.find(connection, where, derived=True)
            talks = conversations.reached(connection, call, [row.version_id for row in rows])
            erasing.refuse_held(rows)
            conversations.refuse_held(talks)
            if call.dry_run:
                return erasing.would(rows, talks)
            erased = erasing.erase(connection, rows, order, now, talks=talks)
            if call.everything:
                conversations.let_go(connection, call.scope, narrower=call.narrower)
                erasing.destroy_keys(connection, {scope_key(call.scope)} | {row.scope_key for row in rows}, now)
            return erased

        return await self._erased(await self._database.transact(work), dry_run=call.dry_run)

    async def erase_conversations(self, call: EraseConversationsCall) -> Forgotten:
        """Erase what a run said in its conversations, whoever they were about. Raises `OnHold` if a hold keeps any."""
        now = self._now()
        order = erasing.Order(step=call.step, scope=None, cause="erase", why=call.why, by=call.by)
        wanted = ConversationsCall.model_validate(call.model_dump(include=_WHICH))

        def work(connection: sa.Connection) -> erasing.Erased:
            talks = conversations.locked(connection, dict.fromkeys(conversations.chosen(connection, wanted) or (), 1))
            conversations.refuse_held(talks)
            return erasing.would([], talks) if call.dry_run else erasing.erase(connection, [], order, now, talks=talks)

        return await self._erased(await self._database.transact(work), dry_run=call.dry_run)

    async def conversations(self, call: ConversationsCall | None = None) -> Sequence[Conversed]:
        """Return the conversations that CALL means, the oldest first, without what was said in them."""
        wanted = call or ConversationsCall()
        return await self._database.query(lambda connection: conversations.listed(connection, wanted))

    async def hold_conversations(self, call: ConversationsCall, *, held: bool = True) -> Changed:
        """Keep the conversations that CALL means from being erased, or let them go again."""

        def work(connection: sa.Connection) -> int:
            return conversations.hold(connection, conversations.chosen(connection, call) or (), held=held)

        return Changed(count=0, conversations=await self._database.transact(work))

    async def sweep(self, call: SweepCall) -> Swept:
        """Erase what has been over for longer than its retention class keeps it; what a legal hold keeps stays.

        Records that were derived from it stay as well: they have a time of their own. A dry run only tells.
        """
        now = self._now()

        def work(connection: sa.Connection) -> tuple[Swept, list[str]]:
            rows, held = self._retention.due(connection, now, call.limit)
            due = tuple(forgetting.as_due(row) for row in rows[: forgetting.SHOWN])
            swept = Swept(versions=len(rows), held=held, due=due, dry_run=call.dry_run)
            if call.dry_run or not rows:
                return swept, []
            receipts, texts = [], list[str]()
            for scope in {row.scope_key: scope_of(row) for row in rows}.values():
                # Locked and read again, for a hold may have come meanwhile.
                ids = [row.version_id for row in rows if row.scope_key == scope_key(scope)]
                where = col(MemoryRow.version_id).in_(ids) & ~col(MemoryRow.legal_hold)
                order = erasing.Order(step=call.step or _sweep_step(now), scope=scope, cause="retention")
                erased = erasing.erase(connection, erasing.find(connection, where, derived=False), order, now)
                receipts.append(erased.receipt)
                texts += erased.texts
            return swept.model_copy(update={"receipts": tuple(receipts)}), texts

        swept, texts = await self._database.transact(work)
        complete = True if call.dry_run else await self._scrub(texts)
        return swept.model_copy(update={"complete": complete})

    async def finish_erasures(self) -> bool:
        """Go on where an erasure was cut off. Returns whether the files hold nothing any more of what was erased."""
        return await self._scrub(None)

    def export(
        self, *, scope: Scope | None = None, tenant: str | None = None, erasures: bool = False
    ) -> AsyncIterator[str]:
        """Yield the memories of SCOPE, of TENANT or all as lines of JSON, for `import_`.

        With ERASURES only what was erased, which says nothing of what it was: to keep beside backups.
        """
        return archive.export(self._database, scope=scope, tenant=tenant, erasures=erasures)

    async def import_(self, lines: Iterable[str]) -> int:
        """Do what `restore` does, and return how many versions were new."""
        return (await self.restore(lines)).added

    async def restore(self, lines: Iterable[str]) -> Restored:
        """Write what `export` gave. What was erased here stays erased; what LINES say was erased is erased here too.

        Raises `InvalidInput`, and writes nothing, if a line is not as it was exported or says something else than stands;
        `OnHold` if a legal hold keeps here what was erased there.
        """
        now = self._now()
        restored = await self._database.transact(lambda connection: archive.restore(connection, lines, now))
        await self._wrote_at(now, [*restored.added, *restored.erased])
        complete = await self._scrub(restored.texts) if restored.erased else True
        return Restored(added=len(restored.added), erased=len(restored.erased), complete=complete)

    async def reindex(self) -> int:
        """Drop the index and fill it from SQL again; recalls wait meanwhile. Returns how many versions it then holds."""
        return await self._feed.rebuild()

    async def verify(self, call: VerifyCall | None = None) -> Verified:
        """Return every difference between the index and SQL. Changes of this process wait meanwhile for the index."""
        await self._feed.catch_up(everything=True)
        async with self._feed.still():
            live = self._feed.live
            return await verify(self._database, live.index, live.embedder, call or VerifyCall())

    async def stats(self, call: StatsCall | None = None) -> MemoryStats:
        """Return how much is known and how it was used, in a scope, in a tenant or in all."""
        wanted = call or StatsCall()
        return await self._database.query(lambda connection: usage.stats(connection, wanted, self._now()))

    @abstractmethod
    def _now(self) -> datetime:
        """Return the time, never before what was written."""

    @abstractmethod
    async def _wrote_at(self, at: datetime, changed: Iterable[str]) -> None:
        """Tell the index what CHANGED."""

    async def _wrote(self, written: Written) -> None:
        await self._wrote_at(written.recorded_at, written.changed)

    def _some(self, count: int, call: PinCall | HoldCall) -> Changed:
        if not count:
            named = f"memory {call.memory_id!r}" if call.memory_id is not None else "memory at all"
            raise NotFound(f"no {named} in scope {call.scope}")
        return Changed(count=count)

    async def _erased(self, erased: erasing.Erased, *, dry_run: bool) -> Forgotten:
        """Clean the files of what ERASED names, and return what callers are told of it."""
        return Forgotten(
            how="erase",
            memories=erased.memories[: forgetting.SHOWN],
            versions=len(erased.versions),
            receipt=erased.receipt,
            conversations=erased.conversations[: forgetting.SHOWN],
            messages=erased.messages,
            complete=dry_run or await self._scrub(erased.texts),
            dry_run=dry_run,
        )

    async def _scrub(self, texts: Sequence[str] | None) -> bool:
        """Take what was erased out of the index, the caches and the files; TEXTS is what it said, None if nobody knows."""
        receipts = await self._database.query(erasing.unfinished)
        if not receipts:
            return True
        if texts is not None:
            self._feed.forget(list(texts))
        # Texts that are too short to be told from others by chance are left to SQLite's own overwriting.
        few = texts is not None and len(texts) <= TRACES
        traces = [text.encode() for text in texts or () if len(text.encode()) >= 8] if few else None
        try:
            await self._feed.scrub()
            clean = await self._database.scrub(traces, tables=TABLES)
        except Unreachable as error:
            log.warning("erased, files not yet clean", receipts=receipts, error=error.message)
            return False
        if clean:
            now = self._now()
            await self._database.transact(lambda connection: erasing.complete(connection, receipts, now))
        else:
            log.warning("erased, but other processes hold on to the database's files", receipts=receipts)
        return clean


def _sweep_step(now: datetime) -> StepRef:
    return StepRef(
        lineage=Lineage(namespace="perdure", workflow_id="sweep", first_execution_run_id=now.isoformat()), name="sweep"
    )

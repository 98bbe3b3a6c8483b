"""What is done with memories besides remembering and recalling: list, change, hold, forget, move, check, count."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable
from datetime import datetime

import sqlalchemy as sa
import structlog
from sqlmodel import col

from perdure.errors import NotFound, Unreachable
from perdure.lineage import Lineage, StepRef
from perdure.memory import archive, erasing, forgetting, usage
from perdure.memory.changing import consolidate, update
from perdure.memory.checking import verify
from perdure.memory.contracts import Remembered, Scope
from perdure.memory.feeding import Feed
from perdure.memory.reading import Moment, listed, records_of
from perdure.memory.records import Written, scope_key
from perdure.memory.tables import MemoryRow
from perdure.memory.verbs import (
    Changed,
    ConsolidateCall,
    FeedbackCall,
    ForgetCall,
    Forgotten,
    HoldCall,
    ListCall,
    Listed,
    MemoryStats,
    PinCall,
    StatsCall,
    SweepCall,
    Swept,
    UpdateCall,
    Verified,
    VerifyCall,
)
from perdure.storage import Database

TABLES = ("memory_record", "memory_source", "memory_derived", "memory_access", "memory_outbox", "memory_key")
"""What an erasure takes rows from."""
log = structlog.get_logger(__name__)


class Keeping(ABC):
    """The part of `Memory` that keeps the records in order."""

    _database: Database
    _feed: Feed
    _retention: forgetting.Retention

    async def list(self, call: ListCall) -> Listed:
        """Return a page of the records that hold at the two times of CALL, in the order in which they were recorded."""
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
        if call.content is not None:
            await self._feed.prepare(call.content)
        written = await self._database.transact(lambda connection: update(connection, call, self._now()))
        await self._wrote(written)
        return written.remembered

    async def consolidate(self, call: ConsolidateCall) -> Remembered:
        """Write one record in place of several of its scope, derived from them, and let those expire."""
        await self._feed.prepare(call.content)
        written = await self._database.transact(lambda connection: consolidate(connection, call, self._now()))
        await self._wrote(written)
        return written.remembered

    async def feedback(self, call: FeedbackCall) -> Changed:
        """Write down whether records that the run of CALL recalled were cited, and of use."""
        return Changed(count=await self._database.transact(lambda connection: usage.feed_back(connection, call)))

    async def pin(self, call: PinCall) -> Changed:
        """Keep a memory from being retired by a consolidation, or let it go again. Raises `NotFound` if there is none."""
        return self._some(await self._database.transact(lambda connection: forgetting.pin(connection, call)), call)

    async def hold(self, call: HoldCall) -> Changed:
        """Keep a memory, or all of a scope, from being erased, or let it go again. Raises `NotFound` if there is none."""
        return self._some(await self._database.transact(lambda connection: forgetting.hold(connection, call)), call)

    async def forget(self, call: ForgetCall) -> Forgotten:
        """End what CALL means, or erase it with all that was derived from it. Raises `OnHold` if a hold keeps any of that.

        What was ended stays readable as of then. Of what was erased, no byte stays in the database, the index or a cache.
        """
        now = self._now()
        if call.how != "erase":
            done, changed = await self._database.transact(lambda connection: forgetting.forget(connection, call, now))
            await self._wrote_at(now, changed)
            return done
        order = erasing.Order(step=call.step, scope=call.scope, cause="erase", why=call.why, by=call.by)
        where = forgetting.selected(call)

        def work(connection: sa.Connection) -> erasing.Erased:
            rows = erasing.find(connection, where, derived=True)
            erasing.refuse_held(rows)
            if call.dry_run:
                memories = tuple(dict.fromkeys(row.memory_id for row in rows))
                return erasing.Erased("", memories, tuple(row.version_id for row in rows))
            erased = erasing.erase(connection, rows, order, now)
            if call.everything:
                erasing.destroy_keys(connection, {scope_key(call.scope)} | {row.scope_key for row in rows}, now)
            return erased

        erased = await self._database.transact(work)
        return Forgotten(
            how="erase",
            memories=erased.memories[: forgetting.SHOWN],
            versions=len(erased.versions),
            receipt=erased.receipt,
            complete=call.dry_run or await self._scrub(erased.texts),
            dry_run=call.dry_run,
        )

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
            for scope in {row.scope_key: _scope(row) for row in rows}.values():
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

    def export(self, *, scope: Scope | None = None, tenant: str | None = None) -> AsyncIterator[str]:
        """Yield the memories of SCOPE, of TENANT or all as lines of JSON, for `import_`."""
        return archive.export(self._database, scope=scope, tenant=tenant)

    async def import_(self, lines: Iterable[str]) -> int:
        """Write what `export` gave and return how many versions were new. What was erased here stays erased.

        Raises `InvalidInput`, and writes nothing, if a line is not as it was exported or says something else than stands.
        """
        now = self._now()
        added = await self._database.transact(lambda connection: archive.restore(connection, lines, now))
        await self._wrote_at(now, added)
        return len(added)

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

    async def _scrub(self, texts: Iterable[str] | None) -> bool:
        """Take what was erased out of the index, the caches and the files; TEXTS is what it said, None if nobody knows."""
        receipts = await self._database.query(erasing.unfinished)
        if not receipts:
            return True
        if texts is not None:
            self._feed.forget(list(texts))
        # Texts that are too short to be told from others by chance are left to SQLite's own overwriting.
        traces = None if texts is None else [text.encode() for text in texts if len(text.encode()) >= 8]
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


def _scope(row: sa.Row[MemoryRow]) -> Scope:
    return Scope(tenant=row.scope_tenant, agent=row.scope_agent, user=row.scope_user, session=row.scope_session)


def _sweep_step(now: datetime) -> StepRef:
    return StepRef(
        lineage=Lineage(namespace="perdure", workflow_id="sweep", first_execution_run_id=now.isoformat()), name="sweep"
    )

"""What the agents know: one class with every verb, which delegates to records/, index/, recall/ and erasure/."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import DBAPIError
from sqlmodel import col

from perdure.errors import NotFound, Unreachable
from perdure.lineage import digest
from perdure.memory.contracts import (
    MemoryRecord,
    Recall,
    RecallCall,
    RecallHit,
    RecallReceipt,
    RememberCall,
    RememberResult,
    Scope,
)
from perdure.memory.conversations import erasure as conversation_erasure
from perdure.memory.erasure import Eraser, archive
from perdure.memory.index import Claim, Embedder, Feed, Index, verify
from perdure.memory.recall import Ranking, find_nearest
from perdure.memory.records import (
    Moment,
    WriteResult,
    consolidate,
    forgetting,
    is_memory,
    is_visible,
    list_query,
    records,
    records_of,
    require_storable,
    scope_key,
    update,
    usage,
)
from perdure.memory.records.requests import (
    ChangeCount,
    ConsolidateCall,
    ConversationInfo,
    ConversationsCall,
    EnforceRetention,
    EraseConversationsCall,
    FeedbackCall,
    ForgetCall,
    ForgetResult,
    HoldCall,
    ImportResult,
    IndexReport,
    ListCall,
    MemoryStats,
    PinCall,
    RecordPage,
    RetentionReport,
    StatsCall,
    UpdateCall,
    VerifyCall,
)
from perdure.memory.tables import MemoryRow
from perdure.storage import Database
from perdure.storage import now as utc_now

DEFAULT_RETENTION = {"standard": timedelta(days=30)}
log = structlog.get_logger(__name__)


class Memory:
    """The memory of one process: records in DATABASE, which are the truth, and INDEX, which only says where to look.

    A version and its outbox row are committed together; the index is fed from the outbox right after that, and at the
    first use for what a crash left over. Every hit of the index is checked against SQL before it is returned. So the index
    may lag, lack or invent points, and a recall is still never stale, expired or foreign.
    """

    def __init__(
        self,
        database: Database,
        index: Index,
        embedder: Embedder,
        *,
        clock: Callable[[], datetime] = utc_now,
        ranking: Ranking | None = None,
        retention: Mapping[str, timedelta] = DEFAULT_RETENTION,
        claim: Claim | None = None,
    ) -> None:
        self._database = database
        self._clock = clock
        self._ranking = ranking or Ranking()
        self._feed = Feed(database, index, embedder, claim)
        self._eraser = Eraser(database, self._feed, retention)
        self._latest: datetime | None = None

    # Writing

    async def remember(self, call: RememberCall) -> RememberResult:
        """Write a memory, or the next version of one, and return what was written. The next recall here finds it.

        The same step with the same argument writes once. An index that is down doesn't lose it: it is told later.
        Raises `InvalidInput` for what cannot be stored.
        """
        records.require_valid(call)
        return await self._write(call.content, lambda connection: records.write(connection, call, self._now()))

    async def update(self, call: UpdateCall) -> RememberResult:
        """Write the next version of a memory with what CALL changes; the rest stays. Raises `NotFound` if none holds."""
        require_storable(**dict(call))
        return await self._write(call.content, lambda connection: update(connection, call, self._now()))

    async def consolidate(self, call: ConsolidateCall) -> RememberResult:
        """Write one record in place of several of its scope, derived from them, and let those expire."""
        require_storable(**dict(call))
        return await self._write(call.content, lambda connection: consolidate(connection, call, self._now()))

    # Reading

    async def recall(self, call: RecallCall) -> Recall:
        """Return the records of exactly the scope that bear on the query, best first, as of the two times of the call.

        Raises `Unreachable` if the index does not work: no answer is better than one with holes.
        """
        require_storable(**dict(call))
        moment = Moment.of(call, self._now())
        if await self._feed.has_pending():
            await self._feed.catch_up(everything=True)
        async with self._feed.read() as live:
            found = await find_nearest(call, moment, database=self._database, generation=live, ranking=self._ranking)
        await self._note(call, found)
        return Recall(
            hits=tuple(found),
            receipt=RecallReceipt(
                query_digest=digest(call.query),
                scope=call.scope,
                as_of=moment.known_at,
                valid_at=moment.valid_at if moment.valid_at != moment.known_at else None,
                returned=tuple((hit.record.memory_id, hit.record.version, hit.score) for hit in found),
                index_version=live.index.version,
                ranking=self._ranking.version,
            ),
        )

    async def get(
        self,
        memory_id: str,
        scope: Scope,
        *,
        as_of: datetime | None = None,
        valid_at: datetime | None = None,
        known_at: datetime | None = None,
    ) -> MemoryRecord:
        """Return the version of MEMORY_ID in SCOPE that held at VALID_AT as known at KNOWN_AT, by default AS_OF or now.

        Raises `NotFound` if there was none.
        """
        require_storable(memory_id=memory_id, scope=scope)
        moment = Moment.at(self._now(), as_of, valid_at=valid_at, known_at=known_at)
        where = *is_memory(scope_key(scope), memory_id), is_visible(moment.valid_at, moment.known_at)
        found = await self._read(sa.select(MemoryRow).where(*where), with_end=False)
        if not found:
            raise NotFound(f"no memory {memory_id!r} in scope {scope}, or it has expired; `history` shows every version")
        return found[0]

    async def history(self, memory_id: str, scope: Scope) -> Sequence[MemoryRecord]:
        """Return every stored version of MEMORY_ID in SCOPE, oldest first, also superseded, expired and forgotten ones."""
        require_storable(memory_id=memory_id, scope=scope)
        query = sa.select(MemoryRow).where(*is_memory(scope_key(scope), memory_id))
        return await self._read(query.order_by(col(MemoryRow.version)), with_end=True)

    async def list(self, call: ListCall) -> RecordPage:
        """Return a page of the records that hold at the two times of CALL, in the order in which they were recorded."""
        require_storable(**dict(call))
        moment = Moment.of(call, self._now())
        found = await self._read(list_query(call, moment, scope_key(call.scope)).limit(call.limit + 1), with_end=False)
        page = found[: call.limit]
        more = len(found) > call.limit
        return RecordPage(
            records=tuple(page), next=f"{page[-1].recorded_at.isoformat()}/{page[-1].version_id}" if more else ""
        )

    async def conversations(self, call: ConversationsCall | None = None) -> Sequence[ConversationInfo]:
        """Return the conversations that CALL means, the oldest first, without what was said in them."""
        wanted = call or ConversationsCall()
        return await self._database.query(lambda connection: conversation_erasure.list_conversations(connection, wanted))

    async def stats(self, call: StatsCall | None = None) -> MemoryStats:
        """Return how much is known and how it was used, in a scope, in a tenant or in all."""
        wanted = call or StatsCall()
        return await self._database.query(lambda connection: usage.count_usage(connection, wanted, self._now()))

    # What becomes of records

    async def feedback(self, call: FeedbackCall) -> ChangeCount:
        """Write down whether records that the run of CALL recalled were cited, and of use."""
        require_storable(**dict(call))
        return ChangeCount(count=await self._database.transact(lambda connection: usage.record_feedback(connection, call)))

    async def pin(self, call: PinCall) -> ChangeCount:
        """Keep a memory from being retired by a consolidation, or let it go again. Raises `NotFound` if there is none."""
        require_storable(**dict(call))
        return _require_some(await self._database.transact(lambda connection: forgetting.pin(connection, call)), call)

    async def hold(self, call: HoldCall) -> ChangeCount:
        """Keep a memory, or all of a scope and its conversations, from being erased, or let it go again.

        Raises `NotFound` if there is none.
        """
        require_storable(**dict(call))

        def work(connection: sa.Connection) -> ChangeCount:
            talks = conversation_erasure.of_scope(connection, call.scope) if call.memory_id is None else []
            held = conversation_erasure.hold(connection, talks, held=call.held)
            return ChangeCount(count=forgetting.hold(connection, call), conversations=held)

        changed = await self._database.transact(work)
        return changed if changed.conversations else _require_some(changed.count, call)

    async def hold_conversations(self, call: ConversationsCall, *, held: bool = True) -> ChangeCount:
        """Keep the conversations that CALL means from being erased, or let them go again."""

        def work(connection: sa.Connection) -> int:
            chosen = conversation_erasure.select_ids(connection, call) or ()
            return conversation_erasure.hold(connection, chosen, held=held)

        return ChangeCount(count=0, conversations=await self._database.transact(work))

    async def forget(self, call: ForgetCall) -> ForgetResult:
        """End what CALL means, or erase it with all that was derived from it. Raises `OnHold` if a hold keeps any of that.

        What was ended stays readable as of then. Of what was erased, no byte stays in the database, the index or a cache.
        Derived from it are also the answers in conversations that a model gave with it, and what was said after them; of a
        scope of which everything goes, also its conversations.
        """
        require_storable(**dict(call))
        now = self._now()
        if call.how == "erase":
            return await self._eraser.erase(call, now)
        done, changed = await self._database.transact(lambda connection: forgetting.forget(connection, call, now))
        await self._sync(now, changed)
        return done

    async def erase_conversations(self, call: EraseConversationsCall) -> ForgetResult:
        """Erase what a run said in its conversations, whoever they were about. Raises `OnHold` if a hold keeps any."""
        return await self._eraser.erase_conversations(call, self._now())

    async def sweep(self, call: EnforceRetention) -> RetentionReport:
        """Erase what has been over for longer than its retention class keeps it; what a legal hold keeps stays.

        Records that were derived from it stay as well: they have a time of their own. A dry run only tells.
        """
        return await self._eraser.enforce_retention(call, self._now())

    async def finish_erasures(self) -> bool:
        """Go on where an erasure was cut off. Returns whether the files hold nothing any more of what was erased."""
        return await self._eraser.clean(None, self._now())

    # Export and import

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

    async def restore(self, lines: Iterable[str]) -> ImportResult:
        """Write what `export` gave. What was erased here stays erased; what LINES say was erased is erased here too.

        Raises `InvalidInput`, and writes nothing, if a line is not as it was exported or says something else than stands;
        `OnHold` if a legal hold keeps here what was erased there.
        """
        now = self._now()
        imported, restored = await self._eraser.restore(lines, now)
        await self._sync(now, [*imported.added, *imported.erased])
        return restored

    # The index

    async def catch_up(self) -> None:
        """Tell the index what it lacks: what is pending here and, at the first call, all that SQL holds and it doesn't."""
        await self._feed.catch_up()

    async def reindex(self) -> int:
        """Drop the index and fill it from SQL again; recalls wait meanwhile. Returns how many versions it then holds."""
        return await self._feed.rebuild()

    async def rebuild(self) -> int:
        """Do what `reindex` does."""
        return await self.reindex()

    async def verify(self, call: VerifyCall | None = None) -> IndexReport:
        """Return every difference between the index and SQL. Changes of this process wait meanwhile for the index."""
        await self._feed.catch_up(everything=True)
        async with self._feed.pause():
            live = self._feed.live
            compared = await verify(self._database, live.index, live.embedder, call or VerifyCall())
        return compared.model_copy(update={"unfinished": await self._eraser.unfinished()})

    async def upgrade(self, embedder: Embedder, name: str = "") -> None:
        """Embed everything anew with EMBEDDER, then use that. Recalls and writes go on as before until then.

        NAME is what the settings call it, so that a start with the next one can go on with it. Stopped in the middle, it
        leaves everything as it was. Nothing to do if EMBEDDER is the one in use.
        """
        await self.catch_up()
        await self._feed.upgrade(embedder, name)

    async def close(self) -> None:
        """Let go of the index. The database and the embedder belong to the caller."""
        await self._feed.close()

    def _now(self) -> datetime:
        # Not before what we wrote ourselves, also when the clock steps back: what is written counts at once.
        return self._clock() if self._latest is None else max(self._clock(), self._latest)

    async def _write(self, content: str | None, work: Callable[[sa.Connection], WriteResult]) -> RememberResult:
        if content is not None:
            await self._feed.embed_ahead(content)  # ahead of the commit
        written = await self._database.transact(work)
        await self._sync(written.recorded_at, written.changed)
        return written.remembered

    async def _sync(self, at: datetime, changed: Iterable[str]) -> None:
        """Tell the index what CHANGED, or leave it to the next call if it doesn't work."""
        self._latest = at if self._latest is None else max(self._latest, at)
        self._feed.add_pending(changed)
        try:
            await self._feed.catch_up()
        except Unreachable as error:
            log.warning("memory written, index lags", error=error.message)

    async def _note(self, call: RecallCall, hits: Sequence[RecallHit]) -> None:
        now = self._now()
        try:
            await self._database.transact(lambda connection: usage.record_recall(connection, call, hits, now))
        except DBAPIError as error:  # a count that is lost is no reason to know nothing
            log.warning("the use of memories was not written down", step=str(call.step), error=type(error).__name__)

    async def _read(self, query: sa.Select[MemoryRow], *, with_end: bool) -> Sequence[MemoryRecord]:
        return await self._database.query(
            lambda connection: records_of(connection, connection.execute(query), with_end=with_end)
        )


def _require_some(count: int, call: PinCall | HoldCall) -> ChangeCount:
    if not count:
        named = f"memory {call.memory_id!r}" if call.memory_id is not None else "memory at all"
        raise NotFound(f"no {named} in scope {call.scope}")
    return ChangeCount(count=count)

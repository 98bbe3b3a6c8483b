"""What the agents know: remember it once, recall it from the scope that asks, as it was known at a moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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
    Remembered,
    Scope,
)
from perdure.memory.index import Claim, Embedder, Feed, Index
from perdure.memory.keeping import Keeping
from perdure.memory.recall import Ranking, nearest
from perdure.memory.records import (
    Moment,
    Retention,
    named,
    records,
    records_of,
    sayable,
    usage,
    visible,
)
from perdure.memory.tables import MemoryRow
from perdure.storage import Database
from perdure.storage import now as utc_now

KEPT = {"standard": timedelta(days=30)}
log = structlog.get_logger(__name__)


class Memory(Keeping):
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
        retention: Mapping[str, timedelta] = KEPT,
        claim: Claim | None = None,
    ) -> None:
        self._database = database
        self._clock = clock
        self._ranking = ranking or Ranking()
        self._feed = Feed(database, index, embedder, claim)
        self._retention = Retention(dict(retention))
        self._latest: datetime | None = None

    async def remember(self, call: RememberCall) -> Remembered:
        """Write a memory, or the next version of one, and return what was written. The next recall here finds it.

        The same step with the same argument writes once. An index that is down doesn't lose it: it is told later.
        Raises `InvalidInput` for what cannot be stored.
        """
        records.checked(call)
        await self._feed.prepare(call.content)  # ahead of the commit
        written = await self._database.transact(lambda connection: records.write(connection, call, self._now()))
        await self._wrote(written)
        return written.remembered

    async def recall(self, call: RecallCall) -> Recall:
        """Return the records of exactly the scope that bear on the query, best first, as of the two times of the call.

        Raises `Unreachable` if the index does not work: no answer is better than one with holes.
        """
        sayable(**dict(call))
        moment = Moment.of(call, self._now())
        if await self._feed.waiting():
            await self._feed.catch_up(everything=True)
        async with self._feed.reading() as live:
            found = await nearest(call, moment, database=self._database, generation=live, ranking=self._ranking)
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
        sayable(memory_id=memory_id, scope=scope)
        moment = Moment.at(self._now(), as_of, valid_at=valid_at, known_at=known_at)
        where = *named(records.scope_key(scope), memory_id), visible(moment.valid_at, moment.known_at)
        found = await self._read(sa.select(MemoryRow).where(*where), with_end=False)
        if not found:
            raise NotFound(f"no memory {memory_id!r} in scope {scope}, or it has expired; `history` shows every version")
        return found[0]

    async def history(self, memory_id: str, scope: Scope) -> list[MemoryRecord]:
        """Return every stored version of MEMORY_ID in SCOPE, oldest first, also superseded, expired and forgotten ones."""
        sayable(memory_id=memory_id, scope=scope)
        query = sa.select(MemoryRow).where(*named(records.scope_key(scope), memory_id))
        return await self._read(query.order_by(col(MemoryRow.version)), with_end=True)

    async def catch_up(self) -> None:
        """Tell the index what it lacks: what is pending here and, at the first call, all that SQL holds and it doesn't."""
        await self._feed.catch_up()

    async def rebuild(self) -> int:
        """Do what `reindex` does."""
        return await self.reindex()

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

    async def _wrote_at(self, at: datetime, changed: Iterable[str]) -> None:
        """Tell the index what CHANGED, or leave it to the next call if it doesn't work."""
        self._latest = at if self._latest is None else max(self._latest, at)
        self._feed.note(changed)
        try:
            await self._feed.catch_up()
        except Unreachable as error:
            log.warning("memory written, index lags", error=error.message)

    async def _note(self, call: RecallCall, hits: Sequence[RecallHit]) -> None:
        now = self._now()
        try:
            await self._database.transact(lambda connection: usage.note(connection, call, hits, now))
        except DBAPIError as error:  # a count that is lost is no reason to know nothing
            log.warning("the use of memories was not written down", step=str(call.step), error=type(error).__name__)

    async def _read(self, query: sa.Select[MemoryRow], *, with_end: bool) -> list[MemoryRecord]:
        return await self._database.query(
            lambda connection: records_of(connection, connection.execute(query), with_end=with_end)
        )

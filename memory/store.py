"""What the agents know: remember it once, recall it from the scope that asks, as it was known at a moment."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import islice
from typing import TypeVar, cast

import sqlalchemy as sa
import structlog
from sqlmodel import col

from perdure.errors import NotFound, Unreachable
from perdure.lineage import digest
from perdure.memory import records
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
from perdure.memory.embed import Embedder, MiniLm, Vector
from perdure.memory.index import Index, Near, Point, microseconds
from perdure.memory.tables import MemoryRow, OutboxRow
from perdure.settings import Settings
from perdure.storage import Database
from perdure.storage import now as utc_now

T = TypeVar("T")
PAGE = 256
log = structlog.get_logger(__name__)


class Memory:
    """The memory of one process: records in DATABASE, which are the truth, and INDEX, which only says where to look.

    A version and its outbox row are committed together; the index is fed from the outbox right after that, and at the
    first use for what a crash left over. Every hit of the index is checked against SQL before it is returned. So the index
    may lag, lack or invent points, and a recall is still never stale, expired or foreign.
    """

    def __init__(
        self, database: Database, index: Index, embedder: Embedder, *, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._database = database
        self._index = index
        self._embedder = embedder
        self._clock = clock
        self._feeding = asyncio.Lock()
        self._pending: dict[str, int] = {}  # what this process wrote and the index may lack, and when, counted
        self._count = itertools.count()
        self._caught_up = False
        self._latest: datetime | None = None

    async def remember(self, call: RememberCall) -> Remembered:
        """Write a memory, or the next version of one, and return what was written. The next recall here finds it.

        The same step with the same argument writes once. An index that is down doesn't lose it: it is told later.
        Raises `InvalidInput` for what cannot be stored.
        """
        records.checked(call)
        await self._embedder.embed([call.content])  # ahead of the commit: the index is fed with what is then at hand
        async with self._database.write() as connection:
            written = await records.write(connection, call, self._now())
        self._latest = written.recorded_at if self._latest is None else max(self._latest, written.recorded_at)
        self._pending |= {version_id: next(self._count) for version_id in written.changed}
        remembered = written.remembered
        try:
            await self.catch_up()
        except Unreachable as error:
            log.warning(
                "memory written, index lags",
                memory_id=remembered.memory_id,
                version=remembered.version,
                error=error.message,
            )
        return remembered

    async def recall(self, call: RecallCall) -> Recall:
        """Return the records of exactly the scope that bear on the query, best first, as they were known at `as_of`.

        Raises `Unreachable` if the index does not work: no answer is better than one with holes.
        """
        records.aware("as_of", call.as_of)
        now = self._now()
        moment = min(call.as_of or now, now)  # nobody knows yet what will have been written
        if self._pending or not self._caught_up:
            await self.catch_up()
        [vector] = await self._embedder.embed([call.query])
        found = await self._nearest(vector, call.scope, moment, call.limit)
        return Recall(
            hits=tuple(found),
            receipt=RecallReceipt(
                query_digest=digest(call.query),
                scope=call.scope,
                as_of=moment,
                returned=tuple((hit.record.memory_id, hit.record.version, hit.score) for hit in found),
                index_version=self._index.version,
            ),
        )

    async def get(self, memory_id: str, scope: Scope, *, as_of: datetime | None = None) -> MemoryRecord:
        """Return the version of MEMORY_ID in SCOPE that was in force at AS_OF. Raises `NotFound` if there was none."""
        records.aware("as_of", as_of)
        now = self._now()
        query = sa.select(MemoryRow).where(*_named(memory_id, scope), records.visible(min(as_of or now, now)))
        async with self._database.read() as connection:
            row = (await connection.execute(query)).first()
        if row is None:
            raise NotFound(f"no memory {memory_id!r} in scope {scope}, or it has expired; `history` shows every version")
        return records.as_record(row, with_end=False)

    async def history(self, memory_id: str, scope: Scope) -> list[MemoryRecord]:
        """Return every stored version of MEMORY_ID in SCOPE, oldest first, also superseded and expired ones."""
        query = sa.select(MemoryRow).where(*_named(memory_id, scope)).order_by(col(MemoryRow.version))
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        return [records.as_record(row, with_end=True) for row in rows]

    async def catch_up(self) -> None:
        """Tell the index what it lacks: what is pending here and, at the first call, all that SQL holds and it doesn't."""
        async with self._feeding:
            if not self._caught_up:
                await self._apply_outbox()
                await self._fill_gaps()
                self._caught_up = True
            while self._pending:
                batch = dict(islice(self._pending.items(), PAGE))
                await self._apply(sa.select(OutboxRow).where(col(OutboxRow.version_id).in_(batch)))
                for version_id, counted in batch.items():
                    if self._pending[version_id] == counted:  # else it changed again meanwhile
                        del self._pending[version_id]

    async def rebuild(self) -> int:
        """Drop the index and fill it from SQL again; recalls wait meanwhile. Returns how many versions it then holds."""
        async with self._feeding:
            self._caught_up = False
            await self._index.clear()
            await self._fill_gaps()
            self._caught_up = True
            return await self._index.count()

    async def close(self) -> None:
        """Let go of the index. The database and the embedder belong to the caller."""
        await self._index.close()

    def _now(self) -> datetime:
        # Not before what we wrote ourselves, also when the clock steps back: what is written counts at once.
        return self._clock() if self._latest is None else max(self._clock(), self._latest)

    async def _nearest(self, vector: Vector, scope: Scope, moment: datetime, limit: int) -> list[RecallHit]:
        key = records.scope_key(scope)
        seen: set[str] = set()
        hits: list[RecallHit] = []
        fetch = limit + 8
        while True:
            near = await self._index.query(vector, scope=key, at=microseconds(moment), limit=fetch)
            hits += await self._confirmed([one for one in near if one.version_id not in seen], key, moment)
            seen.update(one.version_id for one in near)
            if len(hits) >= limit or len(near) < fetch:
                break
            fetch *= 4  # the index held much that SQL no longer lets through
        hits.sort(key=lambda hit: (-hit.score, -microseconds(hit.record.recorded_at), hit.record.version_id))
        return hits[:limit]

    async def _confirmed(self, near: Sequence[Near], scope: str, moment: datetime) -> list[RecallHit]:
        """Return the hits of NEAR that SQL confirms."""
        hits: list[RecallHit] = []
        async with self._database.read() as connection:
            for page in _pages(near):
                scores = {one.version_id: one.score for one in page}
                query = sa.select(MemoryRow).where(
                    col(MemoryRow.version_id).in_(scores), col(MemoryRow.scope_key) == scope, records.visible(moment)
                )
                for row in await connection.execute(query):
                    # Six digits: what is beyond depends on the processor.
                    score = round(scores[row.version_id], 6)
                    hits.append(RecallHit(record=records.as_record(row, with_end=False), score=score))
        return hits

    async def _apply_outbox(self) -> None:
        while await self._apply(sa.select(OutboxRow).order_by(col(OutboxRow.seq)).limit(PAGE)):
            pass

    async def _apply(self, which: sa.Select[OutboxRow]) -> int:
        """Bring the index to what SQL says now about the versions in WHICH rows of the outbox, and drop those rows."""
        queued = which.subquery()
        versions = sa.outerjoin(queued, MemoryRow, queued.c.version_id == col(MemoryRow.version_id))
        query = sa.select(queued.c.seq, queued.c.version_id.label("queued_id"), MemoryRow).select_from(versions)
        async with self._database.read() as connection:
            rows = cast("Sequence[sa.Row[MemoryRow]]", (await connection.execute(query)).all())
        if not rows:
            return 0
        # Erases before upserts.
        await self._index.delete([row.queued_id for row in rows if row.version_id is None])
        await self._upsert([row for row in rows if row.version_id is not None])
        async with self._database.write() as connection:
            await connection.execute(sa.delete(OutboxRow).where(col(OutboxRow.seq).in_([row.seq for row in rows])))
        return len(rows)

    async def _fill_gaps(self) -> None:
        async with self._database.read() as connection:
            stored = (await connection.execute(sa.select(sa.func.count()).select_from(MemoryRow))).scalar_one()
        if stored == await self._index.count():
            return
        log.info("filling the vector index from the database", records=stored)
        last = ""
        while True:
            page = (
                sa.select(MemoryRow).where(col(MemoryRow.version_id) > last).order_by(col(MemoryRow.version_id)).limit(PAGE)
            )
            async with self._database.read() as connection:
                rows = (await connection.execute(page)).all()
            if not rows:
                return
            present = await self._index.present([row.version_id for row in rows])
            await self._upsert([row for row in rows if row.version_id not in present])
            last = rows[-1].version_id

    async def _upsert(self, rows: Iterable[sa.Row[MemoryRow]]) -> None:
        unique = {row.version_id: row for row in rows}
        vectors = await self._embedder.embed([row.content for row in unique.values()])
        points = []
        for row, vector in zip(unique.values(), vectors, strict=True):
            since, until = records.interval(row)
            points.append(Point(row.version_id, row.scope_key, since, until, vector))
        await self._index.upsert(points)


@asynccontextmanager
async def open_memory(settings: Settings, database: Database, *, embedder: Embedder | None = None) -> AsyncIterator[Memory]:
    """Open the memory that SETTINGS describe: on the Qdrant server of `index_url`, else in this process under `home`.

    Brings the index up to date first. EMBEDDER spares loading the model a second time; default is `MiniLm`.
    Raises `IndexOwned` if another process has the embedded index.
    """
    embedder = embedder or await MiniLm.load()
    memory = Memory(database, await _open_index(settings, embedder), embedder)
    try:
        await memory.catch_up()
        yield memory
    finally:
        await memory.close()


async def _open_index(settings: Settings, embedder: Embedder) -> Index:
    if settings.index_url:
        from perdure.memory.server import ServerIndex

        return await ServerIndex.open(settings.index_url, embedder)
    from perdure.memory.edge import EdgeIndex

    return await EdgeIndex.open(settings.index_path, embedder)


def _named(memory_id: str, scope: Scope) -> tuple[sa.ColumnElement[bool], ...]:
    return col(MemoryRow.scope_key) == records.scope_key(scope), col(MemoryRow.memory_id) == memory_id


def _pages(items: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(items)
    while page := list(islice(rest, PAGE)):
        yield page

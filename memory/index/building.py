"""How a new embedder, or a rebuilt index, takes the place of the present one while recalls go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import sqlalchemy as sa
import structlog
from sqlmodel import col

from perdure.memory.index.embed import Embedder, Vector
from perdure.memory.index.lexical import name_numbers, words_of_record
from perdure.memory.index.protocol import Index, Point
from perdure.memory.moments import microseconds
from perdure.memory.records import index_interval
from perdure.memory.tables import MemoryRow
from perdure.storage import Database

PAGE = 64
"""How many records are read and embedded at a time while a generation is filled."""
SLICE = 32
"""How many points are made and handed over at a time: the event loop waits for some 3 ms then, for 256 it was 25."""
IS_LIVING = col(MemoryRow.erased_at).is_(None)
log = structlog.get_logger(__name__)


class Generation:
    """An index together with the embedder whose vectors it holds, and how many recalls are reading it just now."""

    def __init__(self, index: Index, embedder: Embedder) -> None:
        self.index = index
        self.embedder = embedder
        self._readers = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.opened = asyncio.Event()
        """Not set while it is being rebuilt."""
        self.opened.set()

    @contextmanager
    def read(self) -> Iterator[None]:
        """Count a recall that reads the index."""
        self._readers += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._readers -= 1
            if not self._readers:
                self._idle.set()

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Wait until nobody reads, and let nobody begin to."""
        self.opened.clear()
        try:
            await self._idle.wait()
            yield
        finally:
            self.opened.set()

    async def wait_until_idle(self) -> None:
        """Wait until nobody reads."""
        await self._idle.wait()

    async def upsert(self, rows: Iterable[sa.Row[MemoryRow]]) -> None:
        """Put the points of ROWS in."""
        unique = list({row.version_id: row for row in rows}.values())
        for start in range(0, len(unique), SLICE):
            some = unique[start : start + SLICE]
            vectors = await self.embedder.embed([row.content for row in some])
            await self.index.upsert([make_point(row, vector) for row, vector in zip(some, vectors, strict=True)])

    async def fill(self, database: Database, turn: asyncio.Lock) -> None:
        """Put in what SQL holds and the index lacks, until it lacks nothing; takes TURN for short moments only.

        Returns while holding TURN: nothing is fed to any index until the caller lets go of it.
        """
        while True:
            last = ""
            while rows := await read_page(database, last):
                last = rows[-1].version_id
                present = await self.index.present([row.version_id for row in rows])
                missing = [row for row in rows if row.version_id not in present]
                vectors = await self.embedder.embed([row.content for row in missing])
                made = {row.version_id: vector for row, vector in zip(missing, vectors, strict=True)}
                async with turn:
                    await self._put(database, made)
            await turn.acquire()
            try:
                await self.drop_strays(database)
                complete = await self.index.count() == await count(database)
            except BaseException:
                turn.release()
                raise
            if complete:
                return
            turn.release()

    async def reconcile(self, database: Database) -> None:
        """Make every point what SQL says of its version, and put in what is missing. Only that is embedded."""
        after = ""
        while points := await self.index.scan(after=after):
            after = points[-1].version_id
            vectors = {each.version_id: each.vector for each in points}
            rows = {row.version_id: row for row in await _living_rows(database, vectors)}
            await self.index.delete([each for each in vectors if each not in rows])
            placed = [each for each in points if each.version_id in rows]
            moved = [each.version_id for each in placed if _placement_of(each) != _placement(rows[each.version_id])]
            await self._put(database, {each: vectors[each] for each in moved})
        last = ""
        while page_ := await read_page(database, last):
            last = page_[-1].version_id
            present = await self.index.present([row.version_id for row in page_])
            missing = [row for row in page_ if row.version_id not in present]
            made = await self.embedder.embed([row.content for row in missing])
            await self._put(database, {row.version_id: vector for row, vector in zip(missing, made, strict=True)})

    async def drop_strays(self, database: Database) -> None:
        """Take out what SQL does not hold any more, as another process may have erased it."""
        after = ""
        while points := await self.index.scan(after=after):
            ids = [each.version_id for each in points]
            after = ids[-1]
            living = {row.version_id for row in await _living_rows(database, ids)}
            await self.index.delete([each for each in ids if each not in living])

    async def _put(self, database: Database, vectors: dict[str, Vector]) -> None:
        """Put the versions of VECTORS in as SQL has them afterwards: others may change or erase them meanwhile."""
        fresh = await _living_rows(database, vectors)
        while fresh:
            for start in range(0, len(fresh), SLICE):
                some = fresh[start : start + SLICE]
                await self.index.upsert([make_point(row, vectors[row.version_id]) for row in some])
            told = {row.version_id: index_interval(row) for row in fresh}
            now = await _living_rows(database, told)
            await self.index.delete(list(told.keys() - {row.version_id for row in now}))
            fresh = [row for row in now if index_interval(row) != told[row.version_id]]


def make_point(row: sa.Row[MemoryRow], vector: Vector) -> Point:
    """Return the point of ROW, whose content has VECTOR: the same whenever and by whomever it is made."""
    since, until = index_interval(row)
    return Point(
        version_id=row.version_id,
        scope=row.scope_key,
        since=since,
        until=until,
        vector=vector,
        words=words_of_record(row.content, row.valid_from),
        kind=row.kind,
        valid=microseconds(row.valid_from),
        names=name_numbers(row.subject, row.scope_key),
    )


def _placement(row: sa.Row[MemoryRow]) -> tuple[object, ...]:
    """Return what a point of ROW has besides what comes of the content, which never changes."""
    scope = row.scope_key
    return scope, index_interval(row), row.kind, microseconds(row.valid_from), name_numbers(row.subject, scope)


def _placement_of(entry: Point) -> tuple[object, ...]:
    return entry.scope, (entry.since, entry.until), entry.kind, entry.valid, entry.names


async def count(database: Database) -> int:
    """Return how many versions SQL holds that an index should hold too."""
    counted = sa.select(sa.func.count()).select_from(MemoryRow).where(IS_LIVING)
    return await database.query(lambda connection: connection.execute(counted).scalar_one())


async def read_page(database: Database, after: str) -> Sequence[sa.Row[MemoryRow]]:
    """Return the next versions that an index should hold, in the order of their ids, from the first beyond AFTER on."""
    rows = sa.select(MemoryRow).where(IS_LIVING, col(MemoryRow.version_id) > after).order_by(col(MemoryRow.version_id))
    return await database.query(lambda connection: connection.execute(rows.limit(PAGE)).all())


async def _living_rows(database: Database, version_ids: Iterable[str]) -> Sequence[sa.Row[MemoryRow]]:
    rows = sa.select(MemoryRow).where(IS_LIVING, col(MemoryRow.version_id).in_(list(version_ids)))
    return await database.query(lambda connection: connection.execute(rows).all())

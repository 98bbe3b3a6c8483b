"""How the index follows SQL: from the outbox, after a crash, and from nothing."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import cast

import sqlalchemy as sa
import structlog
from sqlmodel import col

from perdure.memory.index.building import Generation, count
from perdure.memory.index.embed import CachingEmbedder, Embedder
from perdure.memory.index.lexical import forget_words
from perdure.memory.index.ownership import Claim
from perdure.memory.index.protocol import Index, generation
from perdure.memory.records import index_interval
from perdure.memory.tables import MemoryRow, OutboxRow
from perdure.storage import Database

PAGE = 256
log = structlog.get_logger(__name__)


class Feed:
    """What brings INDEX to what DATABASE says. One task at a time does; the others wait for it."""

    def __init__(self, database: Database, index: Index, embedder: Embedder, claim: Claim | None = None) -> None:
        self._database = database
        self._claim = claim
        self.live = Generation(index, embedder)
        """The index that recalls read."""
        self._next: Generation | None = None
        self._upgrading = asyncio.Lock()
        self._turn = asyncio.Lock()
        self._pending: dict[str, int] = {}  # what this process wrote and the index may lack, and when, counted
        self._count = itertools.count()
        self._caught_up = False

    def add_pending(self, version_ids: Iterable[str]) -> None:
        """Remember that the index has to be told of VERSION_IDS."""
        self._pending |= {version_id: next(self._count) for version_id in version_ids}

    async def has_pending(self) -> bool:
        """Return whether the index may lack something, whoever wrote it. Raises `Unreachable` if another is in force."""
        first = sa.select(col(OutboxRow.seq)).limit(1)

        def look(connection: sa.Connection) -> bool:
            if self._claim is not None:
                self._claim.check(connection)
            return connection.execute(first).first() is not None

        return await self._database.query(look) or bool(self._pending) or not self._caught_up

    async def catch_up(self, *, everything: bool = False) -> None:
        """Tell the index what it lacks: what is pending here; at the first call, and with EVERYTHING, all there is."""
        async with self._turn:
            if everything or not self._caught_up:
                await self._apply_outbox()
            if not self._caught_up:
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
        async with self._turn, self.live.exclusive():
            self._caught_up = False
            await self.live.index.clear()
            await self._fill_gaps()
            await self._apply_outbox()
            self._caught_up = True
            return await self.live.index.count()

    async def upgrade(self, embedder: Embedder, name: str = "") -> None:
        """Fill an index by EMBEDDER beside the present one, which is used meanwhile, and switch once it is complete.

        NAME is what the settings call EMBEDDER.
        """
        async with self._upgrading:
            if generation(embedder) == generation(self.live.embedder):
                return
            successor = Generation(await self.live.index.successor(embedder), embedder)
            log.info("embedding the memory anew", embedder=embedder.name, version=embedder.version)
            self._next = successor
            try:
                await successor.fill(self._database, self._turn)
                try:
                    if self._claim is not None and self._claim.shared:
                        # From now on nobody else feeds the old index alone; what they did until now is made up for.
                        await self._claim.activate(generation(embedder), name)
                        await successor.reconcile(self._database)
                        await self._claim.mark_settled()
                    before, self.live = self.live, successor
                finally:
                    self._turn.release()
            except BaseException:
                self._next = None
                await successor.index.close()
                raise
            self._next = None
            await before.wait_until_idle()
            await successor.index.succeed()
            if self._claim is not None and not self._claim.shared:
                await self._claim.activate(generation(embedder), name, settled=True)
            log.info("memory embedded anew", embedder=embedder.name, version=embedder.version)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Generation]:
        """Give the index that recalls read, and keep it as it is meanwhile. Waits while it is being rebuilt."""
        while not (live := self.live).opened.is_set():
            await live.opened.wait()
        with live.read():
            yield live

    async def embed_ahead(self, content: str) -> None:
        """Embed CONTENT, so that the index is fed with what is then at hand."""
        for each in self._generations:
            await each.embedder.embed([content])

    @asynccontextmanager
    async def pause(self) -> AsyncIterator[None]:
        """Change nothing in the index from here meanwhile."""
        async with self._turn:
            yield

    def forget(self, texts: Sequence[str]) -> None:
        """Keep nothing of TEXTS in what embedders and word lists hold ready."""
        forget_words()
        for each in self._generations:
            if isinstance(each.embedder, CachingEmbedder):
                each.embedder.forget(texts)

    async def scrub(self) -> None:
        """Take out of the index, and out of its files, what was erased."""
        async with self._turn:
            await self._apply_outbox()
            for each in self._generations:
                await each.index.scrub()

    async def close(self) -> None:
        """Let go of the index."""
        for each in self._generations[::-1]:
            await each.index.close()

    @property
    def _generations(self) -> list[Generation]:
        return [self.live] if self._next is None else [self.live, self._next]

    async def _apply_outbox(self) -> None:
        while await self._apply(sa.select(OutboxRow).order_by(col(OutboxRow.seq)).limit(PAGE)):
            pass

    async def _apply(self, which: sa.Select[OutboxRow]) -> int:
        """Bring the index to what SQL says now about the versions in WHICH rows of the outbox, and drop those rows."""
        queued = which.subquery()
        versions = sa.outerjoin(queued, MemoryRow, queued.c.version_id == col(MemoryRow.version_id))
        query = sa.select(queued.c.seq, queued.c.version_id.label("queued_id"), MemoryRow).select_from(versions)
        found = await self._database.query(lambda connection: connection.execute(query).all())
        rows = cast("Sequence[sa.Row[MemoryRow]]", found)
        if not rows:
            return 0
        told = {row.queued_id: _state(row) for row in rows}
        # Erases before upserts.
        for each in self._generations:
            await each.index.delete([version_id for version_id, state in told.items() if state is None])
            await each.upsert([row for row in rows if told[row.queued_id] is not None])
        applied = {row.seq: row.queued_id for row in rows}

        def drop(connection: sa.Connection) -> None:
            if self._claim is not None:
                self._claim.check(connection, keep=True)
            _drop(connection, applied, told)

        await self._database.transact(drop)
        return len(rows)

    async def _fill_gaps(self) -> None:
        stored = await count(self._database)
        settled = self._claim is None or self._claim.settled
        if settled and stored == await self.live.index.count():
            return
        if stored:
            log.info("filling the vector index from the database", records=stored)
        await self.live.reconcile(self._database)
        if self._claim is not None:
            await self._claim.mark_settled()


def _state(row: sa.Row[MemoryRow]) -> tuple[int, int] | None:
    """Return what the index holds of ROW, None if nothing."""
    return None if row.version_id is None or row.erased_at is not None else index_interval(row)


def _drop(connection: sa.Connection, applied: dict[int, str], told: dict[str, tuple[int, int] | None]) -> None:
    """Take APPLIED rows off the outbox, but not those whose version has changed since the index was TOLD.

    Another process may have erased or superseded it and told the index before we told it what we had read earlier.
    """
    found = connection.execute(sa.select(MemoryRow).where(col(MemoryRow.version_id).in_(told)))
    states = dict.fromkeys(told) | {row.version_id: _state(row) for row in found}
    settled = [seq for seq, version_id in applied.items() if states[version_id] == told[version_id]]
    connection.execute(sa.delete(OutboxRow).where(col(OutboxRow.seq).in_(settled)))

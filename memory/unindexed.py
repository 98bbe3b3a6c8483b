"""How a process that does not own the index reads and writes records: SQL alone, and the owner is told by the outbox."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from datetime import datetime
from itertools import zip_longest
from typing import NoReturn, TypeAlias

from perdure.errors import NotFound, Unreachable
from perdure.memory.contracts import (
    Recall,
    RecallCall,
    RecallHit,
    RecallReceipt,
)
from perdure.memory.index import (
    NO_WORDS,
    Embedder,
    Index,
    Matches,
    Point,
    Vector,
    Where,
    Words,
)
from perdure.memory.records.requests import ExplainedReceipt
from perdure.memory.store import Memory
from perdure.storage import Database

Find: TypeAlias = Callable[[RecallCall], Awaitable[ExplainedReceipt]]
"""How the owner of the index is asked."""


def records_only(database: Database, *, find: Find | None = None) -> Memory:
    """Return a memory that can do everything but what needs the index: verify and reindex raise `Unreachable`.

    So does recall, unless FIND asks the owner of the index for it; what the records say is then read here.
    """
    return _RecordsOnly(database, _NoIndex(), _NoEmbedder()) if find is None else _RemoteRecall(database, find)


class _RecordsOnly(Memory):
    async def _sync(self, at: datetime, changed: Iterable[str]) -> None:
        """Leave it to the owner of the index, which reads the outbox."""
        self._latest = at if self._latest is None else max(self._latest, at)


class _RemoteRecall(_RecordsOnly):
    def __init__(self, database: Database, find: Find) -> None:
        super().__init__(database, _NoIndex(), _NoEmbedder())
        self._find = find

    async def recall(self, call: RecallCall) -> Recall:
        """Return what the owner of the index finds, checked against SQL once more."""
        receipt = await self._find(call)
        hits = []
        for (memory_id, version, score), why in zip_longest(receipt.returned, receipt.why):
            times = {"valid_at": receipt.valid_at or receipt.as_of, "known_at": receipt.as_of}
            with contextlib.suppress(NotFound):  # erased since
                record = await self.get(memory_id, call.scope, **times)
                if record.version == version:
                    hits.append(RecallHit(record=record, score=score, why=why))
        return Recall(hits=tuple(hits), receipt=RecallReceipt(**{name: value for name, value in receipt if name != "why"}))


class _NoIndex:
    version = "none"

    async def upsert(self, points: Sequence[Point]) -> None:
        _refuse()

    async def delete(self, version_ids: Sequence[str]) -> None:
        _refuse()

    async def query(self, vector: Vector, *, words: Words = NO_WORDS, where: Where, limit: int) -> Matches:
        _refuse()

    async def score(self, vector: Vector, *, words: Words, where: Where, among: Collection[str]) -> Matches:
        _refuse()

    async def named(self, names: Collection[int], *, where: Where) -> set[int]:
        _refuse()

    async def present(self, version_ids: Sequence[str]) -> set[str]:
        _refuse()

    async def count(self) -> int:
        _refuse()

    async def scan(self, *, after: str = "", limit: int = 256) -> list[Point]:
        _refuse()

    async def scrub(self) -> None:
        _refuse()

    async def clear(self) -> None:
        _refuse()

    async def successor(self, embedder: Embedder) -> Index:
        _refuse()

    async def succeed(self) -> None:
        _refuse()

    async def close(self) -> None:
        pass


class _NoEmbedder:
    name = "none"
    version = "none"
    dimensions = 0

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        # Nothing looks at these: there is no index to put them in.
        return [()] * len(texts)


def _refuse() -> NoReturn:
    raise Unreachable("this process has no vector index; ask a worker, which has")

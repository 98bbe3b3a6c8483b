"""How a process that does not own the index reads and writes records: SQL alone, and the owner is told by the outbox."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NoReturn

from perdure.errors import Unreachable
from perdure.memory.embed import Embedder, Vector
from perdure.memory.index import Found, Index, Point, Where
from perdure.memory.lexical import NO_WORDS, Words
from perdure.memory.store import Memory
from perdure.storage import Database


def records_only(database: Database) -> Memory:
    """Return a memory that can do everything but what needs the index: recall, verify and reindex raise `Unreachable`."""
    return Memory(database, _NoIndex(), _NoEmbedder())


class _NoIndex:
    version = "none"

    async def upsert(self, points: Sequence[Point]) -> None:
        _refuse()

    async def delete(self, version_ids: Sequence[str]) -> None:
        _refuse()

    async def query(self, vector: Vector, *, words: Words = NO_WORDS, where: Where, limit: int) -> Found:
        _refuse()

    async def score(self, vector: Vector, *, words: Words, where: Where, among: Collection[str]) -> Found:
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

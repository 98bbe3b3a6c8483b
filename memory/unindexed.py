"""How a process that does not own the index reads and writes records: SQL alone, and the owner is told by the outbox."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from perdure.errors import Unreachable
from perdure.memory.embed import Vector
from perdure.memory.index import Entry, Near, Point
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

    async def query(self, vector: Vector, *, scope: str, at: int, limit: int, ends_after: int | None = None) -> list[Near]:
        _refuse()

    async def present(self, version_ids: Sequence[str]) -> set[str]:
        _refuse()

    async def count(self) -> int:
        _refuse()

    async def scan(self, *, after: str = "", limit: int = 256) -> list[Entry]:
        _refuse()

    async def scrub(self) -> None:
        _refuse()

    async def clear(self) -> None:
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

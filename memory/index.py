"""What memory asks of a vector index, whichever it is. SQL holds the truth; an index only says where to look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from perdure.memory.embed import Vector

FOR_EVER = 2**53 - 1
"""The end of what has no end, in microseconds: the largest integer that JSON and doubles carry exactly."""


@dataclass(frozen=True)
class Point:
    """A version in the index. No content: a deleted point's payload stays in the index's files for a while."""

    version_id: str
    scope: str
    """The digest of the scope."""
    since: int
    """From when the version can be recalled, in microseconds since 1970."""
    until: int
    """From when it no longer can, `FOR_EVER` if that is not known."""
    vector: Vector


@dataclass(frozen=True)
class Near:
    """A version that the index holds to be near, with the cosine."""

    version_id: str
    score: float


@dataclass(frozen=True)
class Entry:
    """A point as it lies in the index, for a comparison with SQL."""

    version_id: str
    scope: str
    since: int
    until: int
    vector: Vector


class Index(Protocol):
    """A vector index with one point per version. Every method raises `Unreachable` when the index does not work."""

    @property
    def version(self) -> str:
        """Which index this is and whose vectors it holds; it goes into the receipts."""
        ...

    async def upsert(self, points: Sequence[Point]) -> None:
        """Put POINTS in, in place of older ones of the same versions. They are found as soon as this returns."""
        ...

    async def delete(self, version_ids: Sequence[str]) -> None:
        """Take the points of VERSION_IDS out; those that are not there are no error."""
        ...

    async def query(self, vector: Vector, *, scope: str, at: int, limit: int, ends_after: int | None = None) -> list[Near]:
        """Return up to LIMIT points in SCOPE that could be recalled AT that microsecond, nearest to VECTOR first.

        ENDS_AFTER is the earlier microsecond of a read that has two: the points then only have to end after that one.
        """
        ...

    async def present(self, version_ids: Sequence[str]) -> set[str]:
        """Return those of VERSION_IDS that have a point."""
        ...

    async def count(self) -> int:
        """Return how many points there are."""
        ...

    async def scan(self, *, after: str = "", limit: int = 256) -> list[Entry]:
        """Return up to LIMIT points in the order of their ids, from the first beyond AFTER on."""
        ...

    async def scrub(self) -> None:
        """Write the files anew, so that nothing of what was deleted is left in them."""
        ...

    async def clear(self) -> None:
        """Drop every point and whatever the index keeps on disk about them."""
        ...

    async def close(self) -> None:
        """Let go of files and connections."""
        ...


def microseconds(moment: datetime) -> int:
    """Return MOMENT as whole microseconds since 1970, exactly."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)

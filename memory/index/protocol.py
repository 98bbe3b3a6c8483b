"""What memory asks of an index, whichever it is. SQL holds the truth; an index only says where to look."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from perdure.memory.index.embed import Embedder, Vector
from perdure.memory.index.lexical import LEXICON, NO_WORDS, Words

LAYOUT = 2
"""Changes whenever points are laid out differently; an index of another layout is built anew."""


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
    words: Words = NO_WORDS
    kind: str = ""
    valid: int = 0
    """From when it is true in the world, in microseconds since 1970."""
    names: tuple[int, ...] = ()
    """The numbers of the words of its subject, see `lexical.name_numbers`."""


@dataclass(frozen=True)
class Where:
    """What a point must be to be found: in SCOPE, recallable AT that microsecond, and what else is asked for."""

    scope: str
    at: int
    ends_after: int | None = None
    """The earlier microsecond of a read that has two: points only have to begin by AT and to end after this one."""
    kinds: tuple[str, ...] = ()
    valid_from: int | None = None
    """True in the world from that microsecond on or later."""
    valid_before: int | None = None
    names: tuple[int, ...] = ()
    """The subject has all of these words."""
    any_names: tuple[int, ...] = ()
    """The subject has at least one of these words."""


@dataclass(frozen=True)
class Match:
    """A version that the index holds to be near, with its score: the cosine, or what BM25 gives."""

    version_id: str
    score: float


@dataclass(frozen=True)
class Matches:
    """What an index found for a question, best first: by meaning and by words."""

    dense: list[Match] = field(default_factory=list)
    lexical: list[Match] = field(default_factory=list)


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

    async def query(self, vector: Vector, *, words: Words = NO_WORDS, where: Where, limit: int) -> Matches:
        """Return up to LIMIT points nearest to VECTOR, and up to LIMIT that share most WORDS, among those that fit WHERE.

        How rare a word is counts among all points that WHERE's scope and moment let through, not in the whole index: so
        a score tells nothing about other scopes, and a recall as of then scores as it did then.
        """
        ...

    async def score(self, vector: Vector, *, words: Words, where: Where, among: Collection[str]) -> Matches:
        """Return the scores of those versions AMONG the given that fit WHERE; who shares no word has no lexical one."""
        ...

    async def named(self, names: Collection[int], *, where: Where) -> set[int]:
        """Return those of NAMES that stand in the subject of a point that fits WHERE."""
        ...

    async def present(self, version_ids: Sequence[str]) -> set[str]:
        """Return those of VERSION_IDS that have a point."""
        ...

    async def count(self) -> int:
        """Return how many points there are."""
        ...

    async def scan(self, *, after: str = "", limit: int = 256) -> list[Point]:
        """Return up to LIMIT points in the order of their ids, from the first beyond AFTER on."""
        ...

    async def scrub(self) -> None:
        """Write the files anew, so that nothing of what was deleted is left in them."""
        ...

    async def clear(self) -> None:
        """Drop every point and whatever the index keeps on disk about them."""
        ...

    async def successor(self, embedder: Embedder) -> Index:
        """Return an index beside this one for the vectors of EMBEDDER: empty, or as far as an earlier attempt came."""
        ...

    async def succeed(self) -> None:
        """Become, once complete, the index that is opened from now on; the one it follows is dropped."""
        ...

    async def close(self) -> None:
        """Let go of files and connections."""
        ...


def generation(embedder: Embedder) -> str:
    """Return the name of an index by EMBEDDER: what it holds can be compared with nothing of another name."""
    return re.sub(r"[^\w.-]", "_", f"{embedder.version}-{LEXICON}-{LAYOUT}")

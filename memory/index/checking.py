"""Where the index and SQL differ: every point that is missing, too much, in the wrong place or of another text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import sqlalchemy as sa
from sqlmodel import col

from perdure.lineage import digest
from perdure.memory.index.building import make_point
from perdure.memory.index.embed import Embedder, Vector
from perdure.memory.index.lexical import NO_WORDS, Words
from perdure.memory.index.protocol import Index, Point
from perdure.memory.records.requests import IndexReport, VerifyCall
from perdure.memory.tables import MemoryRow, OutboxRow
from perdure.storage import Database

PAGE = 256
SHOWN = 100
NEARLY = 0.999
"""The cosine from which on two vectors are of the same text: an index may store them with less precision."""


@dataclass
class _Differences:
    points: int = 0
    records: int = 0
    seen: set[str] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    misplaced: list[str] = field(default_factory=list)
    misread: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


async def verify(database: Database, index: Index, embedder: Embedder, call: VerifyCall) -> IndexReport:
    """Compare every point with its row, and every row with its point.

    The index may not change meanwhile: `Memory.verify` sees to that in its own process.
    """
    found = _Differences()
    after = ""
    while page := await index.scan(after=after, limit=PAGE):
        await _check_points(database, embedder if call.vectors else None, page, found)
        after = page[-1].version_id
    await _check_rows(database, found)
    async with database.read() as connection:
        queued = set((await connection.execute(sa.select(col(OutboxRow.version_id)))).scalars())
    # What was written meanwhile is known to be on its way.
    placed = (found.missing, found.extra, found.misplaced, found.misread)
    lists = [*([each for each in ids if each not in queued] for ids in placed), found.damaged]
    missing, extra, misplaced, misread, damaged = (tuple(each[:SHOWN]) for each in lists)
    return IndexReport(
        records=found.records,
        points=found.points,
        waiting=len(queued),
        missing=missing,
        extra=extra,
        misplaced=misplaced,
        misread=misread,
        damaged=damaged,
        divergent=len(set().union(*lists)),
    )


async def _check_points(database: Database, embedder: Embedder | None, page: Sequence[Point], found: _Differences) -> None:
    wanted = [entry.version_id for entry in page]
    query = sa.select(MemoryRow).where(col(MemoryRow.version_id).in_(wanted), col(MemoryRow.erased_at).is_(None))
    stored = await database.query(lambda connection: connection.execute(query).all())
    rows = {row.version_id: row for row in stored}
    found.points += len(page)
    found.seen.update(rows)
    found.extra += [version_id for version_id in wanted if version_id not in rows]
    placed = [entry for entry in page if entry.version_id in rows]
    for entry in placed:
        right = make_point(rows[entry.version_id], entry.vector)
        if replace(entry, words=NO_WORDS) != replace(right, words=NO_WORDS):
            found.misplaced.append(entry.version_id)
    if embedder is not None:
        vectors = await embedder.embed([rows[entry.version_id].content for entry in placed])
        pairs = zip(placed, vectors, strict=True)
        found.misread += [
            entry.version_id
            for entry, vector in pairs
            if _cosine(entry.vector, vector) < NEARLY
            or not _same_words(entry.words, make_point(rows[entry.version_id], vector).words)
        ]


async def _check_rows(database: Database, found: _Differences) -> None:
    last = ""
    row = MemoryRow
    columns = sa.select(col(row.version_id), col(row.content), col(row.content_hash)).where(col(row.erased_at).is_(None))
    while True:
        page = columns.where(col(row.version_id) > last).order_by(col(row.version_id)).limit(PAGE)
        async with database.read() as connection:
            rows = (await connection.execute(page)).all()
        if not rows:
            return
        found.records += len(rows)
        found.missing += [each.version_id for each in rows if each.version_id not in found.seen]
        found.damaged += [each.version_id for each in rows if digest(each.content) != each.content_hash]
        last = rows[-1].version_id


def _same_words(some: Words, others: Words) -> bool:
    # An index may store weights with less precision.
    pairs = zip(some.weights, others.weights, strict=False)
    return some.numbers == others.numbers and all(abs(one - other) < 0.001 for one, other in pairs)


def _cosine(one: Vector, other: Vector) -> float:
    length: Callable[[Vector], float] = lambda vector: sum(x * x for x in vector) ** 0.5  # noqa: E731
    lengths = length(one) * length(other)
    return sum(x * y for x, y in zip(one, other, strict=False)) / lengths if lengths else 1.0

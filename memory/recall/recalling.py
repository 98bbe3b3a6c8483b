"""What bears on a question: the index names versions, neighbours and subjects are weighed, and SQL has the last word."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import aliased
from sqlmodel import col

from perdure.memory.contracts import RecallCall, RecallHit
from perdure.memory.index import (
    Embedder,
    Generation,
    Index,
    Match,
    Matches,
    Vector,
    Where,
    Words,
    lexical,
)
from perdure.memory.moments import microseconds
from perdure.memory.recall.ranking import (
    Candidate,
    Preference,
    RankedCandidate,
    Ranking,
    rank,
)
from perdure.memory.records import Moment, as_record, is_visible, scope_key
from perdure.memory.tables import MemoryRow
from perdure.storage import Database

T = TypeVar("T")
POOL = 80
"""How many versions the index names at first, by meaning and by words each."""
NEIGHBOURS_OF = 40
"""Of how many of them the records just before and after are looked at too."""
PAGE = 256


@dataclass(frozen=True)
class _Question:
    """What is asked, in the forms that the index and the ranking want."""

    scope: str
    moment: Moment
    where: Where
    vector: Vector
    words: Words
    names: frozenset[int]
    """The subjects that the question names, by number."""
    subjects: tuple[str, ...]
    conditions: tuple[sa.ColumnElement[bool], ...]
    """What SQL asks of every version that is returned."""


async def find_nearest(
    call: RecallCall, moment: Moment, *, database: Database, generation: Generation, ranking: Ranking
) -> list[RecallHit]:
    """Return what CALL asks for as of MOMENT, best first. Raises `Unreachable` if the index of GENERATION does not work."""
    index, embedder = generation.index, generation.embedder
    question = await _build_question(call, moment, index=index, embedder=embedder)
    preference = Preference(recency=call.recency, half_life=call.half_life, importance=call.importance)
    fetch = max(POOL, call.limit + 8)
    while True:
        found = await _search(question, index, fetch)
        candidates = await _candidates(question, found, database=database, index=index)
        ranked = rank(candidates, moment.valid_at, ranking=ranking, preference=preference)
        hits = await database.query(partial(_confirm, question=question, ranked=ranked, call=call))
        # Fewer than there might be: the index held much that SQL no longer lets through.
        if len(hits) >= call.limit or max(len(found.dense), len(found.lexical)) < fetch:
            return hits
        fetch *= 4


async def _build_question(call: RecallCall, moment: Moment, *, index: Index, embedder: Embedder) -> _Question:
    scope = scope_key(call.scope)
    everything = Where(scope, microseconds(moment.later), microseconds(moment.earlier))
    asked = lexical.find_names(call.query, scope)
    known = await index.named({name.number for name in asked}, where=everything)
    named = [name for name in asked if name.number in known]
    # Who is meant selects records; what is asked about them ranks those. A name in the question would draw it to records
    # that mention the name, and who speaks of themselves does not. In a question without capitals, none is a name's.
    plain = call.query == call.query.lower()
    rest = lexical.remove_names(call.query, [each.word for each in named if plain or not each.word.islower()])
    [vector] = await embedder.embed([rest])
    row = MemoryRow
    conditions: list[sa.ColumnElement[bool]] = []
    if call.kinds:
        conditions.append(col(row.kind).in_(call.kinds))
    if call.subject is not None:
        conditions.append(col(row.subject) == call.subject)
    if call.since is not None:
        conditions.append(col(row.valid_from) >= call.since)
    if call.before is not None:
        conditions.append(col(row.valid_from) < call.before)
    where = replace(
        everything,
        kinds=call.kinds,
        valid_from=None if call.since is None else microseconds(call.since),
        valid_before=None if call.before is None else microseconds(call.before),
        names=lexical.name_numbers(call.subject, scope),
    )
    return _Question(
        scope=scope,
        moment=moment,
        where=where,
        vector=vector,
        words=lexical.words_of_question(rest),
        names=frozenset(known) if call.subject is None else frozenset(),
        subjects=tuple(each.word for each in named),
        # Nothing is added, so that SQLite looks the versions up by their ids instead of going through the whole scope.
        conditions=(col(row.scope_key) + "" == scope, is_visible(moment.valid_at, moment.known_at), *conditions),
    )


async def _search(question: _Question, index: Index, fetch: int) -> Matches:
    found = await index.query(question.vector, words=question.words, where=question.where, limit=fetch)
    if question.names and len(found.dense) == fetch:
        # There is more than was fetched, and what is about the subjects in question must not be lost in the rest.
        where = replace(question.where, any_names=tuple(sorted(question.names)))
        about = await index.query(question.vector, words=question.words, where=where, limit=fetch)
        found = Matches(_merge(found.dense, about.dense), _merge(found.lexical, about.lexical))
    return found


async def _candidates(question: _Question, found: Matches, *, database: Database, index: Index) -> dict[str, Candidate]:
    """Return what FOUND names and SQL confirms, with the neighbours of the best, and everybody's scores."""
    ids = dict.fromkeys(near.version_id for near in (*found.dense, *found.lexical))
    best = [near.version_id for near in (*found.dense[:NEIGHBOURS_OF], *found.lexical[:NEIGHBOURS_OF])]

    def read(connection: sa.Connection) -> tuple[dict[str, Candidate], dict[str, None]]:
        named = _read(connection, question, ids)
        beside = _beside(named, best)
        return named | _read(connection, question, [each for each in beside if each not in ids]), beside

    candidates, beside = await database.query(read)
    dense = {near.version_id: near.score for near in found.dense}
    words = {near.version_id: near.score for near in found.lexical}
    unknown = [each for each in (*candidates, *beside) if each not in dense or each not in words]
    # A neighbour counts also if it is of another kind or subject than asked for.
    anything = Where(question.where.scope, question.where.at, question.where.ends_after)
    scored = await index.score(question.vector, words=question.words, where=anything, among=dict.fromkeys(unknown))
    dense |= {near.version_id: near.score for near in scored.dense}
    words |= {near.version_id: near.score for near in scored.lexical}
    places = _ranks(found.dense), _ranks(found.lexical)
    only_beside = {each: Candidate(each) for each in beside if each not in candidates}
    return {
        version_id: replace(
            each,
            dense=dense.get(version_id, 0.0),
            lexical=words.get(version_id, 0.0),
            dense_rank=places[0].get(version_id),
            lexical_rank=places[1].get(version_id),
        )
        for version_id, each in {**only_beside, **candidates}.items()
    }


def _read(connection: sa.Connection, question: _Question, version_ids: Collection[str]) -> dict[str, Candidate]:
    candidates = {}
    for page in _pages(list(version_ids)):
        named = _CANDIDATES.where(col(MemoryRow.version_id).in_(page), *question.conditions)
        for one in connection.execute(named):
            candidates[one.version_id] = Candidate(
                version_id=one.version_id,
                previous=one.previous if one.thread else None,
                following=one.following if one.thread else None,
                thread=one.thread or one.version_id,
                astray=_astray(question, one.subject, one.content),
                valid_from=one.valid_from,
                importance=one.importance,
            )
    return candidates


def _astray(question: _Question, subject: str | None, content: str | None) -> float:
    if not question.names:
        return 0.0
    if subject is not None:
        return 0.0 if question.names.intersection(lexical.name_numbers(subject, question.scope)) else 1.0
    return 0.0 if lexical.mentions(content or "", question.names, question.scope) else 0.5


def _confirm(
    connection: sa.Connection, question: _Question, ranked: Sequence[RankedCandidate], call: RecallCall
) -> list[RecallHit]:
    """Return the first of RANKED that SQL still confirms, each once: a record may have gone since the index was asked."""
    hits: list[RecallHit] = []
    places: dict[object, int] = {}
    doubles: dict[int, list[str]] = {}
    for some in _pages(ranked, 2 * call.limit):
        ids = [one.candidate.version_id for one in some]
        query = sa.select(MemoryRow).where(col(MemoryRow.version_id).in_(ids), *question.conditions)
        rows = {row.version_id: row for row in connection.execute(query)}
        for one, version_id in zip(some, ids, strict=True):
            if version_id not in rows or len(hits) >= call.limit:
                continue
            row = rows[version_id]
            said = (row.kind, row.subject, lexical.gist(row.content))
            if not call.duplicates and said in places:
                doubles.setdefault(places[said], []).append(version_id)
                continue
            places[said] = len(hits)
            why = one.why.model_copy(update={"subjects": question.subjects}) if call.explain else None
            hits.append(RecallHit(record=as_record(row, with_end=False), score=one.score, why=why))
        if len(hits) >= call.limit:
            break
    for place, left_out in doubles.items():
        if (why := hits[place].why) is not None:
            hits[place] = hits[place].model_copy(update={"why": why.model_copy(update={"duplicates": tuple(left_out)})})
    return hits


def _beside(candidates: dict[str, Candidate], of: Iterable[str]) -> dict[str, None]:
    beside: dict[str, None] = {}
    for version_id in of:
        if (each := candidates.get(version_id)) is not None:
            beside |= {near: None for near in (each.previous, each.following) if near is not None}
    return beside


def _merge(some: list[Match], more: list[Match]) -> list[Match]:
    scores = {near.version_id: near for near in (*some, *more)}
    return sorted(scores.values(), key=lambda near: (-near.score, near.version_id))


def _ranks(found: list[Match]) -> dict[str, int]:
    return {near.version_id: place for place, near in enumerate(found, 1)}


def _pages(items: Sequence[T], size: int = PAGE) -> Iterable[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _candidates_query() -> sa.Select[*tuple[Any, ...]]:
    row, before, after = MemoryRow, aliased(MemoryRow), aliased(MemoryRow)
    place = sa.tuple_(col(row.recorded_at), col(row.version_id))
    was = sa.tuple_(col(before.recorded_at), col(before.version_id)) < place
    comes = sa.tuple_(col(after.recorded_at), col(after.version_id)) > place
    previous = sa.select(col(before.version_id)).where(col(before.thread) == col(row.thread), was)
    following = sa.select(col(after.version_id)).where(col(after.thread) == col(row.thread), comes)
    latest = col(before.recorded_at).desc(), col(before.version_id).desc()
    earliest = col(after.recorded_at), col(after.version_id)
    return sa.select(
        *(col(row.version_id), col(row.thread), col(row.subject), col(row.valid_from), col(row.importance)),
        sa.case((col(row.subject).is_(None), col(row.content))).label("content"),
        previous.order_by(*latest).limit(1).scalar_subquery().label("previous"),
        following.order_by(*earliest).limit(1).scalar_subquery().label("following"),
    )


# Made once: SQLAlchemy takes longer to put it together than the database to answer it.
_CANDIDATES = _candidates_query()

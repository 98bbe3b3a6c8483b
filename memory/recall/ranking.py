"""Which of the versions that an index found comes first, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from perdure.lineage import Frozen, digest
from perdure.memory.contracts import Why


class Ranking(Frozen):
    """How much each sign counts beside the nearness in meaning, which counts 1. Measured: see docs/decisions/0019."""

    lexical: float = 0.45
    """Shared words, by BM25, as a share of the best match of this recall."""
    lexical_full: float = 12.0
    """What BM25 has to come to so that words count in full: a weak match stays weak though it is the best one."""
    previous: float = 0.2
    """How near the record is that the same run remembered just before: an answer is near when its question is."""
    previous_lexical: float = 0.5
    following: float = 0.15
    following_lexical: float = 0.15
    thread: float = 0.2
    """How well the three best records of the same run do."""
    other_subject: float = 0.3
    """What a record loses that is about another subject than the question names; half of it if about none."""

    @property
    def version(self) -> str:
        """Changes whenever a weight does; it goes into the receipts."""
        return digest(self.model_dump(mode="json")).removeprefix("sha256:")[:12]


class Preference(Frozen):
    """What the caller wants to count besides: nothing, unless told."""

    recency: float = 0.0
    half_life: timedelta = timedelta(days=30)
    importance: float = 0.0


@dataclass(frozen=True)
class Candidate:
    """A version that may be returned, with what is known of it."""

    version_id: str
    dense: float = 0.0
    lexical: float = 0.0
    dense_rank: int | None = None
    lexical_rank: int | None = None
    previous: str | None = None
    """The version that the same run remembered just before."""
    following: str | None = None
    thread: str = ""
    astray: float = 0.0
    """1 if it is about another subject than the question names, 0.5 if about none."""
    valid_from: datetime | None = None
    importance: float | None = None


class Signals(NamedTuple):
    """What each sign gave a candidate; the names are those of `Why`."""

    dense: float
    lexical: float
    previous: float
    following: float
    other_subject: float
    thread: float = 0.0
    recency: float = 0.0
    importance: float = 0.0


@dataclass(frozen=True)
class RankedCandidate:
    """A candidate in its place."""

    candidate: Candidate
    score: float
    signs: Signals

    @property
    def why(self) -> Why:
        """The reasons, for people."""
        told = {name: round(value, 6) for name, value in self.signs._asdict().items()}
        ranks = {"dense_rank": self.candidate.dense_rank, "lexical_rank": self.candidate.lexical_rank}
        return Why.model_validate({**told, **ranks})


def rank(
    candidates: Mapping[str, Candidate], at: datetime, *, ranking: Ranking, preference: Preference | None = None
) -> list[RankedCandidate]:
    """Return CANDIDATES, best first, as they stand AT that moment. Equal ones: the newer first."""
    preference = preference or Preference()
    full = max(ranking.lexical_full, max((each.lexical for each in candidates.values()), default=0.0))
    own = {version_id: _own(each, candidates, full=full, ranking=ranking) for version_id, each in candidates.items()}
    threads = _threads(candidates, own)
    ranked = []
    for version_id, each in candidates.items():
        signs = own[version_id]._replace(
            thread=ranking.thread * threads[each.thread],
            recency=_recency(each, at, preference),
            # Who was given no importance stands in the middle.
            importance=preference.importance * (0.5 if each.importance is None else each.importance),
        )
        # Six digits: what is beyond depends on the processor.
        ranked.append(RankedCandidate(each, round(sum(signs), 6), signs))
    newest = sorted(ranked, key=lambda one: one.candidate.version_id)
    newest.sort(key=lambda one: one.candidate.valid_from or at, reverse=True)
    return sorted(newest, key=lambda one: -one.score)


def _own(each: Candidate, candidates: Mapping[str, Candidate], *, full: float, ranking: Ranking) -> Signals:
    before = candidates.get(each.previous) if each.previous else None
    after = candidates.get(each.following) if each.following else None
    lexical = ranking.lexical / full
    return Signals(
        dense=each.dense,
        lexical=lexical * each.lexical,
        previous=ranking.previous * before.dense + ranking.previous_lexical * lexical * before.lexical if before else 0.0,
        following=ranking.following * after.dense + ranking.following_lexical * lexical * after.lexical if after else 0.0,
        other_subject=-ranking.other_subject * each.astray if each.astray else 0.0,
    )


def _threads(candidates: Mapping[str, Candidate], own: Mapping[str, Signals]) -> dict[str, float]:
    best: dict[str, list[float]] = {}
    for version_id, each in candidates.items():
        best.setdefault(each.thread, []).append(max(0.0, sum(own[version_id])))
    return {thread: sum(sorted(scores, reverse=True)[:3]) / 3 for thread, scores in best.items()}


def _recency(each: Candidate, at: datetime, preference: Preference) -> float:
    if not preference.recency or each.valid_from is None:
        return 0.0
    age = max(at - each.valid_from, timedelta(0))
    return float(preference.recency * 0.5 ** (age / preference.half_life))

"""Which of the versions that an index found comes first, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

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


@dataclass(frozen=True)
class Ranked:
    """A candidate in its place."""

    version_id: str
    score: float
    why: Why


def rank(
    candidates: Mapping[str, Candidate], at: datetime, *, ranking: Ranking, preference: Preference | None = None
) -> list[Ranked]:
    """Return CANDIDATES, best first, as they stand AT that moment. Equal ones: the newer first."""
    preference = preference or Preference()
    full = max(ranking.lexical_full, max((each.lexical for each in candidates.values()), default=0.0))
    reasons = {version_id: _own(each, candidates, full=full, ranking=ranking) for version_id, each in candidates.items()}
    threads = _threads(candidates, reasons)
    ranked = []
    for version_id, each in candidates.items():
        why = reasons[version_id].model_copy(
            update={
                "thread": round(ranking.thread * threads[each.thread], 6),
                "recency": round(_recency(each, at, preference), 6),
                # Who was given no importance stands in the middle.
                "importance": round(preference.importance * (0.5 if each.importance is None else each.importance), 6),
            }
        )
        # Six digits: what is beyond depends on the processor.
        ranked.append(Ranked(version_id, round(why.total, 6), why))
    newest = datetime.min.replace(tzinfo=at.tzinfo)
    return sorted(
        ranked,
        key=lambda one: (-one.score, -((candidates[one.version_id].valid_from or newest) - newest), one.version_id),
    )


def _own(each: Candidate, candidates: Mapping[str, Candidate], *, full: float, ranking: Ranking) -> Why:
    def share(of: str | None, dense: float, lexical: float) -> float:
        near = candidates.get(of) if of else None
        return 0.0 if near is None else dense * near.dense + ranking.lexical * lexical * near.lexical / full

    return Why(
        dense=round(each.dense, 6),
        dense_rank=each.dense_rank,
        lexical=round(ranking.lexical * each.lexical / full, 6),
        lexical_rank=each.lexical_rank,
        previous=round(share(each.previous, ranking.previous, ranking.previous_lexical), 6),
        following=round(share(each.following, ranking.following, ranking.following_lexical), 6),
        other_subject=round(-ranking.other_subject * each.astray, 6) or 0.0,
    )


def _threads(candidates: Mapping[str, Candidate], reasons: Mapping[str, Why]) -> dict[str, float]:
    best: dict[str, list[float]] = {}
    for version_id, each in candidates.items():
        best.setdefault(each.thread, []).append(max(0.0, reasons[version_id].total))
    return {thread: sum(sorted(scores, reverse=True)[:3]) / 3 for thread, scores in best.items()}


def _recency(each: Candidate, at: datetime, preference: Preference) -> float:
    if not preference.recency or each.valid_from is None:
        return 0.0
    age = max(at - each.valid_from, timedelta(0))
    return float(preference.recency * 0.5 ** (age / preference.half_life))

"""When a larger tier is likely right where a tier is not: learned from answers that somebody has judged.

Two logistic regressions say how likely the answer of the tier is right, and how likely one of the larger tier would be, by
the stated confidence and the length of the question. Where the second is so much more likely right than the first, the
larger tier is asked. How much is the threshold with the fewest such calls that reaches the quality wanted on the answers
learned from. A question counts once, however often it was asked.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perdure.routing.escalation.escalation import Escalation, features
from perdure.routing.escalation.labels import Label
from perdure.routing.routes import Task

Floats = NDArray[np.float64]

ENOUGH_LARGE = 30
"""From so many judged answers of the larger tier on, what it depends on is learned, too; else it counts at its mean."""

_KEPT_ASIDE = 0.4
_RIDGE = 1.0


@dataclass(frozen=True)
class Case:
    """A question, and whether the tiers have answered it right: 1, 0, or between if they were asked more than once."""

    question: str
    confidence: float | None
    prompt_bytes: int
    small: float
    large: float | None = None
    """None: the larger tier was not asked, or nobody has judged its answer. It then counts at its mean."""

    @property
    def held_out(self) -> bool:
        """Whether it is for judging. The question alone decides, so that it never changes sides."""
        return int.from_bytes(hashlib.sha256(self.question.encode()).digest()[:4], "big") < _KEPT_ASIDE * 2**32


def cases_of(small: Iterable[Label], large: Iterable[Label]) -> list[Case]:
    """Return one case for each question of which the answer by the tier was judged, in an order that depends on nothing."""
    asked: dict[str, list[Label]] = {}
    for each in small:
        asked.setdefault(each.question, []).append(each)
    larger: dict[str, list[bool]] = {}
    for each in large:
        larger.setdefault(each.question, []).append(each.correct)
    cases = []
    for question, answers in sorted(asked.items()):
        stated = [each.confidence for each in answers if each.confidence is not None]
        cases.append(
            Case(
                question=question,
                confidence=statistics.fmean(stated) if stated else None,
                prompt_bytes=answers[0].prompt_bytes,
                small=statistics.fmean(each.correct for each in answers),
                large=statistics.fmean(larger[question]) if question in larger else None,
            )
        )
    return cases


def learn(
    cases: Sequence[Case], *, task: Task, models: tuple[str, ...], target: float, larger: Sequence[float] = ()
) -> Escalation | None:
    """Return what CASES say of when to ask the larger tier. None: the tier alone has the quality of TARGET already.

    LARGER are all judged answers of the larger tier, for cases without one.
    """
    looked_at = np.array([features(each.confidence, each.prompt_bytes) for each in cases])
    centre, spread = looked_at.mean(axis=0), looked_at.std(axis=0)
    spread[spread < 1e-9] = 1.0
    scaled = (looked_at - centre) / spread
    right = np.array([each.small for each in cases])
    mean = mean_of(larger, cases)
    both = np.array([each.large is not None for each in cases])
    paired = np.array([each.large for each in cases if each.large is not None])
    if len(paired) >= ENOUGH_LARGE:
        weights = _logistic(scaled[both], paired)
    else:
        weights = (float(np.log(mean / (1 - mean))), 0.0, 0.0, 0.0)
    learned = Escalation(
        tier=task.tier,
        models=models,
        centre=_three(centre),
        spread=_three(spread),
        small=_logistic(scaled, right),
        large=weights,
        threshold=0.0,
    )
    scores = scores_of(learned, cases)
    _, threshold = share_needed(scores, right, impute(cases, mean), target=target)
    return learned.model_copy(update={"threshold": threshold}) if threshold is not None else None


def scores_of(escalation: Escalation, cases: Sequence[Case]) -> Floats:
    """Return how much more likely the larger tier is right, for each of CASES."""
    return np.array([escalation.gain(each.confidence, each.prompt_bytes) for each in cases])


def share_needed(scores: Floats, small: Floats, large: Floats, *, target: float) -> tuple[float, float | None]:
    """Return the least share of calls of the larger tier that has TARGET of its quality, and the score from which they are.

    SMALL and LARGE say how right the tiers are. Equal scores go together. The score is None where the share is 0.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    quality = (small.sum() + np.cumsum((large - small)[order])) / len(scores)
    wanted = target * float(large.mean()) - 1e-12
    if float(small.mean()) >= wanted:
        return 0.0, None
    last_of_equals = np.append(ranked[1:] != ranked[:-1], True)
    first = int(np.argmax(last_of_equals & (quality >= wanted)))  # all together have it, so there is one
    return (first + 1) / len(scores), float(ranked[first])


def rights_of(labels: Iterable[Label]) -> list[float]:
    """Return how right the answers to each question of LABELS were."""
    found: dict[str, list[bool]] = {}
    for each in labels:
        found.setdefault(each.question, []).append(each.correct)
    return [statistics.fmean(each) for _, each in sorted(found.items())]


def mean_of(larger: Sequence[float], cases: Sequence[Case]) -> float:
    """Return how right the larger tier is on the whole: by LARGER, all its judged answers, or those in CASES."""
    known = larger or [each.large for each in cases if each.large is not None]
    # As if one more had come out right and one wrong: nothing is certain, and a certain one has no logarithm.
    return (sum(known) + 1) / (len(known) + 2)


def impute(cases: Sequence[Case], mean: float) -> Floats:
    """Return how right the larger tier is on each of CASES; MEAN stands in where nobody knows."""
    return np.array([mean if each.large is None else each.large for each in cases])


def _logistic(scaled: Floats, right: Floats) -> tuple[float, float, float, float]:
    """Return intercept and weights by Newton's method, with a ridge on the weights: a few steps, and nothing random."""
    inputs = np.column_stack([np.ones(len(scaled)), scaled])
    ridge = _RIDGE * np.diag([1e-6, 1.0, 1.0, 1.0])
    weights = np.zeros(4)
    for _ in range(50):
        likely = 1 / (1 + np.exp(-np.clip(inputs @ weights, -30, 30)))
        slope = inputs.T @ (right - likely) - ridge @ weights
        bend = (inputs * (likely * (1 - likely))[:, None]).T @ inputs + ridge
        move = np.linalg.solve(bend, slope)
        weights = weights + move
        if float(np.abs(move).max()) < 1e-9:
            break
    return float(weights[0]), float(weights[1]), float(weights[2]), float(weights[3])


def _three(values: Floats) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])

"""Whether learned escalation is worth it: the cost-quality curve of a task, on judged questions that were kept aside."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

from perdure.errors import InvalidInput
from perdure.lineage import Frozen
from perdure.routing.escalation._learning import (
    ENOUGH_LARGE,
    Case,
    Floats,
    cases_of,
    impute,
    learn,
    mean_of,
    rights_of,
    scores_of,
)
from perdure.routing.escalation.escalation import Escalation
from perdure.routing.escalation.labels import Label
from perdure.routing.load import Routes
from perdure.routing.routes import Task

NEEDED = 100
"""So many questions whose answer by the tier was judged are needed,"""
NEEDED_OF_EACH = 10
"""and among those learned from so many right and so many wrong ones."""

_ROUNDS = 1000


class Interval(Frozen):
    """A share, and the interval that holds 95 % of what other samples of the questions would have given."""

    value: float
    low: float
    high: float


class Point(Frozen):
    """One way to choose between the tiers, as it does on the questions kept aside. Costs are nano-USD."""

    policy: str
    threshold: float | None = None
    share: float
    """Of the questions, those that go to the larger tier."""
    quality: Interval
    cost_per_call: float
    cost_per_correct: float | None


class Study(Frozen):
    """What the judged answers to a task say: the cost-quality curve, and whether learned escalation is to be adopted."""

    task: str
    target: float
    """The quality that the threshold is for, as a share of the larger tier's."""
    learned_from: int
    kept_aside: int
    both_judged: int
    """Of all questions, those where the answers of both tiers were judged."""
    points: tuple[Point, ...]
    over_static: Interval | None
    """By how much learned escalation is better than the tier alone."""
    over_random: Interval | None
    """By how much it is better than as many calls of the larger tier at random."""
    adopt: bool
    why: str
    escalation: Escalation | None


def study(
    task: Task, routes: Routes, labels: Sequence[Label], *, target: float = 0.95, current: Escalation | None = None
) -> Study:
    """Learn when TASK is to go to its larger tier, and compare that on questions kept aside. It writes nothing down.

    Of LABELS those count that are about models which serve the task by ROUTES now. TARGET is the quality wanted, as a share
    of the larger tier's. CURRENT is what is in force. Raises `InvalidInput` if there are too few labels, and says how many
    it takes.
    """
    if not task.cascade:
        raise InvalidInput(f"task {task.name!r} has no larger tier to go to. Give it a `cascade` in models.toml.")
    models = tuple(dict.fromkeys(one.model for one in routes.deployments_for(task)))
    larger = {one.model for one in routes.deployments_for(task, task.cascade[0])}
    small = [each for each in labels if each.tier == task.tier and each.model in models]
    large = [each for each in labels if each.tier == task.cascade[0] and each.model in larger]
    found = cases_of(small, large)
    learning, aside = [each for each in found if not each.held_out], [each for each in found if each.held_out]
    right = rights_of(large)
    _check_enough(task, found, learning, right)
    escalation = learn(learning, task=task, models=models, target=target, larger=right)
    costs = statistics.fmean(each.cost_nano_usd for each in small), statistics.fmean(each.cost_nano_usd for each in large)
    curve = _Curve(aside, right, costs)
    points = curve.points(task, learning, escalation, current)
    over_static, over_random = curve.better(escalation) if escalation else (None, None)
    against = _why_not_adopted(task, target, len(aside), over_static, over_random) or _why_static_suffices(points)
    return Study(
        task=task.name,
        target=target,
        learned_from=len(learning),
        kept_aside=len(aside),
        both_judged=sum(each.large is not None for each in found),
        points=tuple(points),
        over_static=over_static,
        over_random=over_random,
        adopt=not against,
        why=against or "better than the tier alone, and than as many calls of the larger tier at random",
        escalation=escalation,
    )


class _Curve:
    """What ways to choose do on CASES, with intervals by resampling the questions and the mean that stands in.

    LARGER are all judged answers of the larger tier; COSTS what a call of the tier costs, and one of the larger.
    """

    def __init__(self, cases: Sequence[Case], larger: Sequence[float], costs: tuple[float, float]) -> None:
        self._cases = cases
        self._costs = costs
        self._mean = mean_of(larger, cases)
        self._small = np.array([each.small for each in cases])
        self._unknown = np.array([float(each.large is None) for each in cases])
        self._known_large = np.array([each.large or 0.0 for each in cases])
        # The same questions are drawn whatever is judged, so equal labels give equal verdicts.
        random = np.random.default_rng(0)
        self._drawn = [random.integers(0, len(cases), len(cases)) for _ in range(_ROUNDS)]
        some = np.array(larger)
        self._means = [float(some[random.integers(0, len(some), len(some))].mean()) for _ in range(_ROUNDS)]

    def points(
        self, task: Task, learning: Sequence[Case], escalation: Escalation | None, current: Escalation | None
    ) -> list[Point]:
        """Return the curve: the tiers by themselves, at random, as ESCALATION and as CURRENT say, and as well as can be."""
        count = len(self._cases)
        points = [self._point("small", np.zeros(count)), self._point("large", np.ones(count), alone=True)]
        points += [self._point("random", np.full(count, share)) for share in (0.25, 0.5, 0.75)]
        if escalation is not None:
            scores = scores_of(escalation, learning)
            for threshold in dict.fromkeys(float(np.quantile(scores, at)) for at in (0.9, 0.75, 0.5, 0.25, 0.1)):
                points.append(self._by("curve", escalation.model_copy(update={"threshold": threshold})))
            points.append(self._by("learned", escalation))
        if (below := task.escalate_below) is not None:
            unsure = [float(each.confidence is not None and each.confidence < below) for each in self._cases]
            points.append(self._point("escalate_below", np.array(unsure), threshold=below))
        if current is not None:
            points.append(self._by("in force", current))
        better = impute(self._cases, self._mean) > self._small
        return [*points, self._point("oracle", better.astype(np.float64))]

    def better(self, escalation: Escalation) -> tuple[Interval, Interval]:
        """Return by how much ESCALATION is better than the tier alone, and than as many larger calls at random."""
        asks = self._asks(escalation)
        return self._gain(asks), self._gain(asks - asks.mean())

    def _gain(self, more: Floats) -> Interval:
        """Return what it brings to ask the larger tier so much MORE in each case."""
        return self._span(more * (self._known_large - self._small), more * self._unknown)

    def _by(self, policy: str, escalation: Escalation) -> Point:
        return self._point(policy, self._asks(escalation), threshold=escalation.threshold)

    def _asks(self, escalation: Escalation) -> Floats:
        asks: Floats = (scores_of(escalation, self._cases) >= escalation.threshold).astype(np.float64)
        return asks

    def _point(self, policy: str, asks: Floats, *, threshold: float | None = None, alone: bool = False) -> Point:
        """Return how it does to ask the larger tier where ASKS is 1; ALONE: without the tier before it."""
        share = float(asks.mean())
        cost = (0.0 if alone else self._costs[0]) + share * self._costs[1]
        quality = self._span((1 - asks) * self._small + asks * self._known_large, asks * self._unknown)
        return Point(
            policy=policy,
            threshold=threshold,
            share=share,
            quality=quality,
            cost_per_call=cost,
            cost_per_correct=cost / quality.value if quality.value else None,
        )

    def _span(self, known: Floats, of_mean: Floats) -> Interval:
        """Return the mean of KNOWN, and of OF_MEAN times the mean that stands in for what is not known."""
        drawn = [
            float(known[rows].mean()) + float(of_mean[rows].mean()) * mean
            for rows, mean in zip(self._drawn, self._means, strict=True)
        ]
        low, high = np.quantile(drawn, [0.025, 0.975])
        return Interval(value=float(known.mean()) + float(of_mean.mean()) * self._mean, low=float(low), high=float(high))


def _why_not_adopted(
    task: Task, target: float, aside: int, over_static: Interval | None, over_random: Interval | None
) -> str:
    """Return what speaks against learned escalation; empty: nothing."""
    if over_static is None or over_random is None:
        return f"tier {task.tier!r} alone has {target:.0%} of the quality of tier {task.cascade[0]!r} already"
    for better, than in (
        (over_static, "the tier alone"),
        (over_random, f"as many calls of tier {task.cascade[0]!r} at random"),
    ):
        if better.low <= 0:
            interval = f"{better.value:+.1%}, 95 % interval {better.low:+.1%} to {better.high:+.1%}"
            return f"not shown to be better than {than} on {aside} questions kept aside ({interval})"
    return ""


def _why_static_suffices(points: Sequence[Point]) -> str:
    """Return that the threshold of models.toml is as good for no more calls, if it is."""
    found = {each.policy: each for each in points}
    learned, stated = found.get("learned"), found.get("escalate_below")
    if learned is None or stated is None or stated.share > learned.share or stated.quality.value < learned.quality.value:
        return ""
    return f"`escalate_below` is as good for no more calls of the larger tier ({stated.share:.0%}, not {learned.share:.0%})"


def _check_enough(task: Task, found: Sequence[Case], learning: Sequence[Case], larger: Sequence[float]) -> None:
    right = sum(each.small >= 0.5 for each in learning)
    wrong = len(learning) - right
    lacking = []
    if len(found) < NEEDED:
        lacking.append(f"{NEEDED} judged questions of tier {task.tier!r} (there are {len(found)})")
    elif min(right, wrong) < NEEDED_OF_EACH:
        lacking.append(
            f"{NEEDED_OF_EACH} right and {NEEDED_OF_EACH} wrong answers of tier {task.tier!r} among those to learn from "
            f"(there are {right} and {wrong})"
        )
    if len(larger) < ENOUGH_LARGE:
        lacking.append(f"{ENOUGH_LARGE} judged questions of tier {task.cascade[0]!r} (there are {len(larger)})")
    if lacking:
        raise InvalidInput(
            f"too few answers to task {task.name!r} were judged: it takes {' and '.join(lacking)}, of models that serve it "
            "now. Judge more with `judge` in workflows or `perdure routes label`."
        )

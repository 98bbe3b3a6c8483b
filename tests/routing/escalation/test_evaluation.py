"""When learned escalation is adopted, and what the curve says."""

from __future__ import annotations

import random

import pytest

from perdure.errors import InvalidInput
from perdure.routing import Deployment, Routes, Task
from perdure.routing.escalation import Study, study
from perdure.routing.escalation.escalation import Escalation
from perdure.routing.escalation.labels import Label

TASK = Task(name="triage", tier="small", cascade=("large",))


def deployment(name: str) -> Deployment:
    """The one deployment of tier NAME."""
    return Deployment.model_validate(
        {"name": name, "tier": name, "model": f"openai/{name}", "input_usd_per_mtok": 1, "output_usd_per_mtok": 1}
    )


ROUTES = Routes({"triage": TASK}, {name: deployment(name) for name in ("small", "large")})


def labels(
    count: int, *, honest: bool = True, small: float = 0.3, both: float = 1.0, model: str = "openai/small"
) -> list[Label]:
    """Labels of COUNT questions. The small tier is right at least so often as SMALL, and if HONEST as often as it says."""
    chance = random.Random(7)
    found = []
    for number in range(count):
        right = chance.uniform(small, 1)
        question = {"question": f"q{number}", "prompt_bytes": chance.randrange(50, 500)}
        stated = right if honest else chance.uniform(small, 1)
        facts = {"tier": "small", "model": model, "confidence": stated, "cost_nano_usd": 10}
        found.append(Label.model_validate({**question, **facts, "correct": chance.random() < right}))
        if chance.random() < both:
            facts = {"tier": "large", "model": "openai/large", "confidence": None, "cost_nano_usd": 200}
            found.append(Label.model_validate({**question, **facts, "correct": chance.random() < 0.95}))
    return found


def studied(found: list[Label], *, task: Task = TASK, target: float = 0.95, current: Escalation | None = None) -> Study:
    """What FOUND labels say."""
    return study(task, ROUTES, found, target=target, current=current)


def test_honest_confidence_is_adopted() -> None:
    """Where the stated confidence tells right from wrong, asking by it is better than the tier and than chance."""
    found = studied(labels(600))

    assert found.adopt, found.why
    assert found.over_static is not None
    assert found.over_random is not None
    assert found.over_static.low > 0
    assert found.over_random.low > 0
    assert 600 == found.learned_from + found.kept_aside == found.both_judged
    assert found.escalation is not None
    assert found.escalation.gain(0.4, 200) > found.escalation.gain(0.9, 200)


def test_noise_is_not_adopted() -> None:
    """Where it tells nothing, more calls of the larger tier would do as much at random, and the study says so."""
    found = studied(labels(600, honest=False))

    assert not found.adopt
    assert found.why.startswith("not shown to be better than as many calls of tier 'large' at random")


def test_good_tier_is_left_alone() -> None:
    """Where the tier has the quality wanted already, nothing is learned."""
    found = studied(labels(600, small=0.85), target=0.9)

    assert (False, None) == (found.adopt, found.escalation)
    assert "has 90% of the quality of tier 'large' already" in found.why


def test_threshold_by_hand_that_is_as_good() -> None:
    """`escalate_below` that does as much with no more calls stays."""
    task = TASK.model_copy(update={"escalate_below": 0.72})
    every = studied(labels(600))
    found = studied(labels(600), task=task)

    assert every.adopt
    assert (not found.adopt) == found.why.startswith("`escalate_below` is as good")


def test_few_pairs() -> None:
    """Where the larger tier's answer is not known it counts at its mean, and the curve is about the same."""
    whole, part = studied(labels(1000)), studied(labels(1000, both=0.2))

    assert part.adopt
    assert part.both_judged < 300
    [one], [other] = ([each.quality for each in found.points if each.policy == "learned"] for found in (whole, part))
    assert one.low < other.value < one.high


def test_curve() -> None:
    """The curve goes from the tier to the larger one, and nobody does better than who knows which is right."""
    found = studied(labels(600))
    points = {each.policy: each for each in found.points}

    assert (0, 1) == (points["small"].share, points["large"].share)
    assert (10, 200) == (points["small"].cost_per_call, points["large"].cost_per_call)
    assert points["small"].quality.value < points["learned"].quality.value < points["oracle"].quality.value
    assert points["learned"].cost_per_call == pytest.approx(10 + 200 * points["learned"].share)
    assert 5 == sum(each.policy == "curve" for each in found.points)


def test_what_is_in_force_is_shown() -> None:
    """The version in force is a point of the curve, on the same questions."""
    first = studied(labels(600)).escalation
    assert first is not None
    points = {each.policy: each for each in studied(labels(600), current=first).points}

    assert points["learned"].quality == points["in force"].quality


def test_questions_stay_on_their_side() -> None:
    """More labels leave those that were kept aside where they were, and the same labels give the same study."""
    assert studied(labels(400)) == studied(list(reversed(labels(400))))
    assert studied(labels(400)).kept_aside < studied(labels(600)).kept_aside


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (labels(40), r"100 judged questions of tier 'small' \(there are 40\)"),
        (labels(200, both=0.05), r"30 judged questions of tier 'large' \(there are \d+\)"),
        (labels(200, small=0.99), "10 right and 10 wrong answers of tier 'small'"),
        (labels(200, model="openai/older"), r"100 judged questions of tier 'small' \(there are 0\)"),
    ],
)
def test_too_few(found: list[Label], said: str) -> None:
    """Too few labels, or labels of models that do not serve the task any more, are told with how many it takes."""
    with pytest.raises(InvalidInput, match=said):
        studied(found)


def test_no_larger_tier() -> None:
    """A task without a cascade has nothing to learn."""
    with pytest.raises(InvalidInput, match="Give it a `cascade`"):
        studied(labels(200), task=TASK.model_copy(update={"cascade": ()}))

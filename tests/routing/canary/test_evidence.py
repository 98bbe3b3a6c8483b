"""The evidence against a canary: how seldom it is wrong, and how soon it is there. All draws are seeded."""

from __future__ import annotations

import random
from math import exp, inf, log, sqrt

import pytest

from perdure.routing.canary import Counts
from perdure.routing.canary._evidence import Tally, log_evidence
from perdure.routing.canary.rollback import Rule, problem

RULE = Rule(max_drop=0.02, false_rollback=0.01, min_calls=50, max_latency_ratio=3.0, max_cost_ratio=2.0)


def looked_at(
    seed: int, *, canary: float, control: float, weight: float, calls: int, drop: float, chance: float
) -> int | None:
    """Draw CALLS with these chances to be valid; return after how many of the canary's the evidence sufficed, if it did."""
    draw = random.Random(seed)
    good, of = [0, 0], [0, 0]
    for _ in range(calls):
        arm = draw.random() < weight
        of[arm] += 1
        good[arm] += draw.random() < (canary if arm else control)
        if log_evidence(Tally(good[True], of[True]), Tally(good[False], of[False]), drop=drop) >= log(1 / chance):
            return of[True]
    return None


@pytest.mark.parametrize(("canary", "drop"), [(0.9, 0.0), (0.85, 0.05)])
def test_wrong_as_seldom_as_promised(canary: float, drop: float) -> None:
    """Looked at after every call, the evidence is wrong in no more than the promised share of A/A comparisons."""
    chance = 0.2  # so often that 150 comparisons would show it
    found = [
        looked_at(seed, canary=canary, control=0.9, weight=0.5, calls=400, drop=drop, chance=chance) for seed in range(150)
    ]

    assert sum(each is not None for each in found) <= 150 * chance


def test_looks_without_correction_would_be_wrong() -> None:
    """The same draws rolled back by a plain test at each look are rolled back often: the draws are no easy ones."""

    def by_plain_test(seed: int) -> bool:
        draw = random.Random(seed)
        good, of = [0, 0], [0, 0]
        for _ in range(400):
            arm = draw.random() < 0.5
            of[arm] += 1
            good[arm] += draw.random() < 0.9
            if min(of) >= 10:
                share = sum(good) / sum(of)
                deviation = (share * (1 - share) * (1 / of[0] + 1 / of[1])) ** 0.5
                if deviation and (good[False] / of[False] - good[True] / of[True]) / deviation > 0.8416:  # 20 %, one-sided
                    return True
        return False

    assert sum(by_plain_test(seed) for seed in range(150)) > 150 * 0.2


def test_soon_enough() -> None:
    """A canary that is valid in 60 % of its answers, where control is in 90 %, is found out within 150 calls of its own."""
    found = [
        looked_at(seed, canary=0.6, control=0.9, weight=0.1, calls=2_500, drop=RULE.max_drop, chance=0.01 / 3)
        for seed in range(30)
    ]

    assert all(each is not None and each <= 150 for each in found)
    assert sorted(each or 0 for each in found)[15] <= 70


@pytest.mark.parametrize(
    ("canary", "control"),
    [((0, 0), (9, 10)), ((9, 10), (0, 0)), ((9, 10), (9, 10)), ((10, 10), (0, 10)), ((88, 100), (90, 100))],
)
def test_no_evidence(canary: tuple[int, int], control: tuple[int, int]) -> None:
    """There is none where an arm has nothing yet, or the canary's share is not lower by more than is allowed."""
    assert -inf == log_evidence(Tally(*canary), Tally(*control), drop=0.02)


@pytest.mark.parametrize(("canary", "control"), [((0, 8), (200, 200)), ((1, 8), (200, 200)), ((0, 8), (199, 200))])
def test_extremes(canary: tuple[int, int], control: tuple[int, int]) -> None:
    """Shares of nothing and of all are weighed like others."""
    assert 100 < exp(log_evidence(Tally(*canary), Tally(*control), drop=0.0))


def test_evidence_is_the_worst_case() -> None:
    """The evidence is the least over all pairs of shares that are allowed."""
    canary, control, drop = Tally(20, 40), Tally(85, 100), 0.05

    def averaged(tally: Tally) -> float:
        """The likelihood under Jeffreys' prior, by adding up."""
        shares = [(number + 0.5) / 20_000 for number in range(20_000)]
        weights = [1 / sqrt(share * (1 - share)) for share in shares]
        likelihoods = [share**tally.good * (1 - share) ** tally.bad for share in shares]
        return sum(w * each for w, each in zip(weights, likelihoods, strict=True)) / sum(weights)

    def explained(share: float) -> float:
        lower = share - drop
        return 1.0 * lower**canary.good * (1 - lower) ** canary.bad * share**control.good * (1 - share) ** control.bad

    best = max(explained(drop + (1 - drop) * number / 2_000) for number in range(1, 2_000))
    expected = averaged(canary) * averaged(control) / best
    assert expected == pytest.approx(exp(log_evidence(canary, control, drop=drop)), rel=0.02)


def arm(calls: int = 100, **other: float) -> Counts:
    """What an arm has done in which all is well, but for OTHER."""
    return Counts.model_validate({"calls": calls, "valid": calls, "cost_nano_usd": calls * 1_000, **other})


@pytest.mark.parametrize(
    ("canary", "said"),
    [
        (arm(), ""),
        (arm(valid=60), "valid answers: 60.0%, and 100.0% of control's; by chance once in"),
        (arm(valid=60, unsure=40), "valid answers: 60.0%"),
        (arm(failed=40, valid=60), "calls that brought an answer: 60.0%"),
        (arm(judged=40, overridden=20), "judged answers that were right: 50.0%"),
        (arm(judged=4, overridden=2), ""),
        (arm(log_milliseconds=100 * log(3.5)), "its answers take 3.5 times what control's do, and 3 times is allowed"),
        (arm(49, log_milliseconds=49 * log(3.5)), ""),
        (arm(cost_nano_usd=250_000), "its answers cost 2.5 times what control's do, and 2 times is allowed"),
    ],
)
def test_rule(canary: Counts, said: str) -> None:
    """A canary is rolled back by fewer valid or any answers, by more overrides, by latency and by cost; nothing else."""
    found = problem(RULE, canary, arm(judged=50))

    assert found.startswith(said) and bool(found) == bool(said)


def test_control_for_nothing() -> None:
    """Where control costs nothing, or no limit is set, cost rolls nothing back."""
    dear = arm(cost_nano_usd=10**9)

    assert "" == problem(RULE, dear, arm(cost_nano_usd=0))
    assert "" == problem(RULE.model_copy(update={"max_cost_ratio": None}), dear, arm())

"""What the bench of cascades counts, and that its data are what they are said to be."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from bench.cascade import HERE, bench, calculated, gsm8k, holds, measured, mmlu, share_at


def test_data() -> None:
    """The samples have four whole subjects of MMLU and the first questions of GSM8K, no question twice."""
    found = mmlu(HERE)
    subjects = [each.subject for each in found]

    assert {"abstract_algebra": 100, "computer_security": 100, "global_facts": 100, "medical_genetics": 100} == {
        name: subjects.count(name) for name in subjects
    }
    assert len(found) == len({each.text for each in found})
    assert all(each.check is not None for each in gsm8k(HERE))


@pytest.mark.parametrize(
    ("steps", "final", "held"),
    [
        (["3*4=12", "12-2=10"], "10", True),
        (["(3+4)/2=3.5"], "3.5", True),
        (["200/3=66.67"], "$66.67", True),
        (["3*4=13"], "13", False),
        (["5*75+120=675+120=795"], "795", False),
        (["3*4=12"], "", False),
        (["2*60=120"], "60 minutes", False),
        (["3*x=12"], "12", False),
    ],
)
def test_check_of_an_answer(steps: list[str], final: str, *, held: bool) -> None:
    """An answer holds if it ends with a number and its sums are right, within a per cent."""
    assert held == holds(steps, final)


@pytest.mark.parametrize("written", ["", "3*", "(3", "1/0", "__import__"])
def test_what_is_no_sum(written: str) -> None:
    """Only numbers, signs and brackets are calculated."""
    assert calculated(written) is None


def test_share() -> None:
    """A score that says nothing needs what chance needs; one that knows who is right needs the difference only."""
    small, large = np.array([1.0, 0, 0, 1, 0, 1, 0, 1, 0, 0]), np.array([1.0, 1, 1, 1, 1, 1, 0, 0, 1, 1])

    chance, oracle = share_at(np.zeros(10), small, large, 0.95), share_at(large - small, small, large, 0.95)

    assert (0.95 * 0.8 - 0.4) / (0.8 - 0.4) == pytest.approx(chance)
    assert 0.36 == pytest.approx(oracle)
    assert share_at(np.zeros(10), large, large, 0.95) == 0


def test_slice() -> None:
    """On a slice of the data every way is measured, and knowing who is right needs the fewest calls."""
    questions = mmlu(HERE)[::4]
    found = measured(questions, np.eye(len(questions)), seeds=2, by_subject=True)

    assert {"random", "length", "tfidf", "minilm", "learned", "oracle"} == set(found)
    for target in ("strong_share_at_95", "strong_share_at_99"):
        assert found["oracle"][target] == min(each[target] for each in found.values())


def test_report() -> None:
    """The report has the figures by dataset and way, and what `perdure routes learn` says."""
    report = asyncio.run(bench(HERE, seeds=1, most=40))

    datasets = report["datasets"]
    assert isinstance(datasets, dict)
    assert {"mmlu", "mmlu_unseen_subjects", "gsm8k"} == set(datasets)
    assert datasets["gsm8k"]["methods"].keys() >= {"check", "learned_with_check"}
    assert {"by_length", "with_check"} == set(datasets["gsm8k"]["learned_escalation"])

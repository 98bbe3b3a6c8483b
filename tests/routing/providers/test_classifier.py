"""The classifier's arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from perdure.routing.providers._classifier import Classifier

TEXTS = ["red apple", "green apple", "apple pie", "fast car", "old car", "car race"]
LABELS = [0, 0, 0, 1, 1, 1]
VECTORS = np.eye(6)


def test_deterministic() -> None:
    """The same examples give the same verdict to the last bit."""
    verdicts = {Classifier(TEXTS, VECTORS, LABELS).classify("a red car", VECTORS[3]) for _ in range(3)}

    assert 1 == len(verdicts)


@pytest.mark.parametrize(("text", "label", "nearest"), [("apple tart", 0, {0, 1, 2}), ("car wash", 1, {3, 4, 5})])
def test_verdict(text: str, label: int, nearest: set[int]) -> None:
    """A text goes to the class it resembles, and its nearest example is of that class."""
    verdict = Classifier(TEXTS, VECTORS, LABELS).classify(text, np.zeros(6))

    assert label == verdict.label and verdict.nearest in nearest
    assert 0.5 < verdict.confidence < 1


def test_unseen_accuracy_is_leave_one_out() -> None:
    """What is said about unseen texts is what refitting without each example in turn would show."""
    found = Classifier(TEXTS, VECTORS, LABELS).unseen_accuracy

    shuffled = Classifier(TEXTS, VECTORS, [0, 1, 0, 1, 0, 1]).unseen_accuracy
    assert 1.0 == found > shuffled


@pytest.mark.parametrize("text", ["", "12 34 56", "日本語のメール", "x" * 100_000])
def test_odd_texts(text: str) -> None:
    """Any text gets a verdict with a finite confidence."""
    assert 0 < Classifier(TEXTS, VECTORS, LABELS).classify(text, np.zeros(6)).confidence < 1

"""Which class a text belongs to, by a few dozen examples, and how sure that is.

Kernel ridge regression over two similarities: the cosine of embeddings, which knows meaning, and that of words and letter
groups, which knows wording, also in languages and codes that the embedder does not know. How much each counts, the ridge
and the sharpness of the probabilities are those with the least leave-one-out loss on the examples. That loss has a closed
form, so nothing is trained in a loop, nothing is random, and the same examples always give the same classifier.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

# What is usually best comes first. Few examples say little about what is best for them, so the others have to be clearly
# better. Only one of the two similarities alone was never.
_MIXES = (0.25, 0.5, 0.75, 0.1)
_RIDGES = (0.1, 0.03, 0.3, 1.0)
_SHARPNESS = (4.0, 3.0, 6.0, 8.0, 12.0, 2.0, 1.0)
_CLEARLY = 0.01


@dataclass(frozen=True)
class Verdict:
    """The class of a text, how likely it is right (0 to 1), and the example of that class that is most like the text."""

    label: int
    confidence: float
    nearest: int


class Classifier:
    """Learned from TEXTS, their VECTORS (of length 1) and LABELS, which count from 0. Two classes at least."""

    def __init__(self, texts: Sequence[str], vectors: ArrayLike, labels: Sequence[int]) -> None:
        self._labels = np.asarray(labels)
        self._vectors: Floats = np.asarray(vectors, np.float64)
        self._wording = _Wording(texts)
        wanted = np.eye(int(self._labels.max()) + 1)[self._labels]
        self._prior: Floats = wanted.mean(axis=0)
        meaning = self._vectors @ self._vectors.T
        wording = np.array([self._wording.similarity(text) for text in texts])
        best = math.inf
        for mix in _MIXES:
            kernel = mix * meaning + (1 - mix) * wording
            for ridge in _RIDGES:
                inverse = np.linalg.inv(kernel + ridge * np.eye(len(texts)))
                weights = inverse @ (wanted - self._prior)
                # What each example would get if it were not among the examples.
                unseen = wanted - weights / np.diag(inverse)[:, None]
                for sharpness in _SHARPNESS:
                    loss = -float(np.log(_softmax(sharpness * unseen)[np.arange(len(texts)), self._labels]).mean())
                    if loss < best - _CLEARLY:
                        best, self._mix, self._sharpness, self._weights = loss, mix, sharpness, weights
                        self.unseen_accuracy = float((unseen.argmax(axis=1) == self._labels).mean())
        self.unseen_loss = best

    def classify(self, text: str, vector: ArrayLike) -> Verdict:
        """Return the class of TEXT, whose embedding is VECTOR."""
        meaning = self._vectors @ np.asarray(vector, np.float64)
        similarity = self._mix * meaning + (1 - self._mix) * self._wording.similarity(text)
        likely = _softmax(self._sharpness * (self._prior + similarity @ self._weights))
        label = int(likely.argmax())
        # A few dozen examples cannot show that something is certain: as if one more had come out at random.
        confidence = (float(likely[label]) * len(self._labels) + 1 / len(likely)) / (len(self._labels) + 1)
        nearest = int(np.where(self._labels == label, similarity, -np.inf).argmax())
        return Verdict(label, confidence, nearest)


class _Wording:
    """The cosine between texts as bags of words and of letter groups, half and half, weighted by rarity (tf-idf)."""

    def __init__(self, texts: Sequence[str]) -> None:
        bags = [_bags(text) for text in texts]
        spread = Counter(term for both in bags for bag in both for term in bag)
        self._rarity = {term: 1 + math.log((1 + len(texts)) / (1 + count)) for term, count in spread.items()}
        self._count = len(texts)
        found: dict[str, list[tuple[int, float]]] = {}
        for number, both in enumerate(bags):
            for term, weight in self._weigh(both):
                found.setdefault(term, []).append((number, weight))
        self._examples = {
            term: (np.array([number for number, _ in pairs]), np.array([weight for _, weight in pairs]))
            for term, pairs in found.items()
        }

    def similarity(self, text: str) -> Floats:
        """Return the cosine of TEXT with every example."""
        found = np.zeros(self._count)
        for term, weight in self._weigh(_bags(text)):
            if term in self._examples:
                numbers, weights = self._examples[term]
                found[numbers] += weight * weights
        return found

    def _weigh(self, bags: Sequence[Counter[str]]) -> Iterator[tuple[str, float]]:
        unknown = 1 + math.log(1 + self._count)
        for bag in bags:
            weights = {term: (1 + math.log(count)) * self._rarity.get(term, unknown) for term, count in bag.items()}
            length = math.sqrt(len(bags) * sum(weight * weight for weight in weights.values())) or 1.0
            yield from ((term, weight / length) for term, weight in weights.items())


def _bags(text: str) -> tuple[Counter[str], Counter[str]]:
    # Digits are all alike: that there is an order number matters, not which.
    words = re.findall(r"\w+", re.sub(r"\d", "0", text.casefold()))
    groups = (
        f"~{padded[at : at + length]}"
        for padded in (f" {word} " for word in words)
        for length in (3, 4, 5)
        for at in range(max(1, len(padded) - length + 1))
    )
    return Counter([*words, *map(" ".join, pairwise(words))]), Counter(groups)


def _softmax(scores: Floats) -> Floats:
    raised = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares: Floats = raised / raised.sum(axis=-1, keepdims=True)
    return shares

"""Tests of the embedder: right in meaning, the same every time, and never in the event loop's way."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from perdure.errors import InvalidSettings
from perdure.memory import MiniLm
from perdure.memory.index import Vector, embed

PARAPHRASES = [
    ("The customer wants a refund for a broken lamp", "A lamp arrived shattered and the buyer asks for the money back"),
    ("I can't log in any more", "Please reset my password, my credentials are not accepted"),
    ("The parcel never arrived", "My package was lost in the post"),
    ("Do you ship to Norway?", "Is delivery to Oslo possible?"),
    ("How do I cancel my subscription?", "I want to stop the monthly plan"),
    ("The jacket is too small", "This coat doesn't fit, I need a larger size"),
]


def _cosine(a: Vector, b: Vector) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


async def test_one_a_process() -> None:
    """Whoever loads it in this process has the same one: a worker's memory and its router, and a second worker."""
    assert await MiniLm.load() is await MiniLm.load()


async def test_paraphrases_are_nearest(embedder: MiniLm) -> None:
    """The nearest of all others to a sentence is the one that says the same in other words."""
    left = await embedder.embed([one for one, _ in PARAPHRASES])
    right = await embedder.embed([other for _, other in PARAPHRASES])

    nearest = [max(range(len(right)), key=lambda at: _cosine(vector, right[at])) for vector in left]
    assert list(range(len(PARAPHRASES))) == nearest


async def test_vectors_are_of_length_1(embedder: MiniLm) -> None:
    """Every vector has the dimensions that were promised and length 1, also of nothing and of very long texts."""
    vectors = await embedder.embed(["", "lamp", "lamp " * 5000, "返品 ☂"])

    assert [MiniLm.dimensions] * 4 == [len(vector) for vector in vectors]
    assert [pytest.approx(1.0, abs=1e-6)] * 4 == [_cosine(vector, vector) for vector in vectors]


async def test_vector_depends_on_its_text_alone(embedder: MiniLm) -> None:
    """A text has the same vector alone, in a batch with longer ones, and in another instance."""
    texts = ["lamp", "a much longer sentence about a lamp that arrived broken", "lamp " * 200, "lamp"]
    other = MiniLm()
    together = await embedder.embed(texts)
    alone = [(await other.embed([text]))[0] for text in texts]

    assert [pytest.approx(vector, abs=1e-6) for vector in alone] == together


async def test_recent_texts_cost_nothing(embedder: MiniLm, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that was just embedded is not put through the model again."""
    [first] = await embedder.embed(["Ada likes tea"])
    monkeypatch.setattr(embedder, "_run", lambda texts: pytest.fail(f"{texts} went through the model again"))

    assert [first, first] == await embedder.embed(["Ada likes tea", "Ada likes tea"])


async def test_loop_goes_on_meanwhile(embedder: MiniLm) -> None:
    """While the model works on a batch, the event loop works on other tasks."""
    working = asyncio.create_task(embedder.embed([f"a sentence about lamp number {n} " * 10 for n in range(8)]))
    turns = 0
    while not working.done():
        await asyncio.sleep(0)
        turns += 1

    assert turns > 10


def test_changed_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vocabulary or model that is not the one that was tried is refused by name, with the remedy."""
    changed = tmp_path / "vocabulary.txt"
    changed.write_bytes(embed.VOCABULARY.read_bytes() + b"x")
    monkeypatch.setattr(embed, "VOCABULARY", changed)

    with pytest.raises(InvalidSettings, match=rf"{changed} has sha256 .* reinstall perdure"):
        MiniLm()


def test_missing_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is not there is refused by name."""
    monkeypatch.setattr(embed, "VOCABULARY", tmp_path / "vocabulary.txt")

    with pytest.raises(InvalidSettings, match="cannot be read: No such file"):
        MiniLm()

"""Tests of what a recall looks at besides meaning: words, subjects, neighbours, kinds and times."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from kits.memory import Ask, Clock, Say

from perdure.lineage import Lineage, StepRef
from perdure.memory import Memory, MiniLm, customer
from perdure.memory.index import EdgeIndex, ServerIndex
from perdure.memory.recall import Ranking
from perdure.storage import Database


@pytest.fixture
async def memory(sqlite_database: Database, embedder: MiniLm, clock: Clock) -> AsyncIterator[Memory]:
    """An empty memory whose index is qdrant-client's stand-in for a server, which starts at once."""
    index = await ServerIndex.open(":memory:", embedder)
    memory = Memory(sqlite_database, index, embedder, clock=clock)
    yield memory
    await memory.close()


async def _tell(memory: Memory, to_remember: Say, *contents: str, **fields: object) -> None:
    for content in contents:
        await memory.remember(to_remember(content, **fields))


async def test_rare_words_are_found(memory: Memory, to_remember: Say, to_recall: Ask) -> None:
    """A number that means nothing to the embedder is found by being the same."""
    others = [f"Parcel RX-{n}77 was handed over" for n in range(10, 40)]
    await _tell(memory, to_remember, *others, "Parcel RX-4711 was handed over")

    assert "Parcel RX-4711 was handed over" == (await memory.recall(to_recall("RX-4711"))).texts[0]


async def test_question_selects_its_subject(memory: Memory, to_remember: Say, to_recall: Ask) -> None:
    """Who is named in the question is whom the first records are about, though they don't say their own name."""
    await _tell(memory, to_remember, "I adopted a cat last week", subject="Grace Hopper")
    await _tell(memory, to_remember, "I adopted a cat, too", "Grace, which pet did you get?", subject="Ada")

    recall = await memory.recall(to_recall("Which pet does Grace have?", explain=True))
    assert "I adopted a cat last week" == recall.texts[0]
    assert [("Grace",)] * 3 == [hit.why.subjects for hit in recall.hits if hit.why]


async def test_answer_comes_with_its_question(memory: Memory, to_remember: Say, to_recall: Ask, clock: Clock) -> None:
    """What a run remembered right after something near comes before what another run remembered."""
    for run, contents in {
        "one": ["Where did you spend the holidays?", "By the lake"],
        "two": ["The invoice is paid", "Near the harbour"],
    }.items():
        for content in contents:
            clock.move(timedelta(seconds=1))
            lineage = Lineage(namespace="default", workflow_id="talk", first_execution_run_id=run)
            await memory.remember(to_remember(content, step=StepRef(lineage=lineage, name=content)))

    texts = (await memory.recall(to_recall("Where were the holidays spent?"))).texts
    assert ["Where did you spend the holidays?", "By the lake"] == texts[:2]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"kinds": ("semantic",)}, ["fact"]),
        ({"kinds": ("semantic", "document")}, ["fact", "page"]),
        ({"subject": "Order 2"}, ["page"]),
        ({"subject": "Order"}, []),
        ({"since": timedelta(days=1)}, ["fact", "page"]),
        ({"before": timedelta(days=1)}, ["event"]),
        ({"since": timedelta(days=1), "before": timedelta(days=2)}, ["fact"]),
    ],
    ids=str,
)
async def test_only_what_is_asked_for(
    memory: Memory, clock: Clock, *, to_remember: Say, to_recall: Ask, asked: dict[str, object], found: list[str]
) -> None:
    """Kinds, a subject and the time from which something is true limit what comes."""
    began = clock.now
    for content, kind in (("event", "episodic"), ("fact", "semantic"), ("page", "document")):
        await memory.remember(to_remember(content, kind=kind, subject="Order 2" if kind == "document" else "Order 1"))
        clock.move(timedelta(days=1))
    fields = {name: began + value if isinstance(value, timedelta) else value for name, value in asked.items()}

    assert found == sorted((await memory.recall(to_recall("anything", **fields))).texts)


async def test_what_says_the_same_comes_once(memory: Memory, to_remember: Say, to_recall: Ask) -> None:
    """Of records that say the same the first comes, and tells of the others; on request all come."""
    await _tell(memory, to_remember, "Ada likes tea.", "ada likes the tea", "Ada doesn't like tea")

    recall = await memory.recall(to_recall("tea", explain=True))
    assert 2 == len(recall.hits)
    assert [1, 0] == sorted((len(hit.why.duplicates) for hit in recall.hits if hit.why), reverse=True)
    assert 3 == len((await memory.recall(to_recall("tea", duplicates=True))).hits)


async def test_explains_only_when_asked(memory: Memory, to_remember: Say, to_recall: Ask) -> None:
    """A hit says why it came where the call asks, and adds up to its score; else the history is spared it."""
    await _tell(memory, to_remember, "Ada prefers tea", "Ada's lamp is broken")

    [hit, _] = (await memory.recall(to_recall("tea", explain=True))).hits
    assert hit.why is not None
    assert (1, 1) == (hit.why.dense_rank, hit.why.lexical_rank)
    assert pytest.approx(hit.score, abs=1e-5) == hit.why.total
    assert "why" not in (await memory.recall(to_recall("tea"))).model_dump_json()


async def test_recent_and_important_when_asked(memory: Memory, clock: Clock, to_remember: Say, to_recall: Ask) -> None:
    """Recency and importance reorder what comes, as far as the call says."""
    await _tell(memory, to_remember, "Ada prefers green tea", importance=0.9)
    clock.move(timedelta(days=90))
    await _tell(memory, to_remember, "Ada has black tea")

    plain, recent, important = [
        (await memory.recall(to_recall("Ada prefers green tea", **fields))).texts[0]
        for fields in ({}, {"recency": 3.0}, {"recency": 3.0, "importance": 10.0})
    ]
    assert ("Ada prefers green tea", "Ada has black tea", "Ada prefers green tea") == (plain, recent, important)


async def test_scores_tell_nothing_of_other_scopes(memory: Memory, to_remember: Say, to_recall: Ask) -> None:
    """How rare a word is counts in the scope that asks: what others remember changes no score."""
    await _tell(memory, to_remember, "Ada prefers tea", "Ada's lamp is broken")
    before = await memory.recall(to_recall("tea"))
    await _tell(memory, to_remember, "tea", "more tea", "tea again", scope=customer("grace"))

    assert before == await memory.recall(to_recall("tea"))


async def test_repeats_as_of_then_to_the_digit(memory: Memory, clock: Clock, to_remember: Say, to_recall: Ask) -> None:
    """What is learned later, in the same words, changes no score of a recall as of then."""
    await _tell(memory, to_remember, "Ada prefers tea", "Ada's lamp is broken")
    then = clock.now
    before = await memory.recall(to_recall("tea"))
    clock.move(timedelta(days=1))
    await _tell(memory, to_remember, "tea", "more tea", "tea again")

    assert before.receipt.returned == (await memory.recall(to_recall("tea", as_of=then))).receipt.returned


async def test_receipt_tells_the_weights(
    memory: Memory, sqlite_database: Database, embedder: MiniLm, *, to_remember: Say, to_recall: Ask
) -> None:
    """The receipt names the weights that put the records in their order; a memory may have its own."""
    await _tell(memory, to_remember, "Ada prefers tea")
    own = Ranking(lexical=0.0)
    other = Memory(sqlite_database, await ServerIndex.open(":memory:", embedder), embedder, ranking=own)

    receipts = [(await each.recall(to_recall("tea"))).receipt.ranking for each in (memory, other)]
    await other.close()
    assert [Ranking().version, own.version] == receipts


async def test_engines_agree(
    memory: Memory,
    sqlite_database: Database,
    embedder: MiniLm,
    *,
    clock: Clock,
    tmp_path: Path,
    to_remember: Say,
    to_recall: Ask,
) -> None:
    """The embedded index and a server's return the same records in the same order with nearly the same scores."""
    contents = [
        f"Ada {verb} {thing}" for verb in ("bought", "lost", "returned") for thing in ("a lamp", "the sofa", "a clock")
    ]
    await _tell(memory, to_remember, *contents, subject="Ada")
    edge = Memory(sqlite_database, await EdgeIndex.open(tmp_path / "index", embedder), embedder, clock=clock)

    one, other = [(await each.recall(to_recall("What did Ada return?"))).receipt.returned for each in (memory, edge)]
    await edge.close()
    assert [hit[0] for hit in one] == [hit[0] for hit in other]
    assert pytest.approx([hit[2] for hit in one], abs=1e-4) == [hit[2] for hit in other]

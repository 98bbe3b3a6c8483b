"""Tests of `Memory.recall`: near, live, of the scope that asks, and the same again as of then."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from kits.memory import ADA, Ask, Clock, Letters, Say

from perdure.errors import InvalidInput
from perdure.lineage import StepRef
from perdure.memory import (
    Memory,
    MiniLm,
    RememberCall,
    Scope,
    customer,
)
from perdure.memory.index import EdgeIndex, Point
from perdure.memory.moments import FOR_EVER, microseconds
from perdure.memory.records import scope_key
from perdure.storage import Database


async def test_nearest_comes_first(sqlite_memory: Memory, to_remember: Say, to_recall: Ask) -> None:
    """A recall returns what bears on the query, best first, and no more than was asked for."""
    for content in ("Ada prefers tea to coffee", "The lamp of order 1042 arrived in pieces", "Ada's birthday is in May"):
        await sqlite_memory.remember(to_remember(content))

    recall = await sqlite_memory.recall(to_recall("Which of her orders came damaged?", limit=2))
    assert "The lamp of order 1042 arrived in pieces" == recall.texts[0]
    assert 2 == len(recall.hits)
    assert recall.hits[0].score > recall.hits[1].score


async def test_receipt_tells_what_was_returned(
    sqlite_memory: Memory, clock: Clock, to_remember: Say, to_recall: Ask
) -> None:
    """The receipt names versions, scores, moment and index."""
    written = await sqlite_memory.remember(to_remember("Ada prefers tea"))

    recall = await sqlite_memory.recall(to_recall("tea"))
    assert ((written.memory_id, 1, recall.hits[0].score),) == recall.receipt.returned
    assert (clock.now, ADA) == (recall.receipt.as_of, recall.receipt.scope)
    assert "qdrant-edge" in recall.receipt.index_version
    assert MiniLm.version in recall.receipt.index_version


@pytest.mark.parametrize(
    "other",
    [
        customer("grace"),
        customer("ada", tenant="acme"),
        Scope(agent="ada"),
        Scope(session="ada"),
        Scope(user="ada", session="s1"),
        Scope(user="ada", agent="triage"),
    ],
    ids=str,
)
async def test_only_the_scope_that_asks(sqlite_memory: Memory, to_remember: Say, to_recall: Ask, other: Scope) -> None:
    """A scope sees its own records only, also when another one is wider, narrower or has the same name elsewhere."""
    await sqlite_memory.remember(to_remember("Ada prefers tea"))
    await sqlite_memory.remember(to_remember("tea is for somebody else", scope=other))

    assert ["Ada prefers tea"] == (await sqlite_memory.recall(to_recall("tea"))).texts
    assert ["tea is for somebody else"] == (await sqlite_memory.recall(to_recall("tea", scope=other))).texts


async def test_expired_is_gone(memory: Memory, clock: Clock, to_remember: Say, to_recall: Ask) -> None:
    """A record is returned until its time to live is over, and not at that microsecond."""
    await memory.remember(to_remember("Ada is on holiday", ttl=timedelta(days=7)))

    clock.move(timedelta(days=7) - timedelta(microseconds=1))
    assert ["Ada is on holiday"] == (await memory.recall(to_recall("holiday"))).texts
    clock.move(timedelta(microseconds=1))
    assert [] == (await memory.recall(to_recall("holiday"))).texts


async def test_recall_can_be_repeated_as_of_then(memory: Memory, clock: Clock, to_remember: Say, to_recall: Ask) -> None:
    """A recall as of an earlier moment returns what it returned then, whatever was learned or expired since."""
    await memory.remember(to_remember("Ada lives in Graz", memory_id="home"))
    await memory.remember(to_remember("Ada is on holiday", ttl=timedelta(days=7)))
    then = clock.move(timedelta(days=1))
    before = await memory.recall(to_recall("Where is Ada?"))
    clock.move(timedelta(days=30))
    await memory.remember(to_remember("Ada lives in Wien", memory_id="home"))

    assert before == await memory.recall(to_recall("Where is Ada?", as_of=then))
    assert ["Ada lives in Wien"] == (await memory.recall(to_recall("Where is Ada?"))).texts


async def test_future_is_not_known(sqlite_memory: Memory, clock: Clock, to_remember: Say, to_recall: Ask) -> None:
    """A moment that is still to come counts as now, and the receipt says so."""
    await sqlite_memory.remember(to_remember("Ada is on holiday", ttl=timedelta(days=7)))

    recall = await sqlite_memory.recall(to_recall("holiday", as_of=clock.now + timedelta(days=30)))
    assert (["Ada is on holiday"], clock.now) == (recall.texts, recall.receipt.as_of)


async def test_moment_needs_a_zone(sqlite_memory: Memory, to_recall: Ask) -> None:
    """A moment without a zone is refused."""
    with pytest.raises(InvalidInput, match="as_of 2026-03-01T00:00:00 has no zone"):
        await sqlite_memory.recall(to_recall("tea", as_of=datetime(2026, 3, 1)))  # noqa: DTZ001  # the point


async def test_index_is_never_believed(
    memory: Memory, index: EdgeIndex, embedder: MiniLm, *, clock: Clock, to_remember: Say, to_recall: Ask
) -> None:
    """Points that are foreign, stale, or of no record at all are dropped, however many there are and however near."""
    await memory.remember(to_remember("Ada drinks something hot in the morning"))
    foreign = await memory.remember(to_remember("tea", scope=customer("grace")))
    stale = await memory.remember(to_remember("tea, please", memory_id="taste"))
    clock.move(timedelta(days=1))
    await memory.remember(to_remember("no tea any more", memory_id="taste", ttl=timedelta(days=1)))
    clock.move(timedelta(days=1))
    records = [
        *await memory.history(foreign.memory_id, customer("grace")),
        *await memory.history(stale.memory_id, ADA),
    ]
    lies = [record.version_id for record in records] + [f"00000000-0000-0000-0000-{n:012}" for n in range(60)]
    [tea] = await embedder.embed(["tea"])
    await index.upsert([Point(version_id, scope_key(ADA), 0, FOR_EVER, tea) for version_id in lies])

    assert ["Ada drinks something hot in the morning"] == (await memory.recall(to_recall("tea", limit=1))).texts


async def test_agrees_with_an_oracle(
    tmp_path: Path, sqlite_database: Database, clock: Clock, step: Callable[[str], StepRef], to_recall: Ask
) -> None:
    """Over random writes, supersessions, expiries, late starts and restarts, a recall returns exactly the live records."""
    chance = random.Random(7)
    scopes = [customer("ada"), customer("ada", tenant="acme"), Scope(agent="triage")]
    told: dict[tuple[Scope, str], list[tuple[datetime, datetime, datetime, str]]] = {}
    index = await EdgeIndex.open(tmp_path / "oracle", Letters())
    memory = Memory(sqlite_database, index, Letters(), clock=clock)

    def live(scope: Scope, at: datetime) -> set[str]:
        found = set()
        for (owner, _), versions in told.items():
            standing = [version for version in versions if owner == scope and max(version[0], version[1]) <= at]
            if standing and standing[-1][2] > at:
                found.add(standing[-1][3])
        return found

    began = clock.now
    for turn in range(150):
        clock.move(timedelta(minutes=chance.randint(1, 90)))
        scope, name = chance.choice(scopes), f"memory {chance.randint(1, 12)}"
        ttl = timedelta(hours=chance.randint(1, 60))
        valid_from = clock.now - timedelta(hours=chance.randint(0, 40))
        content = f"{scope} {turn}"
        call = RememberCall(
            step=step(str(turn)), scope=scope, content=content, memory_id=name, ttl=ttl, valid_from=valid_from
        )
        await memory.remember(call)
        told.setdefault((scope, name), []).append((clock.now, valid_from, clock.now + ttl, content))
        if turn % 40 == 39:
            await index.close()
            index = await EdgeIndex.open(tmp_path / "oracle", Letters())
            memory = Memory(sqlite_database, index, Letters(), clock=clock)
        asked = chance.choice(scopes)
        at = began + (clock.now - began) * chance.choice([1.0, 1.0, chance.random()])
        recall = await memory.recall(to_recall("anything", scope=asked, limit=100, as_of=at))
        assert live(asked, at) == set(recall.texts)
    assert microseconds(clock.now) > microseconds(began)
    await index.close()

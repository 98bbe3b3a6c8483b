"""Tests of how a new embedder takes over, and that an index made anew is the one that was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from kits.memory import ADA, Ask, Clock, Letters, Say

from perdure.lineage import StepRef
from perdure.memory import Memory, open_memory
from perdure.memory.index import EdgeIndex, Index, ServerIndex, Vector
from perdure.memory.records.requests import ForgetCall
from perdure.settings import Settings
from perdure.storage import Database


class Slow(Letters):
    """An embedder that the test lets go on: it stops when it has embedded `at_once` texts."""

    def __init__(self, version: str, *, at_once: int) -> None:
        super().__init__(version)
        self.stopped = asyncio.Event()
        self.go_on = asyncio.Event()
        self._left = at_once

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Return a direction for each of TEXTS."""
        self._left -= len(texts)
        if self._left < 0:
            self.stopped.set()
            await self.go_on.wait()
        return await super().embed(texts)


@pytest.fixture(params=["edge", "server"])
async def index(request: pytest.FixtureRequest, tmp_path: Path) -> Index:
    """An empty index: once embedded, once through qdrant-client. Its memory closes it."""
    if request.param == "edge":
        return await EdgeIndex.open(tmp_path / "index", Letters())
    return await ServerIndex.open(":memory:", Letters())


@pytest.fixture
async def memory(sqlite_database: Database, index: Index, clock: Clock) -> AsyncIterator[Memory]:
    """An empty memory with an embedder that costs nothing."""
    memory = Memory(sqlite_database, index, Letters(), clock=clock)
    yield memory
    await memory.close()


async def _orders(memory: Memory, to_remember: Say, numbers: range) -> None:
    for number in numbers:
        await memory.remember(to_remember(f"Order {number} went to Graz", memory_id=f"order {number}"))


async def test_index_made_anew_is_the_same(memory: Memory, index: Index, clock: Clock, to_remember: Say) -> None:
    """After a rebuild from SQL each point is what it was: times, scope, words, and the vector as it is stored."""
    await _orders(memory, to_remember, range(20))
    clock.move(timedelta(days=1))
    await _orders(memory, to_remember, range(5))
    await memory.remember(to_remember("Order 3 came back", memory_id="order 3", subject="order 3", ttl=timedelta(days=9)))
    before = await index.scan()

    assert 21 == await memory.reindex()
    after = await index.scan()
    assert [replace(point, vector=()) for point in before] == [replace(point, vector=()) for point in after]
    assert [pytest.approx(point.vector, abs=1e-6) for point in before] == [point.vector for point in after]


async def test_recall_waits_while_the_index_is_made_anew(memory: Memory, to_remember: Say, to_recall: Ask) -> None:
    """Recalls at the time of a rebuild return what they returned before, never less."""
    await _orders(memory, to_remember, range(9))
    before = await memory.recall(to_recall("Order 3 went to Graz"))

    rebuilt, *recalls = await asyncio.gather(
        memory.reindex(), *(memory.recall(to_recall("Order 3 went to Graz")) for _ in range(5))
    )
    assert (9, [before] * 5) == (rebuilt, recalls)


async def test_upgrade_leaves_no_gap(memory: Memory, to_remember: Say, to_recall: Ask) -> None:
    """While a new embedder embeds everything, recalls and writes go on with the old one; then the new one has all of it."""
    await _orders(memory, to_remember, range(80))
    asked = to_recall("Order 3 went to Graz")
    before = await memory.recall(asked)
    new = Slow("2", at_once=70)
    upgrading = asyncio.create_task(memory.upgrade(new))
    await new.stopped.wait()
    amid = await memory.recall(asked)
    writing = asyncio.create_task(memory.remember(to_remember("Order 3 came back", memory_id="order 3")))
    new.go_on.set()
    await asyncio.gather(upgrading, writing)

    after = await memory.recall(asked)
    assert before == amid
    assert "letters 1" in amid.receipt.index_version
    assert "letters 2" in after.receipt.index_version
    assert "Order 3 came back" in (await memory.recall(to_recall("Order 3 came back"))).texts
    assert (80, 81, 0) == (len((await memory.recall(to_recall("Order", limit=100))).hits), *await _counts(memory))


async def _counts(memory: Memory) -> tuple[int, int]:
    found = await memory.verify()
    return found.points, found.divergent


async def test_recall_amid_the_switch_ends_well(memory: Memory, to_remember: Say, to_recall: Ask) -> None:
    """Recalls that overlap with the switch all return the right record."""
    await _orders(memory, to_remember, range(10))
    upgrading = asyncio.create_task(memory.upgrade(Letters("2")))
    found = []
    while not upgrading.done():
        found.append((await memory.recall(to_recall("Order 3 went to Graz", limit=1))).texts)
    await upgrading

    assert [["Order 3 went to Graz"]] * len(found) == found


async def test_erased_amid_an_upgrade_is_gone(memory: Memory, to_remember: Say, step: Callable[[str], StepRef]) -> None:
    """What is erased while a new embedder embeds everything is in neither index afterwards."""
    await _orders(memory, to_remember, range(80))
    new = Slow("2", at_once=70)
    upgrading = asyncio.create_task(memory.upgrade(new))
    await new.stopped.wait()
    erasing = asyncio.create_task(
        memory.forget(ForgetCall(step=step("erase"), scope=ADA, memory_id="order 3", how="erase"))
    )
    new.go_on.set()
    await asyncio.gather(upgrading, erasing)

    assert (79, 0) == await _counts(memory)


async def test_stopped_upgrade_changes_nothing(memory: Memory, to_remember: Say, to_recall: Ask) -> None:
    """An upgrade that is stopped in the middle leaves the old index in use, and can be tried again."""
    await _orders(memory, to_remember, range(80))
    new = Slow("2", at_once=70)
    upgrading = asyncio.create_task(memory.upgrade(new))
    await new.stopped.wait()
    upgrading.cancel()
    await asyncio.wait([upgrading])
    stopped = await memory.recall(to_recall("Order 3 went to Graz"))
    new.go_on.set()
    await memory.upgrade(new)

    assert "letters 1" in stopped.receipt.index_version
    assert (80, 0) == await _counts(memory)
    assert "letters 2" in (await memory.recall(to_recall("Order 3 went to Graz"))).receipt.index_version


async def test_opens_with_the_previous_embedder(
    tmp_path: Path, sqlite_database: Database, to_remember: Say, to_recall: Ask
) -> None:
    """A start with a new embedder and the previous one recalls at once; when it has ended, the new one is in use."""
    settings = Settings(home=tmp_path)
    asked = to_recall("Order 3 went to Graz", limit=1)
    async with open_memory(settings, sqlite_database, embedder=Letters()) as memory:
        await _orders(memory, to_remember, range(80))
    new = Slow("2", at_once=70)
    async with open_memory(settings, sqlite_database, embedder=new, previous=Letters()) as memory:
        await new.stopped.wait()
        amid = await memory.recall(asked)
    async with open_memory(settings, sqlite_database, embedder=Letters("2"), previous=Letters()) as memory:
        await memory.upgrade(Letters("2"))
        after = await memory.recall(asked)
    async with open_memory(settings, sqlite_database, embedder=Letters("2"), previous=Letters()) as memory:
        again = await memory.recall(asked)

    assert ["letters 1", "letters 2", "letters 2"] == [
        each.receipt.index_version.split(", ")[1] for each in (amid, after, again)
    ]
    assert amid.texts == after.texts == again.texts == ["Order 3 went to Graz"]


async def test_upgrade_to_the_same_embedder_does_nothing(memory: Memory, to_remember: Say) -> None:
    """The embedder in use is not embedded with again."""
    await _orders(memory, to_remember, range(3))
    same = Slow("1", at_once=0)
    await memory.upgrade(same)

    assert not same.stopped.is_set()

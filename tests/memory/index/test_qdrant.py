"""Tests of the index on a Qdrant server over its REST protocol: what it is asked, and what happens when it is away.

The server is a stand-in, see tests/stand_ins/qdrant.py: no package has the real one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
import sqlalchemy as sa
from kits.memory import Ask, Letters, Say
from stand_ins.qdrant import QdrantStandIn, qdrant_stand_in

from perdure.errors import InvalidSettings, Unreachable
from perdure.memory import Memory, open_memory
from perdure.memory.index import Point, ServerIndex, Vector, Where, Words
from perdure.memory.moments import FOR_EVER
from perdure.memory.tables import OutboxRow
from perdure.settings import Settings
from perdure.storage import Database, open_database

A, B = (f"00000000-0000-0000-0000-00000000000{n}" for n in "ab")


@pytest.fixture
async def qdrant() -> AsyncIterator[QdrantStandIn]:
    """A stand-in for a Qdrant server."""
    async with qdrant_stand_in() as server:
        yield server


async def _waiting(database: Database) -> int:
    counted = sa.select(sa.func.count()).select_from(OutboxRow)
    return await database.query(lambda connection: connection.execute(counted).scalar_one())


async def test_collection_is_made_for_tenants(qdrant: QdrantStandIn) -> None:
    """The collection has both vectors, a graph for each tenant and none over all, and an index for each field."""
    index = await ServerIndex.open(qdrant.url, Letters(), database_id="d1")
    await index.close()

    made = next(body for method, what, body in qdrant.asked if (method, what) == ("PUT", ""))
    fields = {body["field_name"]: body["field_schema"] for _, what, body in qdrant.asked if what == "index"}
    assert ({"dense": {"size": 8, "distance": "Cosine"}}, {"words": {"modifier": "idf"}}) == (
        made["vectors"],
        made["sparse_vectors"],
    )
    assert {"m": 0, "payload_m": 16} == made["hnsw_config"]
    assert {"type": "keyword", "is_tenant": True} == fields.pop("scope")
    assert {"since", "until", "valid", "names", "kind"} == fields.keys()
    assert [False] * 5 == [schema["enable_hnsw"] for schema in fields.values()]
    assert ["perdure_memory_d1_1-"] == [name[:20] for name in qdrant.collections]


async def test_points_go_over_the_wire_and_back(qdrant: QdrantStandIn) -> None:
    """Points come back from the server as they were put in, are found by meaning and by words, and are deleted."""
    index = await ServerIndex.open(qdrant.url, Letters())
    one = Point(A, "s", 3, FOR_EVER, (0.6, 0.8, *[0.0] * 6), Words((7, 9), (1.0, 0.5)), "episodic", 5, (1, 2))
    two = Point(B, "t", 0, FOR_EVER, (0.0, 1.0, *[0.0] * 6))
    await index.upsert([one, two])
    found = await index.query(one.vector, words=one.words, where=Where("s", 3), limit=9)
    scanned = [*await index.scan(limit=1), *await index.scan(after=A)]
    scored = await index.score(one.vector, words=one.words, where=Where("s", 3), among=[A, B])
    named = await index.named([1, 9], where=Where("s", 3))
    present = await index.present([A, B, "00000000-0000-0000-0000-00000000000c"])
    await index.delete([A])

    assert ([A], [A]) == ([each.version_id for each in found.dense], [each.version_id for each in found.lexical])
    assert (found, {1}, {A, B}, 1) == (scored, named, present, await index.count())
    assert [pytest.approx(each.vector, abs=1e-6) for each in (one, two)] == [each.vector for each in scanned]
    assert [(each.scope, each.since, each.until, each.words, each.names) for each in (one, two)] == [
        (each.scope, each.since, each.until, each.words, each.names) for each in scanned
    ]
    await index.close()


async def test_server_that_is_away_loses_nothing(
    qdrant: QdrantStandIn, database: Database, to_remember: Say, to_recall: Ask
) -> None:
    """While the server is down records are written and recalls say so; once it is back, they find everything."""
    async with open_memory(Settings(index_url=qdrant.url), database, embedder=Letters()) as memory:
        await memory.remember(to_remember("Graz", memory_id="home"))
        await qdrant.stop()
        await memory.remember(to_remember("Wien", memory_id="home"))
        await memory.remember(to_remember("likes tea"))
        with pytest.raises(Unreachable, match=r"does not answer.*PERDURE_INDEX_URL"):
            await memory.recall(to_recall("tea"))
        grown = await _waiting(database)
        await qdrant.start()

        assert {"Wien", "likes tea"} == set((await memory.recall(to_recall("tea"))).texts)
        assert (3, 0) == (grown, await _waiting(database))
        assert (await memory.verify()).sound


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [(503, Unreachable, "answered 503"), (429, Unreachable, "is too busy"), (401, InvalidSettings, "refused us with 401")],
)
async def test_errors_of_the_server_are_named(
    qdrant: QdrantStandIn, status: int, error: type[Exception], said: str
) -> None:
    """A server that is overloaded or that wants a key is told apart: the one is tried again, the other is a setting."""
    index = await ServerIndex.open(qdrant.url, Letters())
    qdrant.fail_with = status

    with pytest.raises(error, match=said):
        await index.count()
    await index.close()


async def test_two_databases_use_one_server(
    qdrant: QdrantStandIn, sqlite_database: Database, postgres_database: Database, to_remember: Say, to_recall: Ask
) -> None:
    """Each database has a collection of its own, so neither finds, drops or lacks anything because of the other."""
    async with sqlite_database.write() as connection:
        await connection.execute(sa.text("UPDATE memory_index SET database_id = 'another'"))
    settings = Settings(index_url=qdrant.url)
    async with (
        open_memory(settings, sqlite_database, embedder=Letters()) as one,
        open_memory(settings, postgres_database, embedder=Letters()) as two,
    ):
        await one.remember(to_remember("Graz"))
        await two.remember(to_remember("Wien"))

        assert [["Graz"], ["Wien"]] == [(await each.recall(to_recall("?"))).texts for each in (one, two)]
        assert [True, True] == [(await each.verify()).sound for each in (one, two)]


async def test_workers_share_a_server(qdrant: QdrantStandIn, database: Database, to_remember: Say, to_recall: Ask) -> None:
    """Two workers with the same server write and recall at once, and the index ends as SQL says."""
    settings = Settings(index_url=qdrant.url)
    async with (
        open_database(database.url) as other,
        open_memory(settings, database, embedder=Letters()) as one,
        open_memory(settings, other, embedder=Letters()) as two,
    ):
        calls = [to_remember(f"order {n}", memory_id=f"order {n % 7}") for n in range(30)]
        await asyncio.gather(*((one, two)[n % 2].remember(call) for n, call in enumerate(calls)))

        for each in (one, two):
            assert 7 == len((await each.recall(to_recall("?", limit=50))).hits)
            assert (await each.verify()).sound
        assert 0 == await _waiting(database)


class _Stopping(Letters):
    """The next embedder, which stops at its second text until it may go on."""

    def __init__(self) -> None:
        super().__init__("2")
        self.stopped, self.go_on, self.embedded = asyncio.Event(), asyncio.Event(), 0

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        self.embedded += len(texts)
        if self.embedded > 1:
            self.stopped.set()
            await self.go_on.wait()
        return await super().embed(texts)


async def test_worker_with_the_old_embedder_is_told(
    qdrant: QdrantStandIn,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    *,
    to_remember: Say,
    to_recall: Ask,
) -> None:
    """Of two workers one gets a new embedder: both recall until it has taken over; then the other has to be started anew.

    What the other one wrote meanwhile, also afterwards, is found.
    """
    settings = Settings(index_url=qdrant.url)

    async def wrote(memory: Memory, *places: str) -> None:
        for place in places:
            await memory.remember(to_remember(place))

    async with open_database(database.url) as second, open_memory(settings, database, embedder=Letters()) as old:
        await wrote(old, "Graz", "Wien", "Linz")
        new = _Stopping()
        async with open_memory(settings, second, embedder=new, previous=Letters()) as memory:
            await new.stopped.wait()
            await wrote(old, "Salzburg")
            amid = [(await each.recall(to_recall("?", limit=9))).texts for each in (old, memory)]
            claim = memory._feed._claim
            assert claim is not None
            serve = claim.activate

            async def late(*arguments: str) -> None:
                await wrote(old, "Villach")  # it tells the old index and nobody else, at the last moment
                await serve(*arguments)

            monkeypatch.setattr(claim, "activate", late)
            new.go_on.set()
            await memory.upgrade(new)
            with pytest.raises(Unreachable, match=r"embedded anew .* PERDURE_EMBEDDER"):
                await old.recall(to_recall("?"))
            await wrote(old, "Bregenz")

            recalled = await memory.recall(to_recall("?", limit=9))
            assert [4, 4, 6] == [len(each) for each in (*amid, recalled.texts)]
            assert "letters 2" in recalled.receipt.index_version
            assert (await memory.verify()).sound
    assert 1 == len(qdrant.collections)

"""Tests of the indexes, embedded and on a server: the same promises, and what is special about each."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from kits.memory import Ask, Plane, Say
from qdrant_client import AsyncQdrantClient

from perdure.errors import IndexOwned, InvalidSettings, Unreachable
from perdure.memory import Memory, MiniLm
from perdure.memory.index import (
    EdgeIndex,
    Index,
    Matches,
    Point,
    ServerIndex,
    Where,
    Words,
)
from perdure.memory.index._shard_process import ShardProcess
from perdure.memory.moments import FOR_EVER
from perdure.storage import Database

A, B, C = (f"00000000-0000-0000-0000-00000000000{n}" for n in "abc")
NO_TIME = timedelta(0)


@pytest.fixture(params=["edge", "server"])
async def index(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Index]:
    """An empty index of two dimensions: once embedded, once through qdrant-client."""
    index: Index
    if request.param == "edge":
        index = await EdgeIndex.open(tmp_path / "index", Plane())
    else:
        index = await ServerIndex.from_client(AsyncQdrantClient(":memory:"), Plane())
    yield index
    await index.close()


def _shard(folder: Path, number: int | None = None) -> Path:
    """Return the one shard in FOLDER, or of several that with NUMBER in their order."""
    shards = sorted(path for path in folder.iterdir() if path.is_dir())
    assert number is not None or len(shards) == 1
    return shards[number or 0]


async def test_nearest_first(index: Index) -> None:
    """A query returns the ids with their cosines, nearest first, up to the limit."""
    await index.upsert(
        [Point(A, "s", 0, FOR_EVER, (1, 0)), Point(B, "s", 0, FOR_EVER, (3, 4)), Point(C, "s", 0, FOR_EVER, (0, 1))]
    )

    found = await index.query((0.0, 2.0), where=Where("s", 1), limit=2)
    assert [C, B] == [near.version_id for near in found.dense]
    assert pytest.approx([1.0, 0.8]) == [near.score for near in found.dense]
    assert [] == found.lexical


async def test_scope_and_moment_decide(index: Index) -> None:
    """A query sees points of its scope, from their first microsecond to the one before their last."""
    since, until = 1_772_366_400_000_000, 1_772_366_400_000_001
    await index.upsert([Point(A, "s", since, until, (1, 0)), Point(B, "other", 0, FOR_EVER, (1, 0))])

    seen = [await index.query((1.0, 0.0), where=Where("s", at), limit=9) for at in (since - 1, since, until)]
    assert [[], [A], []] == [[near.version_id for near in found.dense] for found in seen]


async def test_upsert_replaces(index: Index) -> None:
    """A second point of a version takes the place of the first."""
    await index.upsert([Point(A, "s", 0, FOR_EVER, (1, 0))])
    await index.upsert([Point(A, "s", 0, 5, (0, 1))])

    assert 1 == await index.count()
    assert Matches() == await index.query((1.0, 0.0), where=Where("s", 5), limit=9)


async def test_delete_and_clear(index: Index) -> None:
    """Deleted points are gone, unknown ones are no error, and a cleared index takes new points."""
    await index.upsert([Point(A, "s", 0, FOR_EVER, (1, 0)), Point(B, "s", 0, FOR_EVER, (1, 0))])
    await index.delete([A, C])
    left = await index.present([A, B, C])
    await index.clear()
    await index.upsert([Point(C, "s", 0, FOR_EVER, (1, 0))])

    assert {B} == left
    assert {C} == await index.present([A, B, C])


async def test_nothing_to_do_is_fine(index: Index) -> None:
    """Empty batches are no error."""
    await index.upsert([])
    await index.delete([])

    assert set() == await index.present([])
    assert 0 == await index.count()


async def test_edge_keeps_points_over_a_restart(tmp_path: Path) -> None:
    """An embedded index that is closed and opened has its points, and still filters them."""
    index = await EdgeIndex.open(tmp_path, Plane())
    await index.upsert([Point(A, "s", 0, FOR_EVER, (1, 0)), Point(B, "t", 0, FOR_EVER, (1, 0))])
    await index.close()

    index = await EdgeIndex.open(tmp_path, Plane())
    found = await index.query((1.0, 0.0), where=Where("s", 1), limit=9)
    await index.close()
    assert [A] == [near.version_id for near in found.dense]


async def test_edge_has_one_owner(tmp_path: Path) -> None:
    """A second opener is told which process has the index and what to do."""
    index = await EdgeIndex.open(tmp_path, Plane())

    with pytest.raises(IndexOwned, match=rf"owned by process {os.getpid()}\. Stop .*PERDURE_INDEX_URL"):
        await EdgeIndex.open(tmp_path, Plane(), wait=NO_TIME)
    await index.close()


async def test_edge_of_a_killed_owner_is_free(tmp_path: Path) -> None:
    """An index whose owner was killed opens, with what the owner had put in."""
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNS_UNTIL_KILLED, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert owner.stdout is not None
    assert b"ready\n" == await owner.stdout.readline()
    with pytest.raises(IndexOwned, match=f"process {owner.pid}"):
        await EdgeIndex.open(tmp_path, Plane(), wait=NO_TIME)
    owner.kill()
    await owner.communicate()

    index = await EdgeIndex.open(tmp_path, Plane())
    assert 1 == await index.count()
    await index.close()


OWNS_UNTIL_KILLED = f"""
import asyncio, sys
from pathlib import Path
from perdure.memory.index import EdgeIndex
from perdure.memory.index import Point

class Plane:
    name, version, dimensions = "plane", "1", 2

async def main():
    index = await EdgeIndex.open(Path(sys.argv[1]), Plane())
    await index.upsert([Point("{A}", "s", 0, 9, (1, 0))])
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_edge_makes_a_broken_index_anew(tmp_path: Path) -> None:
    """An index that cannot be read is dropped: SQL fills it again."""
    index = await EdgeIndex.open(tmp_path, Plane())
    await index.upsert([Point(A, "s", 0, FOR_EVER, (1, 0))])
    await index.close()
    (_shard(tmp_path) / "edge_config.json").write_text("{")

    index = await EdgeIndex.open(tmp_path, Plane())
    assert 0 == await index.count()
    await index.close()


async def test_edge_of_another_embedder_starts_empty(tmp_path: Path) -> None:
    """Vectors of another embedder are dropped, for they cannot be compared."""
    index = await EdgeIndex.open(tmp_path, Plane())
    await index.upsert([Point(A, "s", 0, FOR_EVER, (1, 0))])
    await index.close()

    index = await EdgeIndex.open(tmp_path, Plane("2"))
    assert 0 == await index.count()
    await index.close()
    assert _shard(tmp_path).name.startswith("2-")


async def test_edge_that_is_closed_says_so(tmp_path: Path) -> None:
    """A closed index is unreachable, and closing it twice is fine."""
    index = await EdgeIndex.open(tmp_path, Plane())
    await index.close()
    await index.close()

    with pytest.raises(Unreachable, match="is closed"):
        await index.count()


async def test_edge_needs_a_folder_it_can_write(tmp_path: Path) -> None:
    """A folder that cannot be made is a setting to change."""
    (tmp_path / "file").touch()

    with pytest.raises(InvalidSettings, match="PERDURE_HOME"):
        await EdgeIndex.open(tmp_path / "file" / "index", Plane())


async def test_server_index_serves_memory(
    sqlite_database: Database, embedder: MiniLm, to_remember: Say, to_recall: Ask
) -> None:
    """Memory works the same on qdrant-client, and over two starts in one collection."""
    client = AsyncQdrantClient(":memory:")
    first = Memory(sqlite_database, await ServerIndex.from_client(client, embedder), embedder)
    await first.remember(to_remember("Ada moved to Graz", memory_id="home"))
    await first.remember(to_remember("Ada moved to Wien", memory_id="home"))

    second = Memory(sqlite_database, await ServerIndex.from_client(client, embedder), embedder)
    assert ["Ada moved to Wien"] == (await second.recall(to_recall("Where does Ada live?"))).texts
    await second.close()


async def test_server_that_does_not_answer_is_unreachable() -> None:
    """A Qdrant server that is not there is named, with the setting to check."""
    with pytest.raises(Unreachable, match=r"http://127\.0\.0\.1:9 does not answer.*PERDURE_INDEX_URL"):
        await ServerIndex.open("http://127.0.0.1:9", MiniLm.__new__(MiniLm))


async def test_server_url_must_be_one() -> None:
    """Something that is no URL is a setting to change."""
    with pytest.raises(InvalidSettings, match="PERDURE_INDEX_URL"):
        await ServerIndex.open("http://127.0.0.1:nowhere", Plane())


def _record(number: int, *words: int, **fields: Any) -> Point:
    """Return a point of scope s with WORDS."""
    plain: dict[str, Any] = {"scope": "s", "since": 0, "until": FOR_EVER, "vector": (1, number)}
    return Point(_id(number), words=Words(words, (1.0,) * len(words)), **{**plain, **fields})


def _id(number: int) -> str:
    return f"00000000-0000-0000-0000-{number:012}"


async def test_rare_words_count_more(index: Index) -> None:
    """Points that share words come by words, and a rare word is worth more than a frequent one."""
    await index.upsert([_record(1, 7), _record(2, 7), _record(3, 7, 8), _record(4, 9)])

    found = await index.query((1.0, 0.0), words=Words((7, 8), (1.0, 1.0)), where=Where("s", 1), limit=9)
    assert _id(3) == found.lexical[0].version_id
    assert {_id(1), _id(2), _id(3)} == {near.version_id for near in found.lexical}


async def test_words_are_rare_within_the_scope(index: Index) -> None:
    """How often other scopes, or versions of other times, have a word changes nothing."""
    await index.upsert([_record(1, 7), _record(2, 8)])
    asked = Words((7,), (1.0,))
    alone = await index.query((1.0, 0.0), words=asked, where=Where("s", 1), limit=9)
    await index.upsert([_record(3, 7, scope="t"), _record(4, 7, since=2)])

    assert alone == await index.query((1.0, 0.0), words=asked, where=Where("s", 1), limit=9)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"kinds": ("semantic",)}, {2, 3}),
        ({"kinds": ("semantic", "episodic")}, {1, 2, 3}),
        ({"names": (5,)}, {1, 3}),
        ({"names": (5, 6)}, {3}),
        ({"any_names": (5, 6)}, {1, 2, 3}),
        ({"valid_from": 20}, {2, 3}),
        ({"valid_from": 20, "valid_before": 30}, {2}),
        ({"ends_after": 5}, {1, 2, 3, 4}),
    ],
    ids=str,
)
async def test_filters(index: Index, asked: dict[str, Any], found: set[int]) -> None:
    """Kind, words of the subject, validity and the two times of a read limit what is found, by meaning and by words."""
    await index.upsert(
        [
            _record(1, 7, kind="episodic", names=(5,), valid=10),
            _record(2, 7, kind="semantic", names=(6,), valid=20),
            _record(3, 7, kind="semantic", names=(5, 6), valid=30),
            _record(4, 7, until=9),
        ]
    )

    got = await index.query((1.0, 0.0), words=Words((7,), (1.0,)), where=Where("s", 9, **asked), limit=9)
    assert {_id(number) for number in found} == {near.version_id for near in got.dense}
    assert {_id(number) for number in found} == {near.version_id for near in got.lexical}


async def test_scores_of_chosen_ones(index: Index) -> None:
    """Chosen points get the scores that a query gives them, and foreign ones none."""
    await index.upsert([_record(1, 7), _record(2, 7, 8), _record(3, 7, scope="t")])
    asked, where = Words((7, 8), (1.0, 1.0)), Where("s", 1)
    all_of_them = await index.query((1.0, 0.0), words=asked, where=where, limit=9)

    chosen = await index.score((1.0, 0.0), words=asked, where=where, among=[_id(2), _id(3)])
    assert [near for near in all_of_them.dense if near.version_id == _id(2)] == chosen.dense
    assert [near for near in all_of_them.lexical if near.version_id == _id(2)] == chosen.lexical
    assert Matches() == await index.score((1.0, 0.0), words=asked, where=where, among=[])


async def test_which_names_are_known(index: Index) -> None:
    """Of some names those are returned that a visible point of the scope has."""
    await index.upsert([_record(1, names=(5, 6)), _record(2, names=(7,), scope="t"), _record(3, names=(8,), since=9)])

    assert {5} == await index.named([5, 7, 8, 9], where=Where("s", 1))
    assert set() == await index.named([], where=Where("s", 1))


async def test_scan_gives_back_what_went_in(index: Index) -> None:
    """A scan pages through all points in the order of their ids, each as it was put in, its vector made to length 1."""
    points = [_record(n, n, 99, kind="semantic", valid=n, names=(n,), vector=(0.6, 0.8)) for n in range(5)]
    await index.upsert(points[::-1])

    first = await index.scan(limit=3)
    rest = await index.scan(after=first[-1].version_id, limit=3)
    assert points == [replace(point, vector=(0.6, 0.8)) for point in (*first, *rest)]
    assert pytest.approx((0.6, 0.8)) == first[0].vector


async def test_edge_builds_a_fast_copy_while_it_is_used(tmp_path: Path) -> None:
    """Once many points came in a copy takes the place of the shard; what changed meanwhile is in it."""
    index = await EdgeIndex.open(tmp_path, Plane(), optimize_from=300)
    await index.upsert([_record(number, 7) for number in range(300)])
    await index.upsert([_record(number, 7) for number in range(300, 310)])
    await index.delete([_id(0)])
    before = _shard(tmp_path, 0).name
    await index.wait_until_optimized()
    await index.delete([_id(1)])

    assert 308 == await index.count()
    assert 308 == len((await index.query((1.0, 0.0), words=Words((7,), (1.0,)), where=Where("s", 1), limit=999)).lexical)
    assert before != _shard(tmp_path).name
    await index.close()

    index = await EdgeIndex.open(tmp_path, Plane(), optimize_from=300)
    assert 308 == await index.count()
    await index.close()


async def test_edge_outlives_a_killed_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the process is killed that builds the fast copy, the present shard stays, whole, and nothing is left behind."""
    killed = asyncio.Event()
    plain = ShardProcess.call

    async def call(self: ShardProcess, name: str, *arguments: Any) -> Any:
        if name == "optimize":
            os.kill(self.pid, signal.SIGKILL)
            killed.set()
        return await plain(self, name, *arguments)

    monkeypatch.setattr(ShardProcess, "call", call)
    index = await EdgeIndex.open(tmp_path, Plane(), optimize_from=50)
    await index.upsert([_record(number, 7) for number in range(50)])
    await killed.wait()
    await index.wait_until_optimized()

    assert 50 == await index.count()
    assert _shard(tmp_path).is_dir()
    await index.close()


async def test_edge_whose_owner_is_killed_amid_a_build_is_whole(tmp_path: Path) -> None:
    """When everything is killed in the middle of a build, the next owner has every point and drops the half copy."""
    owner = await asyncio.create_subprocess_exec(sys.executable, "-c", DIES_AMID_A_BUILD, str(tmp_path))
    assert -signal.SIGKILL == await owner.wait()
    folders = len([path for path in tmp_path.iterdir() if path.is_dir()])  # noqa: ASYNC240  # a test may block

    index = await EdgeIndex.open(tmp_path, Plane())
    assert (2, 60) == (folders, await index.count())
    assert _shard(tmp_path).is_dir()
    await index.close()


DIES_AMID_A_BUILD = f"""
import asyncio, os, signal, sys
from pathlib import Path
from perdure.memory.index import EdgeIndex
from perdure.memory.index import Point
from perdure.memory.index._shard_process import ShardProcess
class Plane:
    name, version, dimensions = "plane", "1", 2

plain = ShardProcess.call

async def call(self, name, *arguments):
    if name == "optimize":
        os.kill(os.getpid(), signal.SIGKILL)
    return await plain(self, name, *arguments)

async def main():
    ShardProcess.call = call
    index = await EdgeIndex.open(Path(sys.argv[1]), Plane(), optimize_from=60)
    await index.upsert([Point(f"00000000-0000-0000-0000-{{n:012}}", "s", 0, {FOR_EVER}, (1, n)) for n in range(60)])
    await index.wait_until_optimized()

asyncio.run(main())
"""


async def test_edge_starts_its_process_again(tmp_path: Path) -> None:
    """When the process is killed that owns the shard, what waits for it fails, and the next call has everything."""
    index = await EdgeIndex.open(tmp_path, Plane())
    await index.upsert([_record(number, 7) for number in range(20)])
    live = index._live
    assert live is not None
    os.kill(live.pid, signal.SIGSTOP)
    waiting = asyncio.create_task(index.count())
    await asyncio.wait([waiting], timeout=0.01)
    os.kill(live.pid, signal.SIGKILL)

    with pytest.raises(Unreachable, match="has ended"):
        await waiting
    assert 20 == await index.count()
    await index.close()


async def test_edge_caller_that_gives_up_harms_nobody(tmp_path: Path) -> None:
    """A call that is cancelled leaves its answer to nobody, and the next one gets its own."""
    index = await EdgeIndex.open(tmp_path, Plane())
    await index.upsert([_record(1, 7)])
    given_up = asyncio.create_task(index.present([_id(1)]))
    await asyncio.wait([given_up], timeout=0)
    given_up.cancel()

    assert 1 == await index.count()
    await index.close()

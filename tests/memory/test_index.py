"""Tests of the indexes, embedded and on a server: the same promises, and what is special about each."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from memory_kit import Ask, Plane, Say
from qdrant_client import AsyncQdrantClient

from perdure.errors import IndexOwned, InvalidSettings, Unreachable
from perdure.memory import Memory, MiniLm
from perdure.memory.edge import EdgeIndex
from perdure.memory.index import FOR_EVER, Found, Index, Point, Where
from perdure.memory.server import ServerIndex
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
        index = await ServerIndex.over(AsyncQdrantClient(":memory:"), Plane())
    yield index
    await index.close()


def _shard(folder: Path) -> Path:
    """Return the one shard in FOLDER."""
    [shard] = [path for path in folder.iterdir() if path.is_dir()]
    return shard


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
    assert Found() == await index.query((1.0, 0.0), where=Where("s", 5), limit=9)


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
from perdure.memory.edge import EdgeIndex
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
    first = Memory(sqlite_database, await ServerIndex.over(client, embedder), embedder)
    await first.remember(to_remember("Ada moved to Graz", memory_id="home"))
    await first.remember(to_remember("Ada moved to Wien", memory_id="home"))

    second = Memory(sqlite_database, await ServerIndex.over(client, embedder), embedder)
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

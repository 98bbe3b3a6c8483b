"""Tests of how the index follows SQL: after a crash, after a loss, and from nothing."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
from datetime import timedelta
from pathlib import Path

import sqlalchemy as sa
from kits.memory import ADA, Ask, Clock, Say

from perdure.memory import Memory, MiniLm
from perdure.memory.index import EdgeIndex
from perdure.memory.records import records
from perdure.memory.tables import OutboxRow
from perdure.storage import Database, now

DIES_BETWEEN_COMMIT_AND_INDEX = """
import asyncio, os, signal, sys
from datetime import timedelta
from pathlib import Path
from perdure.memory import Memory, MiniLm, records, RememberCall
from perdure.memory.index import EdgeIndex
from perdure.storage import Database, now

class DyingIndex(EdgeIndex):
    async def upsert(self, points):
        os.kill(os.getpid(), signal.SIGKILL)

async def main(url, folder, call):
    embedder = MiniLm()
    index = await DyingIndex.open(Path(folder), embedder)
    await Memory(Database(url), index, embedder).remember(RememberCall.model_validate_json(call))

asyncio.run(main(*sys.argv[1:]))
"""


async def _queued(database: Database) -> int:
    async with database.read() as connection:
        return (await connection.execute(sa.select(sa.func.count()).select_from(OutboxRow))).scalar_one()


async def test_kill_between_commit_and_index_loses_nothing(
    tmp_path: Path, sqlite_database: Database, embedder: MiniLm, to_remember: Say, to_recall: Ask
) -> None:
    """A record whose writer is killed before it told the index is found by the next process; its retry writes nothing."""
    call = to_remember("Ada moved to Graz")
    arguments = [sqlite_database.url, str(tmp_path / "index"), call.model_dump_json()]
    writer = await asyncio.create_subprocess_exec(sys.executable, "-c", DIES_BETWEEN_COMMIT_AND_INDEX, *arguments)
    died = await writer.wait()
    queued = await _queued(sqlite_database)

    index = await EdgeIndex.open(tmp_path / "index", embedder)
    memory = Memory(sqlite_database, index, embedder)
    recall = await memory.recall(to_recall("Where does Ada live?"))
    retried = await memory.remember(call)
    await index.close()

    assert (-signal.SIGKILL, 1, 0) == (died, queued, await _queued(sqlite_database))
    assert (["Ada moved to Graz"], 1) == (recall.texts, retried.version)


async def test_index_that_is_down_loses_nothing(
    tmp_path: Path, database: Database, embedder: MiniLm, to_remember: Say, to_recall: Ask
) -> None:
    """What is remembered while the index does not work is written, and found as soon as it works again."""
    index = await EdgeIndex.open(tmp_path / "index", embedder)
    memory = Memory(database, index, embedder)
    await memory.catch_up()
    await index.close()
    written = await memory.remember(to_remember("Ada moved to Graz"))

    index = await EdgeIndex.open(tmp_path / "index", embedder)
    recall = await Memory(database, index, embedder).recall(to_recall("Where does Ada live?"))
    await index.close()
    assert [written.memory_id] == [memory_id for memory_id, _, _ in recall.receipt.returned]


async def test_writer_that_is_stopped_is_made_up_for(
    sqlite_database: Database, sqlite_memory: Memory, index: EdgeIndex, to_remember: Say
) -> None:
    """A record whose writer was stopped before it told the index is told once the step is tried again."""
    await sqlite_memory.catch_up()
    await sqlite_database.transact(lambda connection: records.write(connection, to_remember("Ada moved to Graz"), now()))
    await sqlite_memory.remember(to_remember("Ada moved to Graz"))

    assert (1, 0) == (await index.count(), await _queued(sqlite_database))


async def test_many_at_once_are_all_found(memory: Memory, index: EdgeIndex, database: Database, to_remember: Say) -> None:
    """Records written at the same time, some of them versions of one memory, all reach the index; the outbox is empty."""
    calls = [to_remember(f"Ada's order {n}", memory_id=f"order {n % 10}") for n in range(40)]
    await asyncio.gather(*(memory.remember(call) for call in calls))

    assert (40, 0) == (await index.count(), await _queued(database))


async def _some_memories(memory: Memory, clock: Clock, to_remember: Say) -> None:
    for number, place in enumerate(["Graz", "Wien", "Linz", "Salzburg", "Bregenz"]):
        await memory.remember(to_remember(f"Ada lives in {place}", memory_id="home"))
        await memory.remember(to_remember(f"Order {number} went to {place}"))
        clock.move(timedelta(hours=1))


async def test_rebuild_gives_the_same_recall(memory: Memory, clock: Clock, to_remember: Say, to_recall: Ask) -> None:
    """An index that is dropped and filled from SQL answers as before, to the last digit of the receipt."""
    await _some_memories(memory, clock, to_remember)
    before = await memory.recall(to_recall("What went to Linz?"))

    assert 10 == await memory.rebuild()
    assert before == await memory.recall(to_recall("What went to Linz?"))


async def test_deleted_folder_gives_the_same_recall(
    tmp_path: Path, sqlite_database: Database, embedder: MiniLm, *, clock: Clock, to_remember: Say, to_recall: Ask
) -> None:
    """Somebody who deletes the index between two starts loses nothing."""
    index = await EdgeIndex.open(tmp_path / "index", embedder)
    memory = Memory(sqlite_database, index, embedder, clock=clock)
    await _some_memories(memory, clock, to_remember)
    before = await memory.recall(to_recall("What went to Linz?"))
    await memory.close()
    shutil.rmtree(tmp_path / "index")

    index = await EdgeIndex.open(tmp_path / "index", embedder)
    memory = Memory(sqlite_database, index, embedder, clock=clock)
    assert before == await memory.recall(to_recall("What went to Linz?"))
    await memory.close()


async def test_lost_points_come_back(
    sqlite_database: Database, index: EdgeIndex, embedder: MiniLm, *, clock: Clock, to_remember: Say, to_recall: Ask
) -> None:
    """Points that the index lost, as after a power cut, are put back at the next start."""
    first = Memory(sqlite_database, index, embedder, clock=clock)
    await _some_memories(first, clock, to_remember)
    before = await first.recall(to_recall("What went to Linz?"))
    await index.delete([hit.record.version_id for hit in before.hits])

    assert before == await Memory(sqlite_database, index, embedder, clock=clock).recall(to_recall("What went to Linz?"))


async def test_erased_record_leaves_the_index(
    sqlite_database: Database, sqlite_memory: Memory, index: EdgeIndex, embedder: MiniLm, to_remember: Say
) -> None:
    """A record that is gone from SQL and stands in the outbox is taken out of the index."""
    written = await sqlite_memory.remember(to_remember("Ada moved to Graz"))
    [record] = await sqlite_memory.history(written.memory_id, ADA)
    async with sqlite_database.write() as connection:
        await connection.execute(sa.text("DELETE FROM memory_record"))
        queued = sa.insert(OutboxRow).values(version_id=record.version_id, queued_at=record.recorded_at)
        await connection.execute(queued)

    await Memory(sqlite_database, index, embedder).catch_up()
    assert 0 == await index.count()

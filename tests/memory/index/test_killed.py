"""A process that is killed while it feeds, copies or swaps its index: the next one has everything, and recalls it."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest
from kits.cli import TESTS, environment
from kits.memory import Ask, Letters

from perdure.memory import open_memory
from perdure.settings import Settings
from perdure.storage import Database

pytestmark = pytest.mark.faults

RECORDS = 90
DIES = """
import asyncio, os, signal, sys
from kits.memory import Letters
from perdure.lineage import Lineage, StepRef
from perdure.memory import Memory, RememberCall, customer
from perdure.memory.index import edge, sync as feeding
from perdure.memory import opening
from perdure.memory.index import Claim
from perdure.memory.index import EdgeIndex
from perdure.memory.index._shard_process import ShardProcess
from perdure.settings import load_settings
from perdure.storage import open_database

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def dying(plain, when, after=False):
    def method(self, *arguments, **named):
        if when(self, *arguments) and not after:
            die()
        done = plain(self, *arguments, **named)
        return then_die(done) if when(self, *arguments) and after else done

    return method

async def then_die(done):
    await done
    die()

def arm(moment):
    if moment == "index told, outbox not":
        feeding._drop = lambda *_: die()
    elif moment == "index half told":
        EdgeIndex.upsert = dying(EdgeIndex.upsert, lambda self, points: len(points) > 9)
    elif moment == "copy half filled":
        ShardProcess.call = dying(ShardProcess.call, lambda self, name, *_: name == "page", after=True)
    elif moment == "copy being optimized":
        ShardProcess.call = dying(ShardProcess.call, lambda self, name, *_: name == "optimize")
    elif moment == "copy not yet named":
        EdgeIndex._point_to = dying(EdgeIndex._point_to, lambda self, name: name.endswith(".2"))
    elif moment == "copy named, old one there":
        edge._remove = lambda *_: die()
    elif moment == "new embedder's not yet named":
        EdgeIndex.hand_over = dying(EdgeIndex.hand_over, lambda self: True)
    elif moment == "new embedder's named, not in SQL":
        EdgeIndex.succeed = dying(EdgeIndex.succeed, lambda self: True, after=True)
    else:
        sys.exit(f"no moment {moment}")

async def main(moment, records):
    copies = moment.startswith("copy")
    plain = EdgeIndex.__init__
    EdgeIndex.__init__ = lambda self, *a, **n: plain(self, *a, **n | {"optimize_from": 60 if copies else 10_000})
    settings = load_settings()
    async with open_database(settings.database) as database:
        async with opening.open_memory(settings, database, embedder=Letters()) as memory:
            arm(moment)
            run = Lineage(namespace="test", workflow_id="killed", first_execution_run_id="1")
            calls = [
                RememberCall(step=StepRef(lineage=run, name=str(n)), scope=customer("ada"), content=f"order {n}")
                for n in range(records)
            ]
            await asyncio.gather(*map(memory.remember, calls))
            if moment.startswith("new"):
                await memory.upgrade(Letters("2"))
            await asyncio.Event().wait()

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


@pytest.mark.parametrize(
    ("moment", "embedder"),
    [
        ("index told, outbox not", Letters()),
        ("index half told", Letters()),
        ("copy half filled", Letters()),
        ("copy being optimized", Letters()),
        ("copy not yet named", Letters()),
        ("copy named, old one there", Letters()),
        ("new embedder's not yet named", Letters("2")),
        ("new embedder's named, not in SQL", Letters("2")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_killed_at(
    tmp_path: Path, sqlite_database: Database, moment: str, embedder: Letters, *, to_recall: Ask
) -> None:
    """Killed at that moment, the next start recalls everything, and index and SQL agree."""
    given = environment("", tmp_path) | {"PYTHONPATH": str(TESTS), "PERDURE_HOME": str(tmp_path)}
    owner = await asyncio.create_subprocess_exec(sys.executable, "-c", DIES, moment, str(RECORDS), env=given)
    assert -signal.SIGKILL == await owner.wait()

    settings = Settings(home=tmp_path)
    async with open_memory(settings, sqlite_database, embedder=embedder, previous=Letters()) as memory:
        found = await memory.recall(to_recall("?", limit=100))
        await memory.upgrade(embedder)
        verified = await memory.verify()
        # Those that the killed process did not come to write are nobody's loss.
        stored = (await memory.stats()).versions
        assert (stored, True, stored) == (len(found.hits), verified.sound, verified.points)
        assert f"letters {embedder.version}" in (await memory.recall(to_recall("?"))).receipt.index_version

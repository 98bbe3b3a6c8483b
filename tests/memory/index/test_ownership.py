"""Tests of which index follows a database: one at a time, and whoever takes over is compared with SQL first."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from kits.memory import ADA, Ask, Letters, Say

from perdure.errors import IndexOwned, Unreachable
from perdure.lineage import StepRef
from perdure.memory import open_memory
from perdure.memory.index import Vector, claim_index
from perdure.memory.records.requests import ForgetCall
from perdure.memory.unindexed import records_only
from perdure.settings import Settings
from perdure.storage import Database, open_database

NO_TIME = timedelta(0)
HOLDERS = """
    SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
    WHERE locktype = 'advisory' AND datname = current_database()
"""


async def test_second_index_is_refused(tmp_path: Path, database: Database, to_remember: Say, to_recall: Ask) -> None:
    """A worker with an index of its own on a database that has one is told where that is, and has changed nothing."""
    async with open_memory(Settings(home=tmp_path / "a"), database, embedder=Letters()) as first:
        async with open_database(database.url) as other:
            with pytest.raises(IndexOwned, match=r"a/index follows it since .*PERDURE_INDEX_URL"):
                async with open_memory(Settings(home=tmp_path / "b"), other, embedder=Letters()):
                    pass
            await records_only(other).remember(to_remember("Graz"))

        assert not (tmp_path / "b").exists()
        assert ["Graz"] == (await first.recall(to_recall("Graz"))).texts
        assert (await first.verify()).sound


async def test_indexes_that_take_turns_lack_nothing(
    tmp_path: Path, database: Database, to_remember: Say, to_recall: Ask, *, step: Callable[[str], StepRef]
) -> None:
    """An index that others stood in for meanwhile has all of it when it is opened again: new, ended and erased records."""
    homes = [Settings(home=tmp_path / name) for name in "ab"]
    async with open_memory(homes[0], database, embedder=Letters()) as memory:
        for place in ("Graz", "Wien", "Linz"):
            await memory.remember(to_remember(place, memory_id=place))
    async with open_memory(homes[1], database, embedder=Letters()) as memory:
        assert 3 == len((await memory.recall(to_recall("?"))).hits)
        # As many points as before, so that counting alone would not tell.
        await memory.forget(ForgetCall(step=step("erase"), scope=ADA, memory_id="Graz", how="erase"))
        await memory.forget(ForgetCall(step=step("expire"), scope=ADA, memory_id="Wien", how="expire"))
        await memory.remember(to_remember("Salzburg"))

    async with open_memory(homes[0], database, embedder=Letters()) as memory:
        assert {"Linz", "Salzburg"} == set((await memory.recall(to_recall("?"))).texts)
        assert (await memory.verify()).sound


async def test_index_from_a_backup_is_told_from_the_one_that_followed(
    tmp_path: Path, sqlite_database: Database, to_remember: Say
) -> None:
    """A folder that is put back as it was some time ago is compared with SQL, and none of it is embedded again."""
    settings, embedder = Settings(home=tmp_path), _Counting()
    async with open_memory(settings, sqlite_database, embedder=embedder) as memory:
        await memory.remember(to_remember("Graz", memory_id="home"))
    shutil.copytree(settings.index_path, tmp_path / "backup")
    async with open_memory(settings, sqlite_database, embedder=embedder) as memory:
        await memory.remember(to_remember("Wien", memory_id="home"))
    shutil.rmtree(settings.index_path)
    shutil.copytree(tmp_path / "backup", settings.index_path)
    embedder.texts.clear()

    async with open_memory(settings, sqlite_database, embedder=embedder) as memory:
        assert ["Wien"] == embedder.texts
        assert (await memory.verify()).sound


class _Counting(Letters):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        self.texts += texts
        return await super().embed(texts)


async def test_owner_that_lost_the_database_says_so(
    tmp_path: Path, postgres_database: Database, to_remember: Say, to_recall: Ask
) -> None:
    """When the server dropped the lock and another index took over, the first one recalls nothing and drops nothing."""
    async with open_memory(Settings(home=tmp_path / "a"), postgres_database, embedder=Letters()) as first:
        await first.remember(to_remember("Graz"))
        async with open_database(postgres_database.url) as other:
            async with other.write() as connection:
                await connection.execute(sa.text(HOLDERS))
            async with open_memory(Settings(home=tmp_path / "b"), other, embedder=Letters()) as second:
                with pytest.raises(Unreachable, match=r"b/index follows this database .* no longer the one in .*a/index"):
                    await first.recall(to_recall("?"))
                written = await first.remember(to_remember("Wien"))

                assert 1 == written.version
                assert {"Graz", "Wien"} == set((await second.recall(to_recall("?"))).texts)
                assert (await second.verify()).sound


async def test_workers_of_one_server_share_the_claim(database: Database) -> None:
    """Processes with the same server claim together, also when they start at once; an index of another kind is refused."""
    url = "http://127.0.0.1:6333"
    async with open_database(database.url) as other, open_database(database.url) as third:
        claims = [claim_index(each, place=url, holder=url, shared=True) for each in (database, other)]
        first, second = await asyncio.gather(*(each.__aenter__() for each in claims))
        with pytest.raises(IndexOwned, match="6333 follows it since"):
            async with claim_index(third, place="here", wait=NO_TIME):
                pass
        await first.activate("g1", "", settled=True)
        await database.query(first.check)
        with pytest.raises(Unreachable, match="embedded anew"):
            await other.query(second.check)
        for each in claims:
            await each.__aexit__(None, None, None)

        async with claim_index(third, place=url, holder=url, shared=True) as again:
            assert (True, "g1", first.database_id) == (again.settled, again.generation, again.database_id)
        async with claim_index(third, place="here") as embedded:
            assert not embedded.settled


async def test_a_recall_amid_our_own_change(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who looks after the next embedder's index was put in force, but before we hear that it was, is not turned away."""
    async with claim_index(database, place="here") as claim:
        change = claim._change

        async def heard_late(*given: Any) -> None:
            await change(*given)
            await database.query(claim.check)

        monkeypatch.setattr(claim, "_change", heard_late)
        await claim.activate("next", "the next one", settled=True)
        await database.query(claim.check)

    assert "next" == claim.generation

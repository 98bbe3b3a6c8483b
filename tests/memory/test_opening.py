"""Tests of what a changed embedder in the settings does: recalls go on with the one before until the new one has it all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from kits import memory as memory_kit
from kits.memory import Ask, Say
from stand_ins.qdrant import qdrant_stand_in

from perdure.errors import InvalidSettings
from perdure.memory import Memory, RecallCall, open_memory
from perdure.memory.index import MiniLm, load_embedder
from perdure.settings import Settings
from perdure.storage import Database

OLD, NEW, GATED = (f"kits.memory:{name}" for name in ("Letters", "Other", "Gated"))


@asynccontextmanager
async def _settings(kind: str, folder: Path) -> AsyncIterator[Settings]:
    if kind == "server":
        async with qdrant_stand_in() as server:
            yield Settings(home=folder, index_url=server.url)
    else:
        yield Settings(home=folder, index_url=":memory:" if kind == "memory" else "")


def _with(settings: Settings, embedder: str) -> Settings:
    return settings.model_copy(update={"embedder": embedder})


async def _swapped(memory: Memory, call: RecallCall, texts: list[str]) -> None:
    """Recall until the new embedder is in use; each answer has to be TEXTS."""
    async with asyncio.timeout(60):
        while True:
            found = await memory.recall(call)
            assert sorted(texts) == sorted(found.texts)
            if "letters 2" in found.receipt.index_version:
                return
            await asyncio.sleep(0)


@pytest.mark.parametrize("kind", ["edge", "server"])
async def test_changed_setting_leaves_no_gap(
    tmp_path: Path,
    sqlite_database: Database,
    monkeypatch: pytest.MonkeyPatch,
    *,
    kind: str,
    to_remember: Say,
    to_recall: Ask,
) -> None:
    """A start with another embedder in the settings recalls at once, with the one before, until the new one has it all."""
    gate, ask = tmp_path / "gate", to_recall("?", limit=100)
    monkeypatch.setenv("TEST_GATE", str(gate))
    async with _settings(kind, tmp_path) as settings:
        async with open_memory(_with(settings, OLD), sqlite_database) as memory:
            for number in range(70):
                await memory.remember(to_remember(f"order {number}"))
            before = (await memory.recall(ask)).texts
        async with open_memory(_with(settings, GATED), sqlite_database) as memory:
            amid = [await memory.recall(ask) for _ in range(3)]
            writing = asyncio.create_task(memory.remember(to_remember("one more")))
            gate.touch()
            await writing
            await _swapped(memory, ask, [*before, "one more"])
            assert (await memory.verify()).sound
        async with open_memory(_with(settings, NEW), sqlite_database) as memory:
            after = await memory.recall(ask)

    assert [sorted(before)] * 3 == [sorted(each.texts) for each in amid]
    assert ["letters 1"] * 3 == [each.receipt.index_version.split(", ")[1] for each in amid]
    assert (71, True) == (len(after.texts), "letters 2" in after.receipt.index_version)


async def test_index_in_memory_is_filled_by_the_new_one(
    sqlite_database: Database, tmp_path: Path, to_remember: Say, to_recall: Ask
) -> None:
    """An index that is gone at the end has nothing to go on with: the start fills it before anybody recalls."""
    settings = Settings(home=tmp_path, index_url=":memory:")
    async with open_memory(_with(settings, OLD), sqlite_database) as memory:
        await memory.remember(to_remember("Graz"))
        await memory.upgrade(await load_embedder(NEW), NEW)
        upgraded = await memory.recall(to_recall("?"))
    async with open_memory(_with(settings, OLD), sqlite_database) as memory:
        back = await memory.recall(to_recall("?"))

    assert ["Graz"] == upgraded.texts == back.texts
    assert ["letters 2", "letters 1"] == [each.receipt.index_version.split(", ")[1] for each in (upgraded, back)]


async def test_embedder_before_that_is_gone_makes_recalls_wait(
    tmp_path: Path, sqlite_database: Database, monkeypatch: pytest.MonkeyPatch, *, to_remember: Say, to_recall: Ask
) -> None:
    """When nobody can load the embedder before, the first recall waits until all is embedded, and lacks nothing."""
    settings = Settings(home=tmp_path)
    async with open_memory(_with(settings, OLD), sqlite_database) as memory:
        await memory.remember(to_remember("Graz"))
    monkeypatch.delattr(memory_kit, "Letters")

    async with open_memory(_with(settings, NEW), sqlite_database) as memory:
        found = await memory.recall(to_recall("?"))
    assert (["Graz"], True) == (found.texts, "letters 2" in found.receipt.index_version)


async def test_embedders_are_loaded_by_name() -> None:
    """The shipped one has a short name, others are classes with or without `load`; what is none is a setting to change."""
    assert isinstance(await load_embedder("minilm"), MiniLm)
    assert isinstance(await load_embedder("perdure.memory.index.embed:MiniLm"), MiniLm)
    assert "2" == (await load_embedder(NEW)).version
    for name, said in {
        "minilm2": "neither 'minilm' nor of the form",
        "no_such_module:A": "cannot be imported",
        "kits.memory:Nobody": "cannot be imported",
        "kits.memory:Clock": "it has no `embed`",
        "kits.memory:Needy": "cannot be made without arguments",
    }.items():
        with pytest.raises(InvalidSettings, match=said):
            await load_embedder(name)

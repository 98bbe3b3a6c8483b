"""Tests of how memory is opened, imported and laid out in SQL."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from kits.memory import Ask, Say

from perdure.errors import Unreachable
from perdure.memory import MiniLm, open_memory
from perdure.settings import Settings
from perdure.storage import Database

HEAVY = ("onnxruntime", "qdrant_client", "qdrant_edge", "tokenizers", "numpy", "sqlalchemy", "sqlmodel")


async def test_opens_in_process_by_default(
    tmp_path: Path,
    sqlite_database: Database,
    embedder: MiniLm,
    to_remember: Say,
    to_recall: Ask,
) -> None:
    """Without a server's URL the index lives under `home`, is given free at the end, and is found again."""
    settings = Settings(home=tmp_path)
    async with open_memory(settings, sqlite_database, embedder=embedder) as memory:
        await memory.remember(to_remember("Ada moved to Graz"))

    async with open_memory(settings, sqlite_database, embedder=embedder) as memory:
        assert ["Ada moved to Graz"] == (await memory.recall(to_recall("Where does Ada live?"))).texts
    assert settings.index_path.is_dir()


async def test_opens_the_server_of_the_settings(sqlite_database: Database, embedder: MiniLm) -> None:
    """With a URL the index is that server's; one that does not answer stops the start."""
    with pytest.raises(Unreachable, match="PERDURE_INDEX_URL"):
        async with open_memory(Settings(index_url="http://127.0.0.1:9"), sqlite_database, embedder=embedder):
            pass


def test_import_is_light() -> None:
    """Importing the room for its contracts loads no model, database or index."""
    program = f"import sys, perdure.memory; print([name for name in {HEAVY!r} if name in sys.modules])"

    assert "[]\n" == subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout


def test_every_name_is_there() -> None:
    """What `__all__` names can be imported, and nothing else comes by the lazy way."""
    room = importlib.import_module("perdure.memory")

    assert all(getattr(room, name) is not None for name in room.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = room.nothing

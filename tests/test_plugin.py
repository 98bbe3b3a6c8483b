"""Tests of plugin.py: what a program gets that uses the plugin with a client and a worker of its own."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import pytest
from temporalio.client import Client
from temporalio.worker import Worker

from perdure.errors import InvalidSettings
from perdure.plugin import PerdurePlugin
from perdure.settings import Settings
from perdure.worker import freeze_gc


async def test_a_worker_that_cannot_open_its_rooms_says_so(temporal_address: str, tmp_path: Path) -> None:
    """`async with Worker(...)` in a program of a user's own raises what is wrong, and does not wait for ever."""
    (tmp_path / "models.toml").write_text("[tasks.triage]\ntier = 'huge'\n")
    plugin = PerdurePlugin(Settings(home=tmp_path, models=tmp_path / "models.toml"))
    client = await Client.connect(temporal_address, plugins=[plugin])

    with pytest.raises(InvalidSettings, match=r"tasks\.triage"):
        async with asyncio.timeout(20), Worker(client, task_queue="never"):
            await asyncio.Event().wait()


async def test_a_worker_says_which_build_it_is_in_short(temporal_address: str, tmp_path: Path) -> None:
    """The build id, which stands in half of all events, has 8 digits; one that is given stays."""
    client = await Client.connect(temporal_address, plugins=[PerdurePlugin(Settings(home=tmp_path))])

    assert 6 == len(str(Worker(client, task_queue="never").config(active_config=True).get("build_id")))
    given = Worker(client, task_queue="never too", build_id="2026-11-23.1").config(active_config=True)
    assert "2026-11-23.1" == given.get("build_id")


async def test_worker_keeps_what_is_loaded_from_the_garbage_collector(temporal_address: str, tmp_path: Path) -> None:
    """Once the rooms are open and LiteLLM is imported, a worker freezes what is there: a full collection is short then."""
    plugin = PerdurePlugin(Settings(home=tmp_path))
    client = await Client.connect(temporal_address, plugins=[plugin])
    try:
        async with Worker(client, task_queue="settles"):
            await freeze_gc(plugin)
            assert gc.get_freeze_count() > len(gc.get_objects())
    finally:
        gc.unfreeze()

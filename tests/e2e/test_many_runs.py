"""Tests that many runs at once do what one does."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import pytest
from kits.toy_workflows import WritesTwice
from temporalio.client import Client
from temporalio.worker import Worker

from perdure.connectors.ledger import Ledger
from perdure.connectors.null import NullConnector
from perdure.plugin import PerdurePlugin
from perdure.settings import Settings
from perdure.storage import open_database


@pytest.mark.faults
async def test_two_hundred_runs_at_once(temporal_address: str, tmp_path: Path) -> None:
    """Two hundred runs of two effects each end, and each effect has happened once, by its target and by the ledger."""
    null = NullConnector()
    settings = Settings(home=tmp_path, task_queue=str(uuid.uuid4()))
    client = await Client.connect(temporal_address, plugins=[PerdurePlugin(settings, connectors=[null])])
    async with Worker(client, task_queue=settings.task_queue, workflows=[WritesTwice]):
        handles = await asyncio.gather(
            *(
                client.start_workflow(WritesTwice.run, 1, id=f"{tmp_path.name}-{number}", task_queue=settings.task_queue)
                for number in range(200)
            )
        )
        keys = [key for pair in await asyncio.gather(*(handle.result() for handle in handles)) for key in pair]

    async with open_database(settings.database) as database:
        recorded = await Ledger(database, {}).list(limit=1000)
    assert dict.fromkeys(keys, 1) == null.effects
    assert 400 == len(null.effects)
    assert sorted((key, "succeeded") for key in keys) == sorted((effect.key, effect.state) for effect in recorded)

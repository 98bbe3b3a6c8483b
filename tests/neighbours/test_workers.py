"""Tests of cases/60-temporal: several workers of one client in a process share the rooms."""

from __future__ import annotations

import uuid

from kits.toy_workflows import Remembers
from neighbours.conftest import Serve
from temporalio.client import Client

from perdure.plugin import PerdurePlugin


async def test_the_last_worker_closes_the_rooms(
    temporal_address: str, plugin: PerdurePlugin, serve: Serve, task_queue: str
) -> None:
    """Two workers of one client start, both serve memory, and the second goes on when the first has ended."""
    client = await Client.connect(temporal_address, plugins=[plugin])
    other = f"{task_queue}-2"
    async with serve(client, Remembers, task_queue=other):
        async with serve(client, Remembers):
            first = await client.execute_workflow(Remembers.run, "parcel", id=str(uuid.uuid4()), task_queue=task_queue)
        second = await client.execute_workflow(Remembers.run, "parcel", id=str(uuid.uuid4()), task_queue=other)

    assert ["parcel"] == list(first)
    assert "parcel" in second

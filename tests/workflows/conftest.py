"""The fixture that opens a governed worker."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from kits.workflows import Governed, OpenWorker
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from perdure.connectors.contracts import Connector
from perdure.connectors.null import NullConnector
from perdure.plugin import PerdurePlugin
from perdure.settings import Settings


@pytest.fixture
def governed(temporal: WorkflowEnvironment, tmp_path: Path) -> OpenWorker:
    """Open a worker for the workflows that a test gives it, on a task queue of its own."""

    @asynccontextmanager
    async def open_worker(
        *workflows: type, settings: dict[str, Any] | None = None, connectors: Sequence[Connector] = ()
    ) -> AsyncIterator[Governed]:
        null = NullConnector()
        given: dict[str, Any] = {"home": tmp_path, "task_queue": str(uuid.uuid4())} | (settings or {})
        chosen = Settings(**given)
        plugin = PerdurePlugin(chosen, connectors=[null, *connectors])
        client = await Client.connect(temporal.client.service_client.config.target_host, plugins=[plugin])
        async with Worker(client, task_queue=chosen.task_queue, workflows=workflows):
            yield Governed(client, chosen, null, chosen.task_queue)

    return open_worker

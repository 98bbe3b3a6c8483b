"""A worker with real rooms for tests of workflow code."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from temporalio.client import Client, WorkflowHandle
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Replayer, Worker

from perdure.connectors.contracts import Connector
from perdure.connectors.null import NullConnector
from perdure.plugin import PerdurePlugin
from perdure.settings import Settings


@dataclass
class Governed:
    """A client, a task queue and what stands behind the worker on it."""

    client: Client
    settings: Settings
    null: NullConnector
    task_queue: str

    async def start(self, workflow: object, given: object, *, id: str | None = None) -> WorkflowHandle[object, object]:
        """Start WORKFLOW, given by class method or name."""
        return await self.client.start_workflow(
            workflow,  # type: ignore[arg-type]  # a run method or a name, as Temporal takes them
            given,
            id=id or str(uuid.uuid4()),
            task_queue=self.task_queue,
        )

    async def null_effects(self, count: int) -> None:
        """Return when COUNT effects have happened at the null connector."""
        while len(self.null.effects) < count:
            await asyncio.sleep(0.02)

    async def replays(self, handle: WorkflowHandle[object, object], workflows: Sequence[type]) -> bool:
        """Say whether the recorded history of HANDLE replays, in a replayer of its own."""
        replayer = Replayer(workflows=workflows, plugins=[PerdurePlugin(self.settings)])
        result = await replayer.replay_workflow(await handle.fetch_history(), raise_on_replay_failure=False)
        return result.replay_failure is None


@pytest.fixture
def governed(temporal: WorkflowEnvironment, tmp_path: Path) -> object:
    """Open a worker for the workflows that a test gives it."""

    @asynccontextmanager
    async def open_worker(
        *workflows: type, settings: dict[str, object] | None = None, connectors: Sequence[Connector] = ()
    ) -> AsyncIterator[Governed]:
        null = NullConnector()
        chosen = Settings(home=tmp_path, task_queue=str(uuid.uuid4()), **(settings or {}))  # type: ignore[arg-type]
        plugin = PerdurePlugin(chosen, connectors=[null, *connectors])
        client = await Client.connect(temporal.client.service_client.config.target_host, plugins=[plugin])
        async with Worker(client, task_queue=chosen.task_queue, workflows=workflows):
            yield Governed(client, chosen, null, chosen.task_queue)

    return open_worker


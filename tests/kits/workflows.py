"""A worker with real rooms, for tests of workflow code."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client, WorkflowHandle, WorkflowHistory
from temporalio.worker import Replayer

from perdure.connectors.ledger.contracts import PARKED, ParkedEffect
from perdure.connectors.null import NullConnector
from perdure.plugin import PerdurePlugin
from perdure.settings import Settings

Handle: TypeAlias = WorkflowHandle[Any, Any]


@dataclass
class Governed:
    """A client, a task queue and what stands behind the worker on it."""

    client: Client
    settings: Settings
    null: NullConnector
    task_queue: str

    async def start(self, workflow: str | Callable[..., Any], given: object, *, id: str | None = None) -> Handle:
        """Start WORKFLOW, given by its run method or its name."""
        name: Any = workflow
        return await self.client.start_workflow(name, given, id=id or str(uuid.uuid4()), task_queue=self.task_queue)

    async def null_effects(self, count: int) -> None:
        """Return when COUNT effects have happened at the null connector."""
        while len(self.null.effects) < count:  # noqa: ASYNC110  the connector only counts
            await asyncio.sleep(0.02)

    async def replays(self, handle: Handle, workflows: Sequence[type]) -> bool:
        """Say whether the recorded history of HANDLE replays, in a replayer of its own."""
        replayer = Replayer(workflows=workflows, plugins=[PerdurePlugin(self.settings)])
        result = await replayer.replay_workflow(await handle.fetch_history(), raise_on_replay_failure=False)
        return result.replay_failure is None


OpenWorker: TypeAlias = Callable[..., AbstractAsyncContextManager[Governed]]


async def reset(client: Client, handle: Handle, event_id: int, *, run_id: str = "") -> Handle:
    """Reset the run of HANDLE, or the one with RUN_ID, to the workflow task that ended with event EVENT_ID."""
    answer = await client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=handle.id, run_id=run_id or handle.result_run_id or ""),
            reason="test",
            workflow_task_finish_event_id=event_id,
            request_id=str(uuid.uuid4()),
        )
    )
    result_type = handle._result_type
    return client.get_workflow_handle(handle.id, run_id=answer.run_id, result_type=result_type)


def task_ends(history: WorkflowHistory) -> list[int]:
    """Return the events to which the run of HISTORY can be reset: the ends of its workflow tasks."""
    return [event.event_id for event in history.events if event.HasField("workflow_task_completed_event_attributes")]


async def parked(handle: Handle, *, since: ParkedEffect | None = None, step: str = "") -> ParkedEffect:
    """Return what the run waits for a person to resolve, as soon as it does: later than SINCE, at STEP."""
    while True:
        found: list[ParkedEffect] = await handle.query(PARKED, result_type=list[ParkedEffect])
        for each in found:
            if (since is None or each.since > since.since) and step in ("", each.step):
                return each
        await asyncio.sleep(0.02)  # a query cannot be waited on

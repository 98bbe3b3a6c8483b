"""Tests that a worker that lets go of runs in the middle of them disturbs nothing."""

from __future__ import annotations

import gc
import uuid
from pathlib import Path
from typing import Any

import pytest
from kits.toy_workflows import Asks, Unwinds
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from perdure.connectors.null import NullConnector
from perdure.plugin import PerdurePlugin
from perdure.settings import Settings
from perdure.workflows import Plan, PlanRun, PlanWorkflow

ASKS_IN_A_PLAN = PlanRun(
    plan=Plan.model_validate({"name": "asks", "steps": [{"id": "a", "approval": "May it?", "of": "x"}]})
)


async def leave_open(client: Client, task_queue: str, ids: list[str]) -> None:
    """Begin a run with each of IDS and end their worker in the way that is worst for them: forgotten, not cancelled."""
    inputs: list[tuple[Any, object]] = [(Asks.run, 1), (Unwinds.run, "wait"), (PlanWorkflow.run, ASKS_IN_A_PLAN)]
    async with Worker(client, task_queue=task_queue, workflows=[Asks, Unwinds], disable_safe_workflow_eviction=True):
        for id, (run, given) in zip(ids, inputs, strict=True):
            handle = await client.start_workflow(run, given, id=id, task_queue=task_queue)
            await handle.query("__stack_trace")


async def test_runs_that_are_dropped_raise_nothing(
    temporal: WorkflowEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs that a worker only forgets are closed by Python; none of our code goes on then, and nothing raises."""
    raised: list[str] = []
    monkeypatch.setattr("sys.unraisablehook", lambda problem: raised.append(repr(problem.exc_value)))
    settings = Settings(home=tmp_path, task_queue=str(uuid.uuid4()))
    plugin = PerdurePlugin(settings, connectors=[NullConnector()])
    client = await Client.connect(temporal.client.service_client.config.target_host, plugins=[plugin])
    ids = [str(uuid.uuid4()) for _ in range(3)]
    await leave_open(client, settings.task_queue, ids)
    gc.collect()

    # The SDK swallows some of what is raised then; an error that went through a frame of ours is still held by its run.
    errors = [each for each in gc.get_objects() if type(each).__name__ == "_NotInWorkflowEventLoopError"]
    assert [] == errors
    assert [] == raised
    for id in ids:
        await client.get_workflow_handle(id).terminate()

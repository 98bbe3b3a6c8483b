"""Tests of cases/60-temporal: runs go on when the plugin comes into a namespace that lives, and when it goes again."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from kits.plain_workflows import Ferry, Fleet
from kits.toy_workflows import WritesTwice
from neighbours.conftest import Serve
from temporalio import workflow
from temporalio.api.enums.v1 import EventType
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleSpec,
    WithStartWorkflowOperation,
    WorkflowHandle,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.worker import (
    ExecuteWorkflowInput,
    Interceptor,
    Replayer,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)

from perdure.connectors.null import NullConnector
from perdure.plugin import PerdurePlugin
from perdure.settings import Settings
from perdure.workflows import attributes

SOON = 0.0001

WITH, WITHOUT = "with", "without"


@pytest.fixture
async def clients(temporal_address: str, plugin: PerdurePlugin) -> dict[str, Client]:
    """A client with the plugin, and one without."""
    return {
        WITH: await Client.connect(temporal_address, plugins=[plugin]),
        WITHOUT: await Client.connect(temporal_address),
    }


async def _begun(handle: WorkflowHandle[Any, Any]) -> None:
    """Return when the run has given its first command."""
    async for event in handle.fetch_history_events(wait_new_event=True):
        if event.event_type in (EventType.EVENT_TYPE_TIMER_STARTED, EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED):
            return


async def _replays(handle: WorkflowHandle[Any, Any], *plugins: PerdurePlugin) -> bool:
    replayer = Replayer(workflows=[Ferry, Fleet, *([WritesTwice] if plugins else [])], plugins=plugins)
    result = await replayer.replay_workflow(await handle.fetch_history(), raise_on_replay_failure=False)
    return result.replay_failure is None


@pytest.mark.parametrize("started", [WITH, WITHOUT])
@pytest.mark.parametrize(("begun", "ended"), [(WITHOUT, WITH), (WITH, WITHOUT)])
async def test_a_run_goes_on(
    clients: dict[str, Client],
    plugin: PerdurePlugin,
    serve: Serve,
    task_queue: str,
    *,
    started: str,
    begun: str,
    ended: str,
) -> None:
    """A run that a worker without the plugin has begun goes on with it, and the other way round, whoever started it."""
    async with serve(clients[begun], Ferry):
        handle = await clients[started].start_workflow(Ferry.run, SOON, id=str(uuid.uuid4()), task_queue=task_queue)
        await _begun(handle)
    async with serve(clients[ended], Ferry):
        await handle.signal(Ferry.call, "ada")

        assert "ada" == await handle.result()
        # The run is over, and is brought back to life by a worker that has not seen it.
    async with serve(clients[ended], Ferry):
        assert "ada" == await handle.query(Ferry.called)
    assert await _replays(handle, *([plugin] if ended == WITH else []))


@pytest.mark.parametrize("worker", [WITH, WITHOUT])
async def test_a_run_that_perdure_has_no_part_in(
    clients: dict[str, Client], plugin: PerdurePlugin, serve: Serve, task_queue: str, *, worker: str
) -> None:
    """A plain run that a plain client starts has the same history with the plugin and without, children included."""
    async with serve(clients[worker], Ferry, Fleet):
        handle = await clients[WITHOUT].start_workflow(Fleet.run, SOON, id=str(uuid.uuid4()), task_queue=task_queue)
        assert "the fleet" == await handle.result()
    events = [event.event_type for event in (await handle.fetch_history()).events]

    assert EventType.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES not in events
    assert EventType.EVENT_TYPE_MARKER_RECORDED not in events
    assert await _replays(handle)
    assert await _replays(handle, plugin)


async def test_a_run_that_takes_steps_of_perdure_is_listed(
    clients: dict[str, Client], plugin: PerdurePlugin, serve: Serve, task_queue: str
) -> None:
    """A plain client's run is listed with its state from its first step of perdure's on, in its continuation too."""
    async with serve(clients[WITH], WritesTwice):
        handle = await clients[WITHOUT].start_workflow("WritesTwice", 0, id=str(uuid.uuid4()), task_queue=task_queue)
        keys: list[str] = await handle.result()
    first = clients[WITHOUT].get_workflow_handle(handle.id, run_id=handle.first_execution_run_id)
    last = await clients[WITHOUT].get_workflow_handle(handle.id).describe()

    assert 2 == len(set(keys))
    assert ("completed", "WritesTwice") == (
        last.typed_search_attributes.get(attributes.STATE),
        last.typed_search_attributes.get(attributes.PLAN),
    )
    assert await _replays(first, plugin)
    assert await _replays(handle, plugin)


class ListsAtOnce(Interceptor):
    """What a worker of 0.1.0 did with each run that no client of perdure's had started."""

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        """Return the interceptor of one run."""
        return _ListsAtOnce


class _ListsAtOnce(WorkflowInboundInterceptor):
    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
        workflow.upsert_search_attributes(
            [attributes.STATE.value_set("running"), attributes.PLAN.value_set(workflow.info().workflow_type)]
        )
        return await super().execute_workflow(input)


async def test_a_run_that_0_1_0_has_begun(
    clients: dict[str, Client], plugin: PerdurePlugin, serve: Serve, task_queue: str
) -> None:
    """A run that a worker of 0.1.0 wrote into the list first of all goes on, and ends in the list as it did."""
    async with serve(clients[WITHOUT], Ferry, interceptors=[ListsAtOnce()]):
        handle = await clients[WITHOUT].start_workflow(Ferry.run, SOON, id=str(uuid.uuid4()), task_queue=task_queue)
        await _begun(handle)
    async with serve(clients[WITH], Ferry):
        await handle.signal(Ferry.call, "ada")

        assert "ada" == await handle.result()
    assert "completed" == (await handle.describe()).typed_search_attributes.get(attributes.STATE)
    assert await _replays(handle, plugin)


async def test_a_run_ends_while_a_handler_waits(
    clients: dict[str, Client], plugin: PerdurePlugin, serve: Serve, task_queue: str
) -> None:
    """A run ends when its `run` returns, as the SDK has it: a handler that may be abandoned is."""
    for client in clients.values():
        async with serve(clients[WITH], Ferry):
            handle = await client.start_workflow(Ferry.run, SOON, id=str(uuid.uuid4()), task_queue=task_queue)
            await _begun(handle)
            await handle.signal(Ferry.board, 60)
            await handle.signal(Ferry.call, "ada")

            assert "ada" == await handle.result()
        assert await _replays(handle, plugin)


async def test_schedules_and_updates_with_start(clients: dict[str, Client], serve: Serve, task_queue: str) -> None:
    """What a schedule or an update starts is listed as well, where the plugin's client has said so."""
    client, id = clients[WITH], str(uuid.uuid4())
    action = ScheduleActionStartWorkflow(Ferry.run, SOON, id=f"scheduled-{id}", task_queue=task_queue)
    schedule = await client.create_schedule(id, Schedule(action=action, spec=ScheduleSpec()))
    async with serve(client, Ferry):
        await schedule.trigger()
        with_start = WithStartWorkflowOperation(
            Ferry.run, SOON, id=f"updated-{id}", task_queue=task_queue, id_conflict_policy=WorkflowIDConflictPolicy.FAIL
        )
        assert "ada" == await client.execute_update_with_start_workflow(
            Ferry.call_at_once, "ada", start_workflow_operation=with_start
        )
        updated = await (await with_start.workflow_handle()).describe()
        while not (runs := [each async for each in client.list_workflows(f"TemporalScheduledById = '{id}'")]):
            pass
    await schedule.delete()

    assert {"PerdureState", "PerdurePlan"} <= {pair.key.name for pair in updated.typed_search_attributes}
    assert "Ferry" == runs[0].typed_search_attributes.get(attributes.PLAN)


async def test_in_a_namespace_that_knows_nothing(namespace: Client, settings: Settings) -> None:
    """The first start in a namespace that no worker of perdure's has seen works, at once, and is listed."""
    plugin = PerdurePlugin(settings, connectors=[NullConnector()])
    client = await Client.connect(
        namespace.service_client.config.target_host, namespace=namespace.namespace, plugins=[plugin]
    )
    handle = await client.start_workflow(Ferry.run, SOON, id=str(uuid.uuid4()), task_queue="nobody's")

    assert "running" == (await handle.describe()).typed_search_attributes.get(attributes.STATE)

"""Tests of the queues that connectors have of their own."""

from __future__ import annotations

import pytest
from kits.toy_workflows import Unwinds, WritesTwice
from kits.workflows import Governed, Handle, OpenWorker
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest

from perdure.errors import InvalidSettings
from perdure.settings import ConnectorQueue, Settings, load_settings


async def test_effects_wait_in_the_queue_of_their_connector(governed: OpenWorker) -> None:
    """A connector's effects and their undoing go through its own queue, and everything else stays in the run's."""
    async with governed(Unwinds, settings={"connectors": {"null": {"queue": "own"}}}) as worker:
        handle = await worker.start(Unwinds.run, "fail")
        with pytest.raises(Exception, match="failed"):
            await handle.result()
        queues = await _queues(handle)

        assert {"perdure.act": f"{worker.task_queue}.null", "perdure.undo": f"{worker.task_queue}.null"} == queues
        assert await worker.replays(handle, [Unwinds])


async def test_without_an_option_they_wait_in_the_runs_own(governed: OpenWorker) -> None:
    """Nothing has a queue of its own by default, and a run that began with one replays without."""
    async with governed(WritesTwice) as worker:
        handle = await worker.start(WritesTwice.run, 1)
        await handle.result()

        assert {"perdure.act": worker.task_queue} == await _queues(handle)


async def test_the_server_knows_the_limit(governed: OpenWorker) -> None:
    """The limit is the server's, for all workers together."""
    async with governed(WritesTwice, settings={"connectors": {"null": {"per_second": "7.5"}}}) as worker:
        await (await worker.start(WritesTwice.run, 1)).result()

        assert {7.5} == await _limits(worker, f"{worker.task_queue}.null")


async def test_history_with_a_queue_replays_without(governed: OpenWorker) -> None:
    """A queue may be given or taken away while runs are on their way: a replay does not look at it."""
    async with governed(WritesTwice, settings={"connectors": {"null": {"queue": "own"}}}) as worker:
        handle = await worker.start(WritesTwice.run, 1)
        await handle.result()
        without = Governed(worker.client, Settings(home=worker.settings.home), worker.null, worker.task_queue)

        assert await without.replays(handle, [WritesTwice])


def test_settings_of_a_queue() -> None:
    """`queue` and `per_second` are for the queue, everything else for the connector; numbers may be numbers."""
    settings = Settings(
        task_queue="desk",
        connectors={
            "shop": {"url": "http://x", "per_second": 5},
            "mail": {"queue": "slow"},
            "bank": {"url": "http://y"},
        },
    )

    assert {"shop": ConnectorQueue("desk.shop", 5.0), "mail": ConnectorQueue("slow")} == settings.connector_queues
    assert {"url": "http://x"} == settings.connector_options("shop")
    assert {} == settings.connector_options("nobody")


@pytest.mark.parametrize("per_second", ["0", "-1", "fast", "nan"])
def test_limit_that_is_none(per_second: str) -> None:
    """A limit is a number above 0."""
    with pytest.raises(InvalidSettings, match="per_second has to be a number above 0"):
        load_settings(connectors={"shop": {"per_second": per_second}})


async def _queues(handle: Handle) -> dict[str, str]:
    return {
        event.activity_task_scheduled_event_attributes.activity_type.name: (
            event.activity_task_scheduled_event_attributes.task_queue.name
        )
        async for event in handle.fetch_history_events()
        if event.HasField("activity_task_scheduled_event_attributes")
    }


async def _limits(worker: Governed, queue: str) -> set[float]:
    described = await worker.client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=worker.client.namespace,
            task_queue=TaskQueue(name=queue),
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
        )
    )
    return {poller.rate_per_second for poller in described.pollers}

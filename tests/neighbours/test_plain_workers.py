"""Tests of cases/60-temporal: what Temporal's own samples do works beside the plugin as it does without it."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest
import temporalio.client
from kits.plain_workflows import Parcel, Pinned, Porter, Waits, carry_bytes, carry_message
from neighbours.conftest import Serve
from temporalio.api.workflowservice.v1 import SetWorkerDeploymentCurrentVersionRequest
from temporalio.client import Client, StartWorkflowInput, WorkflowFailureError, WorkflowHandle
from temporalio.common import WorkerDeploymentVersion
from temporalio.exceptions import CancelledError
from temporalio.service import RPCError
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    ExecuteWorkflowInput,
    Interceptor,
    WorkerDeploymentConfig,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)

from perdure.errors import InvalidSettings
from perdure.plugin import PerdurePlugin

ACTIVITIES = [carry_bytes, carry_message]


@pytest.fixture(params=["with", "without"])
async def client(request: pytest.FixtureRequest, temporal_address: str, plugin: PerdurePlugin) -> Client:
    """A client with the plugin, and one without: both do the same."""
    return await Client.connect(temporal_address, plugins=[plugin] if request.param == "with" else [])


async def test_bytes_and_protobuf(client: Client, serve: Serve, task_queue: str) -> None:
    """Bytes and protobuf messages go through activities and local ones as they are (case 60)."""
    content = bytes(range(256))
    async with serve(client, Porter, activities=ACTIVITIES):
        back = await client.execute_workflow(Porter.run, Parcel(b"abc"), id=str(uuid.uuid4()), task_queue=task_queue)

    assert Parcel(b"abc", 7) == back
    [payload] = await client.data_converter.encode([content])
    assert (b"binary/plain", content) == (payload.metadata["encoding"], payload.data)


async def test_cancellation(client: Client, serve: Serve, task_queue: str) -> None:
    """A cancelled workflow tidies up and ends as cancelled (case 60)."""
    async with serve(client, Waits, activities=ACTIVITIES):
        handle = await client.start_workflow(Waits.run, id=str(uuid.uuid4()), task_queue=task_queue)
        await handle.cancel()
        with pytest.raises(WorkflowFailureError) as ended:
            await handle.result()
    events = [event async for event in handle.fetch_history_events()]

    assert isinstance(ended.value.cause, CancelledError)
    assert 1 == sum(event.HasField("activity_task_completed_event_attributes") for event in events)


async def test_pinned_versions(client: Client, serve: Serve, task_queue: str) -> None:
    """A worker deployment with pinned workflows runs them under its version (case 60)."""
    version = WorkerDeploymentVersion(deployment_name=f"desk-{uuid.uuid4()}", build_id="build-1")
    deployment = WorkerDeploymentConfig(version=version, use_worker_versioning=True)
    async with serve(client, Pinned, deployment_config=deployment):
        await _make_current(client, version)
        built = await client.execute_workflow(Pinned.run, id=str(uuid.uuid4()), task_queue=task_queue)

    assert "build-1" == built


async def test_a_workflow_that_says_nothing_of_versions_is_refused(client: Client, serve: Serve) -> None:
    """A worker with versions wants to know what each workflow of its user does about a new one (case 60)."""
    version = WorkerDeploymentVersion(deployment_name="desk", build_id="build-1")
    deployment = WorkerDeploymentConfig(version=version, use_worker_versioning=True)

    with pytest.raises((ValueError, InvalidSettings), match=r"orkflow Waits .*versioning_behavior"):
        async with serve(client, Pinned, Waits, deployment_config=deployment, activities=ACTIVITIES):
            pass


async def _make_current(client: Client, version: WorkerDeploymentVersion) -> None:
    """Have the server give new runs to VERSION, as soon as it has heard of it."""
    request = SetWorkerDeploymentCurrentVersionRequest(
        namespace=client.namespace, deployment_name=version.deployment_name, build_id=version.build_id
    )
    while True:
        try:
            await client.workflow_service.set_worker_deployment_current_version(request)
        except RPCError:
            await asyncio.sleep(0.05)  # the server cannot be waited for
        else:
            return


class Notes(Interceptor, temporalio.client.Interceptor):
    """An interceptor of the client and its workers that writes down what passes it."""

    def __init__(self, name: str, book: list[str]) -> None:
        self.name, self.book = name, book

    def intercept_client(self, next: temporalio.client.OutboundInterceptor) -> temporalio.client.OutboundInterceptor:
        """Note starts."""
        notes = self

        class Outbound(temporalio.client.OutboundInterceptor):
            async def start_workflow(self, input: StartWorkflowInput) -> WorkflowHandle[Any, Any]:
                notes.book.append(f"{notes.name} starts")
                return await super().start_workflow(input)

        return Outbound(next)

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """Note activities."""
        notes = self

        class Inbound(ActivityInboundInterceptor):
            async def execute_activity(self, input: ExecuteActivityInput) -> Any:
                notes.book.append(f"{notes.name} acts")
                return await super().execute_activity(input)

        return Inbound(next)

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        """Note runs."""
        notes = self

        class Inbound(WorkflowInboundInterceptor):
            async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
                notes.book.append(f"{notes.name} runs")
                return await super().execute_workflow(input)

        return Inbound


async def test_interceptors_around(temporal_address: str, plugin: PerdurePlugin, serve: Serve, task_queue: str) -> None:
    """Interceptors of the client and of the worker see what they saw without the plugin, in the same order (case 60)."""
    seen: dict[str, list[str]] = {}
    for name, plugins in (("with", [plugin]), ("without", [])):
        book = seen.setdefault(name, [])
        client = await Client.connect(temporal_address, plugins=plugins, interceptors=[Notes("client", book)])
        async with serve(
            client, Porter, activities=ACTIVITIES, interceptors=[Notes("worker", book)], max_cached_workflows=100
        ):
            await client.execute_workflow(Porter.run, Parcel(b"a"), id=str(uuid.uuid4()), task_queue=task_queue)

    assert seen["without"] == seen["with"]
    assert {"client starts", "client runs", "worker runs", "client acts", "worker acts"} == set(seen["with"])

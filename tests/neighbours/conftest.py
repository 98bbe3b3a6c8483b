"""Workers and clients as a program that lives has them, with perdure beside what they have, or without it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from google.protobuf.duration_pb2 import Duration
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.worker import Worker

from perdure.connectors.null import NullConnector
from perdure.plugin import PerdurePlugin
from perdure.settings import Settings

Connect: TypeAlias = Callable[..., Any]
Serve: TypeAlias = Callable[..., AbstractAsyncContextManager[Worker]]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The settings of a desk of this test's own."""
    return Settings(home=tmp_path)


@pytest.fixture
def null() -> NullConnector:
    """The connector of the desk."""
    return NullConnector()


@pytest.fixture
def plugin(settings: Settings, null: NullConnector) -> PerdurePlugin:
    """Perdure."""
    return PerdurePlugin(settings, connectors=[null])


@pytest.fixture
def task_queue() -> str:
    """A task queue of this test's own."""
    return str(uuid.uuid4())


@pytest.fixture
def serve(task_queue: str) -> Serve:
    """Serve workflows with a client's worker, on this test's queue."""

    @asynccontextmanager
    async def serve(client: Client, *workflows: type, **options: Any) -> AsyncIterator[Worker]:
        async with Worker(client, **{"task_queue": task_queue, "workflows": workflows, **options}) as worker:
            yield worker

    return serve


@pytest.fixture
async def namespace(temporal_address: str) -> Client:
    """A client of a namespace that is new, and that knows no search attribute of perdure's."""
    client = await Client.connect(temporal_address, namespace=f"new-{uuid.uuid4()}")
    await client.workflow_service.register_namespace(
        RegisterNamespaceRequest(
            namespace=client.namespace, workflow_execution_retention_period=Duration(seconds=24 * 60 * 60)
        )
    )
    return client

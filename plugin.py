"""What turns any Temporal client, worker and replayer into a governed one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import temporalio.client
from temporalio.client import StartWorkflowInput, WorkflowHandle, WorkflowHistory
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.plugin import SimplePlugin
from temporalio.worker import Replayer, Worker, WorkerConfig, WorkflowReplayResult, WorkflowRunner
from temporalio.worker._worker import load_default_build_id
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from perdure.activities import StepActivities
from perdure.activities.batches import BatchActivities
from perdure.activities.boundary import Boundary
from perdure.activities.conversation import ConversationActivities
from perdure.activities.maintenance import MaintenanceActivities
from perdure.activities.memories import MemoryActivities
from perdure.activities.queues import serve_queues
from perdure.activities.rooms import Rooms
from perdure.errors import PerdureError
from perdure.governance.payloads import LazyDatabase, data_converter
from perdure.sandbox import CompilingSandbox
from perdure.settings import Settings, load_settings
from perdure.visibility import ensure_search_attributes
from perdure.workflows import PlanWorkflow, attributes
from perdure.workflows.batches import WORKFLOWS as BATCHES
from perdure.workflows.governed import GovernedRuns
from perdure.workflows.maintenance import WORKFLOWS as MAINTENANCE
from perdure.workflows.queues import ConnectorQueues

if TYPE_CHECKING:
    from perdure.connectors.contracts import Connector

log = structlog.get_logger(__name__)

TASK_TIMEOUT = timedelta(seconds=2)
"""How long a worker may take over a workflow task before another gets it: what a kill -9 costs a run between steps."""

# What workflow code may share with the worker process instead of importing it anew for each run.
PASSED_THROUGH = (
    "perdure",
    "pydantic",
    "pydantic_core",
    "annotated_types",
    "cel",
    "re2",
    "rfc8785",
    "structlog",
    "sqlmodel",
    "sqlalchemy",
    "jsonschema",
    "jsonschema_specifications",
    "referencing",
    "rpds",
    "regex",
    "idna",
    "httpx",
    "litellm",
)


class PerdurePlugin(SimplePlugin):
    """Pass it to `Client.connect(plugins=[...])`; workers of that client inherit it. A Replayer needs it again.

    CONNECTORS are what the worker's effects go through; ROUTES are routing files besides `settings.models`, which
    goes before them; PASS_THROUGH names modules of pydantic models that workflow code should share with the worker.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        connectors: Sequence[Connector] = (),
        routes: Sequence[Path] = (),
        pass_through: Sequence[str] = (),
    ) -> None:
        self.settings = settings or load_settings()
        self._connectors = list(connectors)
        self._pass_through = tuple(pass_through)
        self._database = LazyDatabase(self.settings)
        self.rooms = Rooms(self.settings, connectors=self._connectors, routes=routes, database=self._database)
        steps = StepActivities(self.rooms)
        self._effects: list[Callable[..., object]] = [steps.act, steps.undo, steps.settle]
        super().__init__(
            "perdure.PerdurePlugin",
            data_converter=lambda _: data_converter(self.settings, self._database),
            interceptors=[
                StartInterceptor(),
                GovernedRuns(),
                ConnectorQueues({name: queue.name for name, queue in self.settings.connector_queues.items()}),
                Boundary(),
            ],
            activities=[
                *steps.all(),
                *ConversationActivities(self.rooms, steps).all(),
                *MaintenanceActivities(self.rooms).all(),
                *MemoryActivities(self.rooms).all(),
                *BatchActivities(self.rooms).all(),
            ],
            workflows=[PlanWorkflow, *MAINTENANCE, *BATCHES],
            workflow_runner=self._sandbox_runner,
            workflow_failure_exception_types=[PerdureError],
        )

    def configure_worker(self, config: WorkerConfig) -> WorkerConfig:
        """Add perdure's parts, and options that make a worker quick to recover and to fan out, unless they were given."""
        config = super().configure_worker(config)
        if config.get("max_eager_activity_reservations_per_workflow_task") == 3:
            config["max_eager_activity_reservations_per_workflow_task"] = 20
        if config.get("sticky_queue_schedule_to_start_timeout") == timedelta(seconds=10):
            config["sticky_queue_schedule_to_start_timeout"] = TASK_TIMEOUT
        if config.get("max_concurrent_activities") is None and config.get("tuner") is None:
            config["max_concurrent_activities"] = self.settings.activity_slots
            config["max_concurrent_workflow_tasks"] = self.settings.workflow_slots
        if not (config.get("build_id") or config.get("deployment_config") or config.get("use_worker_versioning")):
            # The SDK's own, which stands in half of all events, at a fifth of its length.
            config["build_id"] = load_default_build_id()[:6]
        return config

    async def run_worker(self, worker: Worker, next: Callable[[Worker], Awaitable[None]]) -> None:
        """Register the search attributes that the namespace lacks, open the rooms, run WORKER, close the rooms."""
        try:
            added = await ensure_search_attributes(worker.client)
            if added:
                log.info("search attributes registered", names=added, namespace=worker.client.namespace)
            async with self.rooms.use(), self._serving_queues(worker):
                await next(worker)
        finally:
            # The SDK's `async with Worker(...)` waits for this before it raises what went wrong, and a worker whose rooms
            # do not open never comes to set it.
            worker._shutdown_complete_event.set()  # noqa: SLF001  there is no public way; tests/test_plugin.py watches it

    @asynccontextmanager
    async def run_replayer(
        self,
        replayer: Replayer,
        histories: AsyncIterator[WorkflowHistory],
        next: Callable[
            [Replayer, AsyncIterator[WorkflowHistory]],
            AbstractAsyncContextManager[AsyncIterator[WorkflowReplayResult]],
        ],
    ) -> AsyncIterator[AsyncIterator[WorkflowReplayResult]]:
        """Replay without any room: only large payloads are read from the database."""
        try:
            async with next(replayer, histories) as results:
                yield results
        finally:
            await self.close()

    async def close(self) -> None:
        """Close what a client without a worker has opened."""
        await self._database.close()

    def _serving_queues(self, worker: Worker) -> AbstractAsyncContextManager[None]:
        ours = {connector.name for connector in self._connectors}
        return serve_queues(self.settings.connector_queues, ours, worker, self._effects)

    def _sandbox_runner(self, existing: WorkflowRunner | None) -> WorkflowRunner:
        if not isinstance(existing, SandboxedWorkflowRunner):
            return existing or CompilingSandbox()
        restrictions = existing.restrictions.with_passthrough_modules(*PASSED_THROUGH, *self._pass_through)
        return replace(CompilingSandbox.of(existing), restrictions=restrictions)


class StartInterceptor(temporalio.client.Interceptor):
    """The client interceptor: runs start with perdure's state in the list and a short workflow task timeout."""

    def intercept_client(self, next: temporalio.client.OutboundInterceptor) -> temporalio.client.OutboundInterceptor:
        """Put it before NEXT."""
        return _Start(next)


class _Start(temporalio.client.OutboundInterceptor):
    async def start_workflow(self, input: StartWorkflowInput) -> WorkflowHandle[object, object]:
        if input.task_timeout is None:
            input.task_timeout = TASK_TIMEOUT
        if input.search_attributes is None or isinstance(input.search_attributes, TypedSearchAttributes):
            given = list(input.search_attributes.search_attributes) if input.search_attributes else []
            named = {pair.key.name for pair in given}
            ours: list[SearchAttributePair[str]] = [
                SearchAttributePair(attributes.STATE, "running"),
                SearchAttributePair(attributes.PLAN, input.workflow),
            ]
            input.search_attributes = TypedSearchAttributes(
                [*given, *(pair for pair in ours if pair.key.name not in named)]
            )
        return await super().start_workflow(input)

"""What turns any Temporal client, worker and replayer into a governed one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from temporalio import workflow
from temporalio.client import ClientConfig, WorkflowHistory
from temporalio.common import VersioningBehavior
from temporalio.converter import DataConverter
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
from perdure.errors import InvalidSettings, PerdureError
from perdure.governance.converter import build_data_converter, is_private
from perdure.governance.payloads import LazyDatabase
from perdure.sandbox import CompilingSandbox
from perdure.settings import Settings, load_settings
from perdure.visibility import TASK_TIMEOUT, Namespace, StartInterceptor, ensure_search_attributes
from perdure.workflows import PlanWorkflow
from perdure.workflows.batches import WORKFLOWS as BATCHES
from perdure.workflows.governed import GovernedRuns
from perdure.workflows.maintenance import WORKFLOWS as MAINTENANCE
from perdure.workflows.queues import ConnectorQueues

if TYPE_CHECKING:
    from perdure.connectors.contracts import Connector

log = structlog.get_logger(__name__)

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


OWN_WORKFLOWS: Sequence[type] = [PlanWorkflow, *MAINTENANCE, *BATCHES]
"""What every worker serves besides those of its user."""


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
        self._runs = GovernedRuns()
        self._effects: list[Callable[..., object]] = [steps.act, steps.undo, steps.settle]
        super().__init__(
            "perdure.PerdurePlugin",
            data_converter=self._data_converter,
            interceptors=[
                self._runs,
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
            workflows=OWN_WORKFLOWS,
            workflow_runner=self._sandbox_runner,
            workflow_failure_exception_types=[PerdureError],
        )

    def configure_client(self, config: ClientConfig) -> ClientConfig:
        """Add perdure's parts to what the client has. Raises `InvalidSettings` where the two cannot both hold."""
        config = super().configure_client(config)
        others = [each for each in config.get("interceptors", ()) if not isinstance(each, StartInterceptor)]
        start = StartInterceptor(Namespace(config["service_client"].operator_service, config["namespace"]))
        config["interceptors"] = [*others, start]
        return config

    def configure_worker(self, config: WorkerConfig) -> WorkerConfig:
        """Add perdure's parts, and options that make a worker quick to recover and to fan out, unless they were given."""
        config = super().configure_worker(config)
        _let_ours_be_versioned(config)
        client = config.get("client")
        self._runs.private = client is not None and is_private(client.data_converter)
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
            self._runs.beginnings.read_by(worker.client)
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
            async with next(replayer, self._runs.beginnings.note(histories)) as results:
                yield results
        finally:
            await self.close()

    async def close(self) -> None:
        """Close what a client without a worker has opened."""
        await self._database.close()

    def _serving_queues(self, worker: Worker) -> AbstractAsyncContextManager[None]:
        ours = {connector.name for connector in self._connectors}
        return serve_queues(self.settings.connector_queues, ours, worker, self._effects)

    def _data_converter(self, existing: DataConverter | None) -> DataConverter:
        return build_data_converter(self.settings, self._database, around=existing or DataConverter.default)

    def _sandbox_runner(self, existing: WorkflowRunner | None) -> WorkflowRunner:
        if not isinstance(existing, SandboxedWorkflowRunner):
            return existing or CompilingSandbox()
        restrictions = existing.restrictions.with_passthrough_modules(*PASSED_THROUGH, *self._pass_through)
        return replace(CompilingSandbox.of(existing), restrictions=restrictions)


def _let_ours_be_versioned(config: WorkerConfig) -> None:
    """Have perdure's own workflows move on to new versions of a worker that pins or moves those of its user.

    They say nothing of versions themselves, for a server refuses that of workers that have none. Raises `InvalidSettings`
    for a workflow of the user's that says nothing either: the SDK no longer sees that once there is a default.
    """
    deployment = config.get("deployment_config")
    unspecified = VersioningBehavior.UNSPECIFIED
    if not (deployment and deployment.use_worker_versioning and deployment.default_versioning_behavior == unspecified):
        return
    for each in config.get("workflows", ()):
        found = workflow._Definition.must_from_class(each)  # noqa: SLF001  what the SDK itself looks at
        silent = found.versioning_behavior in (None, unspecified) and not found.dynamic_config_fn
        if silent and each not in OWN_WORKFLOWS:
            raise InvalidSettings(
                f"workflow {found.name} does not say what a new version of its worker means for it: give "
                "@workflow.defn a versioning_behavior, or the worker's deployment_config a default"
            )
    config["deployment_config"] = replace(deployment, default_versioning_behavior=VersioningBehavior.AUTO_UPGRADE)

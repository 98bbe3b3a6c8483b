"""Whether a worker is there, and having one do something for a command: a workflow is started, and its result awaited."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from perdure.commands.session import Session, terminal_user
from perdure.errors import PerdureError, Unreachable, by_name

if TYPE_CHECKING:
    from pydantic import BaseModel
    from temporalio.client import Client, WorkflowFailureError, WorkflowHandle

T = TypeVar("T", bound="BaseModel")

NO_WORKER_AFTER = 10.0
"""After how many seconds without a worker the user is told."""

PATIENCE = timedelta(minutes=5)
"""How long a worker may take before a command stops waiting; the run goes on."""


async def run_on_worker(
    session: Session, workflow: str, name: str, call: BaseModel, result: type[T], *, patience: timedelta | None = None
) -> T:
    """Return what WORKFLOW, started with CALL, comes to. Raises `Unreachable` if no worker is there.

    After PATIENCE the run is given up; without it the command stops waiting after a while, and the run goes on.
    """
    from temporalio.client import WorkflowFailureError

    await require_worker(session)
    handle: WorkflowHandle[object, T] = await session.client.start_workflow(
        workflow,
        call,
        id=f"{workflow.removeprefix('perdure.').replace('_', '-')}-{name}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}",
        task_queue=session.settings.task_queue,
        result_type=result,
        static_summary=f"{name}, started by {terminal_user()}",
        execution_timeout=patience,
    )
    try:
        async with asyncio.timeout((patience or PATIENCE).total_seconds()):
            return await handle.result()
    except TimeoutError:
        if patience is not None:
            raise Unreachable(
                f"no worker on task queue {session.settings.task_queue!r} answered within "
                f"{patience.total_seconds():.0f} s. Look whether one runs: `perdure doctor`"
            ) from None
        raise Unreachable(f"it still runs after {PATIENCE}: `perdure show {handle.id}`") from None
    except WorkflowFailureError as failure:
        raise error_of(failure) from None


def error_of(failure: WorkflowFailureError) -> PerdureError:
    """Return the error of perdure that made a run fail, so that the command ends with the code for it."""
    from temporalio.exceptions import ApplicationError

    cause: BaseException | None = failure.cause
    while cause is not None and not isinstance(cause, ApplicationError):
        cause = cause.__cause__
    if cause is None:
        return PerdureError(f"{failure.cause}")
    return (by_name(cause.type or "") or PerdureError)(cause.message)


async def require_worker(session: Session) -> None:
    """Raise `Unreachable` if no worker polls the task queue of the settings."""
    if await last_poll(session.client, session.settings.task_queue) is None:
        raise Unreachable(await explain_no_worker(session.client, session.settings.task_queue))


async def explain_no_worker(client: Client, task_queue: str) -> str:
    """Return what to tell a user whose run no worker takes from TASK_QUEUE."""
    seen = await last_poll(client, task_queue)
    start = "Start one with `perdure worker MODULES`, or `perdure dev MODULES`"
    if seen is None:
        return f"no worker polls task queue {task_queue!r}. {start}; the run waits until then."
    ago = int((datetime.now(UTC) - seen).total_seconds())
    return (
        f"no worker has taken the run from task queue {task_queue!r} for {NO_WORKER_AFTER:.0f} s; one was last seen {ago} "
        f"s ago. {start} if it is gone; the run waits until then."
    )


async def last_poll(client: Client, task_queue: str) -> datetime | None:
    """Return when a worker last asked for work on TASK_QUEUE; None if none did in the last minutes."""
    from temporalio.api.enums.v1 import TaskQueueType
    from temporalio.api.taskqueue.v1 import TaskQueue
    from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest

    described = await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=client.namespace,
            task_queue=TaskQueue(name=task_queue),
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
        )
    )
    seen = [poller.last_access_time.ToDatetime(tzinfo=UTC) for poller in described.pollers]
    return max(seen, default=None)

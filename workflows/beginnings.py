"""Whether a run that no client of perdure's has started was begun by a worker of 0.1.0. Remove after 2027-06.

Such a worker wrote the run's state into the list first of all, in every run. Now a run that takes no step of perdure's is
left as it would be without the plugin. Which of the two a run is that is replayed stands in its history only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

from temporalio import workflow
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflowservice.v1 import GetWorkflowExecutionHistoryRequest
from temporalio.client import Client, WorkflowHistory

from perdure.workflows.attributes import STATE

_ENOUGH = 16
"""So many events reach past the first workflow task."""
_REMEMBERED = 10_000
_PATIENCE = timedelta(seconds=1.5)
"""Less than what the SDK takes for a deadlock."""


class HistoryUnreadable(BaseException):
    """Fails the workflow task, which is tried again, and never the run, whatever the worker takes for a failure of it."""


class Beginnings:
    """What the histories of the runs begin with that a worker, or a replayer, brings back to life."""

    def __init__(self) -> None:
        self._readers: dict[str, tuple[Client, asyncio.AbstractEventLoop]] = {}
        self._known: dict[str, bool] = {}

    def read_by(self, client: Client) -> None:
        """Have CLIENT read the histories of its namespace from now on, in this event loop."""
        self._readers[client.namespace] = client, asyncio.get_running_loop()

    async def note(self, histories: AsyncIterator[WorkflowHistory]) -> AsyncIterator[WorkflowHistory]:
        """Yield HISTORIES, and know them before they are replayed."""
        async for history in histories:
            started = history.events[0].workflow_execution_started_event_attributes if history.events else None
            if started is not None:
                self._note(started.original_execution_run_id, begins_with_state(history.events))
            yield history

    def has_state(self) -> bool:
        """Say whether the history of the run that is replayed begins with its state. Call it from workflow code."""
        info = workflow.info()
        known = self._known.get(info.run_id)
        if known is not None:
            return known
        if info.namespace not in self._readers:
            return False
        client, loop = self._readers[info.namespace]
        # A run's first events never change, so this is the same in each replay. There is no other way to them from here.
        reading = asyncio.run_coroutine_threadsafe(_first_events(client, info.workflow_id, info.run_id), loop)
        try:
            events = reading.result(_PATIENCE.total_seconds())
        except Exception as error:
            reading.cancel()
            raise HistoryUnreadable(f"the history of {info.workflow_id} cannot be read: {error}") from error
        return self._note(info.run_id, begins_with_state(events))

    def _note(self, run_id: str, known: bool) -> bool:
        self._known[run_id] = known
        if len(self._known) > _REMEMBERED:
            del self._known[next(iter(self._known))]
        return known


def begins_with_state(events: Sequence[HistoryEvent]) -> bool:
    """Say whether the first command in EVENTS writes the run's state into the list."""
    ended = next((at for at, event in enumerate(events) if event.event_type == _TASK_COMPLETED), None)
    if ended is None or ended + 1 >= len(events):
        return False
    return (
        STATE.name in events[ended + 1].upsert_workflow_search_attributes_event_attributes.search_attributes.indexed_fields
    )


_TASK_COMPLETED = EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED


async def _first_events(client: Client, workflow_id: str, run_id: str) -> Sequence[HistoryEvent]:
    answer = await client.workflow_service.get_workflow_execution_history(
        GetWorkflowExecutionHistoryRequest(
            namespace=client.namespace,
            execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id),
            maximum_page_size=_ENOUGH,
        )
    )
    return answer.history.events

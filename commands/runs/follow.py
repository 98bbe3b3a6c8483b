"""A run while it goes on: its events as they come, and what is said when nothing comes."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from perdure.commands import on_worker
from perdure.errors import InvalidInput, Unreachable

if TYPE_CHECKING:
    from temporalio.api.history.v1 import HistoryEvent
    from temporalio.client import Client, WorkflowExecutionDescription
    from temporalio.service import RPCStatusCode

    from perdure.commands.session import Session
    from perdure.timetravel.contracts import Step, Timeline

LOOK_AFTER = 1.0
"""After how many seconds without an event the run is looked at."""

_UNKNOWN = re.compile(r"Workflow class (\S+) is not registered on this worker, available workflows: (.*)")


class View(Protocol):
    """What shows a run that goes on."""

    def changed(self, step: Step) -> None:
        """Show that STEP began or changed."""
        ...

    def update(self, timeline: Timeline) -> None:
        """Show how the run as a whole stands."""
        ...

    def note(self, message: str) -> None:
        """Tell the user MESSAGE."""
        ...


async def follow(session: Session, workflow_id: str, run_id: str, view: View, *, until: float | None = None) -> Timeline:
    """Show the run and its continuations in VIEW until it has ended or the monotonic time is UNTIL; return the timeline.

    Raises `UnknownWorkflow` if no worker knows its workflow type, `Unreachable` if the server is lost for long.
    """
    while True:
        timeline = await _Follower(session, workflow_id, run_id, view).run(until)
        if timeline.run.state == "running" or not timeline.run.continued_to:
            return timeline
        run_id = timeline.run.continued_to


class _Follower:
    def __init__(self, session: Session, workflow_id: str, run_id: str, view: View) -> None:
        from perdure.timetravel.timeline import TimelineBuilder

        self._client = session.client
        self._handle = session.client.get_workflow_handle(workflow_id, run_id=run_id)
        self._builder = TimelineBuilder(session.converter, workflow_id=workflow_id)
        self._view = view
        self._waiting_since: float | None = None
        self._told: set[str] = set()

    async def run(self, until: float | None) -> Timeline:
        events = _events(self._client, self._handle.id, self._handle.run_id or "")
        coming = asyncio.ensure_future(anext(events, None))
        try:
            while True:
                await asyncio.wait({coming}, timeout=_least(LOOK_AFTER, until))
                if coming.done():
                    event = coming.result()
                    if event is None:
                        break
                    await self._take(event)
                    coming = asyncio.ensure_future(anext(events, None))
                else:
                    await self._look()
                if until is not None and time.monotonic() >= until:
                    break
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
            await events.aclose()
        return self._builder.timeline

    async def _take(self, event: HistoryEvent) -> None:
        self._waiting_since = None
        step = await self._builder.feed(event)
        timeline = self._builder.timeline
        if step is not None:
            self._view.changed(step)
        self._view.update(timeline)
        if timeline.run.blocked is not None:
            self._tell_blocked(timeline)

    async def _look(self) -> None:
        """Find out why nothing comes, if a worker should be at work."""
        timeline = self._builder.timeline
        from temporalio.service import RPCError

        waits_for_others = timeline.run.worked and not any(step.open and step.kind in _WORK for step in timeline.steps)
        if waits_for_others and timeline.run.blocked is None:
            return
        try:
            description = await self._handle.describe()
        except RPCError as error:
            if error.status not in transient_statuses():
                raise
            # The events wait for the server to come back, and give up when it does not.
            return
        for step in await self._builder.feed_pending(description.raw_description.pending_activities):
            self._view.changed(step)
        self._view.update(self._builder.timeline)
        if not _untaken(description):
            self._waiting_since = None
            return
        self._waiting_since = self._waiting_since or time.monotonic()
        if time.monotonic() - self._waiting_since >= on_worker.NO_WORKER_AFTER:
            queue = timeline.run.task_queue
            await self._tell_once("nobody", await on_worker.explain_no_worker(self._client, queue))

    def _tell_blocked(self, timeline: Timeline) -> None:
        blocked = timeline.run.blocked
        assert blocked is not None
        unknown = _UNKNOWN.search(blocked.message)
        if unknown and not timeline.run.worked:
            raise UnknownWorkflow(unknown[1], unknown[2], timeline.run.task_queue)
        if str(blocked) not in self._told:
            self._told.add(str(blocked))
            self._view.note(
                f"the workflow's code cannot go on: {blocked}. Temporal tries it again until a worker with the right code "
                "runs."
            )

    async def _tell_once(self, what: str, message: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self._view.note(message)


class UnknownWorkflow(InvalidInput):
    """The worker that took the run does not know its workflow type."""

    def __init__(self, workflow: str, known: str, task_queue: str) -> None:
        own = ", ".join(name for name in known.split(", ") if not name.startswith("perdure.")) or "none but plans"
        super().__init__(
            f"no workflow is called {workflow!r}: the worker on task queue {task_queue!r} serves {own}. Check the name, or "
            "start `perdure worker MODULE` with the module that defines it."
        )


_WORK = ("generate", "remember", "act", "undo", "ask", "decision", "activity")


async def _events(client: Client, workflow_id: str, run_id: str) -> AsyncGenerator[HistoryEvent]:
    """Yield the run's events as they come, each once; a server that is away for a short time is waited for."""
    from temporalio.service import RPCError

    handle = client.get_workflow_handle(workflow_id, run_id=run_id)
    last, lost = 0, None
    while True:
        try:
            async for event in handle.fetch_history_events(wait_new_event=True):
                lost = None
                if event.event_id > last:
                    last = event.event_id
                    yield event
        except RPCError as error:
            if error.status not in transient_statuses():
                raise
            lost = lost or time.monotonic()
            if time.monotonic() - lost > 60:
                raise Unreachable(
                    "Temporal has not answered for a minute. The run goes on once it is back: "
                    f"`perdure show {workflow_id}`."
                ) from None
            await asyncio.sleep(1)
        else:
            return


def transient_statuses() -> tuple[RPCStatusCode, ...]:
    """Return what a call says when the server is not there at this moment."""
    from temporalio.service import RPCStatusCode

    return RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED, RPCStatusCode.UNKNOWN


def _untaken(description: WorkflowExecutionDescription) -> bool:
    """Whether something waits for a worker at this moment."""
    from temporalio.api.enums.v1 import PendingActivityState

    raw = description.raw_description
    if raw.HasField("pending_workflow_task"):
        return not raw.pending_workflow_task.HasField("started_time") or raw.pending_workflow_task.attempt > 1
    due = datetime.now(UTC) - timedelta(seconds=1)
    return any(
        each.state == PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED
        and each.scheduled_time.ToDatetime(tzinfo=UTC) < due
        and not each.HasField("next_attempt_schedule_time")
        for each in raw.pending_activities
    )


def _least(seconds: float, until: float | None) -> float:
    return seconds if until is None else max(0.0, min(seconds, until - time.monotonic()))

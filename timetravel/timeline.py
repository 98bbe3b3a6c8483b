"""What happened in a run: its steps, as the events of its history tell them."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable

from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflow.v1 import PendingActivityInfo
from temporalio.converter import DataConverter

from perdure.timetravel.contracts import Step, StepState, Timeline
from perdure.timetravel.draft import TimelineDraft, to_utc
from perdure.timetravel.events import HANDLERS


async def read_timeline(
    events: Iterable[HistoryEvent] | AsyncIterable[HistoryEvent], converter: DataConverter, *, workflow_id: str = ""
) -> Timeline:
    """Return what EVENTS, in their order, tell; payloads are decoded with CONVERTER, those kept outside the history too."""
    scribe = TimelineBuilder(converter, workflow_id=workflow_id)
    if isinstance(events, AsyncIterable):
        async for event in events:
            await scribe.feed(event)
    else:
        for event in events:
            await scribe.feed(event)
    return scribe.timeline


class TimelineBuilder:
    """Builds a timeline while the run goes on: feed it each event once, in order."""

    def __init__(self, converter: DataConverter, *, workflow_id: str = "") -> None:
        self._draft = TimelineDraft(converter, workflow_id)

    @property
    def timeline(self) -> Timeline:
        """What is known so far."""
        return Timeline(run=self._draft.run, steps=tuple(self._draft.steps.values()))

    async def feed(self, event: HistoryEvent) -> Step | None:
        """Take EVENT in and return the step that it began or changed, if it did."""
        self._draft.set_run_facts(events=event.event_id)
        handler = HANDLERS.get((event.WhichOneof("attributes") or "").removesuffix("_event_attributes"))
        return await handler(self._draft, event) if handler else None

    async def feed_pending(self, activities: Iterable[PendingActivityInfo]) -> list[Step]:
        """Take in what a description of the run says of ACTIVITIES under way, and return the steps that it changed.

        Temporal writes attempts down when the activity has ended; until then only the description knows them.
        """
        changed = []
        for activity in activities:
            step = self._draft.find_step(f"activity {activity.activity_id}")
            if step is None or not step.open:
                continue
            waits = activity.HasField("next_attempt_schedule_time")
            running = activity.HasField("last_started_time") and not waits
            state: StepState = "retrying" if activity.HasField("last_failure") else "running" if running else "scheduled"
            failure = await self._draft.decode.failure(activity.last_failure) if activity.HasField("last_failure") else None
            new = self._draft.update_step(
                step.id,
                state=state,
                attempts=activity.attempt if running or failure else 0,
                started=to_utc(activity.last_started_time) if running else step.started,
                next_attempt=to_utc(activity.next_attempt_schedule_time) if waits else None,
                failure=failure,
                by=activity.last_worker_identity or step.by,
            )
            if new != step:
                changed.append(new)
        return changed

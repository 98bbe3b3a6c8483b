"""What each kind of history event says about a run and its steps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from pydantic import JsonValue
from temporalio.api.common.v1 import Payloads
from temporalio.api.enums.v1 import WorkflowTaskFailedCause
from temporalio.api.history.v1 import HistoryEvent

from perdure.timetravel.contracts import Failure, Step
from perdure.timetravel.decoding import indexed, only
from perdure.timetravel.essentials import KINDS, argued
from perdure.timetravel.page import Page, time_of

LOCAL_ACTIVITY = "core_local_activity"
"""The marker in which the SDK records a local activity."""

PLAN = "PerdurePlan"

# The run


async def _started(page: Page, event: HistoryEvent) -> None:
    started = event.workflow_execution_started_event_attributes
    attributes = indexed(started.search_attributes.indexed_fields)
    page.note(
        workflow_id=started.workflow_id or page.run.workflow_id,
        run_id=started.original_execution_run_id,
        first_run_id=started.first_execution_run_id,
        workflow_type=started.workflow_type.name,
        attributes=attributes,
        plan=str(attributes.get(PLAN) or ""),
        summary=await page.decode.text(event.user_metadata.summary),
        task_queue=started.task_queue.name,
        started_by=started.identity,
        started=time_of(event.event_time),
        inputs=only(await page.decode.values(started.input)),
        parent=started.parent_workflow_execution.workflow_id,
        continued_from=started.continued_execution_run_id,
    )


async def _completed(page: Page, event: HistoryEvent) -> None:
    result = only(await page.decode.values(event.workflow_execution_completed_event_attributes.result))
    page.note(state="completed", ended=time_of(event.event_time), result=result, blocked=None)


async def _failed(page: Page, event: HistoryEvent) -> None:
    failed = event.workflow_execution_failed_event_attributes
    page.note(
        state="failed",
        ended=time_of(event.event_time),
        failure=await page.decode.failure(failed.failure),
        continued_to=failed.new_execution_run_id,
        blocked=None,
    )


async def _continued(page: Page, event: HistoryEvent) -> None:
    after = event.workflow_execution_continued_as_new_event_attributes.new_execution_run_id
    page.note(state="continued", ended=time_of(event.event_time), continued_to=after, blocked=None)


async def _stopped(page: Page, event: HistoryEvent) -> None:
    if event.HasField("workflow_execution_terminated_event_attributes"):
        terminated = event.workflow_execution_terminated_event_attributes
        said = f"{terminated.reason or 'no reason given'} (by {terminated.identity or 'the server'})"
        state, why = "terminated", Failure(type="Terminated", message=said)
    elif event.HasField("workflow_execution_canceled_event_attributes"):
        asked = [step for step in page.steps.values() if step.kind == "cancel"]
        said = f"{asked[-1].summary or 'no reason given'} (by {asked[-1].by})" if asked else "the run ended as cancelled"
        state, why = "cancelled", Failure(type="Cancelled", message=said)
    else:
        state, why = "timed out", Failure(type="Timeout", message="the run took longer than it may")
    page.note(state=state, ended=time_of(event.event_time), failure=why)


async def _upserted(page: Page, event: HistoryEvent) -> None:
    fields = event.upsert_workflow_search_attributes_event_attributes.search_attributes.indexed_fields
    merged = page.run.attributes | indexed(fields)
    attributes = {name: value for name, value in merged.items() if value is not None}
    page.note(attributes=attributes, plan=str(attributes.get(PLAN) or page.run.plan))


async def _worked(page: Page, _: HistoryEvent) -> None:
    page.note(worked=True, blocked=None)


async def _blocked(page: Page, event: HistoryEvent) -> None:
    failed = event.workflow_task_failed_event_attributes
    if failed.cause == WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW:
        page.note(reset_from=failed.base_run_id)
    elif failed.HasField("failure"):
        page.note(blocked=await page.decode.failure(failed.failure))


async def _cancel_requested(page: Page, event: HistoryEvent) -> Step:
    asked = event.workflow_execution_cancel_requested_event_attributes
    at = time_of(event.event_time)
    return await page.begin(event, "cancel", "cancel", state="done", ended=at, summary=asked.cause, by=asked.identity)


# Activities


async def _scheduled(page: Page, event: HistoryEvent) -> Step:
    scheduled = event.activity_task_scheduled_event_attributes
    activity = scheduled.activity_type.name
    call = argued(activity, await page.decode.values(scheduled.input))
    if call.namespace:
        page.note(namespace=call.namespace)
    page.name(f"activity {scheduled.activity_id}", event.event_id)
    return await page.begin(
        event,
        KINDS.get(activity, "activity"),
        call.name or _step_name(activity, scheduled.activity_id),
        inputs=call.inputs,
        request=call.request,
        decision=call.decision,
        outcome=call.outcome,
    )


async def _attempt(page: Page, event: HistoryEvent) -> Step:
    started = event.activity_task_started_event_attributes
    return page.change(
        started.scheduled_event_id,
        state="running",
        started=time_of(event.event_time),
        attempts=started.attempt,
        failure=await page.decode.failure(started.last_failure) if started.HasField("last_failure") else None,
        next_attempt=None,
        by=started.identity,
    )


async def _activity_done(page: Page, event: HistoryEvent) -> Step:
    done = event.activity_task_completed_event_attributes
    return page.end(done.scheduled_event_id, "done", event, result=only(await page.decode.values(done.result)))


async def _activity_failed(page: Page, event: HistoryEvent) -> Step:
    failed = event.activity_task_failed_event_attributes
    return page.end(failed.scheduled_event_id, "failed", event, failure=await page.decode.failure(failed.failure))


async def _activity_timed_out(page: Page, event: HistoryEvent) -> Step:
    late = event.activity_task_timed_out_event_attributes
    return page.end(late.scheduled_event_id, "failed", event, failure=await page.decode.failure(late.failure))


async def _activity_cancelled(page: Page, event: HistoryEvent) -> Step:
    return page.end(event.activity_task_canceled_event_attributes.scheduled_event_id, "cancelled", event)


async def _marker(page: Page, event: HistoryEvent) -> Step | None:
    marker = event.marker_recorded_event_attributes
    if marker.marker_name != LOCAL_ACTIVITY:
        return None
    recorded = only(await page.decode.values(marker.details["data"]))
    facts = recorded if isinstance(recorded, dict) else {}
    activity = str(facts.get("activity_type", "local activity"))
    first = _stamp(facts.get("original_schedule_time"))
    ended = _stamp(facts.get("complete_time")) or time_of(event.event_time)
    # One that waits longer than a workflow task may last for its next attempt leaves a marker for each stretch of attempts.
    name = f"local {activity} {first}"
    step = page.step_of(name) or await page.begin(
        event,
        KINDS.get(activity, "activity"),
        _step_name(activity, str(facts.get("activity_id", ""))),
        local=True,
        scheduled=min(ended, first or ended),
    )
    page.name(name, step.id)
    page.change(step.id, attempts=facts.get("attempt", 1))
    if not marker.HasField("failure"):
        # The SDK records what a local activity answered and not what it was asked.
        result = marker.details["result"] if "result" in marker.details else Payloads()
        return page.end(step.id, "done", event, ended=ended, result=only(await page.decode.values(result)))
    why = await page.decode.failure(marker.failure)
    if facts.get("backoff"):
        return page.change(step.id, state="retrying", failure=why)
    return page.end(step.id, "failed", event, failure=why)


# Timers, messages, children


async def _timer(page: Page, event: HistoryEvent) -> Step:
    timer = event.timer_started_event_attributes
    due = time_of(event.event_time) + _duration(timer.start_to_fire_timeout)
    return await page.begin(event, "timer", "timer", state="running", next_attempt=due)


async def _fired(page: Page, event: HistoryEvent) -> Step:
    return page.end(event.timer_fired_event_attributes.started_event_id, "done", event)


async def _timer_cancelled(page: Page, event: HistoryEvent) -> Step:
    return page.end(event.timer_canceled_event_attributes.started_event_id, "cancelled", event)


async def _signalled(page: Page, event: HistoryEvent) -> Step:
    signal = event.workflow_execution_signaled_event_attributes
    inputs = only(await page.decode.values(signal.input))
    at = time_of(event.event_time)
    return await page.begin(event, "signal", signal.signal_name, state="done", ended=at, inputs=inputs, by=signal.identity)


async def _update(page: Page, event: HistoryEvent) -> Step:
    request = event.workflow_execution_update_accepted_event_attributes.accepted_request
    inputs = only(await page.decode.values(request.input.args))
    return await page.begin(event, "update", request.input.name, state="running", inputs=inputs, by=request.meta.identity)


async def _updated(page: Page, event: HistoryEvent) -> Step:
    updated = event.workflow_execution_update_completed_event_attributes
    if updated.outcome.HasField("failure"):
        why = await page.decode.failure(updated.outcome.failure)
        return page.end(updated.accepted_event_id, "failed", event, failure=why)
    result = only(await page.decode.values(updated.outcome.success))
    return page.end(updated.accepted_event_id, "done", event, result=result)


async def _child(page: Page, event: HistoryEvent) -> Step:
    child = event.start_child_workflow_execution_initiated_event_attributes
    inputs = only(await page.decode.values(child.input))
    return await page.begin(event, "child", child.workflow_type.name, child=child.workflow_id, inputs=inputs)


async def _child_started(page: Page, event: HistoryEvent) -> Step:
    begun = event.child_workflow_execution_started_event_attributes.initiated_event_id
    return page.change(begun, state="running", started=time_of(event.event_time), attempts=1)


async def _child_ended(page: Page, event: HistoryEvent) -> Step:
    if event.HasField("child_workflow_execution_completed_event_attributes"):
        done = event.child_workflow_execution_completed_event_attributes
        return page.end(done.initiated_event_id, "done", event, result=only(await page.decode.values(done.result)))
    if event.HasField("child_workflow_execution_failed_event_attributes"):
        failed = event.child_workflow_execution_failed_event_attributes
        return page.end(failed.initiated_event_id, "failed", event, failure=await page.decode.failure(failed.failure))
    if event.HasField("child_workflow_execution_canceled_event_attributes"):
        return page.end(event.child_workflow_execution_canceled_event_attributes.initiated_event_id, "cancelled", event)
    if event.HasField("child_workflow_execution_timed_out_event_attributes"):
        begun = event.child_workflow_execution_timed_out_event_attributes.initiated_event_id
        return page.end(begun, "failed", event, failure=Failure(type="Timeout", message="it took longer than it may"))
    if event.HasField("child_workflow_execution_terminated_event_attributes"):
        begun = event.child_workflow_execution_terminated_event_attributes.initiated_event_id
        return page.end(begun, "failed", event, failure=Failure(type="Terminated", message="somebody terminated it"))
    begun = event.start_child_workflow_execution_failed_event_attributes.initiated_event_id
    return page.end(begun, "failed", event, failure=Failure(type="AlreadyExists", message="a run has this workflow id"))


async def _sent(page: Page, event: HistoryEvent) -> Step:
    if event.HasField("signal_external_workflow_execution_initiated_event_attributes"):
        signal = event.signal_external_workflow_execution_initiated_event_attributes
        inputs = only(await page.decode.values(signal.input))
        to = signal.workflow_execution.workflow_id
        return await page.begin(event, "sent", signal.signal_name, inputs=inputs, child=to)
    cancel = event.request_cancel_external_workflow_execution_initiated_event_attributes
    return await page.begin(event, "sent", "cancel", summary=cancel.reason, child=cancel.workflow_execution.workflow_id)


async def _arrived(page: Page, event: HistoryEvent) -> Step:
    if event.HasField("external_workflow_execution_signaled_event_attributes"):
        return page.end(event.external_workflow_execution_signaled_event_attributes.initiated_event_id, "done", event)
    begun = event.external_workflow_execution_cancel_requested_event_attributes.initiated_event_id
    return page.end(begun, "done", event)


async def _not_arrived(page: Page, event: HistoryEvent) -> Step:
    why = Failure(type="NotFound", message="there is no such run")
    if event.HasField("signal_external_workflow_execution_failed_event_attributes"):
        begun = event.signal_external_workflow_execution_failed_event_attributes.initiated_event_id
    else:
        begun = event.request_cancel_external_workflow_execution_failed_event_attributes.initiated_event_id
    return page.end(begun, "failed", event, failure=why)


HANDLERS: dict[str, Callable[[Page, HistoryEvent], Awaitable[Step | None]]] = {
    "workflow_execution_started": _started,
    "workflow_execution_completed": _completed,
    "workflow_execution_failed": _failed,
    "workflow_execution_continued_as_new": _continued,
    "workflow_execution_terminated": _stopped,
    "workflow_execution_canceled": _stopped,
    "workflow_execution_timed_out": _stopped,
    "workflow_execution_cancel_requested": _cancel_requested,
    "upsert_workflow_search_attributes": _upserted,
    "workflow_task_completed": _worked,
    "workflow_task_failed": _blocked,
    "activity_task_scheduled": _scheduled,
    "activity_task_started": _attempt,
    "activity_task_completed": _activity_done,
    "activity_task_failed": _activity_failed,
    "activity_task_timed_out": _activity_timed_out,
    "activity_task_canceled": _activity_cancelled,
    "marker_recorded": _marker,
    "timer_started": _timer,
    "timer_fired": _fired,
    "timer_canceled": _timer_cancelled,
    "workflow_execution_signaled": _signalled,
    "workflow_execution_update_accepted": _update,
    "workflow_execution_update_completed": _updated,
    "start_child_workflow_execution_initiated": _child,
    "start_child_workflow_execution_failed": _child_ended,
    "child_workflow_execution_started": _child_started,
    "child_workflow_execution_completed": _child_ended,
    "child_workflow_execution_failed": _child_ended,
    "child_workflow_execution_canceled": _child_ended,
    "child_workflow_execution_timed_out": _child_ended,
    "child_workflow_execution_terminated": _child_ended,
    "signal_external_workflow_execution_initiated": _sent,
    "signal_external_workflow_execution_failed": _not_arrived,
    "external_workflow_execution_signaled": _arrived,
    "request_cancel_external_workflow_execution_initiated": _sent,
    "request_cancel_external_workflow_execution_failed": _not_arrived,
    "external_workflow_execution_cancel_requested": _arrived,
}
"""What is done with an event, by the name of its attributes. Others say nothing about steps."""


def _step_name(activity: str, activity_id: str) -> str:
    """Return the name of the step behind a local activity: perdure's ids are step names, others are numbers."""
    return activity_id if activity in KINDS and activity_id and not activity_id.isdigit() else activity


def _duration(duration: Duration) -> timedelta:
    return duration.ToTimedelta()


def _stamp(value: JsonValue) -> datetime | None:
    if not isinstance(value, dict):
        return None
    seconds, nanos = value.get("seconds"), value.get("nanos", 0)
    if not isinstance(seconds, int) or not isinstance(nanos, int):
        return None
    return datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=nanos // 1000)

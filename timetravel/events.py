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
from perdure.timetravel.decode import KINDS, decode_call
from perdure.timetravel.draft import TimelineDraft, to_utc
from perdure.timetravel.payloads import decode_search_attributes, unwrap_single

LOCAL_ACTIVITY = "core_local_activity"
"""The marker in which the SDK records a local activity."""

PLAN = "PerdurePlan"

# The run


async def _on_started(draft: TimelineDraft, event: HistoryEvent) -> None:
    started = event.workflow_execution_started_event_attributes
    attributes = decode_search_attributes(started.search_attributes.indexed_fields)
    draft.set_run_facts(
        workflow_id=started.workflow_id or draft.run.workflow_id,
        run_id=started.original_execution_run_id,
        first_run_id=started.first_execution_run_id,
        workflow_type=started.workflow_type.name,
        attributes=attributes,
        plan=str(attributes.get(PLAN) or ""),
        summary=await draft.decode.text(event.user_metadata.summary),
        task_queue=started.task_queue.name,
        started_by=started.identity,
        started=to_utc(event.event_time),
        inputs=unwrap_single(await draft.decode.values(started.input)),
        parent=started.parent_workflow_execution.workflow_id,
        continued_from=started.continued_execution_run_id,
    )


async def _on_completed(draft: TimelineDraft, event: HistoryEvent) -> None:
    result = unwrap_single(await draft.decode.values(event.workflow_execution_completed_event_attributes.result))
    draft.set_run_facts(state="completed", ended=to_utc(event.event_time), result=result, blocked=None)


async def _on_failed(draft: TimelineDraft, event: HistoryEvent) -> None:
    failed = event.workflow_execution_failed_event_attributes
    draft.set_run_facts(
        state="failed",
        ended=to_utc(event.event_time),
        failure=await draft.decode.failure(failed.failure),
        continued_to=failed.new_execution_run_id,
        blocked=None,
    )


async def _on_continued_as_new(draft: TimelineDraft, event: HistoryEvent) -> None:
    after = event.workflow_execution_continued_as_new_event_attributes.new_execution_run_id
    draft.set_run_facts(state="continued", ended=to_utc(event.event_time), continued_to=after, blocked=None)


async def _on_stopped(draft: TimelineDraft, event: HistoryEvent) -> None:
    if event.HasField("workflow_execution_terminated_event_attributes"):
        terminated = event.workflow_execution_terminated_event_attributes
        said = f"{terminated.reason or 'no reason given'} (by {terminated.identity or 'the server'})"
        state, why = "terminated", Failure(type="Terminated", message=said)
    elif event.HasField("workflow_execution_canceled_event_attributes"):
        asked = [step for step in draft.steps.values() if step.kind == "cancel"]
        said = f"{asked[-1].summary or 'no reason given'} (by {asked[-1].by})" if asked else "the run ended as cancelled"
        state, why = "cancelled", Failure(type="Cancelled", message=said)
    else:
        state, why = "timed out", Failure(type="Timeout", message="execution timeout: the run took longer than it may")
    draft.set_run_facts(state=state, ended=to_utc(event.event_time), failure=why)


async def _on_search_attributes(draft: TimelineDraft, event: HistoryEvent) -> None:
    fields = event.upsert_workflow_search_attributes_event_attributes.search_attributes.indexed_fields
    merged = draft.run.attributes | decode_search_attributes(fields)
    attributes = {name: value for name, value in merged.items() if value is not None}
    draft.set_run_facts(attributes=attributes, plan=str(attributes.get(PLAN) or draft.run.plan))


async def _on_workflow_task_completed(draft: TimelineDraft, _: HistoryEvent) -> None:
    draft.set_run_facts(worked=True, blocked=None)


async def _on_workflow_task_failed(draft: TimelineDraft, event: HistoryEvent) -> None:
    failed = event.workflow_task_failed_event_attributes
    if failed.cause == WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW:
        draft.set_run_facts(reset_from=failed.base_run_id)
    elif failed.HasField("failure"):
        draft.set_run_facts(blocked=await draft.decode.failure(failed.failure))


async def _on_cancel_requested(draft: TimelineDraft, event: HistoryEvent) -> Step:
    asked = event.workflow_execution_cancel_requested_event_attributes
    at = to_utc(event.event_time)
    return await draft.begin_step(event, "cancel", "cancel", state="done", ended=at, summary=asked.cause, by=asked.identity)


# Activities


async def _on_activity_scheduled(draft: TimelineDraft, event: HistoryEvent) -> Step:
    scheduled = event.activity_task_scheduled_event_attributes
    activity = scheduled.activity_type.name
    call = decode_call(activity, await draft.decode.values(scheduled.input))
    if call.namespace:
        draft.set_run_facts(namespace=call.namespace)
    draft.add_alias(f"activity {scheduled.activity_id}", event.event_id)
    return await draft.begin_step(
        event,
        KINDS.get(activity, "activity"),
        call.name or _step_name(activity, scheduled.activity_id),
        inputs=call.inputs,
        request=call.request,
        decision=call.decision,
        outcome=call.outcome,
    )


async def _on_activity_started(draft: TimelineDraft, event: HistoryEvent) -> Step:
    started = event.activity_task_started_event_attributes
    return draft.update_step(
        started.scheduled_event_id,
        state="running",
        started=to_utc(event.event_time),
        attempts=started.attempt,
        failure=await draft.decode.failure(started.last_failure) if started.HasField("last_failure") else None,
        next_attempt=None,
        by=started.identity,
    )


async def _on_activity_completed(draft: TimelineDraft, event: HistoryEvent) -> Step:
    done = event.activity_task_completed_event_attributes
    return draft.end_step(
        done.scheduled_event_id, "done", event, result=unwrap_single(await draft.decode.values(done.result))
    )


async def _on_activity_failed(draft: TimelineDraft, event: HistoryEvent) -> Step:
    failed = event.activity_task_failed_event_attributes
    return draft.end_step(failed.scheduled_event_id, "failed", event, failure=await draft.decode.failure(failed.failure))


async def _on_activity_timed_out(draft: TimelineDraft, event: HistoryEvent) -> Step:
    late = event.activity_task_timed_out_event_attributes
    return draft.end_step(late.scheduled_event_id, "failed", event, failure=await draft.decode.failure(late.failure))


async def _on_activity_cancelled(draft: TimelineDraft, event: HistoryEvent) -> Step:
    return draft.end_step(event.activity_task_canceled_event_attributes.scheduled_event_id, "cancelled", event)


async def _on_marker(draft: TimelineDraft, event: HistoryEvent) -> Step | None:
    marker = event.marker_recorded_event_attributes
    if marker.marker_name != LOCAL_ACTIVITY:
        return None
    recorded = unwrap_single(await draft.decode.values(marker.details["data"]))
    facts = recorded if isinstance(recorded, dict) else {}
    activity = str(facts.get("activity_type", "local activity"))
    first = _parse_timestamp(facts.get("original_schedule_time"))
    ended = _parse_timestamp(facts.get("complete_time")) or to_utc(event.event_time)
    # One that waits longer than a workflow task may last for its next attempt leaves a marker for each stretch of attempts.
    name = f"local {activity} {first}"
    step = draft.find_step(name) or await draft.begin_step(
        event,
        KINDS.get(activity, "activity"),
        _step_name(activity, str(facts.get("activity_id", ""))),
        local=True,
        scheduled=min(ended, first or ended),
    )
    draft.add_alias(name, step.id)
    draft.update_step(step.id, attempts=facts.get("attempt", 1))
    if not marker.HasField("failure"):
        # The SDK records what a local activity answered and not what it was asked.
        result = marker.details["result"] if "result" in marker.details else Payloads()
        return draft.end_step(step.id, "done", event, ended=ended, result=unwrap_single(await draft.decode.values(result)))
    why = await draft.decode.failure(marker.failure)
    if facts.get("backoff"):
        return draft.update_step(step.id, state="retrying", failure=why)
    return draft.end_step(step.id, "failed", event, failure=why)


# Timers, messages, children


async def _on_timer_started(draft: TimelineDraft, event: HistoryEvent) -> Step:
    timer = event.timer_started_event_attributes
    due = to_utc(event.event_time) + _to_timedelta(timer.start_to_fire_timeout)
    return await draft.begin_step(event, "timer", "timer", state="running", next_attempt=due)


async def _on_timer_fired(draft: TimelineDraft, event: HistoryEvent) -> Step:
    return draft.end_step(event.timer_fired_event_attributes.started_event_id, "done", event)


async def _on_timer_cancelled(draft: TimelineDraft, event: HistoryEvent) -> Step:
    return draft.end_step(event.timer_canceled_event_attributes.started_event_id, "cancelled", event)


async def _on_signal(draft: TimelineDraft, event: HistoryEvent) -> Step:
    signal = event.workflow_execution_signaled_event_attributes
    inputs = unwrap_single(await draft.decode.values(signal.input))
    at = to_utc(event.event_time)
    return await draft.begin_step(
        event, "signal", signal.signal_name, state="done", ended=at, inputs=inputs, by=signal.identity
    )


async def _on_update_accepted(draft: TimelineDraft, event: HistoryEvent) -> Step:
    request = event.workflow_execution_update_accepted_event_attributes.accepted_request
    inputs = unwrap_single(await draft.decode.values(request.input.args))
    return await draft.begin_step(
        event, "update", request.input.name, state="running", inputs=inputs, by=request.meta.identity
    )


async def _on_update_completed(draft: TimelineDraft, event: HistoryEvent) -> Step:
    updated = event.workflow_execution_update_completed_event_attributes
    if updated.outcome.HasField("failure"):
        why = await draft.decode.failure(updated.outcome.failure)
        return draft.end_step(updated.accepted_event_id, "failed", event, failure=why)
    result = unwrap_single(await draft.decode.values(updated.outcome.success))
    return draft.end_step(updated.accepted_event_id, "done", event, result=result)


async def _on_child_initiated(draft: TimelineDraft, event: HistoryEvent) -> Step:
    child = event.start_child_workflow_execution_initiated_event_attributes
    inputs = unwrap_single(await draft.decode.values(child.input))
    return await draft.begin_step(event, "child", child.workflow_type.name, child=child.workflow_id, inputs=inputs)


async def _on_child_started(draft: TimelineDraft, event: HistoryEvent) -> Step:
    begun = event.child_workflow_execution_started_event_attributes.initiated_event_id
    return draft.update_step(begun, state="running", started=to_utc(event.event_time), attempts=1)


async def _on_child_closed(draft: TimelineDraft, event: HistoryEvent) -> Step:
    if event.HasField("child_workflow_execution_completed_event_attributes"):
        done = event.child_workflow_execution_completed_event_attributes
        return draft.end_step(
            done.initiated_event_id, "done", event, result=unwrap_single(await draft.decode.values(done.result))
        )
    if event.HasField("child_workflow_execution_failed_event_attributes"):
        failed = event.child_workflow_execution_failed_event_attributes
        return draft.end_step(
            failed.initiated_event_id, "failed", event, failure=await draft.decode.failure(failed.failure)
        )
    if event.HasField("child_workflow_execution_canceled_event_attributes"):
        return draft.end_step(
            event.child_workflow_execution_canceled_event_attributes.initiated_event_id, "cancelled", event
        )
    if event.HasField("child_workflow_execution_timed_out_event_attributes"):
        begun = event.child_workflow_execution_timed_out_event_attributes.initiated_event_id
        return draft.end_step(
            begun,
            "failed",
            event,
            failure=Failure(type="Timeout", message="execution timeout: the child took longer than it may"),
        )
    if event.HasField("child_workflow_execution_terminated_event_attributes"):
        begun = event.child_workflow_execution_terminated_event_attributes.initiated_event_id
        return draft.end_step(begun, "failed", event, failure=Failure(type="Terminated", message="somebody terminated it"))
    begun = event.start_child_workflow_execution_failed_event_attributes.initiated_event_id
    return draft.end_step(
        begun, "failed", event, failure=Failure(type="AlreadyExists", message="a run has this workflow id")
    )


async def _on_external_initiated(draft: TimelineDraft, event: HistoryEvent) -> Step:
    if event.HasField("signal_external_workflow_execution_initiated_event_attributes"):
        signal = event.signal_external_workflow_execution_initiated_event_attributes
        inputs = unwrap_single(await draft.decode.values(signal.input))
        to = signal.workflow_execution.workflow_id
        return await draft.begin_step(event, "sent", signal.signal_name, inputs=inputs, child=to)
    cancel = event.request_cancel_external_workflow_execution_initiated_event_attributes
    return await draft.begin_step(
        event, "sent", "cancel", summary=cancel.reason, child=cancel.workflow_execution.workflow_id
    )


async def _on_external_delivered(draft: TimelineDraft, event: HistoryEvent) -> Step:
    if event.HasField("external_workflow_execution_signaled_event_attributes"):
        return draft.end_step(event.external_workflow_execution_signaled_event_attributes.initiated_event_id, "done", event)
    begun = event.external_workflow_execution_cancel_requested_event_attributes.initiated_event_id
    return draft.end_step(begun, "done", event)


async def _on_external_failed(draft: TimelineDraft, event: HistoryEvent) -> Step:
    why = Failure(type="NotFound", message="there is no such run")
    if event.HasField("signal_external_workflow_execution_failed_event_attributes"):
        begun = event.signal_external_workflow_execution_failed_event_attributes.initiated_event_id
    else:
        begun = event.request_cancel_external_workflow_execution_failed_event_attributes.initiated_event_id
    return draft.end_step(begun, "failed", event, failure=why)


HANDLERS: dict[str, Callable[[TimelineDraft, HistoryEvent], Awaitable[Step | None]]] = {
    "workflow_execution_started": _on_started,
    "workflow_execution_completed": _on_completed,
    "workflow_execution_failed": _on_failed,
    "workflow_execution_continued_as_new": _on_continued_as_new,
    "workflow_execution_terminated": _on_stopped,
    "workflow_execution_canceled": _on_stopped,
    "workflow_execution_timed_out": _on_stopped,
    "workflow_execution_cancel_requested": _on_cancel_requested,
    "upsert_workflow_search_attributes": _on_search_attributes,
    "workflow_task_completed": _on_workflow_task_completed,
    "workflow_task_failed": _on_workflow_task_failed,
    "activity_task_scheduled": _on_activity_scheduled,
    "activity_task_started": _on_activity_started,
    "activity_task_completed": _on_activity_completed,
    "activity_task_failed": _on_activity_failed,
    "activity_task_timed_out": _on_activity_timed_out,
    "activity_task_canceled": _on_activity_cancelled,
    "marker_recorded": _on_marker,
    "timer_started": _on_timer_started,
    "timer_fired": _on_timer_fired,
    "timer_canceled": _on_timer_cancelled,
    "workflow_execution_signaled": _on_signal,
    "workflow_execution_update_accepted": _on_update_accepted,
    "workflow_execution_update_completed": _on_update_completed,
    "start_child_workflow_execution_initiated": _on_child_initiated,
    "start_child_workflow_execution_failed": _on_child_closed,
    "child_workflow_execution_started": _on_child_started,
    "child_workflow_execution_completed": _on_child_closed,
    "child_workflow_execution_failed": _on_child_closed,
    "child_workflow_execution_canceled": _on_child_closed,
    "child_workflow_execution_timed_out": _on_child_closed,
    "child_workflow_execution_terminated": _on_child_closed,
    "signal_external_workflow_execution_initiated": _on_external_initiated,
    "signal_external_workflow_execution_failed": _on_external_failed,
    "external_workflow_execution_signaled": _on_external_delivered,
    "request_cancel_external_workflow_execution_initiated": _on_external_initiated,
    "request_cancel_external_workflow_execution_failed": _on_external_failed,
    "external_workflow_execution_cancel_requested": _on_external_delivered,
}
"""What is done with an event, by the name of its attributes. Others say nothing about steps."""


def _step_name(activity: str, activity_id: str) -> str:
    """Return the name of the step behind a local activity: perdure's ids are step names, others are numbers."""
    return activity_id if activity in KINDS and activity_id and not activity_id.isdigit() else activity


def _to_timedelta(duration: Duration) -> timedelta:
    return duration.ToTimedelta()


def _parse_timestamp(value: JsonValue) -> datetime | None:
    if not isinstance(value, dict):
        return None
    seconds, nanos = value.get("seconds"), value.get("nanos", 0)
    if not isinstance(seconds, int) or not isinstance(nanos, int):
        return None
    return datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=nanos // 1000)

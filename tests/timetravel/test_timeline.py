"""What timelines tell of stored histories, which were recorded from real runs of `tests/kits/cli_workflows.py`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import ApplicationFailureInfo, Failure
from temporalio.api.workflow.v1 import PendingActivityInfo
from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter

from perdure.lineage import digest
from perdure.timetravel import (
    Step,
    Timeline,
    TimelineBuilder,
    read_timeline,
)

FOLDER = Path(__file__).parent / "histories"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


def history(name: str) -> WorkflowHistory:
    """Return the stored history called NAME."""
    return WorkflowHistory.from_json(name, (FOLDER / f"{name}.json").read_text())


async def timeline(name: str) -> Timeline:
    """Return the timeline of the stored history called NAME."""
    return await read_timeline(history(name).events, pydantic_data_converter)


async def step(name: str, kind: str) -> Step:
    """Return the one step of KIND in the stored history called NAME."""
    [found] = [step for step in (await timeline(name)).steps if step.kind == kind]
    return found


async def test_the_steps_are_told_in_order() -> None:
    """Each step of the run stands once, under its own name, in the order in which they began."""
    told = await timeline("desk")

    assert [
        ("recall", "recall"),
        ("generate", "generate:triage"),
        ("ask", "approval"),
        ("timer", "timer"),
        ("update", "perdure.decide"),
        ("decision", "approval"),
        ("act", "null.write"),
        ("remember", "remember"),
    ] == [(step.kind, step.name) for step in told.steps]
    assert {"done"} == {step.state for step in told.steps if step.kind != "timer"}


async def test_the_run_is_told() -> None:
    """The facts of the run: who started it, with what, how it ended, what it cost."""
    run = (await timeline("desk")).run

    assert ("desk", "Desk", "Desk", "completed") == (run.workflow_id, run.workflow_type, run.plan, run.state)
    assert "default" == run.namespace
    assert run.started_by.startswith("perdure-client@")
    assert run.started is not None
    assert run.ended is not None
    assert {"message": "Please take the blue jacket back.", "customer": "ann", "ask": True} == run.inputs
    assert isinstance(run.result, dict)
    assert (1, 0.0) == (run.model_calls, run.cost_usd)
    assert "high" == run.attributes["PerdureRisk"]


async def test_a_model_call_has_its_record() -> None:
    """A generate step tells model, deployment, confidence and what the model was given, without the step's reference."""
    told = await step("desk", "generate")

    assert told.model is not None
    assert ("triage", "small", "local-small") == (told.model.task, told.model.tier, told.model.deployment)
    assert told.confidence is not None
    assert isinstance(told.inputs, dict)
    assert {"task", "inputs", "output"} == told.inputs.keys()


async def test_a_recall_has_its_receipt() -> None:
    """A recall is a local activity: its receipt is read from the marker."""
    told = await step("desk", "recall")

    assert told.local
    assert told.memory is not None
    assert 1 == len(told.memory.returned)


async def test_an_effect_has_its_receipt() -> None:
    """An act step tells how the target calls the effect, and under which key it was done."""
    told = await step("desk", "act")

    assert told.receipt is not None
    assert ("null.write", "response", 1) == (told.receipt.action, told.receipt.confirmed_by, told.receipt.sent)


async def test_a_decision_says_who_and_whether_verified() -> None:
    """A decision tells who said what, how it came, and that nobody verified the name."""
    told = await step("desk", "decision")

    assert told.decision is not None
    assert ("approve", "bob", "fine", False, "update") == (
        told.decision.verdict,
        told.decision.by,
        told.decision.comment,
        told.decision.verified,
        told.decision.via,
    )
    assert "decided" == told.outcome


async def test_a_decision_by_signal_says_so() -> None:
    """A decision that came as a signal is told as that, with the client that sent it."""
    told, signal = await step("rejected", "decision"), await step("rejected", "signal")

    assert told.decision is not None
    assert ("reject", "eve", "signal") == (told.decision.verdict, told.decision.by, told.decision.via)
    assert signal.by.startswith("perdure-client@")


async def test_a_rejection_is_told_apart_from_a_failure() -> None:
    """A run that a reviewer stopped is rejected; one that failed otherwise is not."""
    rejected, undone = (await timeline("rejected")).run, (await timeline("undone")).run

    assert ("failed", True, "Rejected") == (rejected.state, rejected.rejected, rejected.failure and rejected.failure.type)
    assert ("failed", False, "Told") == (undone.state, undone.rejected, undone.failure and undone.failure.type)


async def test_an_undo_says_how_it_ended() -> None:
    """An undo tells its outcome."""
    told = await step("undone", "undo")

    assert ("undo:null.write", "compensated") == (told.name, told.outcome)


async def test_attempts_say_why_the_one_before_failed() -> None:
    """A retried activity tells the number of attempts and why the last but one failed."""
    told = await step("knocks", "activity")

    assert ("tests.knock", "Knock at the door", 3, "open") == (told.name, told.summary, told.attempts, told.result)
    assert "TargetUnavailable: nobody opens" == str(told.failure)


async def test_what_is_not_perdures_is_told_too() -> None:
    """Timers, children and own activities stand in the timeline."""
    told = await timeline("knocks")

    assert ["activity", "timer", "child"] == [step.kind for step in told.steps]
    assert "Take a breath" == told.steps[1].summary
    assert ("Chats", "hello", "hello") == (told.steps[2].name, told.steps[2].inputs, told.steps[2].result)


async def test_a_plan_is_told_under_its_name() -> None:
    """The interpreter's run carries the plan's name, and its check is a step."""
    told = await timeline("plan")

    assert ("note", "perdure.plan") == (told.run.plan, told.run.workflow_type)
    assert "check" == told.steps[0].kind


async def test_a_cancellation_says_who_and_why() -> None:
    """A cancelled run tells who asked for it and why."""
    told = await timeline("cancelled")

    assert "cancelled" == told.run.state
    assert told.run.failure is not None
    assert told.run.failure.message.startswith("changed my mind (by perdure-client@")


@pytest.mark.parametrize("name", NAMES)
async def test_every_prefix_is_a_timeline(name: str) -> None:
    """A history can be read up to any event: what was told stays told, and nothing is told before it happened."""
    scribe = TimelineBuilder(pydantic_data_converter)
    seen: dict[int, Step] = {}

    for event in history(name).events:
        changed = await scribe.feed(event)
        told = scribe.timeline
        assert event.event_id == told.run.events
        assert list(seen) == [step.id for step in told.steps][: len(seen)]
        assert changed is None or changed == {step.id: step for step in told.steps}[changed.id]
        seen = {step.id: step for step in told.steps}

    assert await timeline(name) == scribe.timeline


async def test_open_approvals_are_known_from_the_history() -> None:
    """Between the request and the decision the run's history says what is asked, with the digest to decide on."""
    scribe, open_then = TimelineBuilder(pydantic_data_converter), []

    for event in history("desk").events:
        await scribe.feed(event)
        open_then.append([request.question for request in scribe.timeline.open_approvals])

    assert ["Write it down?"] in open_then
    assert [] == open_then[-1]


async def test_attempts_under_way_come_from_the_description() -> None:
    """Until an activity ends only the run's description knows its attempts; the timeline takes them from there."""
    scribe = TimelineBuilder(pydantic_data_converter)
    for event in history("knocks").events:
        await scribe.feed(event)
        if event.HasField("activity_task_scheduled_event_attributes"):
            break
    failure = Failure(message="nobody opens", application_failure_info=ApplicationFailureInfo(type="TargetUnavailable"))
    pending = PendingActivityInfo(activity_id=_only_activity("knocks"), attempt=2, last_failure=failure)

    first, again = await scribe.feed_pending([pending]), await scribe.feed_pending([pending])

    assert [("retrying", 2, "TargetUnavailable: nobody opens")] == [(s.state, s.attempts, str(s.failure)) for s in first]
    assert [] == again


async def test_a_local_activity_that_is_tried_again_later_is_one_step() -> None:
    """Each stretch of attempts of a local activity leaves a marker; the timeline has one step with all of them."""
    events = list(history("desk").events)
    [at] = [number for number, event in enumerate(events) if event.HasField("marker_recorded_event_attributes")]
    failed = type(events[at])()
    failed.CopyFrom(events[at])
    marker = failed.marker_recorded_event_attributes
    facts = json.loads(marker.details["data"].payloads[0].data) | {"backoff": {"seconds": 5, "nanos": 0}, "attempt": 7}
    marker.details["data"].payloads[0].data = json.dumps(facts).encode()
    marker.failure.message = "away"

    told = await read_timeline([*events[:at], failed, *events[at:]], pydantic_data_converter)

    assert [("done", 1, "Failure: away")] == [
        (s.state, s.attempts, str(s.failure)) for s in told.steps if s.kind == "recall"
    ]


async def test_a_payload_that_cannot_be_read_hides_nothing_else() -> None:
    """A value in an unknown encoding is told as that, and the rest of the timeline stays."""
    events = history("knocks").events
    for event in events:
        if event.HasField("workflow_execution_started_event_attributes"):
            strange = Payload(metadata={"encoding": b"binary/strange"}, data=b"123")
            event.workflow_execution_started_event_attributes.input.payloads[0].CopyFrom(strange)

    told = await read_timeline(events, pydantic_data_converter)

    assert str(told.run.inputs).startswith("<3 bytes that cannot be read")
    assert 3 == len(told.steps)


async def test_results_of_another_format_stay_as_json() -> None:
    """A result that does not fit today's contract is shown as it is, without the essentials."""
    events = history("desk").events
    for event in events:
        if event.HasField("activity_task_completed_event_attributes"):
            result = event.activity_task_completed_event_attributes.result.payloads[0]
            result.data = json.dumps(json.loads(result.data) | {"record": {"from": "the future"}}).encode()

    told = await read_timeline(events, pydantic_data_converter)

    [generate] = [step for step in told.steps if step.kind == "generate"]
    assert generate.model is None
    assert isinstance(generate.result, dict)
    assert {"from": "the future"} == generate.result["record"]


def _only_activity(name: str) -> str:
    [found] = [
        event.activity_task_scheduled_event_attributes.activity_id
        for event in history(name).events
        if event.HasField("activity_task_scheduled_event_attributes")
    ]
    return found


async def test_a_turn_of_a_conversation_is_told_like_any_model_call() -> None:
    """Steps whose record is kept short have their names, their model and its whole record all the same."""
    recorded = FOLDER.parent.parent / "histories/converses@0.1.0.json"
    told = await read_timeline(WorkflowHistory.from_json("converses", recorded.read_text()).events, pydantic_data_converter)

    assert [
        ("remember", "remember"),
        ("recall", "recall"),
        ("generate", "generate:triage"),
        ("act", "null.read"),
    ] == [(step.kind, step.name) for step in told.steps]
    turn = told.steps[2]
    assert turn.model is not None
    assert ("triage", "local-small") == (turn.model.task, turn.model.deployment)
    assert turn.model.prompt_digest.startswith("sha256:")
    assert digest(dict(turn.result or {})["value"]) == turn.model.answer_digest  # type: ignore[arg-type]  # JSON
    assert 1 == told.run.model_calls

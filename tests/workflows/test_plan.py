"""Tests of workflows/plan.py: plans run like workflows written by hand."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from kits.runs import step_summaries
from kits.workflows import OpenWorker
from pydantic import JsonValue
from temporalio.client import WorkflowFailureError
from temporalio.common import SearchAttributeKey

from perdure.connectors.contracts import AnyAction
from perdure.connectors.null import Entry, NullConnector
from perdure.workflows import Plan, PlanRun, PlanWorkflow
from perdure.workflows.plan import _language, describe_actions
from perdure.workflows.plan_model import evaluate

WRITES = {
    "name": "writes",
    "input": {"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}},
    "steps": [
        {"id": "first", "act": "null.write", "with": {"text": "${input.text}"}},
        {"id": "skipped", "act": "null.write", "when": "input.text == 'never'"},
        {"id": "second", "act": "null.write", "with": {"text": "${input.text + '!'}"}, "needs": ["first"]},
    ],
    "outcome": {"texts": ["${first.value.text}", "${second.value.text}"], "skipped": "${skipped}"},
}


def running(given: JsonValue, **changes: JsonValue) -> PlanRun:
    """Return the plan `writes`, with CHANGES, on the input GIVEN."""
    return PlanRun(plan=Plan.model_validate({**WRITES, **changes}), input=given)


async def test_a_plan_runs_its_steps_and_returns_its_outcome(governed: OpenWorker) -> None:
    """Steps run in the order of their needs, a false condition skips one, and the run replays."""
    async with governed() as desk:
        handle = await desk.start(PlanWorkflow.run, running({"text": "hello"}))

        assert {"texts": ["hello", "hello!"], "skipped": None} == await handle.result()
        assert ["first: null.write", "second: null.write"] == step_summaries(await handle.fetch_history())
        plan_name = (await handle.describe()).typed_search_attributes[SearchAttributeKey.for_keyword("PerdurePlan")]
        assert "writes" == plan_name
        assert await desk.replays(handle, [])


@pytest.mark.parametrize(
    ("given", "changes", "said"),
    [
        ({"text": 5}, {}, "the input does not fit plan writes: text has to be a text, and is 5"),
        (
            {"text": "x"},
            {"steps": [{"id": "a", "act": "null.nothing"}], "outcome": None},
            "this worker has no action 'null.nothing'",
        ),
        (
            {"text": "x"},
            {"steps": [{"id": "a", "act": "null.write", "with": {"texd": "x"}}], "outcome": None},
            "step 'a': null.write takes no 'texd'; it takes text",
        ),
        (
            {"text": "x"},
            {"steps": [{"id": "a", "generate": "nothing", "output": {}}], "outcome": None},
            "no route serves task 'nothing'",
        ),
    ],
)
async def test_a_plan_that_cannot_end_well_does_not_begin(
    governed: OpenWorker, given: JsonValue, changes: dict[str, JsonValue], said: str
) -> None:
    """What is wrong is found before the first effect, and the run fails with the reason."""
    async with governed() as desk:
        handle = await desk.start(PlanWorkflow.run, running(given, **changes))

        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
        assert said in str(failed.value.cause)
        assert not desk.null.effects


async def test_a_step_that_fails_undoes_the_others(governed: OpenWorker) -> None:
    """A plan's effects stand or fall together, like a saga's."""
    steps: list[JsonValue] = [
        {"id": "first", "act": "null.write", "with": {"text": "x"}},
        {"id": "broken", "remember": "${first.value.nothing.at.all}", "scope": {"user": "u"}},
    ]
    async with governed() as desk:
        handle = await desk.start(PlanWorkflow.run, running({"text": "x"}, steps=steps, outcome=None))

        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
        assert "step 'broken'" in str(failed.value.cause)
        assert "Undo first" in step_summaries(await handle.fetch_history())
        assert 2 == len(desk.null.effects)
        assert await desk.replays(handle, [])


async def test_what_is_written_down_is_what_is_sent(governed: OpenWorker) -> None:
    """Integers of any size, expressions with zones and patterns, and braces in strings go through a run and its replay."""
    steps: list[JsonValue] = [
        {"id": "first", "act": "null.write", "with": {"text": "${input.id} ${'}'} ${ {'a': {'b': input.list}} }"}},
        {
            "id": "second",
            "act": "null.write",
            "when": "input.at.matches('^2026') && timestamp(input.at).getHours('Europe/Berlin') == 0",
            "with": {"text": "${string(size(input.name))}"},
        },
    ]
    outcome: JsonValue = {"id": "${input.id}", "texts": ["${first.value.text}", "${second.value.text}"]}
    given: JsonValue = {"id": 2**70, "list": [1, None], "at": "2026-11-23T23:31:30Z", "name": "M\u00fcller"}
    async with governed() as desk:
        handle = await desk.start(PlanWorkflow.run, running(given, input={}, steps=steps, outcome=outcome))

        assert {"id": 2**70, "texts": [f'{2**70} }} {{"a": {{"b": [1, null]}}}}', "6"]} == await handle.result()
        assert await desk.replays(handle, [])


async def test_a_step_is_summed_up_as_its_action_describes_it(governed: OpenWorker) -> None:
    """The Web UI shows what an action says of itself (case 80), its name where it can't; a replay needs neither."""
    steps: list[JsonValue] = [
        {"id": "first", "act": "null.write", "with": {"text": "${input.text}"}},
        {"id": "second", "act": "null.write", "with": {"text": "secret"}, "needs": ["first"]},
    ]

    def describe(entry: Entry) -> str:
        if entry.text == "secret":
            raise ValueError(entry.text)
        return f"write {entry.text!r}"

    async with governed() as desk:
        before = await desk.start(PlanWorkflow.run, running({"text": "hello"}, steps=steps, outcome=None))
        await before.result()
        describe_actions([cast(AnyAction, replace(NullConnector.write, describe=describe))])
        handle = await desk.start(PlanWorkflow.run, running({"text": "hello"}, steps=steps, outcome=None))
        await handle.result()
        describe_actions([cast(AnyAction, NullConnector.write)])

        assert ["first: null.write", "second: null.write"] == step_summaries(await before.fetch_history())
        assert ["first: write 'hello'", "second: null.write"] == step_summaries(await handle.fetch_history())
        assert await desk.replays(handle, [])


async def test_a_plan_that_is_not_read_first_is_refused_by_its_run(governed: OpenWorker) -> None:
    """A client that sends JSON of its own gets the reason, and the run does not stay behind."""
    raw = {"plan": {"name": "raw", "steps": [{"id": "a", "act": "null.write", "with": {"text": "${input.a"}}]}}
    async with governed() as desk:
        handle = await desk.start("perdure.plan", raw)

        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
        assert "plan raw: step 'a', with.text: '${input.a' (column 1): `${` without an end" in str(failed.value.cause)
        assert not desk.null.effects


async def test_a_run_of_before_goes_on_as_it_began() -> None:
    """What 0.1.0 decided in a run it decides at its replay, and what it would not refuse is not refused."""
    recorded = json.loads((Path(__file__).parents[1] / "histories" / "evaluates-by-0-1-0@0.1.0.json").read_text())
    call = base64.b64decode(
        recorded["events"][0]["workflowExecutionStartedEventAttributes"]["input"]["payloads"][0]["data"]
    )
    begun = PlanRun.model_validate_json(call)

    then, _ = _language(begun.plan, 1)

    names: dict[str, JsonValue] = {"input": begun.input}
    assert then.evaluate("size(input.name) <= 6", names, "x") is False
    assert evaluate("size(input.name) <= 6", names, "x") is True
    assert "[1, True, None] ${input.order" == then.render("${input.list} ${input.order", names, "x")

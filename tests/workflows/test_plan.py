"""Tests of workflows/plan.py: plans run like workflows written by hand."""

from __future__ import annotations

import pytest
from kits.runs import step_summaries
from kits.workflows import OpenWorker
from pydantic import JsonValue
from temporalio.client import WorkflowFailureError
from temporalio.common import SearchAttributeKey

from perdure.workflows import Plan, PlanRun, PlanWorkflow

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
        ({"text": 5}, {}, "the input does not fit plan writes: $.text: 5 is not of type 'string'"),
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

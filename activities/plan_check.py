"""Can a plan run: is it written as plans are today, does the input fit it, and can it be undone as far as it says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from pydantic import JsonValue

from perdure.errors import InvalidInput, PlanError
from perdure.workflows.plan import ActionFacts
from perdure.workflows.plan_model import ActStep, Plan, check_expressions


def check_texts(plan: Plan) -> None:
    """Raise `PlanError` if an expression in PLAN is none; a plan in a history may be from when less was checked."""
    try:
        check_expressions(plan)
    except ValueError as error:
        raise PlanError(f"plan {plan.name}: {error}") from None


if TYPE_CHECKING:
    from jsonschema import ValidationError as JsonSchemaError

_ARTICLES = {
    "object": "an object",
    "array": "a list",
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}


def check_input(plan: Plan, given: JsonValue) -> None:
    """Raise `InvalidInput`, naming the field, if GIVEN does not fit the input schema of PLAN."""
    if not plan.input:
        return
    from jsonschema import Draft202012Validator, SchemaError

    try:
        Draft202012Validator.check_schema(plan.input)
    except SchemaError as error:
        raise InvalidInput(f"plan {plan.name}: its input schema is not a JSON schema: {error.message}") from None
    wrong = sorted(Draft202012Validator(plan.input).iter_errors(given), key=lambda error: error.json_path)
    if wrong:
        said = "; ".join(_describe(error) for error in wrong[:5])
        raise InvalidInput(f"the input does not fit plan {plan.name}: {said}")


def _describe(error: JsonSchemaError) -> str:
    """Return what is wrong in JSON's words and not in Python's."""
    place = error.json_path.removeprefix("$").removeprefix(".") or "the input"
    if error.validator != "type":
        return f"{place}: {error.message}"
    wanted = error.validator_value
    wanted = " or ".join(wanted) if isinstance(wanted, list) else str(wanted)
    return f"{place} has to be {_ARTICLES.get(wanted, wanted)}, and is {_kind(cast('JsonValue', error.instance))}"


def _kind(value: JsonValue) -> str:
    match value:
        case None:
            return "null or was not given"
        case bool():
            return f"{value}".lower()
        case dict():
            return "an object"
        case list():
            return "a list"
    return json.dumps(value, ensure_ascii=False)[:60]


def check_order(plan: Plan, actions: Mapping[str, ActionFacts]) -> None:
    """Raise `PlanError` if a step of PLAN that can be undone, or a pivot, comes after one that nothing takes back."""
    graph = plan.graph()
    acts = {step.id: actions[step.act] for step in plan.steps if isinstance(step, ActStep) and not actions[step.act].reads}
    for step, facts in acts.items():
        if not facts.undoable and facts.kind != "pivot":
            continue
        turn = next((each for each in sorted(_before(step, graph)) if each in acts and not acts[each].undoable), None)
        if turn is not None:
            raise PlanError(
                f"plan {plan.name}: step {step!r} ({facts.kind}) comes after {turn!r} ({acts[turn].kind}), which could not "
                f"be undone if {step!r} failed. Do {turn!r} after it."
            )


def _before(step: str, graph: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = set(graph[step])
    while waiting:
        each = waiting.pop()
        if each not in found:
            found.add(each)
            waiting |= graph[each]
    return found

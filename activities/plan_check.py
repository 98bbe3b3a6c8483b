"""Does an input fit a plan."""

from __future__ import annotations

from pydantic import JsonValue

from perdure.errors import InvalidInput
from perdure.workflows.plan_model import Plan


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
        said = "; ".join(f"{error.json_path}: {error.message}" for error in wrong[:5])
        raise InvalidInput(f"the input does not fit plan {plan.name}: {said}")

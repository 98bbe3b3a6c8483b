"""How a person answers what no model could."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar, cast, get_args

from pydantic import BaseModel, JsonValue, ValidationError

from perdure.errors import InvalidAnswer
from perdure.routing.contracts import (
    Generated,
    Generation,
    ModelRecord,
    Tier,
    Usage,
)
from perdure.workflows.approvals import approval
from perdure.workflows.call import Value, as_json

if TYPE_CHECKING:
    from perdure.workflows.conversation import Conversation

T = TypeVar("T", bound=BaseModel)
R = TypeVar("R")

WITHIN = timedelta(days=2)
"""How long that person has."""


async def ask_person(
    task: str,
    output: type[T],
    *,
    of: str,
    inputs: Mapping[str, Value],
    error: InvalidAnswer,
    conversation: Conversation | None = None,
) -> Generated[T]:
    """Ask the person or role OF for the answer to TASK, as JSON in the comment of an approval, until it fits OUTPUT.

    In a CONVERSATION that is what the model has said. Raises `Rejected`, `ChangesRequested` or `ApprovalExpired` as every
    approval does.
    """
    schema = cast(JsonValue, output.model_json_schema())

    def read(said: str) -> T:
        try:
            return output.model_validate_json(said)
        except ValidationError as misfit:
            raise ValueError("; ".join(f"{_place(each['loc'])}: {each['msg']}" for each in misfit.errors())) from None

    value, record = await _ask(task, schema, read, of=of, inputs=inputs, error=error)
    if conversation is not None:
        conversation.assistant(value)
    return Generated[T](value=value, record=record)


async def ask_person_json(
    task: str,
    schema: dict[str, JsonValue],
    *,
    of: str,
    inputs: Mapping[str, Value],
    error: InvalidAnswer,
    conversation: Conversation | None = None,
) -> Generation:
    """Do what `answered` does for an output that is known by its JSON SCHEMA, as plans have it."""
    import jsonschema  # loads slowly

    def read(said: str) -> JsonValue:
        value: JsonValue = json.loads(said)
        wrong = sorted(jsonschema.Draft202012Validator(schema).iter_errors(value), key=lambda each: each.json_path)
        if wrong:
            raise ValueError("; ".join(f"{each.json_path}: {each.message}" for each in wrong[:8]))
        return value

    value, record = await _ask(task, schema, read, of=of, inputs=inputs, error=error)
    if conversation is not None:
        conversation.assistant(value)
    return Generation(value=value, record=record)


async def _ask(
    task: str,
    schema: JsonValue,
    read: Callable[[str], R],
    *,
    of: str,
    inputs: Mapping[str, Value],
    error: InvalidAnswer,
) -> tuple[R, ModelRecord]:
    """Ask OF until READ takes the answer, and return what it says and who gave it."""
    wrong = ""
    while True:
        about: dict[str, JsonValue] = {
            "inputs": {key: as_json(value) for key, value in inputs.items()},
            "answer fits": schema,
            "why": error.message,
        }
        if wrong:
            about["the last answer"] = wrong
        decision = await approval(
            f"No model could answer {task}. Approve with the answer as JSON in the comment",
            of=of,
            within=WITHIN,
            about=about,
            name=f"answer {task}",
        )
        try:
            value = read(decision.comment)
        except ValueError as misfit:
            wrong = str(misfit)
            continue
        record = ModelRecord(
            task=task, tier=_tier(error), deployment="person", model=decision.by, usage=Usage(), provider_calls=0
        )
        return value, record


def _place(where: tuple[int | str, ...]) -> str:
    return ".".join(map(str, where)) or "answer"


def _tier(error: InvalidAnswer) -> Tier:
    """Return the tier that was asked last."""
    attempts = error.facts.get("attempts")
    last = attempts[-1] if isinstance(attempts, list) and attempts else {}
    tier = last.get("tier") if isinstance(last, dict) else None
    return cast(Tier, tier) if tier in get_args(Tier) else "small"

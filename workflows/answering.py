"""How a person answers what no model could."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar, cast, get_args

from pydantic import BaseModel, JsonValue, ValidationError

from perdure.errors import InvalidAnswer
from perdure.routing.contracts import Generated, ModelRecord, Tier, Usage
from perdure.workflows.approvals import approval
from perdure.workflows.steps import Value, as_json

if TYPE_CHECKING:
    from perdure.workflows.conversation import Conversation

T = TypeVar("T", bound=BaseModel)

WITHIN = timedelta(days=2)
"""How long that person has."""


async def answered(
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
    wrong = ""
    while True:
        about: dict[str, JsonValue] = {
            "inputs": {key: as_json(value) for key, value in inputs.items()},
            "answer fits": cast(JsonValue, output.model_json_schema()),
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
            value = output.model_validate_json(decision.comment)
        except ValidationError as misfit:
            wrong = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'answer'}: {each['msg']}" for each in misfit.errors())
            continue
        if conversation is not None:
            conversation.assistant(value)
        return Generated[T](
            value=value,
            record=ModelRecord(
                task=task, tier=_tier(error), deployment="person", model=decision.by, usage=Usage(), provider_calls=0
            ),
        )


def _tier(error: InvalidAnswer) -> Tier:
    """Return the tier that was asked last."""
    attempts = error.facts.get("attempts")
    last = attempts[-1] if isinstance(attempts, list) and attempts else {}
    tier = last.get("tier") if isinstance(last, dict) else None
    return cast(Tier, tier) if tier in get_args(Tier) else "small"

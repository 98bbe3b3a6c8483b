"""How a run says whether a model's answer was right: labels, which learned escalation learns from."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal, Protocol

from perdure.errors import InvalidInput
from perdure.routing.contracts import JudgeCall, LabelResult, ModelRecord
from perdure.workflows.call import EFFECT_RETRIES, execute
from perdure.workflows.run import current_run


class ModelAnswer(Protocol):
    """What `generate` returns."""

    @property
    def record(self) -> ModelRecord:
        """How the answer came."""
        ...


async def label_answer(
    answer: ModelAnswer,
    *,
    correct: bool,
    by: str = "",
    source: Literal["step", "approval"] = "step",
    name: str | None = None,
    summary: str | None = None,
) -> LabelResult:
    """Write down that ANSWER was CORRECT or not, as BY says. Said again later, in another step, the last word counts.

    The answer itself is not kept, only which call it came from. Raises `InvalidInput` for an answer that a person gave.
    """
    record = answer.record
    if not record.prompt_digest:
        raise InvalidInput(
            f"the answer to {record.task!r} came from a {record.deployment}: a label is for the answer of a model"
        )
    step = current_run().step(name or f"judge {record.task}")
    told = f"The answer to {record.task} was {'right' if correct else 'wrong'}{f', says {by}' if by else ''}"
    return await execute(
        "perdure.judge",
        JudgeCall(
            step=step,
            call_id=record.call_id,
            task=record.task,
            deployment=record.deployment,
            prompt_digest=record.prompt_digest,
            answer_digest=record.answer_digest,
            correct=correct,
            by=by,
            source=source,
        ),
        LabelResult,
        id=step.name,
        summary=summary or told,
        timeout=timedelta(seconds=60),
        retries=EFFECT_RETRIES,
    )

"""How a run asks a model: in the lane, the conversation and within the budget that it should."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Literal, TypeVar

from pydantic import BaseModel

from perdure.errors import InvalidAnswer, InvalidInput
from perdure.routing.contracts import (
    GenerateCall,
    Generated,
    Generation,
    OutputRef,
)
from perdure.workflows.answer_model import Answer, AnswerCall
from perdure.workflows.batches import ask_in_batch
from perdure.workflows.budgets import ask_within_budget
from perdure.workflows.call import MODEL_RETRIES, Value, as_json, execute
from perdure.workflows.conversation import Context, Conversation, converse
from perdure.workflows.conversation_model import task_name
from perdure.workflows.human_answers import ask_person
from perdure.workflows.run import current_run

T = TypeVar("T", bound=BaseModel)


async def generate(
    task: str,
    output: type[T],
    *,
    inputs: Mapping[str, Value] | None = None,
    conversation: Conversation | None = None,
    context: Context | None = None,
    tenant: str = "default",
    agent: str = "",
    or_ask: str = "",
    lane: Literal["now", "batch"] = "now",
    name: str | None = None,
    summary: str | None = None,
    timeout: timedelta = timedelta(minutes=5),
) -> Generated[T]:
    """Have the model that TASK is routed to answer about INPUTS, and return the answer as an OUTPUT.

    With a CONVERSATION the prompt holds what was said in it, as far as CONTEXT lets it in, and the answer is added to it.

    The answer is valid against OUTPUT or an error is raised: `InvalidAnswer` after repair, one re-ask and the larger tiers
    of the task, `NoRoute` if no route serves TASK, `ModelUnavailable` when the retries are used up. All but `NoRoute` are a
    `ModelError`. TIMEOUT is for one attempt. Budgets and the cache go by TENANT and AGENT. `BudgetSpent` says that a budget
    is used up; where models.toml says who may raise it, that person is asked first, and the model again after that.

    In LANE `batch` it waits, for hours if need be, to be asked together with others at a lower price; where there are no
    batches, or one brings no answer, it is asked by itself. A turn of a conversation cannot wait so. When no model gives a
    valid answer, the person or role OR_ASK is asked for one, if given.
    """
    try:
        generation = await generate_json(
            task,
            _output_ref(output),
            inputs=inputs,
            conversation=conversation,
            context=context,
            tenant=tenant,
            agent=agent,
            lane=lane,
            name=name,
            summary=summary,
            timeout=timeout,
        )
    except InvalidAnswer as error:
        if not or_ask:
            raise
        return await ask_person(task, output, of=or_ask, inputs=inputs or {}, error=error, conversation=conversation)
    value = output.model_validate(generation.value)
    return Generated[T](
        value=value, confidence=generation.confidence, ask_below=generation.ask_below, record=generation.record
    )


async def generate_json(
    task: str,
    output: OutputRef,
    *,
    inputs: Mapping[str, Value] | None = None,
    conversation: Conversation | None = None,
    context: Context | None = None,
    tenant: str = "default",
    agent: str = "",
    lane: Literal["now", "batch"] = "now",
    name: str | None = None,
    summary: str | None = None,
    timeout: timedelta = timedelta(minutes=5),
) -> Generation:
    """Do what `generate` does for an output that is known by reference or schema only, as plans have it."""
    name = name or f"generate:{task}"
    summary = summary or f"Ask a model: {task}"
    if conversation is not None or context is not None:
        if lane == "batch":
            raise InvalidInput(f"{name}: a turn with a conversation or a context is asked at once, in no batch")
        return await converse(
            task,
            output,
            inputs=inputs or {},
            conversation=conversation,
            context=context,
            tenant=tenant,
            agent=agent,
            name=name,
            summary=summary,
            timeout=timeout,
        )
    run = current_run()
    values = {key: as_json(value) for key, value in (inputs or {}).items()}

    async def ask() -> Generation:
        step = run.step(name)
        call = AnswerCall(
            **run.call_context(),
            task="" if task == task_name(step.name) else task,
            inputs=values,
            output=output.name,
            json_schema=output.json_schema,
            tenant=tenant,
            agent=agent,
        )
        answer = await execute(
            "perdure.generate", call, Answer, id=step.name, summary=summary, timeout=timeout, retries=MODEL_RETRIES
        )
        return answer.to_generation(task)

    generation = None
    if lane == "batch":
        call = GenerateCall(step=run.step(name), task=task, inputs=values, output=output, tenant=tenant, agent=agent)
        generation = await ask_in_batch(call, summary=summary)
    if generation is None:
        generation = await ask_within_budget(ask)
    run.spend(generation.record.usage.cost_nano_usd)
    return generation


def _output_ref(output: type[BaseModel]) -> OutputRef:
    name = f"{output.__module__}:{output.__qualname__}"
    # A class inside a function cannot be looked up by the worker, so its schema goes along.
    return OutputRef(name=name, json_schema=output.model_json_schema() if "<locals>" in name else None)

"""How a run has something done on another system once, and what it does until it is known what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from pydantic import BaseModel, JsonValue
from temporalio import workflow
from temporalio.exceptions import ActivityError

from perdure.connectors.contracts import (
    PARKED_WITHIN,
    Action,
    Done,
    SettleResult,
    UndoCall,
    effect_key,
)
from perdure.errors import InvalidInput, PerdureError
from perdure.lineage import StepRef
from perdure.workflows.call import EFFECT_RETRIES, execute
from perdure.workflows.cancellation import wait_until_done
from perdure.workflows.conversation_model import ConversationPosition, base_name, position_in
from perdure.workflows.effect_model import UNKNOWN_DATABASE, ActCall, ActResult
from perdure.workflows.parked import wait_until_resolved
from perdure.workflows.run import current_run, upsert

In = TypeVar("In", bound=BaseModel)
Out = TypeVar("Out", bound=BaseModel)


async def act(
    action: Action[In, Out],
    args: In,
    *,
    item: str = "",
    name: str | None = None,
    summary: str | None = None,
    parked_within: timedelta = PARKED_WITHIN,
    must: bool = False,
    settle: bool = True,
) -> Done[Out]:
    """Do ACTION with ARGS once, whatever fails on the way, and return what the target answered with the receipt.

    ITEM tells effects of one step apart, e.g. the order line. Raises `EffectRejected` if the target said no; with MUST
    that is parked too. What is parked waits for a person, at most PARKED_WITHIN; then `EffectParked` is raised if nobody
    can tell what happened, `EffectConflict` if the step or another run asked for something else before. A cancellation
    is answered after the request in flight has ended and, unless SETTLE is false, it is found out what became of it: nobody
    else would ask. A saga does that by itself.
    """
    request = EffectRequest.of(action, args, item=item, name=name, summary=summary, must=must)
    result = await perform_effect(request, parked_within=parked_within, settle=settle)
    return Done[Out](value=action.output.model_validate(result.value), receipt=result.receipt(action.name))


@dataclass(frozen=True)
class EffectRequest:
    """What a run asks a worker to do once: the CALL of its STEP, and what the run itself has to know of the action."""

    step: StepRef
    action: str
    call: ActCall
    risk: str
    """Empty if the action only reads: then nothing is to be found out after a cancellation."""
    summary: str
    timeout: timedelta
    """For one attempt."""

    @classmethod
    def of(
        cls,
        action: Action[In, Out],
        args: In,
        *,
        item: str,
        name: str | None,
        summary: str | None,
        must: bool,
        position: ConversationPosition | None = None,
    ) -> EffectRequest:
        """Return the request for ACTION with ARGS as the run's next step. At a POSITION its answer becomes a message."""
        if not isinstance(args, action.input):
            raise InvalidInput(f"{action.name} takes {action.input.__name__}, not {type(args).__name__}")
        step = current_run().step(name or action.name)
        described = action.describe(args) if action.describe else action.name
        return cls(
            step,
            action.name,
            act_call(step, action.name, args.model_dump(mode="json"), item=item, must=must, position=position),
            risk="" if action.reads else action.risk,
            summary=summary or described,
            timeout=action.target.deadline + timedelta(seconds=30),
        )


def act_call(
    step: StepRef,
    action: str,
    args: Mapping[str, JsonValue],
    *,
    item: str = "",
    must: bool = False,
    position: ConversationPosition | None = None,
    exact: bool = False,
) -> ActCall:
    """Return the call for ACTION by STEP of this run: what the activity finds out by itself is left out."""
    return ActCall(
        **current_run().call_context(),
        database=current_run().database or UNKNOWN_DATABASE,
        **(position or position_in(None)),
        action="" if action == base_name(step.name) else action,
        args=dict(args),
        item=item,
        must=must,
        exact=exact,
    )


async def perform_effect(
    request: EffectRequest, *, parked_within: timedelta = PARKED_WITHIN, settle: bool = False
) -> ActResult:
    """Have a worker do what is REQUESTED, note its risk, and wait for a person where one is needed.

    With SETTLE it is found out, if the run is cancelled, what became of it.
    """
    run = current_run()
    run.list_it()
    upsert(run.note_risk(request.risk))
    try:
        return await wait_until_resolved(
            lambda: _attempt(request), step=request.step.name, action=request.action, within=parked_within
        )
    except asyncio.CancelledError:
        # Histories before this hold no such step. Remove the question after 2027-06.
        if settle and request.risk and workflow.patched("perdure.settle"):
            settling = asyncio.create_task(_settle(request), name=f"settle {request.step.name}")
            await wait_until_done([settling])
            await settling
        raise


async def _attempt(request: EffectRequest) -> ActResult:
    task = asyncio.current_task()
    cancelled_before = task.cancelling() if task else 0

    def cancelled() -> bool:
        return task is not None and task.cancelling() > cancelled_before

    try:
        result = await execute(
            "perdure.act",
            request.call,
            ActResult,
            id=request.step.name,
            summary=request.summary,
            timeout=request.timeout,
            retries=EFFECT_RETRIES,
            # An undo must not run before the request in flight has landed.
            cancellation=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )
    except (ActivityError, PerdureError) as error:
        # Whatever the attempt ended with after a cancellation, e.g. with its worker, the run was cancelled.
        if cancelled():
            raise asyncio.CancelledError(workflow.cancellation_reason()) from error
        raise
    current_run().database = current_run().database or result.database
    # The activity ended well although a cancellation came in between: the wait above has swallowed it.
    if cancelled():
        raise asyncio.CancelledError(workflow.cancellation_reason())
    return result


async def _settle(request: EffectRequest) -> None:
    """Find out what became of what was REQUESTED, which the run does not ask for any more."""
    step = current_run().step_named(f"settle:{request.step.name}")
    try:
        await execute(
            "perdure.settle",
            UndoCall(
                step=step,
                effect=effect_key(request.step, item=request.call.item),
                action=request.action,
                database=current_run().database,
            ),
            SettleResult,
            id=step.name,
            summary=f"Find out about {request.step.name}",
            timeout=timedelta(minutes=2),
            retries=EFFECT_RETRIES,
        )
    except (ActivityError, PerdureError) as problem:
        # The run ends as cancelled all the same. The ledger has the effect as it stands.
        workflow.logger.warning(
            "the outcome of a cancelled step could not be looked up: %s", problem, extra={"step": request.step.name}
        )

"""The steps that a workflow is written with: each becomes one activity with a name, a summary and a record."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal, NoReturn, TypeVar

from pydantic import BaseModel, JsonValue, TypeAdapter
from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

from perdure.connectors.contracts import (
    PARKED_WITHIN,
    Action,
    Done,
    EffectCall,
    EffectResult,
    Settled,
    UndoCall,
    effect_key,
)
from perdure.errors import (
    EffectError,
    InvalidAnswer,
    InvalidInput,
    ModelError,
    PerdureError,
    by_name,
)
from perdure.memory.contracts import (
    Kind,
    Origin,
    Recall,
    RecallCall,
    RememberCall,
    Remembered,
    Scope,
)
from perdure.routing.contracts import (
    GenerateCall,
    Generated,
    Generation,
    ModelRecord,
    OutputRef,
)
from perdure.workflows.answer_model import Answer, AnswerCall
from perdure.workflows.conversation_model import Place
from perdure.workflows.effect_model import ActCall, Acted
from perdure.workflows.ending import ended
from perdure.workflows.parked import persist
from perdure.workflows.run import current_run, upsert

if TYPE_CHECKING:
    from perdure.workflows.conversation import Context, Conversation

T = TypeVar("T", bound=BaseModel)
In = TypeVar("In", bound=BaseModel)
Out = TypeVar("Out", bound=BaseModel)
R = TypeVar("R", bound=BaseModel)

Value = BaseModel | JsonValue | Sequence[BaseModel] | Mapping[str, BaseModel | JsonValue]
"""What may stand in a prompt or before a reviewer: anything that pydantic turns into JSON."""

HEARTBEAT = timedelta(seconds=4)
"""How long a worker may be silent before its running steps are given to another: what a kill -9 costs."""

LOOKUP_RETRIES = RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=10))
# Eight, and one that a canary may take.
MODEL_RETRIES = RetryPolicy(
    initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=1), maximum_attempts=9
)
# An effect is retried until it is known what became of it: the ledger parks what cannot be known.
_EFFECT_RETRIES = RetryPolicy(initial_interval=timedelta(milliseconds=500), maximum_interval=timedelta(minutes=1))


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
        from perdure.workflows.answering import answered

        return await answered(task, output, of=or_ask, inputs=inputs or {}, error=error, conversation=conversation)
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
    from perdure.workflows.budgets import paid

    if conversation is not None or context is not None:
        from perdure.workflows.conversation import converse

        if lane == "batch":
            raise InvalidInput(f"{name or task}: a turn with a conversation or a context is asked at once, in no batch")
        return await converse(
            task,
            output,
            inputs=inputs or {},
            conversation=conversation,
            context=context,
            tenant=tenant,
            agent=agent,
            name=name or f"generate:{task}",
            summary=summary or f"Ask a model: {task}",
            timeout=timeout,
        )
    run = current_run()
    told = summary or f"Ask a model: {task}"

    def asked() -> GenerateCall:
        return GenerateCall(
            step=run.step(name or f"generate:{task}"),
            task=task,
            inputs={key: as_json(value) for key, value in (inputs or {}).items()},
            output=output,
            tenant=tenant,
            agent=agent,
        )

    async def ask() -> Generation:
        call = asked()
        short = AnswerCall.of(call, run.told())
        answer = await execute(
            "perdure.generate", short, Answer, id=call.step.name, summary=told, timeout=timeout, retries=MODEL_RETRIES
        )
        return answer.whole(task)

    if lane == "batch":
        from perdure.workflows.batches import batched

        generation = await batched(asked(), summary=told)
        if generation is not None:
            run.spend(generation.record.usage.cost_nano_usd)
            return generation
    generation = await paid(ask)
    run.spend(generation.record.usage.cost_nano_usd)
    return generation


async def recall(
    query: str,
    *,
    scope: Scope,
    limit: int = 5,
    as_of: datetime | None = None,
    kinds: Sequence[Kind] = (),
    subject: str | None = None,
    since: datetime | None = None,
    before: datetime | None = None,
    recency: float = 0.0,
    importance: float = 0.0,
    explain: bool = False,
    name: str | None = None,
    summary: str | None = None,
) -> Recall:
    """Return up to LIMIT live memory records in SCOPE that bear on QUERY, best first, with the recall receipt.

    AS_OF asks what was known and held then. Of all records only those of KINDS, of exactly SUBJECT, and true SINCE or
    BEFORE a moment. RECENCY and IMPORTANCE are what a record of now, and one of importance 1, gets added to its score.
    With EXPLAIN each hit says why it came.
    A look-up without effect, so it runs as a local activity: one event instead of six.
    """
    step = current_run().step(name or "recall")
    try:
        found: Recall = await workflow.execute_local_activity(
            "perdure.recall",
            activity_id=step.name,
            arg=RecallCall(
                step=step,
                query=query,
                scope=scope,
                limit=limit,
                as_of=as_of,
                kinds=tuple(kinds),
                subject=subject,
                since=since,
                before=before,
                recency=recency,
                importance=importance,
                explain=explain,
            ),
            result_type=Recall,
            summary=summary or f"Recall what is known of {named_scope(scope)}",
            start_to_close_timeout=timedelta(seconds=30),
            retry_policy=LOOKUP_RETRIES,
        )
    except ActivityError as error:
        raise_translated(error)
    current_run().did(f"{_short(summary or f'Recall what is known of {named_scope(scope)}')}: {len(found.hits)} found")
    return found


async def remember(
    scope: Scope,
    content: str,
    *,
    kind: Kind = "episodic",
    subject: str | None = None,
    predicate: str | None = None,
    memory_id: str | None = None,
    ttl: timedelta | None = None,
    valid_from: datetime | None = None,
    valid_to: datetime | None = None,
    confidence: float | None = None,
    labels: Sequence[str] = (),
    retention: str = "standard",
    origin: Origin | None = None,
    made_by: ModelRecord | None = None,
    name: str | None = None,
    summary: str | None = None,
) -> Remembered:
    """Write CONTENT to the memory of SCOPE; it expires after TTL. With MEMORY_ID it becomes that memory's next version.

    SUBJECT and PREDICATE name a fact that has one value at a time: what is written supersedes what was known of it. ORIGIN
    says where it comes from besides this step; MADE_BY is the `record` of the model's answer that it is.
    """
    step = current_run().step(name or "remember")
    call = RememberCall(
        step=step,
        scope=scope,
        content=content,
        kind=kind,
        subject=subject,
        predicate=predicate,
        memory_id=memory_id,
        ttl=ttl,
        valid_from=valid_from,
        valid_to=valid_to,
        confidence=confidence,
        labels=tuple(labels),
        retention=retention,
        origin=_origin(origin or Origin(), made_by),
    )
    return await execute(
        "perdure.remember",
        call,
        Remembered,
        id=step.name,
        summary=summary or f"Remember something of {named_scope(scope)}",
        timeout=timedelta(seconds=60),
        retries=LOOKUP_RETRIES,
    )


def _origin(origin: Origin, made_by: ModelRecord | None) -> Origin:
    known: dict[str, object] = {"event": workflow.info().get_current_history_length()}
    if made_by is not None:
        known |= {"model": made_by.model, "cost_nano_usd": made_by.usage.cost_nano_usd}
    return origin.model_copy(update=known)


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
    acted = await perform_action(
        action,
        args,
        item=item,
        name=name,
        summary=summary,
        parked_within=parked_within,
        must=must,
        settle=settle,
        place=ActCall.at(None),
    )
    effect = acted.whole(action.name)
    return Done[Out](value=action.output.model_validate(effect.value), receipt=effect.receipt)


async def perform_action(
    action: Action[In, Out],
    args: In,
    *,
    item: str,
    name: str | None,
    summary: str | None,
    parked_within: timedelta,
    must: bool,
    settle: bool,
    place: Place,
) -> Acted:
    """Do what `act` does, at a PLACE in a conversation: there the answer is stored, and not returned."""
    if not isinstance(args, action.input):
        raise InvalidInput(f"{action.name} takes {action.input.__name__}, not {type(args).__name__}")
    step = current_run().step(name or action.name)
    described = action.describe(args) if action.describe else action.name
    call = EffectCall(step=step, action=action.name, args=args.model_dump(mode="json"), item=item, must=must)
    try:
        return await _perform(
            call,
            risk="" if action.reads else action.risk,
            summary=summary or described,
            timeout=action.target.deadline + timedelta(seconds=30),
            parked_within=parked_within,
            place=place,
        )
    except asyncio.CancelledError:
        # Histories before this hold no such step. Remove the question after 2027-06.
        if settle and not action.reads and workflow.patched("perdure.settle"):
            settling = asyncio.create_task(_settle(call), name=f"settle {step.name}")
            await ended([settling])
            await settling
        raise


async def perform(
    call: EffectCall, *, risk: str, summary: str, timeout: timedelta, parked_within: timedelta = PARKED_WITHIN
) -> EffectResult:
    """Have a worker perform CALL, note RISK, and wait for a person where one is needed."""
    acted = await _perform(
        call, risk=risk, summary=summary, timeout=timeout, parked_within=parked_within, place=ActCall.at(None)
    )
    return acted.whole(call.action)


async def _perform(
    call: EffectCall, *, risk: str, summary: str, timeout: timedelta, parked_within: timedelta, place: Place
) -> Acted:
    run = current_run()
    short = ActCall.short(call, run.named(call.step.name), run.told(), place)
    upsert(current_run().note_risk(risk))
    return await persist(
        lambda: _attempt(short, call.step.name, summary=summary, timeout=timeout),
        step=call.step.name,
        action=call.action,
        within=parked_within,
    )


async def _attempt(call: ActCall, step: str, *, summary: str, timeout: timedelta) -> Acted:
    task = asyncio.current_task()
    cancelled_before = task.cancelling() if task else 0

    def cancelled() -> bool:
        return task is not None and task.cancelling() > cancelled_before

    try:
        acted = await execute(
            "perdure.act",
            call,
            Acted,
            id=step,
            summary=summary,
            timeout=timeout,
            retries=_EFFECT_RETRIES,
            # An undo must not run before the request in flight has landed.
            cancellation=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )
    except (ActivityError, PerdureError) as error:
        # Whatever the attempt ended with after a cancellation, e.g. with its worker, the run was cancelled.
        if cancelled():
            raise asyncio.CancelledError(workflow.cancellation_reason()) from error
        raise
    # The activity ended well although a cancellation came in between: the wait above has swallowed it.
    if cancelled():
        raise asyncio.CancelledError(workflow.cancellation_reason())
    return acted


async def _settle(call: EffectCall) -> None:
    """Find out what became of the effect of CALL, which the run does not ask for any more."""
    step = current_run().named(f"settle:{call.step.name}")
    try:
        await execute(
            "perdure.settle",
            UndoCall(step=step, effect=effect_key(call.step, item=call.item), action=call.action),
            Settled,
            id=step.name,
            summary=f"Find out about {call.step.name}",
            timeout=timedelta(minutes=2),
            retries=_EFFECT_RETRIES,
        )
    except (ActivityError, PerdureError) as problem:
        # The run ends as cancelled all the same. The ledger has the effect as it stands.
        workflow.logger.warning("nobody found out about a cancelled step: %s", problem, extra={"step": call.step.name})


async def execute(
    activity: str,
    call: BaseModel,
    result: type[R],
    *,
    id: str,
    summary: str,
    timeout: timedelta,
    retries: RetryPolicy,
    cancellation: workflow.ActivityCancellationType = workflow.ActivityCancellationType.TRY_CANCEL,
) -> R:
    """Run one of perdure's activities and raise what it failed with as an error of `perdure.errors`."""
    try:
        done: R = await workflow.execute_activity(
            activity,
            call,
            result_type=result,
            # The step's name: a replay finds code that takes other steps, and the Web UI shows it.
            activity_id=id,
            summary=_short(summary),
            start_to_close_timeout=timeout,
            heartbeat_timeout=HEARTBEAT,
            retry_policy=retries,
            cancellation_type=cancellation,
        )
    except ActivityError as error:
        raise_translated(error)
    current_run().did(_short(summary))
    return done


def as_json(value: Value) -> JsonValue:
    """Return VALUE as it goes into a prompt or an action: a recall gives its contents."""
    if isinstance(value, Recall):
        return list(value.texts)
    plain: JsonValue = _JSON.dump_python(value, mode="json")
    return plain


def _output_ref(output: type[BaseModel]) -> OutputRef:
    name = f"{output.__module__}:{output.__qualname__}"
    # A class inside a function cannot be looked up by the worker, so its schema goes along.
    return OutputRef(name=name, json_schema=output.model_json_schema() if "<locals>" in name else None)


def raise_translated(error: ActivityError) -> NoReturn:
    """Raise the error of `perdure.errors` that ERROR carries, or ERROR itself."""
    cause = error.cause
    if isinstance(cause, ApplicationError) and cause.type:
        known = by_name(cause.type)
        if known is not None and issubclass(known, EffectError):
            raise known(cause.message, effect=str(cause.details[0]) if cause.details else "") from error
        if known is not None and issubclass(known, ModelError):
            facts = cause.details[0] if cause.details and isinstance(cause.details[0], dict) else {}
            raise known(cause.message, facts=facts) from error
        if known is not None:
            raise known(cause.message) from error
    raise error


def named_scope(scope: Scope) -> str:
    """Return SCOPE as a summary names it."""
    parts = scope.model_dump(exclude={"tenant"}, exclude_none=True)
    return ", ".join(f"{name} {value}" for name, value in parts.items())


def _short(summary: str, limit: int = 200) -> str:
    # The server takes 400 bytes; the Web UI shows far less.
    line = " ".join(summary.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


_JSON: TypeAdapter[object] = TypeAdapter(object)

"""How a plan is run: the interpreter, a workflow like any other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from typing import Literal, Protocol

from pydantic import JsonValue, ValidationError
from temporalio import workflow
from temporalio.exceptions import ActivityError

from perdure.connectors.contracts import AnyAction, Reversibility
from perdure.errors import (
    ApprovalError,
    EffectRejected,
    InvalidAnswer,
    PlanError,
)
from perdure.lineage import Frozen
from perdure.memory.contracts import Recall, Scope
from perdure.routing.contracts import OutputRef
from perdure.workflows import _plan_evaluation_0_1, attributes, plan_model
from perdure.workflows.approvals import approval
from perdure.workflows.call import raise_translated
from perdure.workflows.cancellation import wait_until_done
from perdure.workflows.conversation import Context, Conversation
from perdure.workflows.effects import EffectRequest, act_call, perform_effect
from perdure.workflows.generation import generate_json
from perdure.workflows.human_answers import ask_person_json
from perdure.workflows.memory import recall, remember
from perdure.workflows.plan_model import (
    ActStep,
    ApprovalStep,
    GenerateStep,
    Plan,
    PlanScope,
    PlanStep,
    RecallStep,
    RememberStep,
    StoredPlan,
)
from perdure.workflows.run import current_run
from perdure.workflows.saga import Saga


class PlanRun(Frozen):
    """The argument of the workflow `perdure.plan`."""

    plan: StoredPlan
    input: JsonValue = None


class CheckCall(Frozen):
    """The argument of the local activity `perdure.check_plan`."""

    plan: StoredPlan
    input: JsonValue = None


class ActionFacts(Frozen):
    """What the interpreter has to know of an action that it knows by name only."""

    risk: str
    reads: bool
    deadline: timedelta
    kind: Reversibility | None = None
    """None in runs that were started before the interpreter asked."""
    undoable: bool = True


class PlanCheck(Frozen):
    """The result of the local activity `perdure.check_plan`: every action and task of the plan exists on this worker."""

    actions: dict[str, ActionFacts]
    evaluation: Literal[1, 2] = 1
    """How the run evaluates expressions: 2 as CEL's specification says, 1 as perdure 0.1.0 did, in which the run began."""


@workflow.defn(name="perdure.plan")
class PlanWorkflow:
    """Runs a plan: each step when what it needs has ended, the rest undone if one fails."""

    @workflow.run
    async def run(self, call: PlanRun) -> JsonValue:
        """Run the plan and return its outcome."""
        run = current_run()
        if not run.plan:
            run.plan = call.plan.name
            workflow.upsert_search_attributes([attributes.PLAN.value_set(call.plan.name)])
        return await _Interpreter(call.plan, call.input, await _check(call)).run()


async def _check(call: PlanRun) -> PlanCheck:
    try:
        checked: PlanCheck = await workflow.execute_local_activity(
            "perdure.check_plan",
            CheckCall(plan=call.plan, input=call.input),
            result_type=PlanCheck,
            activity_id="check plan",
            summary=f"Check plan {call.plan.name}",
            start_to_close_timeout=timedelta(seconds=30),
        )
    except ActivityError as error:
        raise_translated(error)
    return checked


class _Language(Protocol):
    """What evaluates the expressions of a plan."""

    def evaluate(self, expression: str, names: Mapping[str, JsonValue], place: str) -> JsonValue: ...

    def render(self, value: JsonValue, names: Mapping[str, JsonValue], place: str) -> JsonValue: ...

    def as_text(self, value: JsonValue) -> str: ...


def _language(plan: Plan, evaluation: int) -> tuple[_Language, dict[str, set[str]]]:
    """Return what evaluates the expressions of PLAN, and which steps end before each by what they mention."""
    if evaluation == 2:
        return plan_model, plan.graph()
    return _plan_evaluation_0_1, plan.graph(_plan_evaluation_0_1.mentioned_steps)


_DESCRIPTIONS: dict[str, Callable[[Mapping[str, JsonValue]], str]] = {}
"""By action: what describes it. A plan knows an action by its name only, and what describes it is code of a connector."""


def describe_actions(actions: Iterable[AnyAction]) -> None:
    """Have plans on this worker say in summaries what each of ACTIONS does, as `Action.describe` has it."""
    _DESCRIPTIONS.update({action.name: partial(_describe, action) for action in actions})


def _describe(action: AnyAction, args: Mapping[str, JsonValue]) -> str:
    try:
        return action.describe(action.input.model_validate(args)) if action.describe else action.name
    except Exception:  # noqa: BLE001  whatever is wrong with the arguments, the action says so itself
        return action.name


class _Interpreter:
    def __init__(self, plan: Plan, given: JsonValue, checked: PlanCheck) -> None:
        self._plan = plan
        self._names: dict[str, JsonValue] = {"input": given, **{step.id: None for step in plan.steps}}
        self._checked = checked
        self._language, self._graph = _language(plan, checked.evaluation)
        self._saga = Saga()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._recalled: dict[str, Recall] = {}

    async def run(self) -> JsonValue:
        async with self._saga:
            await self._run_steps()
            if self._plan.outcome is not None:
                return self._language.render(self._plan.outcome, self._names, "outcome")
            return {step.id: self._names[step.id] for step in self._plan.steps}

    async def _run_steps(self) -> None:
        # A TaskGroup would cancel its tasks in the order of a set, which differs between a run and its replay.
        for step in self._plan.steps:
            self._tasks[step.id] = asyncio.create_task(self._run_when_ready(step), name=step.id)
        tasks = list(self._tasks.values())
        try:
            await workflow.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            cancelled = False
        except asyncio.CancelledError:
            cancelled = True
        for task in tasks:
            task.cancel()
        if await wait_until_done(tasks) or cancelled:
            raise asyncio.CancelledError(workflow.cancellation_reason())
        failed = next((task for task in tasks if not task.cancelled() and task.exception() is not None), None)
        if failed is not None:
            await failed

    async def _run_when_ready(self, step: PlanStep) -> None:
        needs = [self._tasks[each.id] for each in self._plan.steps if each.id in self._graph[step.id]]
        if needs:
            await workflow.wait(needs, return_when=asyncio.FIRST_EXCEPTION)
        if any(task.cancelled() or task.exception() is not None for task in needs if task.done()):
            raise asyncio.CancelledError(f"a step that {step.id} needs has failed")
        if step.when is not None and not self._check_condition(step.when, step.id):
            workflow.logger.info("step skipped", extra={"step": step.id})
            return
        self._names[step.id] = await self._run_step(step)

    def _check_condition(self, condition: str, place: str) -> bool:
        result = self._language.evaluate(condition, self._names, f"step {place!r}, when")
        if not isinstance(result, bool):
            raise PlanError(f"step {place!r}, when: {condition!r} gives {result!r}; it has to give true or false")
        return result

    def _run_step(self, step: PlanStep) -> Coroutine[object, object, JsonValue]:
        match step:
            case GenerateStep():
                return self._generate(step)
            case RecallStep():
                return self._recall(step)
            case RememberStep():
                return self._remember(step)
            case ActStep():
                return self._act(step) if step.otherwise == "fail" else self._act_or_continue(step)
            case ApprovalStep():
                return self._approval(step)

    async def _generate(self, step: GenerateStep) -> JsonValue:
        output = (
            OutputRef(name=step.output)
            if isinstance(step.output, str)
            else OutputRef(name=f"plan:{self._plan.name}.{step.id}", json_schema=step.output)
        )
        conversation = None
        if step.conversation is not None:
            of = None if step.scope is None else self._scope(step.scope, step)
            conversation = Conversation(self._text(step.conversation, step), of=of)
            if step.message is not None:
                conversation.user(self._render(step.message, step))
        inputs = {key: self._render(each, step) for key, each in step.inputs.items()}
        try:
            generation = await generate_json(
                step.generate,
                output,
                inputs=inputs,
                conversation=conversation,
                context=self._context(step),
                tenant=self._text(step.tenant, step),
                agent=self._text(step.agent, step),
                lane=step.lane,
                name=step.id,
            )
        except InvalidAnswer as error:
            who = self._text(step.or_ask, step)
            if not who or not isinstance(step.output, dict):
                raise
            generation = await ask_person_json(
                step.generate, step.output, of=who, inputs=inputs, error=error, conversation=conversation
            )
        return {
            "value": generation.value,
            "confidence": generation.confidence,
            "unsure": generation.unsure,
            "model": generation.record.model,
        }

    def _context(self, step: GenerateStep) -> Context | None:
        if step.context is None:
            return None
        # A recall that was skipped has found nothing.
        records = [self._recalled[id] for id in step.context.records if id in self._recalled]
        return Context(tokens=step.context.tokens, records=records, summary=step.context.summary)

    async def _recall(self, step: RecallStep) -> JsonValue:
        found = await recall(
            self._text(step.recall, step), scope=self._scope(step.scope, step), limit=step.limit, name=step.id
        )
        self._recalled[step.id] = found
        return {"texts": list(found.texts)}

    async def _remember(self, step: RememberStep) -> JsonValue:
        written = await remember(self._scope(step.scope, step), self._text(step.remember, step), ttl=step.ttl, name=step.id)
        return written.model_dump(mode="json")

    async def _act_or_continue(self, step: ActStep) -> JsonValue:
        try:
            return await self._act(step)
        except EffectRejected as refused:
            return {"failed": True, "why": refused.message}

    async def _act(self, step: ActStep) -> JsonValue:
        args = {key: self._render(each, step) for key, each in step.args.items()}
        item = self._text(step.item, step)
        facts = self._checked.actions[step.act]
        # A step that goes on without what is refused takes the refusal, also past the point of no return.
        must = self._saga.forward and step.otherwise == "fail"
        with ExitStack() as noting:
            if not facts.reads:
                effect = self._saga.register(
                    current_run().next_name(step.id), step.act, item=item, kind=facts.kind, undoable=facts.undoable
                )
                noting.enter_context(effect.attempt())
            ref = current_run().step(step.id)
            request = EffectRequest(
                ref,
                step.act,
                act_call(ref, step.act, args, item=item, must=must, exact=None in args.values()),
                risk="" if facts.reads else facts.risk,
                summary=f"{step.id}: {_DESCRIPTIONS[step.act](args) if step.act in _DESCRIPTIONS else step.act}",
                timeout=facts.deadline + timedelta(seconds=30),
            )
            result = await perform_effect(request, parked_within=step.parked_within)
        return {"value": result.value, "receipt": result.receipt(step.act).model_dump(mode="json")}

    async def _approval(self, step: ApprovalStep) -> JsonValue:
        try:
            decision = await approval(
                self._text(step.approval, step),
                of=self._text(step.of, step),
                within=step.within,
                about=self._render(step.about, step),
                risk=self._risk(step),
                name=step.id,
            )
        except ApprovalError as refused:
            if step.otherwise == "fail":
                raise
            return {"approved": False, "why": refused.message}
        return {"approved": True, "by": decision.by, "why": decision.comment}

    def _risk(self, step: ApprovalStep) -> Literal["low", "medium", "high"]:
        match self._render(step.risk, step):
            case "low" | "medium" | "high" as risk:
                return risk
            case other:
                raise PlanError(f"step {step.id!r}: its risk is {other!r}; it has to be low, medium or high")

    def _render(self, value: JsonValue, step: PlanStep) -> JsonValue:
        return self._language.render(value, self._names, f"step {step.id!r}")

    def _text(self, value: str, step: PlanStep) -> str:
        return self._language.as_text(self._render(value, step))

    def _scope(self, scope: PlanScope, step: PlanStep) -> Scope:
        try:
            return Scope.model_validate(self._render(scope.model_dump(mode="json"), step))
        except ValidationError as error:
            raise PlanError(f"step {step.id!r}: its scope is not one: {error.errors()[0]['msg']}") from None

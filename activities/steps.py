"""The activities behind the steps. The work is in the rooms; this translates."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from temporalio import activity

from perdure.activities import metering
from perdure.activities.boundary import tell_next_attempts
from perdure.activities.step_context import current_step
from perdure.connectors.contracts import (
    EffectResult,
    SettleResult,
    UndoCall,
    UndoResult,
)
from perdure.errors import InvalidInput, ModelError
from perdure.governance.contracts import (
    AskCall,
    AskResult,
    RecordCall,
    RecordResult,
)
from perdure.memory.contracts import (
    Recall,
    RecallCall,
    RememberCall,
    RememberResult,
)
from perdure.routing.contracts import (
    GenerateCall,
    Generation,
    JudgeCall,
    LabelResult,
    RaiseCall,
    RaiseResult,
)
from perdure.workflows.answer_model import Answer, AnswerCall
from perdure.workflows.effect_model import UNKNOWN_DATABASE, ActCall, ActResult
from perdure.workflows.plan import ActionFacts, CheckCall, PlanCheck
from perdure.workflows.plan_model import ActStep, GenerateStep

if TYPE_CHECKING:
    from perdure.activities.rooms import Rooms


class StepActivities:
    """The activities that work in ROOMS. Their names are on the wire and never change."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    @activity.defn(name="perdure.generate")
    async def generate(self, call: AnswerCall) -> Generation | Answer:
        """Call one deployment once."""
        generation = await self.answer(call.to_generate_call(current_step(call)))
        return generation if call.step else Answer.from_generation(generation)

    async def answer(self, call: GenerateCall) -> Generation:
        """Call one deployment once, and count the call."""
        from perdure.routing.prompts import resolve_output

        output = resolve_output(call.output)
        try:
            generation = await self._rooms.open.router.generate(call, attempt=activity.info().attempt, output=output)
        except ModelError as error:
            metering.count_failure(call, error)
            raise
        finally:
            metering.count_rollbacks(self._rooms.open.router.take_rollbacks())
        metering.count_answer(call, generation)
        return generation

    @activity.defn(name="perdure.raise_budget")
    async def raise_budget(self, call: RaiseCall) -> RaiseResult:
        """Raise a budget as a person has granted."""
        return await self._rooms.open.router.raise_budget(call)

    @activity.defn(name="perdure.judge")
    async def judge(self, call: JudgeCall) -> LabelResult:
        """Write down whether an answer was right."""
        return await self._rooms.open.router.label_answer(call)

    @activity.defn(name="perdure.recall")
    async def recall(self, call: RecallCall) -> Recall:
        """Read memory."""
        return await self._rooms.open.memory.recall(call)

    @activity.defn(name="perdure.remember")
    async def remember(self, call: RememberCall) -> RememberResult:
        """Write memory."""
        return await self._rooms.open.memory.remember(call)

    @activity.defn(name="perdure.act")
    async def act(self, call: ActCall) -> EffectResult | ActResult:
        """Perform an action through the ledger. In a conversation its answer is stored and not returned."""
        step = current_step(call)
        effect, ref = call.to_effect_call(step), call.ref
        database = await self._require_database(call, effect.action)
        if ref is None:
            done = await self._rooms.open.ledger.perform(effect)
            if call.step:
                return done
            return ActResult.from_receipt(done.receipt).model_copy(update={"value": done.value, "database": database})
        from perdure.activities.tool_message import append_tool_message

        # Before anything happens: an effect could not be said in a conversation that is not there.
        await self._rooms.open.messages.check(step.lineage, ref)
        ref = await self._rooms.open.messages.append(step.lineage, ref, call.new, of=call.of)
        done = await self._rooms.open.ledger.perform(effect)
        told = await append_tool_message(self._rooms.open.messages, step.lineage, ref, effect, done)
        return told.model_copy(update={"database": database})

    async def _require_database(self, call: ActCall, action: str) -> str:
        """Refuse the step if the run's effects are in another database than this. Returns what the run wants to know of it.

        The database of a first effect stands in no history yet. Temporal keeps it for the effect's next attempts, in case
        this worker dies.
        """
        ledger = self._rooms.open.ledger
        if call.database != UNKNOWN_DATABASE or ledger.action(action).reads:
            await ledger.require_database("" if call.database == UNKNOWN_DATABASE else call.database)
            return ""
        own = await ledger.identity()
        for earlier in activity.info().heartbeat_details:
            await ledger.require_database(str(earlier))
            return own
        await tell_next_attempts(own)
        return own

    @activity.defn(name="perdure.undo")
    async def undo(self, call: UndoCall) -> UndoResult:
        """Undo an effect, or find that there is nothing to undo."""
        return await self._rooms.open.ledger.undo(call)

    @activity.defn(name="perdure.settle")
    async def settle(self, call: UndoCall) -> SettleResult:
        """Find out what became of the effect of a run that was cancelled."""
        return await self._rooms.open.ledger.settle(call)

    @activity.defn(name="perdure.ask")
    async def ask(self, call: AskCall) -> AskResult:
        """Put a request before the reviewers."""
        await self._rooms.open.approvals.ask(call)
        return AskResult(accept_unverified=self._rooms.open.accept_unverified)

    @activity.defn(name="perdure.record_decision")
    async def record_decision(self, call: RecordCall) -> RecordResult:
        """Write down how a request ended."""
        await self._rooms.open.approvals.record(call)
        return RecordResult(approval=call.approval, ended=call.ended)

    @activity.defn(name="perdure.check_plan")
    async def check_plan(self, call: CheckCall) -> PlanCheck:
        """Find out whether a plan can run here, before anything happens."""
        from perdure.activities.plan_check import check_input, check_order, check_texts

        check_texts(call.plan)
        check_input(call.plan, call.input)
        rooms = self._rooms.open
        facts: dict[str, ActionFacts] = {}
        for step in call.plan.steps:
            if isinstance(step, GenerateStep):
                rooms.router.routes.task(step.generate)
            if isinstance(step, ActStep):
                action = rooms.ledger.action(step.act)
                if not step.args.keys() <= action.input.model_fields.keys():
                    strange = sorted(step.args.keys() - action.input.model_fields.keys())
                    takes = ", ".join(action.input.model_fields)
                    raise InvalidInput(f"step {step.id!r}: {step.act} takes no {strange[0]!r}; it takes {takes}")
                facts[step.act] = ActionFacts(
                    risk=action.risk,
                    reads=action.reads,
                    deadline=action.target.deadline,
                    kind=action.reversibility,
                    undoable=action.undo is not None,
                )
        check_order(call.plan, facts)
        return PlanCheck(actions=facts, evaluation=2)

    def all(self) -> list[Callable[..., object]]:
        """Return the activities to register with a worker."""
        return [
            self.generate,
            self.raise_budget,
            self.judge,
            self.recall,
            self.remember,
            self.act,
            self.undo,
            self.settle,
            self.ask,
            self.record_decision,
            self.check_plan,
        ]

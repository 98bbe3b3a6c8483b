"""How a run takes back what it did when a later step fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Literal, TypeVar

from pydantic import BaseModel
from temporalio import workflow
from temporalio.exceptions import ActivityError

from perdure.connectors.contracts import (
    PARKED_WITHIN,
    Action,
    Done,
    Reversibility,
    UndoCall,
    UndoResult,
    effect_key,
)
from perdure.errors import (
    EffectRejected,
    InvalidInput,
    PartiallyCompensated,
    PerdureError,
)
from perdure.governance.contracts import Decision
from perdure.workflows.call import EFFECT_RETRIES, execute
from perdure.workflows.cancellation import wait_until_done
from perdure.workflows.effects import act
from perdure.workflows.parked import wait_until_resolved
from perdure.workflows.run import current_run

In = TypeVar("In", bound=BaseModel)
Out = TypeVar("Out", bound=BaseModel)


@dataclass
class SagaEffect:
    """An effect of a saga, from before it is attempted."""

    key: str
    action: str
    step: str
    kind: Reversibility | None
    undoable: bool
    approved: bool = False
    outcome: Literal["attempted", "done", "refused"] = "attempted"
    why_it_stands: str | None = None
    """Why it stands after the unwinding, if it does; empty where that is how it should be."""

    @property
    def point_of_no_return(self) -> bool:
        """Whether there is no way back once it has happened."""
        return not self.undoable and not self.approved

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Note what becomes of it."""
        try:
            yield
        except EffectRejected:
            self.outcome = "refused"
            raise
        self.outcome = "done"


class Saga:
    """A group of effects that stand or fall together.

    An effect is registered before it is attempted, because an attempt that failed may have landed: undoing it first finds
    out. When the block ends with an exception, cancellation included, what was registered is undone: in reverse order, or
    all at once, as UNDO says. A cancellation does not keep it from that.

    An effect that cannot be undone and has happened is the point of no return: it stays with all that was done before it,
    and from there the saga can only go forward. So what can be undone comes first, then at most one pivot, then what is
    retriable or irreversible; another order is refused before anything is sent.

    What the saga fails to undo is parked and waits for a person, at most PARKED_WITHIN; meanwhile the run shows as
    `partially_compensated`. Raises `PartiallyCompensated` with what stands, if something does that should not.
    """

    def __init__(
        self, *, undo: Literal["reverse", "parallel"] = "reverse", parked_within: timedelta = PARKED_WITHIN
    ) -> None:
        self._undo = undo
        self._parked_within = parked_within
        self._registered: list[SagaEffect] = []

    async def __aenter__(self) -> Saga:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Others than these two mean that this worker lets go of the run, which goes on elsewhere.
        if not self._registered or not isinstance(error, Exception | asyncio.CancelledError):
            return
        unwinding = asyncio.create_task(self._unwind(error), name="unwind")
        cancelled = await wait_until_done([unwinding])
        await unwinding
        if cancelled:
            raise asyncio.CancelledError(workflow.cancellation_reason()) from error

    @property
    def forward(self) -> bool:
        """Whether the point of no return is behind it."""
        return any(each.point_of_no_return and each.outcome == "done" for each in self._registered)

    async def act(
        self,
        action: Action[In, Out],
        args: In,
        *,
        item: str = "",
        name: str | None = None,
        summary: str | None = None,
        approved: Decision | None = None,
    ) -> Done[Out]:
        """Do what `act` does, and undo it if the saga fails later.

        Past the point of no return a refusal is parked, for there is no way back. What cannot be undone may come before
        what can if it was APPROVED, by a decision of this run: then it stands whatever happens, and the rest is undone
        around it.
        """
        if action.reads:
            return await act(action, args, item=item, name=name, summary=summary)
        undoable = action.undo is not None
        self._check_order(action.name, action.reversibility, undoable=undoable)
        effect = self.register(
            current_run().next_name(name or action.name),
            action.name,
            item=item,
            kind=action.reversibility,
            undoable=undoable,
            approved=_is_approved(action.name, approved),
        )
        within, forward = self._parked_within, self.forward
        with effect.attempt():
            return await act(
                action, args, item=item, name=name, summary=summary, parked_within=within, must=forward, settle=False
            )

    def register(
        self,
        step: str,
        action: str,
        *,
        item: str = "",
        kind: Reversibility | None = None,
        undoable: bool = True,
        approved: bool = False,
    ) -> SagaEffect:
        """Say that STEP is about to attempt ACTION, which is of KIND and declares an undo if it is UNDOABLE."""
        effect = SagaEffect(effect_key(current_run().step_named(step), item=item), action, step, kind, undoable, approved)
        self._registered.append(effect)
        return effect

    def _check_order(self, action: str, kind: Reversibility, *, undoable: bool) -> None:
        turn = next((each for each in self._registered if each.point_of_no_return and each.outcome != "refused"), None)
        if turn is None or (not undoable and kind != "pivot"):
            return
        raise InvalidInput(
            f"{action} ({kind}) cannot come after {turn.action} ({turn.kind}) in one saga: if it failed, that could not be "
            f"undone. Do {turn.action} last, or outside the saga with act(), or pass the decision that approved it."
        )

    async def _unwind(self, error: Exception | asyncio.CancelledError) -> None:
        run = current_run()
        run.unwinding += 1
        try:
            await (self._undo_in_parallel() if self._undo == "parallel" else self._undo_in_reverse())
        finally:
            run.unwinding -= 1
        standing = [each for each in self._registered if each.why_it_stands is not None]
        stands = [f"{each.step}: {each.why_it_stands}" if each.why_it_stands else each.step for each in standing]
        # What stands because there is no way back from it is as it should be: the saga had come that far.
        if any(each.why_it_stands for each in standing):
            raise PartiallyCompensated(
                f"{type(error).__name__}: {error}. Of what was done, this stands: {'; '.join(stands)}. "
                f"`perdure effects list --state all --run {run.lineage.workflow_id}` shows it."
            ) from error
        if stands:
            workflow.logger.warning("past the point of no return, these effects are not undone: %s", "; ".join(stands))

    async def _undo_in_reverse(self) -> None:
        undoing: list[asyncio.Task[None]] = []
        turned = False
        for effect in reversed(self._registered):
            if turned and effect.outcome == "done":
                effect.why_it_stands = ""
                continue
            undoing.append(await self._start_undo(effect))
            turned = turned or (effect.why_it_stands is not None and (effect.point_of_no_return or effect.kind is None))
        for undo in undoing:
            await undo

    async def _start_undo(self, effect: SagaEffect) -> asyncio.Task[None]:
        """Return the task that undoes EFFECT, once it has ended or waits for a person.

        Others are kept waiting only by what may turn out to be the point of no return.
        """
        parked = False

        def waits() -> None:
            nonlocal parked
            parked = True

        undo = asyncio.create_task(self._undo_effect(effect, waits=waits))
        await workflow.wait_condition(lambda: undo.done() or (parked and not effect.point_of_no_return))
        return undo

    async def _undo_in_parallel(self) -> None:
        # What stands before the point of no return is left alone, so that has to be known first.
        rest = list(self._registered)
        for turn in [each for each in reversed(self._registered) if each.point_of_no_return]:
            await self._undo_effect(turn)
            rest.remove(turn)
            if turn.why_it_stands is not None:
                before = self._registered[: self._registered.index(turn)]
                for each in [each for each in before if each.outcome == "done"]:
                    each.why_it_stands = ""
                    rest.remove(each)
                break
        for undo in [asyncio.create_task(self._undo_effect(each)) for each in reversed(rest)]:
            await undo

    async def _undo_effect(self, effect: SagaEffect, *, waits: Callable[[], None] = lambda: None) -> None:
        step = current_run().step_named(f"undo:{effect.step}")
        workflow.logger.info("undoing", extra={"step": effect.step, "action": effect.action})
        try:
            undone = await wait_until_resolved(
                lambda: execute(
                    "perdure.undo",
                    UndoCall(
                        step=step,
                        effect=effect.key,
                        action=effect.action,
                        database=current_run().database,
                        happened=effect.outcome == "done",
                    ),
                    UndoResult,
                    id=step.name,
                    summary=f"Undo {effect.step}",
                    timeout=timedelta(minutes=2),
                    retries=EFFECT_RETRIES,
                ),
                step=step.name,
                action=effect.action,
                within=self._parked_within,
                waits=waits,
            )
        except (ActivityError, PerdureError) as problem:
            effect.why_it_stands = str(problem)
            return
        if undone.outcome == "stands":
            effect.why_it_stands = ""


def _is_approved(action: str, decision: Decision | None) -> bool:
    if decision is None:
        return False
    if decision.verdict != "approve" or current_run().decisions.get(decision.approval) != decision:
        raise InvalidInput(f"{action} was not approved by {decision.by}: pass what approval() returned in this run")
    return True

"""How a run takes back what it did when a later step fails."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import TypeVar

from pydantic import BaseModel
from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError

from perdure.connectors.contracts import Action, Done, UndoCall, Undone, effect_key
from perdure.errors import PartiallyCompensated, PerdureError
from perdure.workflows.run import current_run
from perdure.workflows.steps import act, execute

In = TypeVar("In", bound=BaseModel)
Out = TypeVar("Out", bound=BaseModel)

_RETRIES = RetryPolicy(initial_interval=timedelta(milliseconds=500), maximum_interval=timedelta(minutes=1))


@dataclass
class _Registered:
    key: str
    action: str
    step: str


class Saga:
    """A group of effects that stand or fall together.

    An effect is registered before it is attempted, because an attempt that failed may have landed: undoing it first finds
    out. When the block ends with an exception, cancellation included, what was registered is undone in reverse order. An
    effect that cannot be undone and has happened ends the unwinding: it is the pivot, and what stands before it stays.
    """

    def __init__(self) -> None:
        self._registered: list[_Registered] = []

    async def __aenter__(self) -> Saga:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            await self._unwind(error)

    async def act(
        self, action: Action[In, Out], args: In, *, item: str = "", name: str | None = None, summary: str | None = None
    ) -> Done[Out]:
        """Do what `act` does, and undo it if the saga fails later."""
        wanted = name or action.name
        if not action.reads:
            self.register(current_run().next_name(wanted), action.name, item=item)
        return await act(action, args, item=item, name=name, summary=summary)

    def register(self, step: str, action: str, *, item: str = "") -> None:
        """Say that STEP is about to attempt ACTION."""
        run = current_run()
        key = effect_key(run.named(step), item=item)
        self._registered.append(_Registered(key=key, action=action, step=step))

    async def _unwind(self, error: BaseException) -> None:
        failed: list[str] = []
        while self._registered:
            effect = self._registered.pop()
            try:
                undone = await self._undo(effect)
            except (ActivityError, PerdureError) as problem:
                failed.append(f"{effect.step} ({problem})")
                continue
            if undone.outcome == "stands":
                break
        if failed:
            raise PartiallyCompensated(
                f"{error.__class__.__name__}: {error}. Not undone: {'; '.join(failed)}. "
                "Look at them with `perdure show` and resolve them by hand."
            ) from error

    async def _undo(self, effect: _Registered) -> Undone:
        step = current_run().named(f"undo:{effect.step}")
        workflow.logger.info("undoing", extra={"step": effect.step, "action": effect.action})
        return await execute(
            "perdure.undo",
            UndoCall(step=step, effect=effect.key, action=effect.action),
            Undone,
            id=step.name,
            summary=f"Undo {effect.step}",
            timeout=timedelta(minutes=2),
            retries=_RETRIES,
        )

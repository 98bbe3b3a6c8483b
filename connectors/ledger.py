"""What makes an action on another system happen once, and says so when nobody can tell."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, JsonValue

from perdure.connectors.contracts import (
    AnyAction,
    Connector,
    Effect,
    EffectCall,
    EffectEvent,
    EffectResult,
    EffectState,
    UndoCall,
    Undone,
    effect_key,
    undo_key,
)
from perdure.connectors.course import Course, canonical, parked, read, sha256, understood
from perdure.connectors.journal import Intent, Journal
from perdure.errors import UnknownAction
from perdure.storage import Database

if TYPE_CHECKING:
    from perdure.connectors.guard import Guard

T = TypeVar("T")


class Ledger:
    """The effects of one database, and the connectors through which this process performs them.

    Before anything is sent, a row says what is intended, and every later write to it counts only under the fence that its
    writer holds. `states` decides what may be done, `course` does it, `journal` writes it down.
    """

    def __init__(self, database: Database, connectors: Mapping[str, Connector], *, guard: Guard | None = None) -> None:
        self._journal = Journal(database)
        self._connectors = dict(connectors)
        self._guard = guard

    async def perform(self, call: EffectCall) -> EffectResult:
        """Perform CALL, or return what is recorded if it has happened before.

        Never waits for another attempt or for a target to settle: `EffectBusy`, `EffectUnknown` and `TargetUnavailable` say
        after which time the same call should come again. Raises `EffectRejected` when the target said no, `EffectConflict`
        when the key came with other arguments before, `EffectParked` when a person has to find out, `ContractDrifted` when
        a person has to accept what the target has become, `UnknownAction` and `InvalidInput`. A cancellation is raised once
        the request in flight has ended and is recorded.
        """
        connector, action = self._known(call.action)
        args = understood(action, call.args)
        connector = await self._guarded(connector, action)
        if action.reads:
            return await read(connector, action, args)
        content = canonical(call.args)
        intent = Intent(
            key=effect_key(call.step, item=call.item, generation=call.generation),
            action=action,
            args=args,
            args_json=content.decode(),
            args_digest=sha256(content),
            step=call.step,
            item=call.item,
            generation=call.generation,
        )
        return await _to_the_end(Course(self._journal, connector, intent).perform())

    async def undo(self, call: UndoCall) -> Undone:
        """Undo the effect that CALL names, once it is known what became of it.

        An effect that never landed is closed: a late attempt of it cannot send any more. Raises what `perform` raises, for
        the effect itself and for its undo.
        """
        connector, action = self._known(call.action)
        if action.reads:
            return Undone(effect=call.effect, outcome="nothing to undo")
        return await _to_the_end(self._undo(call, connector, action))

    async def get(self, key: str) -> Effect:
        """Return the effect under KEY. Raises `NotFound`."""
        return await self._journal.get(key)

    async def list(
        self, *, state: EffectState | None = None, workflow_id: str | None = None, limit: int = 100
    ) -> Sequence[Effect]:
        """Return up to LIMIT effects, the newest first: all, or those in STATE, or of WORKFLOW_ID."""
        return await self._journal.select(state, workflow_id, limit)

    async def events(self, key: str) -> Sequence[EffectEvent]:
        """Return every transition of the effect under KEY, oldest first."""
        return await self._journal.events(key)

    def action(self, name: str) -> AnyAction:
        """Return the action called NAME. Raises `UnknownAction` with those that there are."""
        return self._known(name)[1]

    def _known(self, name: str) -> tuple[Connector, AnyAction]:
        connector = self._connectors.get(name.partition(".")[0])
        action = connector.actions.get(name) if connector else None
        if connector is None or action is None:
            there = sorted(action for one in self._connectors.values() for action in one.actions)
            raise UnknownAction(
                f"this worker has no action {name!r}; it has: {', '.join(there) or 'none'}. "
                "Add the module that declares its connector to `modules` in perdure.toml."
            )
        return connector, action

    async def _guarded(self, connector: Connector, action: AnyAction) -> Connector:
        return connector if self._guard is None else await self._guard.before(connector, action)

    async def _undo(self, call: UndoCall, connector: Connector, action: AnyAction) -> Undone:
        effect = await self._resolve(call, connector, action)
        if effect.state == "failed":
            return Undone(effect=call.effect, outcome="nothing to undo")
        if effect.state == "parked":
            raise parked(effect.key, action, effect.error)
        if action.undo is None:
            return Undone(effect=call.effect, outcome="stands", receipt=effect.receipt)
        by, undo = self._known(action.undo.action.name)
        args = action.undo.argue(understood(action, effect.args), action.output.model_validate(effect.response))
        intent = _undoing(effect, undo, args, call)
        by = await self._guarded(by, undo)
        undone = await Course(self._journal, by, intent).perform()
        if effect.state != "compensated":
            await self._journal.move(effect, "compensated", {"fence": effect.fence + 1}, note=f"undone by {intent.key}")
        return Undone(effect=call.effect, outcome="compensated", receipt=undone.receipt)

    async def _resolve(self, call: UndoCall, connector: Connector, action: AnyAction) -> Effect:
        found = await self._journal.find(call.effect)
        args: dict[str, JsonValue] = found.args if found else call.args
        intent = Intent(
            key=call.effect,
            action=action,
            # Of an effect that has no row nothing is sent or looked up, so its arguments do not matter.
            args=understood(action, args) if found else action.input.model_construct(),
            args_json=canonical(args).decode(),
            args_digest="",
            step=call.step,
        )
        return await Course(self._journal, connector, intent).resolve(found)


def _undoing(effect: Effect, undo: AnyAction, args: BaseModel, call: UndoCall) -> Intent:
    content = canonical(args.model_dump(mode="json"))
    return Intent(
        key=undo_key(effect.key),
        action=undo,
        args=args,
        args_json=content.decode(),
        args_digest=sha256(content),
        step=call.step,
        undo_of=effect.key,
    )


async def _to_the_end(attempt: Coroutine[None, None, T]) -> T:
    # A cancelled activity must not leave a request behind whose answer nobody hears. Deadlines bound how long this takes.
    task = asyncio.ensure_future(attempt)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # it is recorded in the ledger; here it only must not be reported as unheard
    raise cancelled

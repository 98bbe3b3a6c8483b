"""What makes an action on another system happen once, and says so when nobody can tell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime
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
    SettleResult,
    UndoCall,
    UndoResult,
    business_key,
    effect_key,
    undo_key,
)
from perdure.connectors.ledger._execution import EffectExecution, parked_error, perform_read
from perdure.connectors.ledger._key_claim import claim_key
from perdure.connectors.ledger._resolution import mark_undone, resolve
from perdure.connectors.ledger.contracts import Dependent, Resolution
from perdure.connectors.ledger.dependents import Dependents
from perdure.connectors.ledger.journal import Intent, Journal
from perdure.connectors.ledger.states import FINAL_STATES
from perdure.connectors.wire import canonical_json, parse_args, sha256, with_nulls_marked
from perdure.errors import EffectParked, NotFound, UnknownAction, WrongDatabase
from perdure.storage import Database, now, without_password

if TYPE_CHECKING:
    from perdure.connectors.drift import Guard

T = TypeVar("T")


class Ledger:
    """The effects of one database, and the connectors through which this process performs them.

    Before anything is sent, a row says what is intended, and every later write to it counts only under the fence that its
    writer holds. `states` decides what may be done, `EffectExecution` does it, `Journal` writes it down.
    """

    def __init__(
        self,
        database: Database,
        connectors: Mapping[str, Connector],
        *,
        guard: Guard | None = None,
        clock: Callable[[], datetime] = now,
    ) -> None:
        self.database = database
        self._journal = Journal(database, clock)
        self._dependents = Dependents(database, clock)
        self._connectors = dict(connectors)
        self._guard = guard
        self._identity = ""

    async def perform(self, call: EffectCall) -> EffectResult:
        """Perform CALL, or return what is recorded if it has happened before.

        Never waits for another attempt or for a target to settle: `EffectBusy`, `EffectUnknown` and `TargetUnavailable` say
        after which time the same call should come again. Raises `EffectRejected` when the target said no, `EffectParked`
        when a person has to find out what happened, `EffectConflict` when the key or the business key came with other
        arguments before and a person has to say what holds, `ContractDrifted` when a person has to accept what the target
        has become, `WrongDatabase` when the run's effects are elsewhere, `UnknownAction` and `InvalidInput`. A cancellation
        is raised once the request in flight has ended and is recorded.
        """
        connector, action = self._find_action(call.action)
        await self.require_database(call.database)
        given = with_nulls_marked(action, call.args) if call.exact else call.args
        args = parse_args(action, given)
        connector = await self._guard_connector(connector, action)
        if action.reads:
            return await perform_read(connector, action, args)
        content = canonical_json(given)
        intent = Intent(
            key=effect_key(call.step, item=call.item, generation=call.generation),
            action=action,
            args=args,
            args_json=content.decode(),
            args_digest=sha256(content),
            step=call.step,
            item=call.item,
            generation=call.generation,
            business_key=business_key(action, args),
            must=call.must,
        )
        return await _run_to_end(self._claim_and_run(connector, intent, instead_of=call.instead_of))

    async def undo(self, call: UndoCall) -> UndoResult:
        """Undo the effect that CALL names, once it is known what became of it.

        An effect that never landed is closed: a late attempt of it cannot send any more. One that another run relies on by
        its business key stays and is that run's. Later generations are undone first. Raises what `perform` raises, for the
        effect itself and for its undo; an undo that the target refuses is parked.
        """
        _, action = self._find_action(call.action)
        if action.reads:
            return UndoResult(effect=call.effect, outcome="nothing to undo")
        await self.require_database(call.database)
        return await _run_to_end(self._undo_all(call))

    async def find_out(self, effect: Effect) -> Effect:
        """Find out what became of EFFECT, whose run has ended, and return it as it stands then. Nothing is sent.

        Raises `EffectParked` if a person has to, `EffectBusy` while an attempt holds it, and `EffectUnknown` while it may
        still land or its target cannot be asked.
        """
        connector, action = self._find_action(effect.action)
        found = await EffectExecution(self._journal, connector, _intent_of(effect, action)).find_out(effect, last=True)
        if found.undo_of and found.state == "succeeded":
            await mark_undone(self._journal, found.undo_of, found.key)
        return found

    async def settle(self, call: UndoCall) -> SettleResult:
        """Find out what became of the effect that CALL names, for a run that was cancelled and does not ask again.

        Nothing is sent and nothing undone. One that is not at the target may still be asked for, after a reset for example.
        Raises `EffectBusy` and `EffectUnknown` as `perform` does; what nobody can tell is parked.
        """
        await self.require_database(call.database)
        return await _run_to_end(self._settle(call))

    async def resolve(self, resolution: Resolution) -> Effect:
        """Write down what a person says about a parked effect, and return it as it stands then.

        The same said again changes nothing. Raises `NotFound`, `NotParked`, `InvalidInput` if the answer does not fit the
        action, and `EffectUnknown` while a lost request may still land.
        """
        effect = await self._journal.get(resolution.effect)
        action = self._find_action(effect.action)[1] if resolution.verdict == "happened" else None
        return await resolve(self._journal, effect, resolution, action)

    async def identity(self) -> str:
        """Return the id of this ledger's database, which runs keep with their first effect."""
        self._identity = self._identity or await self._journal.identity()
        return self._identity

    async def require_database(self, wanted: str) -> None:
        """Raise `WrongDatabase` if the database called WANTED is another than this one. Empty: nobody knows which."""
        if wanted and wanted != await self.identity():
            raise await self._wrong_database(f"the effects of this run are in database {wanted}")

    async def _wrong_database(self, why: str) -> WrongDatabase:
        return WrongDatabase(
            f"{why}, and this worker has database {await self.identity()} ({without_password(self.database.url)}), so "
            "nothing was sent. Start a worker with the PERDURE_HOME or PERDURE_DATABASE_URL that the run's worker had; "
            "`perdure doctor` shows the id of a database."
        )

    async def find(self, prefix: str) -> Effect:
        """Return the one effect whose key starts with PREFIX. Raises `NotFound` if there is none, or more than one."""
        found = await self._journal.find_by_prefix(prefix)
        if len(found) == 1:
            return found[0]
        many = "more than one effect" if found else "no effect"
        raise NotFound(f"the ledger has {many} whose key begins with {prefix!r}. `perdure effects list` shows them.")

    async def dependents(self, key: str) -> Sequence[Dependent]:
        """Return the steps of other runs that rely on the effect under KEY, by its business key."""
        return await self._dependents.list(key)

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
        return self._find_action(name)[1]

    def serves(self, name: str) -> bool:
        """Say whether there is an action called NAME."""
        connector = self._connectors.get(name.partition(".")[0])
        return connector is not None and name in connector.actions

    def _find_action(self, name: str) -> tuple[Connector, AnyAction]:
        connector = self._connectors.get(name.partition(".")[0])
        action = connector.actions.get(name) if connector else None
        if connector is None or action is None:
            there = sorted(action for one in self._connectors.values() for action in one.actions)
            raise UnknownAction(
                f"this worker has no action {name!r}; it has: {', '.join(there) or 'none'}. "
                "Add the module that declares its connector to `modules` in perdure.toml."
            )
        return connector, action

    async def _guard_connector(self, connector: Connector, action: AnyAction) -> Connector:
        return connector if self._guard is None else await self._guard.admit(connector, action)

    async def _claim_and_run(self, connector: Connector, intent: Intent, *, instead_of: str) -> EffectResult:
        if instead_of:
            await self._journal.release_business_key(await self._journal.get(instead_of), intent.key)
        intent, stands = await claim_key(self._journal, self._dependents, intent)
        return await EffectExecution(self._journal, connector, intent).run(stands)

    async def _undo_all(self, call: UndoCall) -> UndoResult:
        found = await self._journal.find(call.effect)
        if found is None and call.happened:
            raise await self._wrong_database(f"the run has the receipt of effect {call.effect} of {call.action}")
        later = await self._journal.later_generations(found) if found else []
        done = [await self._undo(call, each.key) for each in (*later, *([found] if found else []))]
        if found is None:
            done = [await self._undo(call, call.effect)]
        order = ("stands", "kept", "compensated", "nothing to undo")
        return min(done, key=lambda each: order.index(each.outcome)).model_copy(update={"effect": call.effect})

    async def _undo(self, call: UndoCall, key: str) -> UndoResult:
        effect, action = await self._resolve(call, key)
        if effect.state == "failed":
            return await self._leave(call, effect, action)
        if effect.state == "parked":
            raise parked_error(effect.key, action, effect.error)
        if effect.replaced:
            return UndoResult(effect=key, outcome="nothing to undo", receipt=effect.receipt)
        if effect.business_key is not None and effect.state == "succeeded" and await self._dependents.give_up(key):
            return UndoResult(effect=key, outcome="kept", receipt=effect.receipt)
        if action.undo is None:
            return UndoResult(effect=key, outcome="stands", receipt=effect.receipt)
        undone = await self._take_back(call, effect, action)
        if effect.state != "compensated":
            note = f"undone by {undo_key(key)}"
            await self._journal.move(effect, "compensated", {"fence": effect.fence + 1}, note=note)
        return UndoResult(effect=key, outcome="compensated", receipt=undone.receipt)

    async def _leave(self, call: UndoCall, effect: Effect, action: AnyAction) -> UndoResult:
        # The step may have got another run's effect, by the business key.
        relied = await self._dependents.leave(effect.key) if action.once_per else None
        if relied is None:
            return UndoResult(effect=effect.key, outcome="nothing to undo")
        other, last = relied
        return await self._undo(call, other) if last else UndoResult(effect=effect.key, outcome="kept")

    async def _take_back(self, call: UndoCall, effect: Effect, action: AnyAction) -> EffectResult:
        begun = await self._journal.find(undo_key(effect.key))
        if begun is not None:
            # It goes on as it was begun, whatever the connector's code makes of it today.
            connector, undo = self._find_action(begun.action)
            connector = await self._guard_connector(connector, undo)
            return await EffectExecution(self._journal, connector, _intent_of(begun, undo)).run(begun)
        assert action.undo is not None
        connector, undo = self._find_action(action.undo.action.name)
        args = action.undo.argue(parse_args(action, effect.args), action.output.model_validate(effect.response))
        intent = _undo_intent(effect, undo, args, call)
        connector = await self._guard_connector(connector, undo)
        claim = await self._journal.open(intent)
        stands = claim or await self._journal.get(intent.key)
        return await EffectExecution(self._journal, connector, intent).run(stands)

    async def _settle(self, call: UndoCall) -> SettleResult:
        found = await self._journal.find(call.effect)
        if found is None or found.state in FINAL_STATES:
            return SettleResult(effect=call.effect, state=found.state if found else None)
        try:
            connector, action = self._find_action(found.action)
            settled = await EffectExecution(self._journal, connector, _intent_of(found, action)).find_out(found, last=False)
        except EffectParked:
            return SettleResult(effect=call.effect, state="parked")
        return SettleResult(effect=call.effect, state=settled.state)

    async def _resolve(self, call: UndoCall, key: str) -> tuple[Effect, AnyAction]:
        found = await self._journal.find(key)
        connector, action = self._find_action(found.action if found else call.action)
        args: dict[str, JsonValue] = found.args if found else call.args
        intent = Intent(
            key=key,
            action=action,
            # Of an effect that was closed before it had begun nothing is sent or looked up, and nobody knows its arguments.
            args=parse_args(action, args) if found and found.args_digest else action.input.model_construct(),
            args_json=canonical_json(args).decode(),
            args_digest="",
            step=call.step,
        )
        return await EffectExecution(self._journal, connector, intent).resolve(found), action


def _intent_of(effect: Effect, action: AnyAction) -> Intent:
    return Intent(
        key=effect.key,
        action=action,
        args=parse_args(action, effect.args),
        args_json=canonical_json(effect.args).decode(),
        args_digest=effect.args_digest,
        step=effect.step,
        undo_of=effect.undo_of,
    )


def _undo_intent(effect: Effect, undo: AnyAction, args: BaseModel, call: UndoCall) -> Intent:
    content = canonical_json(args.model_dump(mode="json"))
    return Intent(
        key=undo_key(effect.key),
        action=undo,
        args=args,
        args_json=content.decode(),
        args_digest=sha256(content),
        step=call.step,
        undo_of=effect.key,
    )


async def _run_to_end(attempt: Coroutine[None, None, T]) -> T:
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

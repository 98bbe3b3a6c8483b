"""How what a person says of a parked effect gets into the ledger and to the runs that wait for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pydantic import ValidationError

from perdure.commands.inputs import read_json
from perdure.commands.options import Options
from perdure.commands.runs.work import user
from perdure.commands.session import Session, client_settings, connected
from perdure.connectors.contracts import (
    Effect,
    EffectEvent,
    effect_key,
    undo_key,
)
from perdure.connectors.ledger.contracts import RESOLVED, Dependent, Resolution
from perdure.connectors.reconciliation.contracts import REPAIRING, repair_id
from perdure.errors import (
    InvalidInput,
    NotAllowed,
    NotFound,
    Unreachable,
)
from perdure.lineage import Frozen

if TYPE_CHECKING:
    from perdure.connectors.ledger import Ledger
    from perdure.settings import Settings


class Found(Frozen):
    """An effect and all that is known of it."""

    effect: Effect
    events: tuple[EffectEvent, ...]
    askers: tuple[Dependent, ...] = ()
    undo: str | None = None
    """The key of the effect that undoes it, if that has begun."""


@dataclass(frozen=True)
class Said:
    """What a person said at this terminal."""

    key: str
    verdicts: Sequence[str]
    by: str | None
    comment: str
    remote_ref: str
    answer: str | None
    modules: Sequence[str]


class Resolved(Frozen):
    """What came of it."""

    effect: Effect
    by: str
    verified: bool = False
    told: tuple[str, ...] = ()
    """The runs that were told."""
    ended: tuple[str, ...] = ()
    """The runs that had ended."""


@asynccontextmanager
async def opened(settings: Settings, modules: Sequence[str] | None = None) -> AsyncIterator[Ledger]:
    """Yield the ledger of SETTINGS, with the connectors that MODULES and the settings declare; None: with none of them."""
    from perdure.connectors.ledger import Ledger
    from perdure.storage import open_database
    from perdure.worker import load_modules

    connectors = [] if modules is None else load_modules(modules, settings).connectors
    async with open_database(settings.database) as database:
        yield Ledger(database, {each.name: each for each in connectors})


async def find(ledger: Ledger, key: str) -> Found:
    """Return the effect whose KEY begins so. Raises `NotFound`."""
    effect = await ledger.find(key)
    try:
        undo = (await ledger.get(undo_key(effect.key))).key
    except NotFound:
        undo = None
    return Found(
        effect=effect,
        events=tuple(await ledger.events(effect.key)),
        askers=tuple(await ledger.askers(effect.key)),
        undo=undo,
    )


async def resolve_effect(options: Options, said: Said) -> Resolved:
    """Write down what was SAID and tell the runs that wait for it.

    Raises `NotParked`, `NotFound`, `InvalidInput`, `NotAllowed`; and `Unreachable` if it is written down and the runs could
    not be told: saying the same again tells them.
    """
    settings = client_settings()
    if settings.unverified_decisions == "refuse":
        raise NotAllowed("nobody verifies who types a command, and these settings refuse that (unverified_decisions)")
    modules = [*said.modules, *settings.modules] if "happened" in said.verdicts else None
    async with opened(settings, modules) as ledger:
        effect = await ledger.find(said.key)
        resolution = _resolution(effect, said)
        effect = await ledger.resolve(resolution)
        waiting = await _waiting(ledger, effect)
    namespace = effect.step.lineage.namespace
    try:
        async with connected(options if namespace == REPAIRING else replace(options, namespace=namespace)) as session:
            told = {name: await _tell(session, name, effect.key) for name in waiting}
    except Unreachable as error:
        raise Unreachable(
            f"it is written down: {effect.key} is {effect.state}. But {', '.join(waiting)} could not be told: "
            f"{error.message} Say the same again to tell them, or send them the signal {RESOLVED} with the key."
        ) from None
    return Resolved(
        effect=effect,
        by=resolution.by,
        told=tuple(name for name, alive in told.items() if alive),
        ended=tuple(name for name, alive in told.items() if not alive),
    )


async def _waiting(ledger: Ledger, effect: Effect) -> list[str]:
    """Return the ids of the runs that may wait for EFFECT: who asked for it, and who repairs it."""
    from perdure.connectors.reconciliation import Findings

    lineage = effect.step.lineage
    asking = {each.workflow_id for each in await ledger.askers(effect.key)}
    asking.add(repair_id(lineage.workflow_id) if lineage.namespace == REPAIRING else lineage.workflow_id)
    if effect.generation:
        earlier = {effect_key(effect.step, item=effect.item, generation=each) for each in range(effect.generation)}
        findings = await Findings(ledger.database).findings(effect.action.partition(".")[0])
        asking |= {repair_id(each.id) for each in findings if each.key in earlier}
    return sorted(asking)


def _resolution(effect: Effect, said: Said) -> Resolution:
    if len(said.verdicts) != 1:
        raise InvalidInput("say one of --happened, --did-not-happen, --send-again and --as-new-generation")
    if said.verdicts != ("happened",) and (said.remote_ref or said.answer is not None):
        raise InvalidInput("--remote-ref and --answer go with --happened only")
    try:
        return Resolution.model_validate(
            {
                "effect": effect.key,
                "verdict": said.verdicts[0],
                "by": said.by or user(),
                "comment": said.comment.strip(),
                "remote_ref": said.remote_ref,
                "answer": read_json(said.answer),
            }
        )
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise InvalidInput(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


async def _tell(session: Session, workflow_id: str, key: str) -> bool:
    """Tell the run of WORKFLOW_ID that the effect under KEY is resolved. Returns False if it has ended."""
    from temporalio.service import RPCError, RPCStatusCode

    try:
        await session.client.get_workflow_handle(workflow_id).signal(RESOLVED, {"key": key})
    except RPCError as error:
        if error.status == RPCStatusCode.NOT_FOUND:
            return False
        if error.status in (RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED):
            raise Unreachable(f"Temporal does not answer: {error.message}.") from None
        raise
    return True

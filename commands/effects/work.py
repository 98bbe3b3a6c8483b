"""What the ledger has, and how what a person says of a parked effect gets into it and to the runs that wait for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import typer
from pydantic import ValidationError

from perdure.commands.inputs import describe_first, read_json
from perdure.commands.options import Format, Options
from perdure.commands.output import (
    Column,
    emit,
    emit_rows,
    format_time,
    is_narrow,
    one_line,
    printable,
    say,
    table,
)
from perdure.commands.session import Session, client_settings, open_session, refuse_unverified, terminal_user
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
    NotFound,
    Unreachable,
)
from perdure.lineage import Frozen

if TYPE_CHECKING:
    from perdure.connectors.ledger import Ledger
    from perdure.settings import Settings


_COLUMNS = (
    "KEY",
    Column("ACTION", least=12),
    Column("RUN", drop=1),
    Column("STEP", least=8, drop=3),
    Column("STATE", drop=2),
    Column("SINCE", drop=4),
    Column("WHY", least=16),
)


class EffectDetails(Frozen):
    """An effect and all that is known of it."""

    effect: Effect
    events: tuple[EffectEvent, ...]
    askers: tuple[Dependent, ...] = ()
    undo: str | None = None
    """The key of the effect that undoes it, if that has begun."""


@dataclass(frozen=True)
class ResolutionInput:
    """What a person said at this terminal."""

    key: str
    verdicts: Sequence[str]
    by: str | None
    comment: str
    remote_ref: str
    answer: str | None
    modules: Sequence[str]


class ResolvedEffect(Frozen):
    """What came of it."""

    effect: Effect
    by: str
    verified: bool = False
    told: tuple[str, ...] = ()
    """The runs that were told."""
    ended: tuple[str, ...] = ()
    """The runs that had ended."""


async def print_effects(options: Options, state: str | None, *, run: str | None, limit: int) -> None:
    """Print the newest LIMIT effects in STATE, of RUN."""
    async with open_ledger(client_settings()) as ledger:
        found = await ledger.list(state=state, workflow_id=run, limit=limit)  # type: ignore[arg-type]  # one of its states
    if options.format is not Format.text:
        emit_rows(options.format, [each.model_dump(mode="json") for each in found])
        return
    if not found:
        say("nothing is parked" if state == "parked" else "no such effects")
        return
    short = is_narrow()
    rows = [
        (
            each.key[:15],
            each.action,
            each.step.lineage.workflow_id,
            each.step.name,
            each.state,
            format_time(each.updated_at, short=short),
            one_line(each.error),
        )
        for each in found
    ]
    table(_COLUMNS, rows)


async def print_effect(options: Options, key: str) -> None:
    """Print the effect whose KEY begins so, with every transition."""
    async with open_ledger(client_settings()) as ledger:
        found = await find_effect(ledger, key)
    if options.format is Format.text:
        _print(found)
    else:
        emit(found.model_dump(mode="json"))


async def resolve_and_report(options: Options, given: ResolutionInput) -> None:
    """Resolve as GIVEN, and say who was told."""
    resolved = await resolve_effect(options, given)
    if options.format is not Format.text:
        emit(resolved.model_dump(mode="json"))
        return
    effect = resolved.effect
    say(f"{effect.state}: {effect.key} {effect.action}, said {resolved.by} (nobody verified that name)")
    for name in resolved.told:
        say(f"told {name}")
    for name in resolved.ended:
        say(f"{name} has ended, so nothing goes on there")


@asynccontextmanager
async def open_ledger(settings: Settings, modules: Sequence[str] | None = None) -> AsyncIterator[Ledger]:
    """Yield the ledger of SETTINGS, with the connectors that MODULES and the settings declare; None: with none of them."""
    from perdure.connectors.ledger import Ledger
    from perdure.storage import open_database
    from perdure.worker import load_modules

    connectors = [] if modules is None else load_modules(modules, settings).connectors
    async with open_database(settings.database) as database:
        yield Ledger(database, {each.name: each for each in connectors})


async def find_effect(ledger: Ledger, key: str) -> EffectDetails:
    """Return the effect whose KEY begins so. Raises `NotFound`."""
    effect = await ledger.find(key)
    try:
        undo = (await ledger.get(undo_key(effect.key))).key
    except NotFound:
        undo = None
    return EffectDetails(
        effect=effect,
        events=tuple(await ledger.events(effect.key)),
        askers=tuple(await ledger.dependents(effect.key)),
        undo=undo,
    )


async def resolve_effect(options: Options, given: ResolutionInput) -> ResolvedEffect:
    """Write down what was GIVEN and tell the runs that wait for it.

    Raises `NotParked`, `NotFound`, `InvalidInput`, `NotAllowed`; and `Unreachable` if it is written down and the runs could
    not be told: saying the same again tells them.
    """
    settings = client_settings()
    refuse_unverified(settings)
    modules = [*given.modules, *settings.modules] if "happened" in given.verdicts else None
    async with open_ledger(settings, modules) as ledger:
        effect = await ledger.find(given.key)
        resolution = _resolution(effect, given)
        effect = await ledger.resolve(resolution)
        waiting = await _waiting(ledger, effect)
    namespace = effect.step.lineage.namespace
    try:
        async with open_session(options if namespace == REPAIRING else replace(options, namespace=namespace)) as session:
            told = {name: await _tell(session, name, effect.key) for name in waiting}
    except Unreachable as error:
        raise Unreachable(
            f"it is written down: {effect.key} is {effect.state}. But {', '.join(waiting)} could not be told: "
            f"{error.message} Say the same again to tell them, or send them the signal {RESOLVED} with the key."
        ) from None
    return ResolvedEffect(
        effect=effect,
        by=resolution.by,
        told=tuple(name for name, alive in told.items() if alive),
        ended=tuple(name for name, alive in told.items() if not alive),
    )


async def _waiting(ledger: Ledger, effect: Effect) -> list[str]:
    """Return the ids of the runs that may wait for EFFECT: who asked for it, and who repairs it."""
    from perdure.connectors.reconciliation import Findings

    lineage = effect.step.lineage
    asking = {each.workflow_id for each in await ledger.dependents(effect.key)}
    asking.add(repair_id(lineage.workflow_id) if lineage.namespace == REPAIRING else lineage.workflow_id)
    if effect.generation:
        earlier = {effect_key(effect.step, item=effect.item, generation=each) for each in range(effect.generation)}
        findings = await Findings(ledger.database).findings(effect.action.partition(".")[0])
        asking |= {repair_id(each.id) for each in findings if each.key in earlier}
    return sorted(asking)


def _resolution(effect: Effect, given: ResolutionInput) -> Resolution:
    if len(given.verdicts) != 1:
        raise InvalidInput("say one of --happened, --did-not-happen, --send-again and --as-new-generation")
    if given.verdicts != ("happened",) and (given.remote_ref or given.answer is not None):
        raise InvalidInput("--remote-ref and --answer go with --happened only")
    try:
        return Resolution.model_validate(
            {
                "effect": effect.key,
                "verdict": given.verdicts[0],
                "by": given.by or terminal_user(),
                "comment": given.comment.strip(),
                "remote_ref": given.remote_ref,
                "answer": read_json(given.answer),
            }
        )
    except ValidationError as error:
        raise InvalidInput(describe_first(error)) from None


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


def _print(found: EffectDetails) -> None:
    effect = found.effect
    rows = [
        ("key", effect.key),
        ("action", effect.action),
        ("state", effect.state),
        ("why", one_line(effect.error)),
        ("run", effect.step.lineage.workflow_id),
        ("step", effect.step.name + (f", item {effect.item}" if effect.item else "")),
        ("asked", one_line(effect.args)),
        ("answer", one_line(effect.response) if effect.response is not None else ""),
        ("reference", effect.remote_ref),
        ("confirmed", f"by {effect.confirmed_by}, {format_time(effect.confirmed_at)}" if effect.confirmed_at else ""),
        ("sent", f"{_times(effect.sent)}, last at {format_time(effect.last_sent_at)}" if effect.sent else "never"),
        ("contradicts", effect.contradicts or ""),
        ("undoes", effect.undo_of or ""),
        ("undone by", found.undo or ""),
        *(("relied on", f"by {each.workflow_id}, step {each.step}") for each in found.askers),
    ]
    for name, value in rows:
        if value:
            typer.echo(printable(f"{name:12} {value}"))
    for event in found.events:
        who = f", {event.by}{'' if event.verified else ' (not verified)'}" if event.by else ""
        moved = f"{event.before or 'begins'} -> {event.after}" if event.before != event.after else "note"
        note = one_line(event.note)
        typer.echo(printable(f"{format_time(event.at)}  {moved}{who}{': ' if note else ''}{note}"))


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")

"""Does a connector do what its action declares, before anything goes wrong."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

from pydantic import BaseModel

from perdure.connectors.contracts import (
    Absent,
    AnyAction,
    Attempt,
    CannotTell,
    Connector,
    Executed,
    Found,
    Listed,
    Probe,
    Reconcilable,
    Target,
)
from perdure.connectors.drift.contracts import HasContract
from perdure.connectors.wire import parse_args
from perdure.errors import EffectError
from perdure.storage import now

Count = Callable[[BaseModel], Awaitable[int]]


async def find_broken_promises(connector: Connector, action: AnyAction, args: BaseModel, count: Count) -> list[str]:
    """Return, in words, what CONNECTOR does otherwise than ACTION says. Performs it once or twice, with ARGS.

    COUNT tells how many effects with given arguments there are.
    """
    action = connector.actions.get(action.name, action)
    problems: list[str] = []
    if action.name not in connector.actions:
        problems.append(f"connector {connector.name!r} has no action {action.name!r}")
    if action.connector != connector.name:
        problems.append(f"{action.name} is not an action of {connector.name!r}: its name has to begin with that")
    if args != parse_args(action, args.model_dump(mode="json")):
        problems.append(f"{action.input.__name__} is not the same after a trip through JSON")
    if problems:
        return problems
    attempt = Attempt(key=f"pe-{uuid.uuid4().hex}", fence=1, deadline=action.target.deadline)
    problems += _check_absent_before(await _probe(connector, action, args, attempt), action)
    try:
        done = await connector.execute(action, args, attempt)
    except EffectError as error:
        return [*problems, f"with nothing going wrong, {action.name} failed: {error.message}"]
    except Exception as error:  # noqa: BLE001  it is the connector's, and reported
        return [*problems, f"with nothing going wrong, {action.name} raised {error!r}, which is no EffectError"]
    problems += _check_output(action, done.output, "answers")
    problems += _check_undo(connector, action, args, done)
    if action.target.mechanism != "none":
        problems += _check_found_again(action, done, await _probe(connector, action, args, attempt))
        problems += await _check_looks_for_key(connector, action, args, count)
    return problems


async def find_broken_offers(connector: Connector, action: AnyAction, args: BaseModel, target: Target) -> list[str]:
    """Return, in words, what CONNECTOR's listing and contract lack, if it offers them. Performs ACTION once, with ARGS."""
    problems: list[str] = []
    try:
        if isinstance(connector, HasContract) and (contract := await connector.contract()) is not None:
            named = {name for operation in contract.operations.values() for name in operation.actions}
            if strange := sorted(named - connector.actions.keys()):
                problems.append(f"its contract names {strange[0]}, which is none of its actions")
        if not isinstance(connector, Reconcilable) or action.name not in connector.listed_actions:
            return problems
        attempt = Attempt(key=f"pe-{uuid.uuid4().hex}", fence=1, deadline=target.deadline)
        done = await connector.execute(action, args, attempt)
        found = await _list_by_key(connector, attempt.key)
        if not found:
            await asyncio.sleep(target.settle.total_seconds())
            found = await _list_by_key(connector, attempt.key)
    except EffectError as error:
        return [*problems, f"with nothing going wrong, the listing or the contract failed: {error.message}"]
    if [done.remote_ref] != [each.remote_ref for each in found]:
        references = ", ".join(repr(each.remote_ref) for each in found) or "nothing"
        problems.append(f"{action.name} made {done.remote_ref!r}, and under its key the listing has {references}")
    if wrong := sorted({each.action for each in found} - {action.name}):
        problems.append(f"the listing says that {wrong[0]} made what {action.name} has made")
    return problems


async def _list_by_key(connector: Reconcilable, key: str) -> list[Listed]:
    hour = timedelta(hours=1)
    return [each async for each in connector.listing(now() - hour, now() + hour) if each.key == key]


def _check_undo(connector: Connector, action: AnyAction, args: BaseModel, done: Executed) -> list[str]:
    if action.undo is None:
        return []
    undo = action.undo.action
    if undo.name not in connector.actions:
        return [f"{action.name} is undone by {undo.name}, which its connector does not have"]
    try:
        made = action.undo.argue(args, done.output)
    except Exception as error:  # noqa: BLE001  it is the connector's, and reported
        return [f"the argument of {undo.name}, which undoes {action.name}, cannot be made: {error!r}"]
    if not isinstance(made, undo.input):
        return [f"{undo.name}, which undoes {action.name}, takes {undo.input.__name__} and gets {type(made).__name__}"]
    return []


def _check_output(action: AnyAction, output: BaseModel, verb: str) -> list[str]:
    if not isinstance(output, action.output):
        return [f"{action.name} {verb} {type(output).__name__}, and declares {action.output.__name__}"]
    if output != action.output.model_validate(output.model_dump(mode="json")):
        return [f"{action.output.__name__} is not the same after a trip through JSON"]
    return []


def _check_found_again(action: AnyAction, done: Executed, probe: Probe) -> list[str]:
    if not isinstance(probe, Found):
        silent = action.target.mechanism == "header" and not isinstance(probe, Absent)
        return [] if silent else [f"{action.name} was done, and its probe says: {_show_probe(probe)}"]
    problems = _check_output(action, probe.executed.output, "is looked up as")
    if probe.executed.remote_ref != done.remote_ref:
        refs = f"{done.remote_ref!r} in the answer and {probe.executed.remote_ref!r} in the probe"
        problems.append(f"{action.name}: the effect is called {refs}")
    return problems


async def _check_looks_for_key(connector: Connector, action: AnyAction, args: BaseModel, count: Count) -> list[str]:
    other = Attempt(key=f"pe-{uuid.uuid4().hex}", fence=1, deadline=action.target.deadline)
    if not isinstance(await _probe(connector, action, args, other), Found):
        return []
    # Where the second one changes nothing, as with a thing that is cancelled already, either has done it.
    with suppress(EffectError):
        await connector.execute(action, args, other)
    if await count(args) < 2:
        return []
    mistaken = (
        f"{action.name}: the probe of a key that was never used finds what another effect with the same arguments did"
    )
    return [f"{mistaken}. It has to look for the key"]


def _check_absent_before(probe: Probe, action: AnyAction) -> list[str]:
    if action.target.mechanism == "none" or isinstance(probe, Absent):
        return []
    if isinstance(probe, CannotTell) and action.target.mechanism == "header":
        return []  # only needed once the key's lifetime is over
    return [f"{action.name}: the probe of a key that was never used says: {_show_probe(probe)}"]


async def _probe(connector: Connector, action: AnyAction, args: BaseModel, attempt: Attempt) -> Probe:
    try:
        return await connector.probe(action, args, attempt)
    except EffectError as error:
        return CannotTell(error.message)


def _show_probe(probe: Probe) -> str:
    return f"cannot tell, because {probe.why}" if isinstance(probe, CannotTell) else type(probe).__name__.lower()

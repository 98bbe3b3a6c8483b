"""Does a connector do what its action declares, before anything goes wrong."""

from __future__ import annotations

import uuid

from pydantic import BaseModel

from perdure.connectors.contracts import Absent, AnyAction, Attempt, CannotTell, Connector, Found, Probe
from perdure.errors import EffectError


async def broken_promises(connector: Connector, action: AnyAction, args: BaseModel) -> list[str]:
    """Return, in words, what CONNECTOR does otherwise than ACTION says. Performs it once, with ARGS."""
    action = connector.actions.get(action.name, action)
    problems: list[str] = []
    if action.name not in connector.actions:
        problems.append(f"connector {connector.name!r} has no action {action.name!r}")
    if action.connector != connector.name:
        problems.append(f"{action.name} is not an action of {connector.name!r}: its name has to begin with that")
    if args != action.input.model_validate(args.model_dump(mode="json")):
        problems.append(f"{action.input.__name__} is not the same after a trip through JSON")
    if problems:
        return problems
    attempt = Attempt(key=f"pe-{uuid.uuid4().hex}", fence=1, deadline=action.target.deadline)
    problems += _before(await _probed(connector, action, args, attempt), action)
    try:
        done = await connector.execute(action, args, attempt)
    except EffectError as error:
        return [*problems, f"with nothing going wrong, {action.name} failed: {error.message}"]
    if not isinstance(done.output, action.output):
        problems.append(f"{action.name} answers {type(done.output).__name__}, and declares {action.output.__name__}")
    elif done.output != action.output.model_validate(done.output.model_dump(mode="json")):
        problems.append(f"{action.output.__name__} is not the same after a trip through JSON")
    if action.target.mechanism != "none":
        probe = await _probed(connector, action, args, attempt)
        if isinstance(probe, Found):
            if probe.executed.remote_ref != done.remote_ref:
                refs = f"{done.remote_ref!r} in the answer and {probe.executed.remote_ref!r} in the probe"
                problems.append(f"{action.name}: the effect is called {refs}")
        elif action.target.mechanism == "natural-key" or isinstance(probe, Absent):
            problems.append(f"{action.name} was done, and its probe says: {_said(probe)}")
    return problems


def _before(probe: Probe, action: AnyAction) -> list[str]:
    if action.target.mechanism == "none" or isinstance(probe, Absent):
        return []
    if isinstance(probe, CannotTell) and action.target.mechanism == "header":
        return []  # only needed once the key's lifetime is over
    return [f"{action.name}: the probe of a key that was never used says: {_said(probe)}"]


async def _probed(connector: Connector, action: AnyAction, args: BaseModel, attempt: Attempt) -> Probe:
    try:
        return await connector.probe(action, args, attempt)
    except EffectError as error:
        return CannotTell(error.message)


def _said(probe: Probe) -> str:
    return f"cannot tell, because {probe.why}" if isinstance(probe, CannotTell) else type(probe).__name__.lower()

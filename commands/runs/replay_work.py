"""How a history is replayed: with the plugin, the user's workflows, and the namespace it was recorded in."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass

from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer
from temporalio.workflow import NondeterminismError

from perdure.errors import InvalidSettings
from perdure.governance.payloads import LazyDatabase, data_converter
from perdure.plugin import PerdurePlugin
from perdure.settings import Settings
from perdure.timetravel.timeline import read_timeline
from perdure.worker import load_modules

_UNKNOWN = re.compile(r"Workflow class (\S+) is not registered on this worker, available workflows: (.*)")
# The SDK's core prints the failure it would have sent as a Rust structure; this is the part that people read.
_MESSAGE = re.compile(r'message: "((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Failed:
    """A replay that came to another end than the recorded run."""

    message: str
    nondeterministic: bool


async def replay_history(
    settings: Settings, history: WorkflowHistory, namespace: str, modules: list[str], *, patience: float
) -> Failed | None:
    """Replay HISTORY with the workflows of MODULES and the settings; return how it failed, or None.

    Raises `InvalidSettings` if no module has the workflow, or if the replay takes longer than PATIENCE seconds.
    """
    served = load_modules([*modules, *settings.modules], settings, configure=False)
    plugin: PerdurePlugin = served.plugin(settings)
    database = LazyDatabase(settings)
    try:
        timeline = await read_timeline(history.events, data_converter(settings, database), workflow_id=history.workflow_id)
        # Approvals bind to the namespace, so a replay elsewhere would refuse what the run accepted.
        recorded_in = timeline.run.namespace or namespace or "default"
        replayer = Replayer(workflows=served.workflows, plugins=[plugin], namespace=recorded_in)
        async with asyncio.timeout(patience):
            result = await replayer.replay_workflow(history, raise_on_replay_failure=False)
    except TimeoutError:
        raise InvalidSettings(f"the replay of {history.workflow_id} did not end within {patience:.0f} s") from None
    finally:
        await plugin.close()
        await database.close()
    if result.replay_failure is None:
        return None
    return _failed(result.replay_failure, timeline.run.workflow_type)


def _failed(error: Exception, workflow: str) -> Failed:
    printed = _MESSAGE.search(str(error))
    said = json.loads(f'"{printed[1]}"') if printed else str(error)
    if unknown := _UNKNOWN.search(said):
        raise InvalidSettings(
            f"no module given serves workflow {unknown[1]!r}; they serve {unknown[2]}. Name the module with --module."
        )
    nondeterministic = isinstance(error, NondeterminismError)
    if nondeterministic:
        return Failed(f"the code does something else than what was recorded: {said}", nondeterministic=True)
    return Failed(f"the replay of {workflow} failed: {type(error).__name__}: {said}", nondeterministic=False)

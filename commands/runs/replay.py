"""Does the code of today do what a recorded run did: with the plugin, the user's workflows, and the run's own namespace."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import typer
from google.protobuf.json_format import ParseError
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer
from temporalio.workflow import NondeterminismError

from perdure.commands.exits import Exit
from perdure.commands.options import Format, Options
from perdure.commands.output import emit, printable, say
from perdure.commands.runs.divergence import Recorder, describe_divergence
from perdure.commands.session import client_settings, open_session
from perdure.errors import InvalidInput, InvalidSettings, NotFound
from perdure.governance.converter import build_data_converter
from perdure.governance.payloads import LazyDatabase
from perdure.plugin import PerdurePlugin
from perdure.settings import Settings
from perdure.timetravel.timeline import read_timeline
from perdure.worker import load_modules

_UNKNOWN = re.compile(r"Workflow class (\S+) is not registered on this worker, available workflows: (.*)")
# The SDK's core prints the failure it would have sent as a Rust structure; this is the part that people read.
_MESSAGE = re.compile(r'message: "((?:[^"\\]|\\.)*)"')

PATIENCE = 120.0
"""Seconds that a replay may take: 10,000 events need about 10."""


async def replay_and_report(options: Options, run: str, modules: list[str]) -> None:
    """Replay RUN, or the history file of that name, and say whether the code does what was recorded."""
    settings = client_settings()
    history, namespace = await _history(options, run)
    if not any(event.HasField("workflow_task_completed_event_attributes") for event in history.events):
        raise NotFound(f"{run} holds no workflow task that was completed, so there is nothing to replay yet")
    failure = await replay_history(settings, history, namespace, modules, patience=PATIENCE)
    _print(options, run, history, failure)
    if failure is not None:
        raise typer.Exit(Exit.NONDETERMINISTIC if failure.nondeterministic else Exit.ERROR)


@dataclass(frozen=True)
class ReplayFailure:
    """A replay that came to another end than the recorded run."""

    message: str
    nondeterministic: bool
    said: str = ""
    """What Temporal's SDK says of it."""


async def replay_history(
    settings: Settings, history: WorkflowHistory, namespace: str, modules: list[str], *, patience: float
) -> ReplayFailure | None:
    """Replay HISTORY with the workflows of MODULES and the settings; return how it failed, or None.

    Raises `InvalidSettings` if no module has the workflow, or if the replay takes longer than PATIENCE seconds.
    """
    served = load_modules([*modules, *settings.modules], settings, configure=False)
    plugin: PerdurePlugin = served.plugin(settings)
    database = LazyDatabase(settings)
    try:
        timeline = await read_timeline(
            history.events, build_data_converter(settings, database), workflow_id=history.workflow_id
        )
        # Approvals bind to the namespace, so a replay elsewhere would refuse what the run accepted.
        recorded_in = timeline.run.namespace or namespace or "default"
        recorder = Recorder()
        replayer = Replayer(workflows=served.workflows, plugins=[plugin], interceptors=[recorder], namespace=recorded_in)
        async with asyncio.timeout(patience):
            result = await replayer.replay_workflow(history, raise_on_replay_failure=False)
    except TimeoutError:
        raise InvalidSettings(f"the replay of {history.workflow_id} did not end within {patience:.0f} s") from None
    finally:
        await plugin.close()
        await database.close()
    if result.replay_failure is None:
        return None
    failure = _failed(result.replay_failure, timeline.run.workflow_type)
    if not failure.nondeterministic:
        return failure
    where = describe_divergence(timeline, history, recorder.calls)
    return replace(failure, message=f"{failure.message}: {where}. Temporal: {failure.said}")


async def _history(options: Options, run: str) -> tuple[WorkflowHistory, str]:
    if is_history_file(run):
        return _read(Path(run)), options.namespace or ""
    async with open_session(options) as session:
        _, description = await session.find_run(run)
        handle = session.client.get_workflow_handle(description.id, run_id=description.run_id)
        return await handle.fetch_history(), session.client.namespace


def is_history_file(run: str) -> bool:
    """Whether RUN is the path of a file and not a run's id."""
    return run.endswith(".json") or Path(run).is_file()


def _read(path: Path) -> WorkflowHistory:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"history file {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        history = WorkflowHistory.from_json(path.stem, text)
    except (ParseError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidInput(
            f"{path} is not a history: {str(error).splitlines()[0]}. Write one with `temporal workflow show -w ID -o json`."
        ) from None
    if not history.events or not history.events[0].HasField("workflow_execution_started_event_attributes"):
        raise InvalidInput(f"{path} is not a history: its first event is not the start of a workflow")
    started = history.events[0].workflow_execution_started_event_attributes
    return WorkflowHistory(started.workflow_id or path.stem, history.events)


def _print(options: Options, run: str, history: WorkflowHistory, failure: ReplayFailure | None) -> None:
    started = history.events[0].workflow_execution_started_event_attributes
    facts = {
        "source": run,
        "workflow_id": history.workflow_id,
        "workflow_type": started.workflow_type.name,
        "events": len(history.events),
        "replayed": failure is None,
    }
    if options.format is not Format.text:
        emit(facts | ({"error": failure.message, "nondeterministic": failure.nondeterministic} if failure else {}))
    elif failure is None:
        typer.echo(printable(f"{run}: {len(history.events)} events replayed, the code does what was recorded"))
    if failure is not None:
        say(f"perdure: {run}: {failure.message}")


def _failed(error: Exception, workflow: str) -> ReplayFailure:
    printed = _MESSAGE.search(str(error))
    said = json.loads(f'"{printed[1]}"') if printed else str(error)
    if unknown := _UNKNOWN.search(said):
        raise InvalidSettings(
            f"no module given serves workflow {unknown[1]!r}; they serve {unknown[2]}. Name the module with --module."
        )
    nondeterministic = isinstance(error, NondeterminismError)
    if nondeterministic:
        return ReplayFailure("the code does something else than what was recorded", nondeterministic=True, said=said)
    return ReplayFailure(f"the replay of {workflow} failed: {type(error).__name__}: {said}", nondeterministic=False)

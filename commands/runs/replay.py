"""`perdure replay`: does the code of today do what a recorded run did."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perdure.commands.exits import Exit
from perdure.commands.options import Format, Options, takes_options
from perdure.commands.output import emit, plain, say
from perdure.commands.session import client_settings, connected
from perdure.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from temporalio.client import WorkflowHistory

    from perdure.commands.runs.replay_work import Failed

PATIENCE = 120.0
"""Seconds that a replay may take: 10,000 events need about 10."""


@takes_options
def replay(
    options: Options,
    run: Annotated[
        str,
        typer.Argument(
            help="A run: WORKFLOW_ID or WORKFLOW_ID/RUN_ID; or a history file as `temporal workflow show -o json` has it.",
            metavar="RUN|FILE",
            show_default=False,
        ),
    ],
    modules: Annotated[
        list[str] | None,
        typer.Option(
            "--module",
            "-m",
            help="A module with the workflow's code, besides those of perdure.toml; may be given several times.",
            metavar="MODULE",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Replay a recorded history against the code as it is.

    Nothing is called and nothing is changed. Exit code 9 if the code would do something else than what was recorded.
    """
    asyncio.run(_replay(options, run, modules or []))


async def _replay(options: Options, run: str, modules: list[str]) -> None:
    settings = client_settings()
    history, namespace = await _history(options, run)
    if not any(event.HasField("workflow_task_completed_event_attributes") for event in history.events):
        raise NotFound(f"{run} holds no workflow task that was completed, so there is nothing to replay yet")
    from perdure.commands.runs.replay_work import replay_history

    failure = await replay_history(settings, history, namespace, modules, patience=PATIENCE)
    _print(options, run, history, failure)
    if failure is not None:
        raise typer.Exit(Exit.NONDETERMINISTIC if failure.nondeterministic else Exit.ERROR)


async def _history(options: Options, run: str) -> tuple[WorkflowHistory, str]:
    if is_history_file(run):
        return _read(Path(run)), options.namespace or ""
    async with connected(options) as session:
        _, description = await session.find(run)
        handle = session.client.get_workflow_handle(description.id, run_id=description.run_id)
        return await handle.fetch_history(), session.client.namespace


def is_history_file(run: str) -> bool:
    """Whether RUN is the path of a file and not a run's id."""
    return run.endswith(".json") or Path(run).is_file()


def _read(path: Path) -> WorkflowHistory:
    from google.protobuf.json_format import ParseError
    from temporalio.client import WorkflowHistory

    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NotFound(f"history file {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
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


def _print(options: Options, run: str, history: WorkflowHistory, failure: Failed | None) -> None:
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
        typer.echo(plain(f"{run}: {len(history.events)} events replayed, the code does what was recorded"))
    if failure is not None:
        say(f"perdure: {run}: {failure.message}")

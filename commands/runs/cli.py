"""`perdure run`: start a run and watch it."""

from __future__ import annotations

from typing import Annotated

import typer

from perdure.commands.options import Options, takes_options
from perdure.commands.session import perform


@takes_options
def run(
    options: Options,
    workflow: Annotated[
        str,
        typer.Argument(
            help="A workflow's name, or the path of a plan (.yaml, .yml or .json).",
            metavar="WORKFLOW|PLAN",
            show_default=False,
        ),
    ],
    *,
    given: Annotated[
        str | None,
        typer.Option(
            "--input", "-i", help="The input: JSON, @FILE, or - for stdin.", metavar="JSON|@FILE|-", show_default=False
        ),
    ] = None,
    workflow_id: Annotated[
        str | None,
        typer.Option(
            "--id",
            help="The run's workflow id; one that is in use is refused. Default: a new one.",
            metavar="ID",
            show_default=False,
        ),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Start it and return at once.")] = False,
    wait: Annotated[
        float | None,
        typer.Option(
            help="Watch at most so many seconds; exit code 8 if it still goes on.",
            metavar="SECONDS",
            min=0,
            show_default=False,
        ),
    ] = None,
    task_queue: Annotated[
        str | None,
        typer.Option(
            "--task-queue", "-q", help="The task queue. Default: PERDURE_TASK_QUEUE, else perdure.", metavar="NAME"
        ),
    ] = None,
) -> None:
    """Start a run and watch its steps until it ends. The run goes on if you stop watching.

    The result goes to stdout, progress to stderr. With -o json the one object says workflow_id, run_id, state, result or
    error, cost_usd and more; with -o jsonl each change of a step is a line, and the last line is that object.
    """
    from perdure.commands.runs.work import Start, start_and_watch

    start = Start.read(workflow, given, workflow_id=workflow_id, task_queue=task_queue, detach=detach, wait=wait)
    perform(lambda session: start_and_watch(session, options, start), options)

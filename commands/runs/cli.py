"""`perdure run`, `list`, `show`, `replay`, `signal`, `query` and `cancel`, as they are typed."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Annotated

import typer

from perdure.commands.inputs import read_json
from perdure.commands.options import Options, RunArgument, takes_options
from perdure.commands.session import Session, run_with_session

app = typer.Typer()

InputOption = Annotated[
    str | None,
    typer.Option(
        "--input", "-i", help="The argument: JSON, @FILE, or - for stdin.", metavar="JSON|@FILE|-", show_default=False
    ),
]


class RunFilter(StrEnum):
    """Which runs to list."""

    running = "running"
    waiting_approval = "waiting_approval"
    parked = "parked"
    partially_compensated = "partially_compensated"
    completed = "completed"
    failed = "failed"
    cancelled = "cancelled"
    terminated = "terminated"
    timed_out = "timed_out"


@app.command()
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
            help="The run's workflow id. Each is used once, also after its run has ended. Default: a new one.",
            metavar="ID",
            show_default=False,
        ),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Start it although a run with this --id has ended: it is all done again.")
    ] = False,
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

    start = Start.read(
        workflow, given, workflow_id=workflow_id, again=again, task_queue=task_queue, detach=detach, wait=wait
    )
    run_with_session(lambda session: start_and_watch(session, options, start), options)


@app.command("list")
@takes_options
def list_runs(
    options: Options,
    state: Annotated[
        RunFilter | None, typer.Option("--state", "-s", help="Only runs in this state.", show_default=False)
    ] = None,
    plan: Annotated[
        str | None,
        typer.Option("--plan", "-p", help="Only runs of this plan or workflow.", metavar="NAME", show_default=False),
    ] = None,
    query: Annotated[
        str | None,
        typer.Option(
            help='Only runs that this visibility query finds, e.g. \'PerdureRisk="high" AND StartTime > "2026-11-01"\'.',
            metavar="QUERY",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", help="At most so many, the newest first.", min=1, metavar="NUMBER")
    ] = 20,
) -> None:
    """List runs, the newest first."""

    async def work(session: Session) -> None:
        from perdure.commands.runs.listing import print_runs

        await print_runs(session, options, state=state.value if state else None, plan=plan, query=query, limit=limit)

    run_with_session(work, options)


@app.command()
@takes_options
def show(
    options: Options,
    run: RunArgument,
    full: Annotated[bool, typer.Option("--full", help="Cut nothing: whole inputs and results.")] = False,
) -> None:
    """Show what a run did, step by step.

    Read from Temporal's history: each step with its inputs, model and cost, memory used, receipt, who approved what, and
    its attempts and why they failed.
    """

    async def work(session: Session) -> None:
        from perdure.commands.runs.history import print_run

        await print_run(session, options, run, full=full)

    run_with_session(work, options)


@app.command()
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
    from perdure.commands.runs.replay import replay_and_report

    asyncio.run(replay_and_report(options, run, modules or []))


@app.command()
@takes_options
def signal(
    options: Options,
    run: RunArgument,
    name: Annotated[str, typer.Argument(help="The signal's name.", metavar="NAME", show_default=False)],
    given: InputOption = None,
) -> None:
    """Send a run a signal. It is recorded at once, also when no worker runs."""
    arguments = _arguments(given)

    async def work(session: Session) -> None:
        from perdure.commands.runs.messages import send_signal

        await send_signal(session, options, run, name, arguments)

    run_with_session(work, options)


@app.command()
@takes_options
def query(
    options: Options,
    run: RunArgument,
    name: Annotated[str, typer.Argument(help="The query's name.", metavar="NAME", show_default=False)],
    given: InputOption = None,
) -> None:
    """Ask a run something and print the answer. Needs a worker, also for a run that has ended."""
    arguments = _arguments(given)

    async def work(session: Session) -> None:
        from perdure.commands.runs.messages import print_query

        await print_query(session, options, run, name, arguments)

    run_with_session(work, options)


@app.command()
@takes_options
def cancel(
    options: Options,
    run: RunArgument,
    reason: Annotated[str, typer.Option(help="Why; it stays in the history.", metavar="TEXT", show_default=False)] = "",
) -> None:
    """Ask a run to end.

    What it did is undone as its workflow says; a worker has to be there to do that.
    """

    async def work(session: Session) -> None:
        from perdure.commands.runs.messages import request_cancel

        await request_cancel(session, options, run, reason)

    run_with_session(work, options)


def _arguments(given: str | None) -> list[object]:
    # JSON's null is an argument, nothing is none.
    return [] if given is None else [read_json(given)]

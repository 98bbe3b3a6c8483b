"""`perdure list`: which runs there are."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from perdure.commands.options import Format, Options, takes_options
from perdure.commands.output import (
    at,
    dollars,
    emit,
    emit_line,
    out,
    plain,
    say,
    took,
)
from perdure.commands.session import Session, perform
from perdure.errors import InvalidInput

if TYPE_CHECKING:
    from temporalio.client import WorkflowExecution


class State(StrEnum):
    """What a run can be filtered by."""

    running = "running"
    waiting_approval = "waiting_approval"
    parked = "parked"
    partially_compensated = "partially_compensated"
    completed = "completed"
    failed = "failed"
    cancelled = "cancelled"
    terminated = "terminated"
    timed_out = "timed_out"


# A terminated run keeps its last PerdureState, so what has ended is told by Temporal's own status.
_QUERIES = {
    State.running: 'ExecutionStatus="Running"',
    State.waiting_approval: 'ExecutionStatus="Running" AND PerdureState="waiting_approval"',
    State.parked: 'ExecutionStatus="Running" AND PerdureState="parked"',
    # Also one that still waits for a person to say what became of an undo.
    State.partially_compensated: 'ExecutionStatus IN ("Running", "Failed") AND PerdureState="partially_compensated"',
    State.completed: 'ExecutionStatus="Completed"',
    State.failed: 'ExecutionStatus="Failed"',
    State.cancelled: 'ExecutionStatus="Canceled"',
    State.terminated: 'ExecutionStatus="Terminated"',
    State.timed_out: 'ExecutionStatus="TimedOut"',
}


@takes_options
def list_runs(
    options: Options,
    state: Annotated[
        State | None, typer.Option("--state", "-s", help="Only runs in this state.", show_default=False)
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
    wanted = _query(state, plan, query)

    async def work(session: Session) -> None:
        from temporalio.service import RPCError, RPCStatusCode

        try:
            found = [run async for run in session.client.list_workflows(wanted, limit=limit)]
        except RPCError as error:
            if error.status != RPCStatusCode.INVALID_ARGUMENT or query is None:
                raise
            raise InvalidInput(f"the query {query!r} is not a visibility query: {error.message}") from None
        _print(session, options, found, wanted, limit)

    perform(work, options)


def _query(state: State | None, plan: str | None, query: str | None) -> str:
    parts = [_QUERIES[state]] if state else []
    if plan:
        parts.append(f"PerdurePlan={quoted(plan)}")
    if query:
        parts.append(f"({query})")
    return " AND ".join(parts)


def quoted(value: str) -> str:
    """Return VALUE as a literal of a visibility query."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _print(session: Session, options: Options, runs: list[WorkflowExecution], query: str, limit: int) -> None:
    if options.format is Format.json:
        emit([row(session, run) for run in runs])
        return
    if options.format is Format.jsonl:
        for run in runs:
            emit_line(row(session, run))
        return
    if not runs:
        say("no run found" + (f" for {query}" if query else "; start one with `perdure run WORKFLOW -i JSON`"))
        return
    _print_table(session, runs)
    if len(runs) == limit:
        say(f"the newest {limit}; --limit shows more")
    if link := session.links.runs(query):
        say(link)


def _print_table(session: Session, runs: list[WorkflowExecution]) -> None:
    from rich.table import Table
    from rich.text import Text

    console = out()
    narrow, tiny = console.width < 110, console.width < 76
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name, least in (("RUN", 16), ("PLAN", 8), ("STATE", 9), ("STARTED", 11), ("TOOK", 8), ("COST", 5))[
        : 4 if tiny else 6
    ]:
        side: Literal["left", "right"] = "right" if name in ("TOOK", "COST") else "left"
        table.add_column(name, no_wrap=True, overflow="ellipsis", justify=side, min_width=least)
    for run in runs:
        facts = row(session, run)
        state = str(facts["state"])
        if facts["approval_owner"]:
            state += f": {facts['approval_owner']}"
        cells = [
            Text(plain(run.id)),
            Text(plain(str(facts["plan"]))),
            Text(plain(state), style=_STYLES.get(str(facts["state"]), "")),
            Text(f"{run.start_time:%m-%d %H:%M}" if narrow else at(run.start_time)),
            Text(took(run.close_time - run.start_time) if run.close_time else ""),
            Text(dollars(round(_number(facts["cost_usd"]) * 1e9)) if facts["cost_usd"] is not None else ""),
        ]
        table.add_row(*cells[: len(table.columns)])
    console.print(table)


def row(session: Session, run: WorkflowExecution) -> dict[str, object]:
    """Return what programs want to know of RUN in a list."""
    from temporalio.client import WorkflowExecutionStatus

    from perdure.workflows import attributes

    given = run.typed_search_attributes
    state = _STATUS.get(run.status.name if run.status else "", "running")
    own = given.get(attributes.STATE)
    running = run.status == WorkflowExecutionStatus.RUNNING
    waits = running and own == "waiting_approval"
    if (running and own in ("waiting_approval", "parked")) or (state in ("running", "failed") and own == _PARTIAL):
        state = own
    return {
        "workflow_id": run.id,
        "run_id": run.run_id,
        "workflow_type": run.workflow_type,
        "plan": given.get(attributes.PLAN) or run.workflow_type,
        "state": state,
        "risk": given.get(attributes.RISK),
        "cost_usd": given.get(attributes.COST),
        "approval_owner": given.get(attributes.APPROVAL_OWNER) if waits else None,
        "approval_deadline": given.get(attributes.APPROVAL_DEADLINE) if waits else None,
        "started": run.start_time,
        "ended": run.close_time,
        "events": run.history_length,
        "task_queue": run.task_queue,
        "link": session.links.run(run.id, run.run_id),
    }


_PARTIAL = "partially_compensated"
_STATUS = {
    "RUNNING": "running",
    "COMPLETED": "completed",
    "FAILED": "failed",
    "CANCELED": "cancelled",
    "TERMINATED": "terminated",
    "CONTINUED_AS_NEW": "continued",
    "TIMED_OUT": "timed_out",
}
_STYLES = {
    "completed": "green",
    "failed": "red",
    "terminated": "red",
    "timed_out": "red",
    "waiting_approval": "yellow",
    "parked": "yellow",
    "partially_compensated": "red",
    "running": "cyan",
}


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0

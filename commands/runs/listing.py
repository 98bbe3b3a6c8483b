"""Which runs there are, and how each stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.commands.options import Format, Options
from perdure.commands.output import (
    Column,
    emit_rows,
    format_duration,
    format_time,
    format_usd,
    is_narrow,
    printable,
    say,
    table,
)
from perdure.errors import InvalidInput

if TYPE_CHECKING:
    from rich.text import Text
    from temporalio.client import WorkflowExecution

    from perdure.commands.session import Session

_COLUMNS = (
    "RUN",
    Column("PLAN", least=10, drop=2),
    Column("STATE", least=12),
    Column("STARTED", drop=1),
    Column("TOOK", right=True, drop=3),
    Column("COST", right=True, drop=4),
)


# A terminated run keeps its last PerdureState, so what has ended is told by Temporal's own status.
_QUERIES = {
    "running": 'ExecutionStatus="Running"',
    "waiting_approval": 'ExecutionStatus="Running" AND PerdureState="waiting_approval"',
    "parked": 'ExecutionStatus="Running" AND PerdureState="parked"',
    # Also one that still waits for a person to say what became of an undo.
    "partially_compensated": 'ExecutionStatus IN ("Running", "Failed") AND PerdureState="partially_compensated"',
    "completed": 'ExecutionStatus="Completed"',
    "failed": 'ExecutionStatus="Failed"',
    "cancelled": 'ExecutionStatus="Canceled"',
    "terminated": 'ExecutionStatus="Terminated"',
    "timed_out": 'ExecutionStatus="TimedOut"',
}


async def print_runs(
    session: Session, options: Options, *, state: str | None, plan: str | None, query: str | None, limit: int
) -> None:
    """Print the newest LIMIT runs in STATE, of PLAN, that QUERY finds."""
    from temporalio.service import RPCError, RPCStatusCode

    wanted = _query(state, plan, query)
    try:
        found = [run async for run in session.client.list_workflows(wanted, limit=limit)]
    except RPCError as error:
        if error.status != RPCStatusCode.INVALID_ARGUMENT or query is None:
            raise
        raise InvalidInput(f"the query {query!r} is not a visibility query: {error.message}") from None
    if options.format is not Format.text:
        emit_rows(options.format, [run_row(session, run) for run in found])
        return
    if not found:
        say("no run found" + (f" for {wanted}" if wanted else "; start one with `perdure run WORKFLOW -i JSON`"))
        return
    _print_table(session, found)
    if len(found) == limit:
        say(f"the newest {limit}; --limit shows more")
    if link := session.links.runs(wanted):
        say(link)


def _query(state: str | None, plan: str | None, query: str | None) -> str:
    parts = [_QUERIES[state]] if state else []
    if plan:
        parts.append(f"PerdurePlan={quote_literal(plan)}")
    if query:
        parts.append(f"({query})")
    return " AND ".join(parts)


def quote_literal(value: str) -> str:
    """Return VALUE as a literal of a visibility query."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _print_table(session: Session, runs: list[WorkflowExecution]) -> None:
    from rich.text import Text

    short = is_narrow()
    rows: list[list[str | Text]] = []
    for run in runs:
        facts = run_row(session, run)
        state = str(facts["state"])
        owner = f": {facts['approval_owner']}" if facts["approval_owner"] else ""
        cost = facts["cost_usd"]
        rows.append(
            [
                run.id,
                str(facts["plan"]),
                Text(printable(state + owner), style=_STYLES.get(state, "")),
                format_time(run.start_time, short=short),
                format_duration(run.close_time - run.start_time) if run.close_time else "",
                format_usd(round(cost * 1e9)) if isinstance(cost, int | float) else "",
            ]
        )
    table(_COLUMNS, rows)


def run_row(session: Session, run: WorkflowExecution) -> dict[str, object]:
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

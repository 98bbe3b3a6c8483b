"""What one says to a run: signals, queries, and that it shall end."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import typer

from perdure.commands.options import Format, Options
from perdure.commands.output import (
    emit,
    emit_line,
    printable,
    say,
    to_json,
)
from perdure.errors import InvalidInput, NotFound, Unreachable

if TYPE_CHECKING:
    from temporalio.client import WorkflowExecutionDescription, WorkflowHandle

    from perdure.commands.session import Session

ANSWER = timedelta(seconds=10)
"""How long a worker may take to answer a query."""


async def send_signal(session: Session, options: Options, run: str, name: str, arguments: list[object]) -> None:
    """Send RUN the signal NAME, and say so if the run has no handler for it."""
    handle, description = await session.find_run(run)
    _require_running(description, "signalled")
    await handle.signal(name, args=arguments)
    if options.format is not Format.text:
        emit({"workflow_id": handle.id, "signal": name})
        return
    say(f"sent {name!r} to {handle.id}")
    known = await _signals(handle)
    if known is not None and name not in known:
        listed = ", ".join(sorted(known)) or "none"
        say(f"perdure: nothing happens until the run has a handler for {name!r}; at this moment it has: {listed}")


async def print_query(session: Session, options: Options, run: str, name: str, arguments: list[object]) -> None:
    """Print what RUN answers to the query NAME."""
    handle, description = await session.find_run(run)
    answer = await _ask(handle, name, arguments, description.task_queue)
    if options.format is Format.text:
        typer.echo(printable(answer) if isinstance(answer, str) else to_json(answer, indent=2))
    elif options.format is Format.json:
        emit(answer)
    else:
        emit_line(answer)


async def request_cancel(session: Session, options: Options, run: str, reason: str) -> None:
    """Ask RUN to end."""
    handle, description = await session.find_run(run)
    _require_running(description, "cancelled")
    await handle.cancel(reason=reason)
    if options.format is not Format.text:
        emit({"workflow_id": handle.id, "run_id": description.run_id, "cancel_requested": True})
        return
    say(f"asked {handle.id} to end; `perdure show {handle.id}` shows how it does")


def _require_running(description: WorkflowExecutionDescription, what: str) -> None:
    from temporalio.client import WorkflowExecutionStatus

    if description.status != WorkflowExecutionStatus.RUNNING:
        state = description.status.name.lower().replace("_", " ") if description.status else "closed"
        raise NotFound(f"run {description.id} has ended ({state}), so it cannot be {what}: `perdure show {description.id}`")


async def _ask(handle: WorkflowHandle[object, object], name: str, args: list[object], task_queue: str) -> object:
    from temporalio.client import WorkflowQueryFailedError, WorkflowQueryRejectedError
    from temporalio.service import RPCError, RPCStatusCode

    try:
        return await handle.query(name, args=args, rpc_timeout=ANSWER)
    except (WorkflowQueryFailedError, WorkflowQueryRejectedError) as error:
        raise InvalidInput(f"run {handle.id} does not answer query {name!r}: {error}") from None
    except RPCError as error:
        silent = (RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED, RPCStatusCode.FAILED_PRECONDITION)
        if error.status not in silent:
            raise
        raise Unreachable(
            f"no worker answered query {name!r} of {handle.id} within {ANSWER.total_seconds():.0f} s: {error.message}. "
            f"A worker on task queue {task_queue!r} has to: start `perdure worker MODULES`."
        ) from None


async def _signals(handle: WorkflowHandle[object, object]) -> set[str] | None:
    """Return the signals that the run has handlers for; None if no worker tells."""
    from temporalio.api.sdk.v1 import WorkflowMetadata
    from temporalio.client import WorkflowQueryFailedError
    from temporalio.service import RPCError

    try:
        metadata = await handle.query("__temporal_workflow_metadata", rpc_timeout=timedelta(seconds=2))
    except (RPCError, WorkflowQueryFailedError):
        # The signal is sent; this was only to warn of a mistyped name.
        return None
    if not isinstance(metadata, WorkflowMetadata):
        return None
    found = {each.name for each in metadata.definition.signal_definitions}
    # A definition without a name is a handler for every signal.
    return None if "" in found else found

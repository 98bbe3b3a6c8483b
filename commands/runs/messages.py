"""`perdure signal`, `query` and `cancel`: what one says to a run."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from perdure.commands.inputs import read_json
from perdure.commands.options import Format, Options, takes_options
from perdure.commands.output import (
    as_text,
    emit,
    emit_line,
    plain,
    say,
)
from perdure.commands.runs.show import RunArgument
from perdure.commands.session import Session, perform
from perdure.errors import InvalidInput, NotFound, Unreachable

if TYPE_CHECKING:
    from temporalio.client import WorkflowExecutionDescription, WorkflowHandle

InputOption = Annotated[
    str | None,
    typer.Option(
        "--input", "-i", help="The argument: JSON, @FILE, or - for stdin.", metavar="JSON|@FILE|-", show_default=False
    ),
]

ANSWER = timedelta(seconds=10)
"""How long a worker may take to answer a query."""


@takes_options
def signal(
    options: Options,
    run: RunArgument,
    name: Annotated[str, typer.Argument(help="The signal's name.", metavar="NAME", show_default=False)],
    given: InputOption = None,
) -> None:
    """Send a run a signal. It is recorded at once, also when no worker runs."""
    value = read_json(given)

    async def work(session: Session) -> None:
        handle, description = await session.find(run)
        _require_running(description, "signalled")
        await handle.signal(name, args=[] if given is None else [value])
        if options.format is not Format.text:
            emit({"workflow_id": handle.id, "signal": name})
            return
        say(f"sent {name!r} to {handle.id}")
        known = await _signals(handle)
        if known is not None and name not in known:
            listed = ", ".join(sorted(known)) or "none"
            say(f"perdure: nothing happens until the run has a handler for {name!r}; at this moment it has: {listed}")

    perform(work, options)


@takes_options
def query(
    options: Options,
    run: RunArgument,
    name: Annotated[str, typer.Argument(help="The query's name.", metavar="NAME", show_default=False)],
    given: InputOption = None,
) -> None:
    """Ask a run something and print the answer. Needs a worker, also for a run that has ended."""
    value = read_json(given)

    async def work(session: Session) -> None:
        handle, description = await session.find(run)
        answer = await _ask(handle, name, [] if given is None else [value], description.task_queue)
        if options.format is Format.text:
            typer.echo(plain(answer) if isinstance(answer, str) else as_text(answer, indent=2))
        elif options.format is Format.json:
            emit(answer)
        else:
            emit_line(answer)

    perform(work, options)


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
        handle, description = await session.find(run)
        _require_running(description, "cancelled")
        await handle.cancel(reason=reason)
        if options.format is not Format.text:
            emit({"workflow_id": handle.id, "run_id": description.run_id, "cancel_requested": True})
            return
        say(f"asked {handle.id} to end; `perdure show {handle.id}` shows how it does")

    perform(work, options)


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

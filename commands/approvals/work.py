"""What people are asked, and how a decision reaches a run: bound to what was read, sent so that twice is once."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import typer
from pydantic import ValidationError

from perdure.commands.options import Format, Options
from perdure.commands.output import (
    Column,
    describe_verdict,
    emit,
    emit_rows,
    format_time,
    is_narrow,
    one_line,
    printable,
    say,
    table,
)
from perdure.commands.runs.history import read_timeline
from perdure.commands.runs.listing import quote_literal
from perdure.commands.session import Session, parse_run, terminal_user
from perdure.errors import (
    InvalidInput,
    NotFound,
    PerdureError,
    Unreachable,
)
from perdure.governance.contracts import (
    DECIDE,
    ApprovalRequest,
    Decision,
    DecisionCall,
    Verdict,
)
from perdure.lineage import Frozen
from perdure.lineage import digest as digest_of

if TYPE_CHECKING:
    from perdure.governance.approvals import ApprovalEntry
    from perdure.timetravel.contracts import Step, Timeline

PATIENCE = timedelta(seconds=15)
"""How long a worker may take to accept a decision."""


_COLUMNS = (
    "RUN",
    Column("APPROVAL", drop=3),
    Column("OF", least=8, drop=2),
    Column("RISK", drop=1),
    "UNTIL",
    Column("STATE", least=8, drop=4),
    Column("QUESTION", least=20),
)


class DecisionRefused(PerdureError):
    """The run did not take the decision; the message says why."""


@dataclass(frozen=True)
class DecisionInput:
    """What a person said at this terminal."""

    run: str
    approval: str | None
    verdict: Verdict
    by: str | None
    comment: str
    digest: str | None
    confirmed: bool = True
    """Whether it is sent without a question, also on a terminal."""

    @property
    def workflow_id(self) -> str:
        """The run's workflow id."""
        return parse_run(self.run)[0]


class RecordedRequest(Frozen):
    """One request of a run as its history has it, with what became of it."""

    workflow_id: str
    run_id: str
    request: ApprovalRequest
    decision: Decision | None = None
    ended: str = ""
    """decided, expired or withdrawn; empty while it is open."""

    @property
    def state(self) -> str:
        """How it stands, in a few words."""
        decision = self.decision
        return f"{describe_verdict(decision.verdict)} by {decision.by}" if decision else self.ended or "open"


async def print_approvals(session: Session, options: Options, state: str | None, of: str | None) -> None:
    """Print the approvals in STATE that OF is asked, the nearest deadline first."""
    found = await read_approvals(session, state, of)
    if options.format is not Format.text:
        emit_rows(options.format, [each.model_dump(mode="json") for each in found])
        return
    if not found:
        say("no approval is open" if state == "open" else f"no approvals{f' are {state}' if state else ''}")
        return
    short = is_narrow()
    rows = [
        (
            each.workflow_id,
            each.approval,
            each.of,
            each.risk,
            format_time(each.deadline, short=short),
            f"{describe_verdict(each.verdict)} by {each.by}" if each.verdict else each.state,
            one_line(each.question),
        )
        for each in found
    ]
    table(_COLUMNS, rows)


async def print_request(session: Session, options: Options, run: str, approval: str | None) -> None:
    """Print the request of RUN called APPROVAL: the question, what it is about, until when, and its digest."""
    found = await find_request(session, run, approval)
    if options.format is not Format.text:
        emit(found.model_dump(mode="json"))
        return
    request = found.request
    rows = [
        ("run", found.workflow_id),
        ("approval", request.approval),
        ("question", request.question),
        ("of", request.of),
        ("risk", request.risk),
        ("asked", format_time(request.asked_at)),
        ("until", format_time(request.deadline)),
        ("about", one_line(request.about)),
        ("digest", request.digest),
        ("state", found.state),
    ]
    for name, value in rows:
        typer.echo(printable(f"{name:9} {value}"))


async def decide_and_report(session: Session, options: Options, given: DecisionInput) -> None:
    """Decide as GIVEN, and say what was decided by whom."""
    decision = await decide(session, given)
    if options.format is not Format.text:
        emit({"workflow_id": given.workflow_id, **decision.model_dump(mode="json")})
        return
    note = "" if decision.verified else " (nobody verified that name)"
    say(f"{describe_verdict(decision.verdict)}: {given.workflow_id} {decision.approval}, by {decision.by}{note}")


async def find_request(session: Session, run: str, approval: str | None) -> RecordedRequest:
    """Return the request of RUN called APPROVAL, or its only open one, else its only one.

    It is read from the history, which needs no worker and is what an auditor would read. Raises `NotFound` with those
    there are.
    """
    timeline = await read_timeline(session, run)
    requests = _requests(timeline)
    if not requests:
        workflow_id = timeline.run.workflow_id
        raise NotFound(f"run {workflow_id} has no approval to decide: `perdure show {workflow_id}` shows what it does")
    if approval is not None:
        found = [each for each in requests if each.request.approval == approval]
    else:
        found = [each for each in requests if not each.ended] or requests
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"{each.request.approval} ({each.state})" for each in requests)
    raise NotFound(
        f"run {timeline.run.workflow_id} has "
        + (f"no approval {approval!r}; it has: {listed}" if approval else f"several approvals; name one of: {listed}")
    )


async def decide(session: Session, given: DecisionInput) -> Decision:
    """Send what was GIVEN and return the decision as the run took it.

    Raises `Refused` if the run does not take it, `Unreachable` if no worker does, `NotFound`, `InvalidInput`.
    """
    found = await find_request(session, given.run, given.approval)
    call = _call(given, found.request)
    if given.digest is not None and given.digest != found.request.digest:
        raise DecisionRefused(
            f"what {found.workflow_id} asks has changed: its digest is {found.request.digest}, not {given.digest}. "
            f"Read it again with `perdure approval show {found.workflow_id}` and decide on that."
        )
    if found.ended:
        return _decided_before(found, call)
    _show(found, given)
    return await _send(session, found, call)


async def read_approvals(session: Session, state: str | None, of: str | None) -> list[ApprovalEntry]:
    """Return the approvals in STATE that OF is asked, from the table; open ones only of runs that are running."""
    from perdure.governance.approvals import Approvals
    from perdure.storage import open_database

    async with open_database(session.settings.database) as database:
        found = await Approvals(database).list(state=state)
    if of is not None:
        found = [each for each in found if each.of == of]
    # A run that was terminated never closes its requests.
    running = await _running(session, {each.workflow_id for each in found if each.state == "open"})
    return [each for each in found if each.state != "open" or each.workflow_id in running]


def _requests(timeline: Timeline) -> list[RecordedRequest]:
    closing = {step.name: step for step in timeline.decisions}
    return [
        RecordedRequest(
            workflow_id=timeline.run.workflow_id,
            run_id=timeline.run.run_id,
            request=step.request,
            decision=closing[step.name].decision if step.name in closing else None,
            ended=_ended(timeline, closing.get(step.name)),
        )
        for step in timeline.steps
        if step.request is not None and step.state == "done"
    ]


def _ended(timeline: Timeline, closing: Step | None) -> str:
    if closing is not None:
        return closing.outcome or "decided"
    return "" if timeline.run.state == "running" else "withdrawn"


def _call(given: DecisionInput, request: ApprovalRequest) -> DecisionCall:
    try:
        return DecisionCall(
            approval=request.approval,
            digest=request.digest,
            verdict=given.verdict,
            by=given.by or terminal_user(),
            comment=given.comment,
        )
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise InvalidInput(
            first["msg"].removeprefix("Value error, ") + (": give one with --comment" if "comment" in first["msg"] else "")
        ) from None


def _show(found: RecordedRequest, given: DecisionInput) -> None:
    """Show what is about to be decided; on a terminal, ask whether to go on. Raises `DecisionRefused` if not."""
    request = found.request
    say(f"{request.question}")
    say(f"  asked of {request.of}, risk {request.risk}, until {format_time(request.deadline)}")
    if request.about not in (None, "", [], {}):
        say(f"  about {one_line(request.about, 1000)}")
    # Who gives a digest has read what it stands for, and a script has nobody to ask.
    if given.confirmed or given.digest is not None or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    if not typer.confirm("Approve it?", err=True):
        raise DecisionRefused("nothing was decided")


def _decided_before(found: RecordedRequest, call: DecisionCall) -> Decision:
    decision = found.decision
    if decision is not None and (decision.verdict, decision.by) == (call.verdict, call.by):
        return decision
    how = "was withdrawn: the run has ended" if found.ended == "withdrawn" else f"is {found.ended or 'closed'} already"
    if decision is not None:
        how = f"was {describe_verdict(decision.verdict)} already, by {decision.by} at {format_time(decision.decided_at)}"
        how = how.replace("was changes requested", "had changes requested")
    raise DecisionRefused(f"approval {call.approval!r} of {found.workflow_id} {how}")


async def _send(session: Session, found: RecordedRequest, call: DecisionCall) -> Decision:
    from temporalio.client import WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError
    from temporalio.exceptions import ApplicationError
    from temporalio.service import RPCError, RPCStatusCode

    # The same decision sent again has the same id, and Temporal answers with the first one's result.
    update_id = digest_of([call.approval, call.digest, call.verdict, call.by]).removeprefix("sha256:")[:40]
    handle = session.client.get_workflow_handle(found.workflow_id)
    try:
        async with asyncio.timeout(PATIENCE.total_seconds()):
            decision: Decision = await handle.execute_update(DECIDE, call, id=update_id, result_type=Decision)
            return decision
    except WorkflowUpdateFailedError as error:
        cause = error.cause
        raise DecisionRefused(cause.message if isinstance(cause, ApplicationError) else str(cause)) from None
    except RPCError as error:
        if error.status == RPCStatusCode.NOT_FOUND:
            raise NotFound(f"run {found.workflow_id} has ended, so nobody can decide there any more") from None
        raise
    except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
        raise Unreachable(
            f"no worker took the decision within {PATIENCE.total_seconds():.0f} s, so it does not count yet. "
            f"Start a worker for {found.workflow_id} and send it again: sending it twice is safe."
        ) from None


async def _running(session: Session, workflow_ids: set[str]) -> set[str]:
    found: set[str] = set()
    wanted = sorted(workflow_ids)
    for start in range(0, len(wanted), 50):
        names = ", ".join(quote_literal(name) for name in wanted[start : start + 50])
        query = f'ExecutionStatus="Running" AND WorkflowId IN ({names})'
        async for run in session.client.list_workflows(query):
            found.add(run.id)
    return found

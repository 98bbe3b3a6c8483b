"""What `perdure connectors` does: have a worker look, and print what is in the database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

import typer

from perdure.commands.exits import Exit
from perdure.commands.options import Format, Options
from perdure.commands.output import (
    at,
    emit,
    emit_line,
    one_line,
    out,
    plain,
    say,
)
from perdure.commands.runs.follow import last_poll, nobody
from perdure.commands.runs.work import user
from perdure.commands.scheduling import schedule_on_worker
from perdure.commands.session import Session
from perdure.connectors.drift.contracts import CheckContractCall, Checked, ContractState
from perdure.connectors.reconciliation.contracts import (
    Finding,
    How,
    ReconcileCall,
    Reconciled,
    RepairCall,
    Repaired,
    Report,
    SweepCall,
    Swept,
    repair_id,
)
from perdure.errors import (
    InvalidInput,
    NotFound,
    PerdureError,
    Unreachable,
    by_name,
)
from perdure.governance.contracts import APPROVALS, ApprovalRequest

if TYPE_CHECKING:
    from pydantic import BaseModel
    from temporalio.client import WorkflowHandle

    from perdure.connectors.watch import Watch
    from perdure.settings import Settings

T = TypeVar("T", bound="BaseModel")

_FATES = {
    "alive": "are still asked for by their runs, and left alone",
    "found": "were found at the target",
    "absent": "are not at the target, and are not sent as long as no run asks",
    "parked": "wait for a person: `perdure effects list`",
    "unknown": "could not be looked up, as the target does not answer or they may still land",
    "stands": "stand: their runs had taken them back and ended before they were undone",
    "unserved": "are of actions that the worker does not have",
}

PATIENCE = timedelta(minutes=5)
"""How long a worker may take before the command stops waiting; the run goes on."""


@asynccontextmanager
async def watched(settings: Settings) -> AsyncIterator[Watch]:
    """Yield what the database knows of connectors, without any of them: no target is asked, and no worker or server."""
    from perdure.connectors.watch import Watch
    from perdure.storage import open_database

    async with open_database(settings.database) as database:
        yield Watch.over(database, {})


async def print_connectors(options: Options, settings: Settings) -> None:
    """Print the connectors that workers serve."""
    async with watched(settings) as watch:
        known = await watch.drift.connectors()
        checks = {(each.connector, each.version): each for each in await watch.drift.last()}
    if options.format is not Format.text:
        rows = [
            {**each.model_dump(mode="json"), "contract": _dumped(checks.get((each.name, each.version)))} for each in known
        ]
        _emit_rows(options, rows)
        return
    if not known:
        say("no worker on this database has served a connector yet")
        return
    rows_of_text = []
    for each in known:
        check = checks.get((each.name, each.version))
        for action in each.actions:
            stands = "" if check is None else "blocked" if action.name in check.blocked else check.verdict_on(action.name)
            undo = "reads" if action.reads else action.undo or action.reversibility
            rows_of_text.append((action.name, action.risk, action.mechanism, undo, "yes" if action.listed else "", stands))
    _table(("ACTION", "RISK", "MECHANISM", "UNDO", "LISTED", "CONTRACT"), rows_of_text)


async def check_contracts(
    session: Session, options: Options, name: str | None, *, every: timedelta | None, stop: bool
) -> None:
    """Have a worker check the contract of NAME, or of every connector, or have it done EVERY so often."""
    async with watched(session.settings) as watch:
        known = [each.name for each in await watch.drift.connectors()]
    if name is not None and known and name not in known:
        raise NotFound(f"no worker on this database serves a connector {name!r}; there are: {', '.join(known)}")
    names = [name] if name else known
    if not names:
        say("no worker on this database has served a connector yet")
    if every is not None or stop:
        for each in names:
            await schedule_on_worker(
                session, "perdure.check_contract", each, CheckContractCall(connector=each), every, stop=stop
            )
        return
    states = [
        await run_on_worker(session, "perdure.check_contract", each, CheckContractCall(connector=each), ContractState)
        for each in names
    ]
    if options.format is not Format.text:
        _emit_rows(options, [state.model_dump(mode="json") for state in states])
    else:
        for state in states:
            _show_contract(state)
    if any(state.checked and state.checked.verdict in ("breaking", "wording") for state in states):
        raise typer.Exit(Exit.ERROR)


async def compare(
    session: Session,
    options: Options,
    name: str,
    *,
    every: timedelta | None,
    stop: bool,
    since: datetime | None,
    look_back: timedelta,
) -> None:
    """Have a worker compare the ledger with the target of NAME, or have it done EVERY so often."""
    call = ReconcileCall(connector=name, since=since and since.replace(tzinfo=UTC), look_back=look_back)
    if every is not None or stop:
        await schedule_on_worker(session, "perdure.reconcile", name, call, every, stop=stop)
        return
    done = await run_on_worker(session, "perdure.reconcile", name, call, Reconciled)
    async with watched(session.settings) as watch:
        report = await watch.reconciler.findings.report(done.report)
    if options.format is not Format.text:
        emit(report) if options.format is Format.json else emit_line(report)
    else:
        say(
            f"{report.id}: {report.effects} effects and {report.listed} at {name}, {at(report.since)} to "
            f"{at(report.until)}: {len(report.findings)} findings, {len(report.opened)} new, {len(report.gone)} gone"
        )
        print_findings(options, report.findings)
    if report.opened:
        raise typer.Exit(Exit.ERROR)


async def sweep(session: Session, options: Options, connector: str | None, *, every: timedelta | None, stop: bool) -> None:
    """Have a worker look up what ended runs left open, of CONNECTOR or of all, or have it done EVERY so often."""
    name, call = connector or "all", SweepCall(connector=connector or "")
    if every is not None or stop:
        await schedule_on_worker(session, "perdure.sweep", name, call, every, stop=stop)
        return
    swept = await run_on_worker(session, "perdure.sweep", name, call, Swept)
    if options.format is not Format.text:
        emit(swept) if options.format is Format.json else emit_line(swept)
    else:
        _show_swept(swept)
    if swept.counts.get("parked"):
        raise typer.Exit(Exit.ERROR)


def _show_swept(swept: Swept) -> None:
    for fate, what in _FATES.items():
        if swept.counts.get(fate):
            say(f"{swept.counts[fate]} {what}")
        for key in swept.keys.get(fate, ()):
            typer.echo(f"{key}  {fate}")
    if not swept.counts:
        say("no effect is open")


async def start_repair(
    session: Session, options: Options, finding: str, *, how: How | None, of: str, within: timedelta
) -> None:
    """Start the repair of FINDING and return when somebody is asked, or when it is clear that nobody will be."""
    from temporalio.common import WorkflowIDReusePolicy
    from temporalio.exceptions import WorkflowAlreadyStartedError

    id = repair_id(finding.rpartition("/")[2])
    async with watched(session.settings) as watch:
        await watch.reconciler.findings.finding(finding.rpartition("/")[2])
    call = RepairCall(finding=finding.rpartition("/")[2], how=how, of=of, within=within, by=user())
    await _require_worker(session)
    try:
        handle = await session.client.start_workflow(
            "perdure.repair",
            call,
            id=id,
            task_queue=session.settings.task_queue,
            result_type=Repaired,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            static_summary=f"Repair {finding}, asked for by {call.by}",
        )
    except WorkflowAlreadyStartedError:
        raise InvalidInput(f"that is asked already: `perdure approval show {id}`") from None
    request = await _asked(handle)
    if options.format is not Format.text:
        emit({"workflow_id": id, "finding": call.finding, "request": request.model_dump(mode="json")})
        return
    say(f"{of} is asked: {request.question}")
    say(f"It is done when somebody approves: `perdure approval approve {id}`")
    typer.echo(id)


def print_findings(options: Options, findings: Sequence[Finding]) -> None:
    """Print FINDINGS."""
    if options.format is not Format.text:
        _emit_rows(options, [each.model_dump(mode="json") for each in findings])
    elif not findings:
        say("nothing found: ledger and target agree")
    else:
        _table(
            ("FINDING", "KIND", "STATE", "ACTION", "REFERENCE", "KEY", "DETAIL"),
            [
                (
                    each.id,
                    each.kind if each.certain else f"{each.kind}?",
                    each.state,
                    each.action,
                    each.remote_ref,
                    each.key,
                    one_line(each.detail),
                )
                for each in findings
            ],
        )


def print_reports(options: Options, reports: Sequence[Report]) -> None:
    """Print REPORTS, a line each."""
    if options.format is not Format.text:
        _emit_rows(options, [{**each.model_dump(mode="json"), "counts": each.counts} for each in reports])
        return
    rows = [
        (
            each.id,
            each.connector,
            at(each.at),
            str(each.effects),
            str(each.listed),
            ", ".join(f"{count} {kind}" for kind, count in each.counts.items() if count) or "they agree",
        )
        for each in reports
    ]
    _table(("REPORT", "CONNECTOR", "MADE", "EFFECTS", "LISTED", "FOUND"), rows)


async def run_on_worker(
    session: Session, workflow: str, name: str, call: BaseModel, result: type[T], *, patience: timedelta | None = None
) -> T:
    """Return what WORKFLOW, started with CALL, comes to. Raises `Unreachable` if no worker is there.

    After PATIENCE the run is given up; without it the command stops waiting after a while, and the run goes on.
    """
    from temporalio.client import WorkflowFailureError
    from temporalio.exceptions import ApplicationError

    await _require_worker(session)
    handle: WorkflowHandle[object, T] = await session.client.start_workflow(
        workflow,
        call,
        id=f"{workflow.removeprefix('perdure.').replace('_', '-')}-{name}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}",
        task_queue=session.settings.task_queue,
        result_type=result,
        static_summary=f"{name}, started by {user()}",
        execution_timeout=patience,
    )
    try:
        async with asyncio.timeout((patience or PATIENCE).total_seconds()):
            return await handle.result()
    except TimeoutError:
        if patience is not None:
            raise Unreachable(
                f"no worker on task queue {session.settings.task_queue!r} answered within "
                f"{patience.total_seconds():.0f} s. Look whether one runs: `perdure doctor`"
            ) from None
        raise Unreachable(f"it still runs after {PATIENCE}: `perdure show {handle.id}`") from None
    except WorkflowFailureError as failure:
        cause = failure.cause
        known = by_name(cause.type or "") if isinstance(cause, ApplicationError) else None
        raise (known or PerdureError)(f"{cause}".partition(": ")[2] or f"{cause}") from None


async def _asked(handle: WorkflowHandle[object, Repaired]) -> ApprovalRequest:
    from temporalio.client import WorkflowFailureError
    from temporalio.exceptions import ApplicationError

    ended = asyncio.ensure_future(handle.result())
    try:
        async with asyncio.timeout(PATIENCE.total_seconds()):
            while True:
                await asyncio.wait((ended,), timeout=0.2)  # a query cannot be waited on
                if ended.done():
                    await ended
                    raise InvalidInput(f"{handle.id} has ended: `perdure show {handle.id}`")
                found: list[ApprovalRequest] = await handle.query(APPROVALS, result_type=list[ApprovalRequest])
                if found:
                    return found[0]
    except TimeoutError:
        raise Unreachable(f"nobody is asked after {PATIENCE}: `perdure show {handle.id}`") from None
    except WorkflowFailureError as failure:
        cause = failure.cause
        known = by_name(cause.type or "") if isinstance(cause, ApplicationError) else None
        raise (known or PerdureError)(cause.message if isinstance(cause, ApplicationError) else f"{cause}") from None
    finally:
        ended.cancel()


async def _require_worker(session: Session) -> None:
    if await last_poll(session.client, session.settings.task_queue) is None:
        raise Unreachable(await nobody(session.client, session.settings.task_queue))


def _show_contract(state: ContractState) -> None:
    checked = state.checked
    if checked is None:
        say(f"{state.connector}: its target has no contract to ask for")
        return
    typer.echo(plain(f"{state.connector}: {checked.verdict}, {checked.live}"))
    for change in checked.changes:
        typer.echo(plain(f"  {change.verdict:10} {change}"))
    if checked.blocked:
        accept = f"perdure connectors accept {state.connector} --digest {checked.live}"
        say(f"blocked until `{accept}`: {', '.join(checked.blocked)}")


def _dumped(checked: Checked | None) -> object:
    return None if checked is None else checked.model_dump(mode="json")


def _emit_rows(options: Options, rows: Sequence[object]) -> None:
    if options.format is Format.json:
        emit(list(rows))
        return
    for row in rows:
        emit_line(row)


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in names:
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    out().print(table)

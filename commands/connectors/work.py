"""What `perdure connectors` does: have a worker look, and print what is in the database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, cast

import typer

from perdure.commands.exits import Exit
from perdure.commands.on_worker import PATIENCE, error_of, require_worker, run_on_worker
from perdure.commands.options import Format, Options
from perdure.commands.output import (
    Column,
    emit,
    emit_line,
    emit_rows,
    format_time,
    one_line,
    printable,
    say,
    table,
)
from perdure.commands.scheduling import schedule_on_worker
from perdure.commands.session import Session, client_settings, refuse_unverified, terminal_user
from perdure.connectors.drift.contracts import CheckContractCall, ContractCheck, ContractState
from perdure.connectors.reconciliation.contracts import (
    Finding,
    How,
    ReconcileCall,
    ReconcileResult,
    RepairCall,
    RepairResult,
    Report,
    SettledOrphans,
    SettleOrphans,
    repair_id,
)
from perdure.errors import (
    InvalidInput,
    NotFound,
    PerdureError,
    Unreachable,
)
from perdure.governance.contracts import APPROVALS, ApprovalRequest

if TYPE_CHECKING:
    from pydantic import BaseModel
    from temporalio.client import WorkflowHandle

    from perdure.connectors.reconciliation.contracts import FindingState
    from perdure.connectors.watch import Watch
    from perdure.settings import Settings

_FATES = {
    "alive": "are still asked for by their runs, and left alone",
    "found": "were found at the target",
    "absent": "are not at the target, and are not sent as long as no run asks",
    "parked": "wait for a person: `perdure effects list`",
    "unknown": "could not be looked up, as the target does not answer or they may still land",
    "stands": "stand: their runs had taken them back and ended before they were undone",
    "unserved": "are of actions that the worker does not have",
}


_ACTIONS = (
    "ACTION",
    "RISK",
    Column("MECHANISM", least=8, drop=2),
    Column("UNDO", least=8),
    Column("LISTED", drop=3),
    Column("CONTRACT", drop=1),
)
_FINDINGS = (
    "FINDING",
    "KIND",
    Column("STATE", drop=3),
    Column("ACTION", least=10),
    Column("REFERENCE", least=8, drop=2),
    Column("KEY", least=8, drop=4),
    Column("DETAIL", least=12, drop=1),
)
_REPORTS = (
    "REPORT",
    "CONNECTOR",
    Column("MADE", drop=1),
    Column("EFFECTS", right=True, drop=2),
    Column("LISTED", right=True, drop=2),
    Column("FOUND", least=16),
)


@asynccontextmanager
async def open_watch(settings: Settings) -> AsyncIterator[Watch]:
    """Yield what the database knows of connectors, without any of them: no target is asked, and no worker or server."""
    from perdure.connectors.watch import Watch
    from perdure.storage import open_database

    async with open_database(settings.database) as database:
        yield Watch.over(database, {})


async def print_connectors(options: Options, settings: Settings) -> None:
    """Print the connectors that workers serve."""
    async with open_watch(settings) as watch:
        known = await watch.drift.connectors()
        checks = {(each.connector, each.version): each for each in await watch.drift.last_checks()}
    if options.format is not Format.text:
        rows = [
            {**each.model_dump(mode="json"), "contract": _dumped(checks.get((each.name, each.version)))} for each in known
        ]
        emit_rows(options.format, rows)
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
    table(_ACTIONS, rows_of_text)


async def check_contracts(
    session: Session, options: Options, name: str | None, *, every: timedelta | None, stop: bool
) -> None:
    """Have a worker check the contract of NAME, or of every connector, or have it done EVERY so often."""
    async with open_watch(session.settings) as watch:
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
    states: list[ContractState] = []
    failures: dict[str, str] = {}
    for each in names:
        call = CheckContractCall(connector=each)
        try:
            states.append(await run_on_worker(session, "perdure.check_contract", each, call, ContractState))
        except PerdureError as error:
            # One target that cannot be asked keeps nobody from hearing of the others.
            if name is not None:
                raise
            failures[each] = error.message
    if options.format is not Format.text:
        rows = [state.model_dump(mode="json") for state in states]
        emit_rows(options.format, [*rows, *({"connector": each, "error": failures[each]} for each in failures)])
    else:
        for state in states:
            _show_contract(state)
    for each, message in failures.items():
        say(f"{each}: its contract could not be checked: {message}")
    if failures or any(state.checked and state.checked.verdict in ("breaking", "wording") for state in states):
        raise typer.Exit(Exit.ERROR)


async def reconcile_connector(
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
    done = await run_on_worker(session, "perdure.reconcile", name, call, ReconcileResult)
    async with open_watch(session.settings) as watch:
        report = await watch.reconciler.findings.report(done.report)
    if options.format is not Format.text:
        _emit_one(options, report)
    else:
        say(
            f"{report.id}: {report.effects} effects and {report.listed} at {name}, "
            f"{format_time(report.since)} to {format_time(report.until)}: "
            f"{len(report.findings)} findings, {len(report.opened)} new, {len(report.gone)} gone"
        )
        print_findings(options, report.findings)
    if report.opened:
        raise typer.Exit(Exit.ERROR)


async def sweep_orphans(
    session: Session, options: Options, connector: str | None, *, every: timedelta | None, stop: bool
) -> None:
    """Have a worker look up what ended runs left open, of CONNECTOR or of all, or have it done EVERY so often."""
    name, call = connector or "all", SettleOrphans(connector=connector or "")
    if every is not None or stop:
        await schedule_on_worker(session, "perdure.sweep", name, call, every, stop=stop)
        return
    swept = await run_on_worker(session, "perdure.sweep", name, call, SettledOrphans)
    if options.format is not Format.text:
        _emit_one(options, swept)
    else:
        _show_swept(swept)
    if swept.counts.get("parked"):
        raise typer.Exit(Exit.ERROR)


def _show_swept(swept: SettledOrphans) -> None:
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
    async with open_watch(session.settings) as watch:
        await watch.reconciler.findings.finding(finding.rpartition("/")[2])
    call = RepairCall(finding=finding.rpartition("/")[2], how=how, of=of, within=within, by=terminal_user())
    await require_worker(session)
    try:
        handle = await session.client.start_workflow(
            "perdure.repair",
            call,
            id=id,
            task_queue=session.settings.task_queue,
            result_type=RepairResult,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            static_summary=f"Repair {finding}, asked for by {call.by}",
        )
    except WorkflowAlreadyStartedError:
        raise InvalidInput(f"that is asked already: `perdure approval show {id}`") from None
    request = await _wait_until_asked(handle)
    if options.format is not Format.text:
        emit({"workflow_id": id, "finding": call.finding, "request": request.model_dump(mode="json")})
        return
    say(f"{of} is asked: {request.question}")
    say(f"It is done when somebody approves: `perdure approval approve {id}`")
    typer.echo(id)


async def accept_contract(options: Options, name: str, *, digest: str | None, by: str | None) -> None:
    """Have the contract of NAME that the last check found relied on, if its digest is DIGEST."""
    settings, who = client_settings(), by or terminal_user()
    refuse_unverified(settings)
    async with open_watch(settings) as watch:
        accepted = await watch.drift.accept(name, by=who, live=digest)
    if options.format is not Format.text:
        _emit_one(options, accepted[0])
    else:
        say(f"{name} relies on {accepted[0].live} from now on, accepted by {who} (nobody verified that name)")


async def list_findings(options: Options, name: str | None, state: str | None) -> None:
    """Print the findings of NAME, or of every connector, in STATE."""
    async with open_watch(client_settings()) as watch:
        found = await watch.reconciler.findings.findings(name, state=cast("FindingState | None", state))
        served = await watch.drift.connectors()
        # What its target does not list cannot be compared.
        known = [name] if name else [each.name for each in served if any(action.listed for action in each.actions)]
        never = [each for each in known if await watch.reconciler.findings.last_report(each) is None]
    if options.format is not Format.text or found:
        print_findings(options, found)
    elif len(never) < len(known):
        say("nothing found: ledger and target agree" if state == "open" else f"no finding{f' is {state}' if state else ''}")
    if never and options.format is Format.text:
        say(f"never compared: {', '.join(never)}. `perdure connectors reconcile NAME` compares ledger and target.")
    elif not known and options.format is Format.text:
        say("no worker on this database has served a connector that can be compared")


async def list_reports(options: Options, name: str | None, *, limit: int) -> None:
    """Print the newest LIMIT comparisons of NAME, or of every connector."""
    async with open_watch(client_settings()) as watch:
        print_reports(options, await watch.reconciler.findings.reports(name, limit=limit))


async def print_report(options: Options, report: str) -> None:
    """Print one comparison and what it found."""
    async with open_watch(client_settings()) as watch:
        found = await watch.reconciler.findings.report(report)
    if options.format is not Format.text:
        emit(found)
        return
    span = f"{format_time(found.since)} to {format_time(found.until)}"
    say(f"{found.id}: {found.connector}, {span}, made {format_time(found.at)}")
    say(f"{found.effects} effects, {found.listed} at the target, {found.unsettled} effects still open")
    print_findings(options, found.findings)


def print_findings(options: Options, findings: Sequence[Finding]) -> None:
    """Print FINDINGS."""
    if options.format is not Format.text:
        emit_rows(options.format, [each.model_dump(mode="json") for each in findings])
    elif not findings:
        say("nothing found: ledger and target agree")
    else:
        rows = [
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
        ]
        table(_FINDINGS, rows)


def print_reports(options: Options, reports: Sequence[Report]) -> None:
    """Print REPORTS, a line each."""
    if options.format is not Format.text:
        emit_rows(options.format, [{**each.model_dump(mode="json"), "counts": each.counts} for each in reports])
        return
    rows = [
        (
            each.id,
            each.connector,
            format_time(each.at),
            str(each.effects),
            str(each.listed),
            ", ".join(f"{count} {kind}" for kind, count in each.counts.items() if count) or "they agree",
        )
        for each in reports
    ]
    table(_REPORTS, rows)


async def _wait_until_asked(handle: WorkflowHandle[object, RepairResult]) -> ApprovalRequest:
    from temporalio.client import WorkflowFailureError

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
        raise error_of(failure) from None
    finally:
        ended.cancel()


def _show_contract(state: ContractState) -> None:
    checked = state.checked
    if checked is None:
        say(f"{state.connector}: its target has no contract to ask for")
        return
    typer.echo(printable(f"{state.connector}: {checked.verdict}, {checked.live}"))
    for change in checked.changes:
        typer.echo(printable(f"  {change.verdict:10} {change}"))
    if checked.blocked:
        accept = f"perdure connectors accept {state.connector} --digest {checked.live}"
        say(f"blocked until `{accept}`: {', '.join(checked.blocked)}")


def _dumped(checked: ContractCheck | None) -> object:
    return None if checked is None else checked.model_dump(mode="json")


def _emit_one(options: Options, value: BaseModel) -> None:
    if options.format is Format.json:
        emit(value)
    else:
        emit_line(value)

"""`perdure connectors`: what there is to act through, and whether ledger, targets and contracts agree."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, cast

import typer

from perdure.commands.options import Format, Options, takes_options
from perdure.commands.output import (
    at,
    emit,
    emit_line,
    say,
)
from perdure.commands.session import Session, client_settings, perform
from perdure.commands.spans import span

if TYPE_CHECKING:
    from pydantic import BaseModel

    from perdure.connectors.reconciliation.contracts import FindingState, How

app = typer.Typer(
    help="See what agents can act through, and whether ledger, targets and contracts agree.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

NameArgument = Annotated[str, typer.Argument(help="The connector's name.", metavar="NAME", show_default=False)]
AnyNameArgument = Annotated[str | None, typer.Argument(help="Only this connector.", metavar="[NAME]", show_default=False)]
EveryOption = Annotated[
    timedelta | None,
    typer.Option(
        "--schedule",
        help="Do it from now on so often, on the worker, e.g. 1h; the first time at once.",
        metavar="EVERY",
        parser=span,
        show_default=False,
    ),
]
StopOption = Annotated[bool, typer.Option("--unschedule", help="Do it no more on a schedule.")]


class States(StrEnum):
    """Which findings to list."""

    open = "open"
    repaired = "repaired"
    accepted = "accepted"
    gone = "gone"
    all = "all"


class Ways(StrEnum):
    """How a finding is repaired."""

    again = "again"
    remove = "remove"
    accept = "accept"


_WAYS: dict[Ways, How] = {Ways.again: "send again", Ways.remove: "remove", Ways.accept: "accept"}


@app.command("list")
@takes_options
def list_connectors(options: Options) -> None:
    """List what agents can do: actions, risk, undo, contracts."""
    from perdure.commands.connectors.work import print_connectors

    asyncio.run(print_connectors(options, client_settings()))


@app.command()
@takes_options
def check(options: Options, name: AnyNameArgument = None, every: EveryOption = None, stop: StopOption = False) -> None:
    """Compare contracts with the live ones.

    A worker asks the targets. A breaking change blocks high-risk writes until somebody accepts it; then the exit code is 1.
    """

    async def work(session: Session) -> None:
        from perdure.commands.connectors.work import check_contracts

        await check_contracts(session, options, name, every=every, stop=stop)

    perform(work, options)


@app.command()
@takes_options
def accept(
    options: Options,
    name: NameArgument,
    digest: Annotated[
        str | None,
        typer.Option(
            help="Accept only if this is the digest of what the target says, as `check` prints it.",
            metavar="SHA256",
            show_default=False,
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option("--as", help="Who accepts. Default: the user of this terminal. Nobody verifies it.", metavar="NAME"),
    ] = None,
) -> None:
    """Rely on what the last check found.

    What was blocked goes on.
    """

    async def work() -> None:
        from perdure.commands.connectors.work import watched
        from perdure.commands.runs.work import user

        async with watched(client_settings()) as watch:
            accepted = await watch.drift.accept(name, by=by or user(), live=digest)
        _print(options, accepted[0])
        if options.format is Format.text:
            say(f"{name} relies on {accepted[0].live} from now on, accepted by {by or user()} (nobody verified that name)")

    asyncio.run(work())


@app.command()
@takes_options
def reconcile(
    options: Options,
    name: NameArgument,
    *,
    every: EveryOption = None,
    stop: StopOption = False,
    since: Annotated[
        datetime | None,
        typer.Option(
            help="Compare everything since this UTC time. Default: what the last comparison saw, and a day before.",
            metavar="TIME",
            show_default=False,
        ),
    ] = None,
    look_back: Annotated[
        timedelta,
        typer.Option(help="How far to look again at what the last comparison saw.", metavar="SPAN", parser=span),
    ] = cast(timedelta, "24h"),  # noqa: B008  Typer parses the default as well
) -> None:
    """Compare the ledger with a target.

    A worker asks the target what it has. The exit code is 1 if something new is found.
    """

    async def work(session: Session) -> None:
        from perdure.commands.connectors.work import compare

        await compare(session, options, name, every=every, stop=stop, since=since, look_back=look_back)

    perform(work, options)


@app.command()
@takes_options
def findings(
    options: Options,
    name: AnyNameArgument = None,
    state: Annotated[States, typer.Option("--state", "-s", help="Only those in this state.")] = States.open,
) -> None:
    """List in what ledger and targets differ."""

    async def work() -> None:
        from perdure.commands.connectors.work import print_findings, watched

        async with watched(client_settings()) as watch:
            wanted: FindingState | None = None if state is States.all else cast("FindingState", state.value)
            found = await watch.reconciler.findings.findings(name, state=wanted)
        print_findings(options, found)

    asyncio.run(work())


@app.command()
@takes_options
def reports(
    options: Options,
    name: AnyNameArgument = None,
    limit: Annotated[int, typer.Option("--limit", "-n", help="At most so many.", min=1, metavar="NUMBER")] = 20,
) -> None:
    """List comparisons, the newest first."""

    async def work() -> None:
        from perdure.commands.connectors.work import print_reports, watched

        async with watched(client_settings()) as watch:
            print_reports(options, await watch.reconciler.findings.reports(name, limit=limit))

    asyncio.run(work())


@app.command()
@takes_options
def report(
    options: Options, report: Annotated[str, typer.Argument(help="The report.", metavar="REPORT", show_default=False)]
) -> None:
    """Show one comparison and what it found."""

    async def work() -> None:
        from perdure.commands.connectors.work import print_findings, watched

        async with watched(client_settings()) as watch:
            found = await watch.reconciler.findings.report(report)
        if options.format is not Format.text:
            emit(found)
            return
        say(f"{found.id}: {found.connector}, {at(found.since)} to {at(found.until)}, made {at(found.at)}")
        say(f"{found.effects} effects, {found.listed} at the target, {found.unsettled} effects still open")
        print_findings(options, found.findings)

    asyncio.run(work())


@app.command()
@takes_options
def repair(
    options: Options,
    finding: Annotated[str, typer.Argument(help="The finding, also as REPORT/FINDING.", metavar="FINDING")],
    how: Annotated[
        Ways | None,
        typer.Option(
            help="again: send what is missing again. remove: take away what is too much. accept: leave it as it is. "
            "Default: what fits the finding.",
            show_default=False,
        ),
    ] = None,
    of: Annotated[str, typer.Option(help="Who is asked to approve it.", metavar="WHO")] = "operations",
    within: Annotated[timedelta, typer.Option(help="Until when.", metavar="SPAN", parser=span)] = cast(timedelta, "7d"),  # noqa: B008  Typer parses the default as well
) -> None:
    """Repair a finding, once a person has approved.

    The approval binds to exactly what would be done, and it is done through the ledger: it happens once.
    """

    async def work(session: Session) -> None:
        from perdure.commands.connectors.work import start_repair

        wanted: How | None = None if how is None else _WAYS[how]
        await start_repair(session, options, finding, how=wanted, of=of, within=within)

    perform(work, options)


def _print(options: Options, value: BaseModel) -> None:
    if options.format is Format.json:
        emit(value)
    elif options.format is Format.jsonl:
        emit_line(value)

"""`perdure connectors`, as it is typed."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, cast

import typer

from perdure.commands.durations import parse_duration
from perdure.commands.options import Options, ScheduleOption, UnscheduleOption, takes_options
from perdure.commands.session import Session, client_settings, run_with_session

if TYPE_CHECKING:
    from perdure.connectors.reconciliation.contracts import How

app = typer.Typer(
    help="See what agents can act through, and whether ledger, targets and contracts agree.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

NameArgument = Annotated[str, typer.Argument(help="The connector's name.", metavar="NAME", show_default=False)]
AnyNameArgument = Annotated[str | None, typer.Argument(help="Only this connector.", metavar="[NAME]", show_default=False)]

# Typer parses a default as it parses what is typed.
_A_DAY, _A_WEEK = cast(timedelta, "24h"), cast(timedelta, "7d")


class FindingFilter(StrEnum):
    """Which findings to list."""

    open = "open"
    repaired = "repaired"
    accepted = "accepted"
    gone = "gone"
    all = "all"


class RepairWay(StrEnum):
    """How a finding is repaired."""

    again = "again"
    remove = "remove"
    accept = "accept"


_WAYS: dict[RepairWay, How] = {RepairWay.again: "send again", RepairWay.remove: "remove", RepairWay.accept: "accept"}


@app.command("list")
@takes_options
def list_connectors(options: Options) -> None:
    """List what agents can do: actions, risk, undo, contracts."""
    from perdure.commands.connectors.work import print_connectors

    asyncio.run(print_connectors(options, client_settings()))


@app.command()
@takes_options
def check(
    options: Options, name: AnyNameArgument = None, every: ScheduleOption = None, stop: UnscheduleOption = False
) -> None:
    """Compare contracts with the live ones.

    A worker asks the targets. A breaking change blocks high-risk writes until somebody accepts it; then the exit code is 1.
    """

    async def work(session: Session) -> None:
        from perdure.commands.connectors.work import check_contracts

        await check_contracts(session, options, name, every=every, stop=stop)

    run_with_session(work, options)


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
    from perdure.commands.connectors.work import accept_contract

    asyncio.run(accept_contract(options, name, digest=digest, by=by))


@app.command()
@takes_options
def reconcile(
    options: Options,
    name: NameArgument,
    *,
    every: ScheduleOption = None,
    stop: UnscheduleOption = False,
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
        typer.Option(help="How far to look again at what the last comparison saw.", metavar="SPAN", parser=parse_duration),
    ] = _A_DAY,
) -> None:
    """Compare the ledger with a target.

    A worker asks the target what it has. The exit code is 1 if something new is found.
    """

    async def work(session: Session) -> None:
        from perdure.commands.connectors.work import reconcile_connector

        await reconcile_connector(session, options, name, every=every, stop=stop, since=since, look_back=look_back)

    run_with_session(work, options)


@app.command()
@takes_options
def findings(
    options: Options,
    name: AnyNameArgument = None,
    state: Annotated[FindingFilter, typer.Option("--state", "-s", help="Only those in this state.")] = FindingFilter.open,
) -> None:
    """List in what ledger and targets differ."""
    from perdure.commands.connectors.work import list_findings

    asyncio.run(list_findings(options, name, None if state is FindingFilter.all else state.value))


@app.command()
@takes_options
def reports(
    options: Options,
    name: AnyNameArgument = None,
    limit: Annotated[int, typer.Option("--limit", "-n", help="At most so many.", min=1, metavar="NUMBER")] = 20,
) -> None:
    """List comparisons, the newest first."""
    from perdure.commands.connectors.work import list_reports

    asyncio.run(list_reports(options, name, limit=limit))


@app.command()
@takes_options
def report(
    options: Options, report: Annotated[str, typer.Argument(help="The report.", metavar="REPORT", show_default=False)]
) -> None:
    """Show one comparison and what it found."""
    from perdure.commands.connectors.work import print_report

    asyncio.run(print_report(options, report))


@app.command()
@takes_options
def repair(
    options: Options,
    finding: Annotated[str, typer.Argument(help="The finding, also as REPORT/FINDING.", metavar="FINDING")],
    how: Annotated[
        RepairWay | None,
        typer.Option(
            help="again: send what is missing again. remove: take away what is too much. accept: leave it as it is. "
            "Default: what fits the finding.",
            show_default=False,
        ),
    ] = None,
    of: Annotated[str, typer.Option(help="Who is asked to approve it.", metavar="WHO")] = "operations",
    within: Annotated[timedelta, typer.Option(help="Until when.", metavar="SPAN", parser=parse_duration)] = _A_WEEK,
) -> None:
    """Repair a finding, once a person has approved.

    The approval binds to exactly what would be done, and it is done through the ledger: it happens once.
    """

    async def work(session: Session) -> None:
        from perdure.commands.connectors.work import start_repair

        wanted: How | None = None if how is None else _WAYS[how]
        await start_repair(session, options, finding, how=wanted, of=of, within=within)

    run_with_session(work, options)

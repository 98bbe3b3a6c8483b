"""`perdure canary`: how a model or prompt does that some runs try, and what a person decides about it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from perdure.commands.approvals.cli import AsOption
from perdure.commands.options import Format, Options, takes_options
from perdure.commands.output import (
    at,
    dollars,
    emit,
    emit_line,
    out,
    plain,
    say,
)
from perdure.commands.session import client_settings
from perdure.errors import NotAllowed

if TYPE_CHECKING:
    from perdure.routing.canary import Counts, Report, Standing, State

app = typer.Typer(
    help="See how models or prompts do that some runs try, and decide about them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

NameArgument = Annotated[
    str, typer.Argument(help="Its name in models.toml, or NAME@VERSION.", metavar="NAME", show_default=False)
]
WhyOption = Annotated[str, typer.Option("--comment", "-c", help="Why.", metavar="TEXT", show_default=False)]


@app.command("list")
@takes_options
def list_canaries(options: Options) -> None:
    """List the canaries that calls have taken part in, and how they stand.

    ANSWERED and VALID are shares of the first calls of steps.
    """

    async def work() -> None:
        from perdure.routing.canary import standings
        from perdure.storage import open_database

        async with open_database(client_settings().database) as database:
            found = await standings(database)
        if options.format is Format.json:
            emit([each.model_dump(mode="json") for each in found])
        elif options.format is Format.jsonl:
            for each in found:
                emit_line(each)
        elif not found:
            say("no call has taken part in a canary; [canaries.NAME] in models.toml makes one")
        else:
            _print_list(found)

    asyncio.run(work())


@app.command()
@takes_options
def show(options: Options, name: NameArgument) -> None:
    """Show both arms of a canary side by side, and how strong the evidence against it is.

    The arms are compared by the first calls of steps. A canary is rolled back when the evidence reaches what is needed.
    """

    async def work() -> None:
        from perdure.routing.canary import report
        from perdure.storage import open_database

        async with open_database(client_settings().database) as database:
            found = await report(database, name)
        if options.format is Format.text:
            _print_report(found)
        else:
            emit(_as_json(found))

    asyncio.run(work())


@app.command()
@takes_options
def promote(options: Options, name: NameArgument, *, comment: WhyOption = "", by: AsOption = None) -> None:
    """Have all runs do what a canary tries, until models.toml says so itself."""
    _decide(options, name, "promoted", by=by, why=comment)


@app.command()
@takes_options
def rollback(options: Options, name: NameArgument, *, comment: WhyOption = "", by: AsOption = None) -> None:
    """Have no run try a canary any more."""
    _decide(options, name, "rolled back", by=by, why=comment)


@app.command()
@takes_options
def reset(options: Options, name: NameArgument, *, comment: WhyOption = "", by: AsOption = None) -> None:
    """Begin a canary anew, with nothing counted, also one that was rolled back or promoted."""
    _decide(options, name, "running", by=by, why=comment)


def _decide(options: Options, name: str, state: State, *, by: str | None, why: str) -> None:
    async def work() -> None:
        from perdure.commands.runs.work import user
        from perdure.routing.canary import decide, report
        from perdure.storage import open_database

        settings = client_settings()
        # Going back to what has served all along needs nobody's word.
        if state != "rolled back" and settings.unverified_decisions == "refuse":
            raise NotAllowed("nobody verifies who types a command, and these settings refuse that (unverified_decisions)")
        async with open_database(settings.database) as database:
            row = await decide(database, name, state, by=by or user(), why=why)
            standing = (await report(database, row["id"])).standing
        if options.format is not Format.text:
            emit(standing.model_dump(mode="json"))
            return
        begun = "begins anew" if state == "running" else f"is {state}"
        say(f"{standing.id} {begun}, as {standing.by} said (nobody verified that name)")
        if state == "promoted":
            say(standing.adopting)

    asyncio.run(work())


def _as_json(found: Report) -> dict[str, object]:
    told = found.model_dump(mode="json")
    for side, row in zip(found.sides, told["sides"], strict=True):
        row["per_completed"] = side.per_completed
    return told


def _print_list(found: list[Standing]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("CANARY", "STATE", "SINCE"):
        table.add_column(name, overflow="fold")
    for name in ("CALLS", "ANSWERED", "VALID", "CONTROL'S", "ANSWERED", "VALID"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("BY", overflow="fold")
    table.add_column("WHY", overflow="fold")
    for each in found:
        arms = [cell for arm in (each.canary, each.control) for cell in (str(arm.calls), *_shares(arm))]
        by = "" if each.state == "running" else each.by or "the rule"
        cells = (each.id, each.state, at(each.since), *arms, by, each.why)
        table.add_row(*(Text(plain(cell)) for cell in cells))
    out().print(table)


def _print_report(found: Report) -> None:
    from rich.table import Table
    from rich.text import Text

    standing = found.standing
    by = "" if standing.state == "running" else f" by {standing.by or 'the rule'} on {at(standing.at)}: {standing.why}"
    typer.echo(plain(f"{standing.id} is {standing.state}{by}, and is counted since {at(standing.since)}"))
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("", "CANARY", "CONTROL"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    sides = [
        {
            "first calls": str(side.counted.calls),
            "answered": _shares(side.counted)[0],
            "valid": _shares(side.counted)[1],
            "invalid": str(side.counted.invalid),
            "unsure": str(side.counted.unsure),
            "judged by people": str(side.counted.judged),
            "overridden": str(side.counted.overridden),
            "p50": f"{side.p50} ms",
            "p95": f"{side.p95} ms",
            "cost of an answer": dollars(round(side.counted.cost)) if side.counted.cost is not None else "-",
            "steps": str(side.steps),
            "completed": str(side.completed),
            "escalated": str(side.escalated),
            "cost of a completed step": dollars(side.per_completed) if side.per_completed is not None else "-",
        }
        for side in found.sides
    ]
    for name in sides[0]:
        table.add_row(name, *(Text(plain(side[name])) for side in sides))
    out().print(table)
    for each in found.comparisons:
        evidence = "none" if each.log_evidence is None else _odds(each.log_evidence)
        typer.echo(f"evidence against it in {each.of}: {evidence}, of {_odds(each.needed)} needed")
    for each_decided in found.decisions:
        who = each_decided.by or "the rule"
        typer.echo(plain(f"{at(each_decided.at)}  {each_decided.state}, by {who}: {each_decided.why}"))


def _shares(counts: Counts) -> tuple[str, str]:
    answered = f"{counts.answers / counts.calls:.1%}" if counts.calls else "-"
    return answered, f"{counts.valid / counts.answers:.1%}" if counts.answers else "-"


def _odds(log_evidence: float) -> str:
    from math import exp

    return f"{exp(min(log_evidence, 50)):.3g}"

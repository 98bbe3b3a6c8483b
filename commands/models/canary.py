"""How a model or prompt does that some runs try, and what a person decides about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from perdure.commands.options import Format, Options
from perdure.commands.output import (
    Column,
    emit,
    emit_rows,
    format_time,
    format_usd,
    is_narrow,
    printable,
    say,
    table,
)
from perdure.commands.session import client_settings, refuse_unverified, terminal_user

if TYPE_CHECKING:
    from perdure.routing.canary import CanaryStatus, Counts, Report, State

_LIST = (
    "CANARY",
    "STATE",
    Column("SINCE", drop=5),
    Column("CALLS", right=True),
    Column("ANSWERED", right=True, drop=1),
    Column("VALID", right=True),
    Column("CONTROL'S", right=True, drop=4),
    Column("ANSWERED", right=True, drop=1),
    Column("VALID", right=True, drop=2),
    Column("BY", least=8, drop=3),
    Column("WHY", least=12, drop=3, wrap=True),
)


async def print_canaries(options: Options) -> None:
    """Print the canaries that calls have taken part in."""
    from perdure.routing.canary import list_canaries
    from perdure.storage import open_database

    async with open_database(client_settings().database) as database:
        found = await list_canaries(database)
    if options.format is not Format.text:
        emit_rows(options.format, [each.model_dump(mode="json") for each in found])
    elif not found:
        say("no call has taken part in a canary; [canaries.NAME] in models.toml makes one")
    else:
        _print_list(found)


async def print_canary(options: Options, name: str) -> None:
    """Print both arms of the canary NAME, and the evidence against it."""
    from perdure.routing.canary import report
    from perdure.storage import open_database

    async with open_database(client_settings().database) as database:
        found = await report(database, name)
    if options.format is Format.text:
        _print_report(found)
    else:
        emit(_as_json(found))


async def decide_and_report(options: Options, name: str, state: State, *, by: str | None, why: str) -> None:
    """Bring the canary NAME into STATE, as BY says, and say what that means."""
    from perdure.routing.canary import decide, report
    from perdure.storage import open_database

    settings = client_settings()
    # Going back to what has served all along needs nobody's word.
    if state != "rolled back":
        refuse_unverified(settings)
    async with open_database(settings.database) as database:
        row = await decide(database, name, state, by=by or terminal_user(), why=why)
        status = (await report(database, row["id"])).status
    if options.format is not Format.text:
        emit(status.model_dump(mode="json"))
        return
    begun = "begins anew" if state == "running" else f"is {state}"
    say(f"{status.id} {begun}, as {status.by} said (nobody verified that name)")
    if state == "promoted":
        say(status.adopting)


def _as_json(found: Report) -> dict[str, object]:
    told = found.model_dump(mode="json")
    for side, row in zip(found.sides, told["sides"], strict=True):
        row["per_completed"] = side.per_completed
    return told


def _print_list(found: list[CanaryStatus]) -> None:
    short = is_narrow()
    rows = []
    for each in found:
        arms = [cell for arm in (each.canary, each.control) for cell in (str(arm.calls), *_shares(arm))]
        by = "" if each.state == "running" else each.by or "the rule"
        rows.append((each.id, each.state, format_time(each.since, short=short), *arms, by, each.why))
    table(_LIST, rows)


def _print_report(found: Report) -> None:
    status = found.status
    by = "" if status.state == "running" else f" by {status.by or 'the rule'} on {format_time(status.at)}: {status.why}"
    typer.echo(printable(f"{status.id} is {status.state}{by}, and is counted since {format_time(status.since)}"))
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
            "cost of an answer": format_usd(round(side.counted.cost)) if side.counted.cost is not None else "-",
            "steps": str(side.steps),
            "completed": str(side.completed),
            "escalated": str(side.escalated),
            "cost of a completed step": format_usd(side.per_completed) if side.per_completed is not None else "-",
        }
        for side in found.sides
    ]
    rows = [(name, *(side[name] for side in sides)) for name in sides[0]]
    table(("", Column("CANARY", right=True), Column("CONTROL", right=True)), rows)
    for each in found.comparisons:
        evidence = "none" if each.log_evidence is None else _odds(each.log_evidence)
        typer.echo(f"evidence against it in {each.of}: {evidence}, of {_odds(each.needed)} needed")
    for each_decided in found.decisions:
        who = each_decided.by or "the rule"
        typer.echo(printable(f"{format_time(each_decided.at)}  {each_decided.state}, by {who}: {each_decided.why}"))


def _shares(counts: Counts) -> tuple[str, str]:
    answered = f"{counts.answers / counts.calls:.1%}" if counts.calls else "-"
    return answered, f"{counts.valid / counts.answers:.1%}" if counts.answers else "-"


def _odds(log_evidence: float) -> str:
    from math import exp

    return f"{exp(min(log_evidence, 50)):.3g}"

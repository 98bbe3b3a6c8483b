"""`perdure cost`, `models` and `budgets`: what models have cost, how they have done, and what may still be spent."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, cast

import typer

from perdure.commands.approvals.cli import AsOption
from perdure.commands.options import Format, Options, takes_options
from perdure.commands.output import (
    dollars,
    emit,
    emit_line,
    out,
    plain,
    say,
)
from perdure.commands.session import client_settings
from perdure.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from perdure.routing.calls import BudgetState, Cost, Quality
    from perdure.routing.calls import By as Group

budgets = typer.Typer(
    help="See what budgets of models have left, and raise one.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class By(StrEnum):
    """What costs can be grouped by."""

    workflow = "workflow"
    task = "task"
    model = "model"
    deployment = "deployment"
    tier = "tier"
    tenant = "tenant"
    agent = "agent"
    day = "day"
    run = "run"
    outcome = "outcome"


@takes_options
def cost(
    options: Options,
    by: Annotated[
        By | None, typer.Option("--by", help="Group by this. `outcome`: by how the runs ended.", show_default=False)
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Only calls from this day or time on, in UTC.", metavar="DATE", show_default=False)
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Only calls before this day or time, in UTC.", metavar="DATE", show_default=False)
    ] = None,
) -> None:
    """Show what models have cost: by group, and for each completed step, with its retries and with steps that failed.

    AT RISK is the most that calls may have cost besides whose answer nobody saw. SAVED is what the cache and batches saved.
    """
    span = _time(since), _time(until)

    async def work() -> None:
        from perdure.routing.calls import costs
        from perdure.storage import open_database

        async with open_database(client_settings().database) as database:
            if by is By.outcome:
                parts = await costs(database, "run", since=span[0], until=span[1])
            else:
                # By without outcome is what `costs` takes.
                group = cast("Group | None", by.value if by else None)
                parts = await costs(database, group, since=span[0], until=span[1])
        _print(options, await _by_outcome(options, parts) if by is By.outcome else parts, by)

    asyncio.run(work())


@takes_options
def models(
    options: Options,
    since: Annotated[
        str | None, typer.Option(help="Only calls from this day or time on, in UTC.", metavar="DATE", show_default=False)
    ] = None,
) -> None:
    """Show how models have done, by deployment and version: errors, answers that fitted, latency and cost."""
    begin = _time(since)

    async def work() -> None:
        from perdure.routing.calls import qualities
        from perdure.storage import open_database

        async with open_database(client_settings().database) as database:
            found = await qualities(database, since=begin)
        rows = [
            {**each.model_dump(mode="json"), "error_rate": each.error_rate, "validity": each.validity} for each in found
        ]
        if options.format is Format.json:
            emit(rows)
        elif options.format is Format.jsonl:
            for row in rows:
                emit_line(row)
        elif not found:
            say("no model was called")
        else:
            _print_models(found)

    asyncio.run(work())


@budgets.command("list")
@takes_options
def list_budgets(options: Options) -> None:
    """List the budgets that were drawn on: what is spent, held back for calls in progress, and raised by people."""

    async def work() -> None:
        from perdure.routing.calls import budget_states
        from perdure.storage import open_database

        async with open_database(client_settings().database) as database:
            found = await budget_states(database)
        if options.format is Format.json:
            emit([each.model_dump(mode="json") for each in found])
        elif options.format is Format.jsonl:
            for each in found:
                emit_line(each)
        elif not found:
            say("no budget was drawn on; [budgets.NAME] in models.toml makes one")
        else:
            _print_budgets(found)

    asyncio.run(work())


@budgets.command("raise")
@takes_options
def raise_budget(
    options: Options,
    budget: Annotated[str, typer.Argument(help="Its name in models.toml.", metavar="BUDGET", show_default=False)],
    usd: Annotated[
        float, typer.Option("--usd", help="By how many US dollars.", min=0.01, metavar="DOLLARS", show_default=False)
    ],
    *,
    subject: Annotated[
        str | None,
        typer.Option(
            help="Whose: the run, workflow type, agent, tenant or task, if `list` shows several.",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="The day or month, if `list` shows several.", metavar="DATE", show_default=False)
    ] = None,
    comment: Annotated[str, typer.Option("--comment", "-c", help="Why.", metavar="TEXT", show_default=False)] = "",
    by: AsOption = None,
) -> None:
    """Let a budget that was drawn on spend more, for one subject and time. It is written down who said so."""

    async def work() -> None:
        from perdure.commands.runs.work import user
        from perdure.routing.calls import budget_states, raise_by_hand
        from perdure.storage import open_database

        async with open_database(client_settings().database) as database:
            fitting = [
                each
                for each in await budget_states(database)
                if each.budget == budget and subject in (None, each.subject) and since in (None, each.since)
            ]
            if not fitting:
                raise NotFound(f"no budget {budget!r} was drawn on so. `perdure budgets list` shows those that were.")
            if len(fitting) > 1:
                raise InvalidInput(
                    f"budget {budget!r} is kept for {len(fitting)} subjects or times. Say which: --subject, --since."
                )
            raised = await raise_by_hand(database, fitting[0], round(usd * 1e9), by=by or user(), why=comment)
        if options.format is Format.text:
            say(f"{budget} is raised by {dollars(raised.raised)} in all")
        else:
            emit(raised.model_dump(mode="json"))

    asyncio.run(work())


async def _by_outcome(options: Options, parts: Sequence[Cost]) -> list[Cost]:
    """Return PARTS, which are of one run each, put together by how the runs ended."""
    from perdure.commands.runs.listing import quoted, row
    from perdure.commands.session import connected
    from perdure.routing.calls import together

    ids = sorted({part.group.rpartition("/")[0] for part in parts})
    states: dict[str, str] = {}
    async with connected(options) as session:
        for start in range(0, len(ids), 50):
            wanted = ", ".join(quoted(name) for name in ids[start : start + 50])
            async for run in session.client.list_workflows(f"WorkflowId IN ({wanted})"):
                states[f"{run.id}/{run.run_id}"] = str(row(session, run)["state"])
    grouped: dict[str, list[Cost]] = {}
    for part in parts:
        grouped.setdefault(states.get(part.group, "not in Temporal any more"), []).append(part)
    return sorted((together(state, each) for state, each in grouped.items()), key=lambda each: -each.cost)


def _time(given: str | None) -> datetime | None:
    if given is None:
        return None
    try:
        found = datetime.fromisoformat(given)
    except ValueError:
        raise InvalidInput(f"{given!r} is no date; write 2026-11-23, or 2026-11-23T09:30") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _print(options: Options, found: Sequence[Cost], by: By | None) -> None:
    if options.format is not Format.text:
        rows = [{**each.model_dump(mode="json"), "per_completed": each.per_completed} for each in found]
        if options.format is Format.json:
            emit(rows)
        for row in rows if options.format is Format.jsonl else ():
            emit_line(row)
        return
    if not any(each.calls or each.hits for each in found):
        say("no model was called")
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(by.value.upper() if by else "", overflow="fold")
    for name in ("COMPLETED", "CALLS", "FAILED", "COST", "EACH", "AT RISK", "CACHED", "SAVED"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in found:
        numbers = (
            str(each.completed),
            str(each.calls),
            str(each.failed),
            dollars(each.cost),
            dollars(each.per_completed) if each.per_completed is not None else "-",
            dollars(each.at_risk),
            str(each.hits),
            dollars(each.saved),
        )
        table.add_row(Text(plain(each.group or ("all" if by is None else "-"))), *(Text(cell) for cell in numbers))
    out().print(table)


def _print_models(found: Sequence[Quality]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("DEPLOYMENT", "MODEL", "VERSION"):
        table.add_column(name, overflow="fold")
    for name in ("CALLS", "ERRORS", "VALID", "REPAIRED", "P50", "P95", "P99", "COST"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in found:
        numbers = (
            str(each.calls),
            f"{each.error_rate:.1%}",
            f"{each.validity:.1%}" if each.validity is not None else "-",
            str(each.repaired),
            *(f"{milliseconds} ms" for milliseconds in (each.p50, each.p95, each.p99)),
            dollars(each.cost),
        )
        names = (each.deployment, each.model, each.version or "-")
        table.add_row(*(Text(plain(name)) for name in names), *(Text(cell) for cell in numbers))
    out().print(table)


def _print_budgets(found: Sequence[BudgetState]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("BUDGET", "OF", "SINCE", "SPENT", "HELD BACK", "RAISED BY"):
        table.add_column(name, overflow="fold")
    for each in found:
        amounts = (dollars(each.spent), dollars(each.reserved), dollars(each.raised))
        table.add_row(*(Text(plain(cell)) for cell in (each.budget, each.subject, each.since, *amounts)))
    out().print(table)

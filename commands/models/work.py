"""What models have cost, how they have done, and what may still be spent: read from the database."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, cast

from perdure.commands.options import Format, Options
from perdure.commands.output import Column, emit, emit_rows, format_usd, say, table
from perdure.commands.session import client_settings, open_session, refuse_unverified, terminal_user
from perdure.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from perdure.routing.calls import By, Cost

_QUALITY = (
    "DEPLOYMENT",
    Column("MODEL", least=12, drop=2),
    Column("VERSION", least=8, drop=4),
    Column("CALLS", right=True),
    Column("ERRORS", right=True),
    Column("VALID", right=True),
    Column("REPAIRED", right=True, drop=5),
    Column("P50", right=True, drop=1),
    Column("P95", right=True, drop=3),
    Column("P99", right=True, drop=6),
    Column("COST", right=True),
)
_BUDGETS = (
    "BUDGET",
    "OF",
    "SINCE",
    Column("SPENT", right=True),
    Column("HELD BACK", right=True, drop=2),
    Column("RAISED BY", right=True, drop=1),
)
# The columns of numbers, and which of them go first on a narrow terminal.
_COSTS = {"COMPLETED": 3, "CALLS": 0, "FAILED": 0, "COST": 0, "EACH": 1, "AT RISK": 2, "CACHED": 5, "SAVED": 4}


async def print_costs(options: Options, by: str | None, since: datetime | None, until: datetime | None) -> None:
    """Print what calls from SINCE to UNTIL have cost, in groups BY something."""
    from perdure.routing.calls import costs
    from perdure.storage import open_database

    # How a run ended is known to Temporal alone, so its costs are added up here.
    group = "run" if by == "outcome" else by
    async with open_database(client_settings().database) as database:
        found = await costs(database, cast("By | None", group), since=since, until=until)
    if by == "outcome":
        found = await _group_by_outcome(options, found)
    if options.format is not Format.text:
        emit_rows(options.format, [{**each.model_dump(mode="json"), "per_completed": each.per_completed} for each in found])
    elif not any(each.calls or each.hits for each in found):
        say("no model was called")
    else:
        _print_costs(found, by)


async def print_qualities(options: Options, since: datetime | None) -> None:
    """Print how models have done since SINCE."""
    from perdure.routing.calls import qualities
    from perdure.storage import open_database

    async with open_database(client_settings().database) as database:
        found = await qualities(database, since=since)
    if options.format is not Format.text:
        rows = [
            {**each.model_dump(mode="json"), "error_rate": each.error_rate, "validity": each.validity} for each in found
        ]
        emit_rows(options.format, rows)
        return
    if not found:
        say("no model was called")
        return
    cells = [
        (
            each.deployment,
            each.model,
            each.version or "-",
            str(each.calls),
            f"{each.error_rate:.1%}",
            f"{each.validity:.1%}" if each.validity is not None else "-",
            str(each.repaired),
            *(f"{milliseconds} ms" for milliseconds in (each.p50, each.p95, each.p99)),
            format_usd(each.cost),
        )
        for each in found
    ]
    table(_QUALITY, cells)


async def print_budgets(options: Options) -> None:
    """Print the budgets that were drawn on."""
    from perdure.routing.calls import budget_states
    from perdure.storage import open_database

    async with open_database(client_settings().database) as database:
        found = await budget_states(database)
    if options.format is not Format.text:
        emit_rows(options.format, [each.model_dump(mode="json") for each in found])
    elif not found:
        say("no budget was drawn on; [budgets.NAME] in models.toml makes one")
    else:
        amounts = [[format_usd(amount) for amount in (each.spent, each.reserved, each.raised)] for each in found]
        table(_BUDGETS, [(each.budget, each.subject, each.since, *row) for each, row in zip(found, amounts, strict=True)])


async def raise_and_report(
    options: Options, budget: str, usd: float, *, subject: str | None, since: str | None, comment: str, by: str | None
) -> None:
    """Raise BUDGET by USD for the one SUBJECT and time SINCE when it was drawn on. Raises `NotFound`, `InvalidInput`."""
    from perdure.routing.calls import budget_states, raise_by_hand
    from perdure.storage import open_database

    settings = client_settings()
    refuse_unverified(settings)
    async with open_database(settings.database) as database:
        fitting = [
            each
            for each in await budget_states(database)
            if each.budget == budget and subject in (None, each.subject) and since in (None, each.since)
        ]
        if not fitting:
            of = "".join([f" of {subject}" if subject else "", f" since {since}" if since else ""])
            raise NotFound(f"budget {budget!r}{of} has not been used yet. `perdure budgets list` shows those that have.")
        if len(fitting) > 1:
            raise InvalidInput(
                f"budget {budget!r} is kept for {len(fitting)} subjects or times. Say which: --subject, --since."
            )
        raised = await raise_by_hand(database, fitting[0], round(usd * 1e9), by=by or terminal_user(), why=comment)
    if options.format is Format.text:
        say(f"{budget} is raised by {format_usd(raised.raised)} in all")
    else:
        emit(raised.model_dump(mode="json"))


def _print_costs(found: Sequence[Cost], by: str | None) -> None:
    rows = [
        (
            each.group or ("all" if by is None else "-"),
            str(each.completed),
            str(each.calls),
            str(each.failed),
            format_usd(each.cost),
            format_usd(each.per_completed) if each.per_completed is not None else "-",
            format_usd(each.at_risk),
            str(each.hits),
            format_usd(each.saved),
        )
        for each in found
    ]
    table((by.upper() if by else "", *(Column(name, right=True, drop=drop) for name, drop in _COSTS.items())), rows)


async def _group_by_outcome(options: Options, parts: Sequence[Cost]) -> list[Cost]:
    """Return PARTS, which are of one run each, put together by how the runs ended."""
    from perdure.commands.runs.listing import quote_literal, run_row
    from perdure.routing.calls import add_up

    ids = sorted({part.group.rpartition("/")[0] for part in parts})
    states: dict[str, str] = {}
    async with open_session(options) as session:
        for start in range(0, len(ids), 50):
            wanted = ", ".join(quote_literal(name) for name in ids[start : start + 50])
            async for run in session.client.list_workflows(f"WorkflowId IN ({wanted})"):
                states[f"{run.id}/{run.run_id}"] = str(run_row(session, run)["state"])
    grouped: dict[str, list[Cost]] = {}
    for part in parts:
        grouped.setdefault(states.get(part.group, "not in Temporal any more"), []).append(part)
    return sorted((add_up(state, each) for state, each in grouped.items()), key=lambda each: -each.cost)

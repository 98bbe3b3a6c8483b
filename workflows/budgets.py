"""What a run does about the price of model calls: it books failed ones too, and has used-up budgets raised by a person."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

from pydantic import ValidationError
from temporalio.common import RetryPolicy

from perdure.errors import (
    ApprovalExpired,
    BudgetSpent,
    ChangesRequested,
    ModelError,
    Rejected,
)
from perdure.lineage import Frozen
from perdure.routing.contracts import RaiseCall, RaiseResult
from perdure.workflows.approvals import approval
from perdure.workflows.call import execute
from perdure.workflows.run import current_run

R = TypeVar("R")

WITHIN = timedelta(days=2)
"""How long that person has."""

_RETRIES = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=1))


class _SpentBudget(Frozen):
    """What the failure says of the budget."""

    budget: str
    subject: str = ""
    since: str = ""
    limit_nano_usd: int
    spent_nano_usd: int
    wanted_nano_usd: int
    ask: str = ""
    raise_nano_usd: int


async def ask_within_budget(ask: Callable[[], Awaitable[R]]) -> R:
    """Return what ASK brings; if a budget denies it, ask again once a person has raised that. Book what failed as well."""
    while True:
        try:
            return await ask()
        except BudgetSpent as error:
            current_run().spend(error.spent_nano_usd)
            if not await raise_budget(error):
                raise
        except ModelError as error:
            current_run().spend(error.spent_nano_usd)
            raise


async def raise_budget(error: BudgetSpent) -> bool:
    """Have a person raise the budget that ERROR is about. Returns False if nobody may be asked, or does not want to."""
    try:
        short = _SpentBudget.model_validate(error.facts.get("budget"))
    except ValidationError:
        return False
    if not short.ask:
        return False
    up_to = (short.limit_nano_usd + short.raise_nano_usd) / 1e9
    try:
        decision = await approval(
            f"Raise budget {short.budget} by ${short.raise_nano_usd / 1e9:,.2f} to ${up_to:,.2f}?",
            of=short.ask,
            within=WITHIN,
            about={"budget": short, "why": error.message},
            name=f"budget {short.budget}",
        )
    except (Rejected, ChangesRequested, ApprovalExpired):
        return False
    step = current_run().step(f"raise {short.budget}")
    await execute(
        "perdure.raise_budget",
        RaiseCall(
            step=step,
            budget=short.budget,
            subject=short.subject,
            since=short.since,
            nano_usd=short.raise_nano_usd,
            by=decision.by,
            why=decision.comment,
        ),
        RaiseResult,
        id=step.name,
        summary=f"Raise budget {short.budget} to ${up_to:.2f}, as {decision.by} said",
        timeout=timedelta(minutes=1),
        retries=_RETRIES,
    )
    return True

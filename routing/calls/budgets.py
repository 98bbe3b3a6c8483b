"""What may still be spent on models: held back before a call, settled after it, and never more than a budget allows."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa

from perdure.errors import BudgetReserved, BudgetSpent, InvalidInput
from perdure.lineage import Lineage, StepRef
from perdure.routing.contracts import (
    Attempt,
    GenerateCall,
    RaiseCall,
    RaiseResult,
)
from perdure.routing.load import Routes
from perdure.routing.routes import Budget
from perdure.routing.tables import BudgetRaiseRow, BudgetRow
from perdure.storage import AdvisoryLock, Database, GroupCommit, now

if TYPE_CHECKING:
    from perdure.routing.calls.spending import BudgetState

_ROWS = BudgetRow.__table__  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # SQLModel's
_RAISES = BudgetRaiseRow.__table__  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # as above

_THIS = sa.and_(
    _ROWS.c.budget == sa.bindparam("of_budget"),
    _ROWS.c.subject == sa.bindparam("of_subject"),
    _ROWS.c.since == sa.bindparam("of_since"),
)
_READ = sa.select(_ROWS.c.reserved_nano_usd, _ROWS.c.spent_nano_usd, _ROWS.c.raised_nano_usd).where(_THIS)
_INSERT = sa.insert(_ROWS)
_MOVE = (
    sa.update(_ROWS)
    .where(_THIS)
    .values(
        reserved_nano_usd=_ROWS.c.reserved_nano_usd + sa.bindparam("reserve"),
        spent_nano_usd=_ROWS.c.spent_nano_usd + sa.bindparam("spend"),
    )
)


@dataclass(frozen=True)
class BudgetAccount:
    """One budget as it concerns one call: whose it is, and since when it counts."""

    budget: Budget
    subject: str
    since: str

    @property
    def key(self) -> dict[str, str]:
        """Its row."""
        return {"of_budget": self.budget.name, "of_subject": self.subject, "of_since": self.since}

    @property
    def title(self) -> str:
        """Its name, for messages."""
        whose = f" of {self.budget.per} {self.subject!r}" if self.subject else ""
        return f"budget {self.budget.name!r}{whose}{f' since {self.since}' if self.since else ''}"


@dataclass(frozen=True)
class BudgetDenial:
    """A budget that a call does not fit into."""

    account: BudgetAccount
    limit: int
    spent: int
    reserved: int
    wanted: int

    @property
    def temporary(self) -> bool:
        """Whether the call would fit if the calls in progress turned out to cost nothing."""
        return self.spent + self.wanted <= self.limit

    def as_error(self, attempts: Sequence[Attempt]) -> BudgetSpent:
        """Return the error that says so."""
        budget = self.account.budget
        left = max(self.limit - self.spent - self.reserved, 0)
        held = f", {format_usd(self.reserved)} is held back for calls in progress" if self.reserved else ""
        to_do = (
            f"{budget.ask} is asked to raise it" if budget.ask else f"Raise it with `perdure budgets raise {budget.name}`"
        )
        kind = BudgetReserved if self.temporary else BudgetSpent
        return kind(
            f"{self.account.title} has {format_usd(left)} left of {format_usd(self.limit)}: {format_usd(self.spent)} is "
            f"spent{held}, and this call may cost up to {format_usd(self.wanted)}. {to_do}, or state more under "
            f"[budgets.{budget.name}] in models.toml.",
            facts={
                "attempts": [each.model_dump(mode="json", exclude_defaults=True) for each in attempts],
                "budget": {
                    "budget": budget.name,
                    "subject": self.account.subject,
                    "since": self.account.since,
                    "limit_nano_usd": self.limit,
                    "spent_nano_usd": self.spent,
                    "wanted_nano_usd": self.wanted,
                    "ask": budget.ask,
                    # At least what this call needs: a person should not be asked twice for it.
                    "raise_nano_usd": max(budget.raise_amount, self.spent + self.reserved + self.wanted - self.limit),
                },
            },
        )


def find_accounts(routes: Routes, call: GenerateCall, *, at: datetime | None = None) -> tuple[BudgetAccount, ...]:
    """Return the budgets that CALL draws on, AT that time."""
    found = []
    for budget in routes.budgets.values():
        subject = _subject_of(budget, call)
        if subject is not None and budget.of in ("", subject):
            found.append(BudgetAccount(budget, subject, _start_of_period(budget, at or now())))
    return tuple(found)


def reserve(
    connection: sa.Connection, accounts: Sequence[BudgetAccount], nano_usd: int, *, spare: int = 0
) -> BudgetDenial | None:
    """Hold NANO_USD back in each of ACCOUNTS, or in none of them: then return the one that is too empty.

    There has to be so much to SPARE besides, which is not held back. No other process may do so at the same time.
    """
    known: list[bool] = []
    denials: list[BudgetDenial] = []
    for account in accounts:
        row = connection.execute(_READ, account.key).one_or_none()
        reserved, spent, raised = row if row is not None else (0, 0, 0)
        known.append(row is not None)
        limit = account.budget.limit + raised
        if spent + reserved + nano_usd + spare > limit:
            denials.append(BudgetDenial(account, limit, spent, reserved, nano_usd + spare))
    if denials:
        return next((denial for denial in denials if not denial.temporary), denials[0])
    for account, exists in zip(accounts, known, strict=True):
        if exists:
            connection.execute(_MOVE, {**account.key, "reserve": nano_usd, "spend": 0})
        else:
            connection.execute(
                _INSERT, _new_row(account.budget.name, account.subject, account.since, reserved_nano_usd=nano_usd)
            )
    return None


def settle(connection: sa.Connection, held_in: str, reserved: int, spent: int) -> None:
    """Turn the RESERVED nano-USD that the accounts HELD_IN, as `dump_accounts` wrote them, hold into what was SPENT."""
    if held_in:
        moved = {"reserve": -reserved, "spend": spent}
        connection.execute(
            _MOVE,
            [
                {"of_budget": budget, "of_subject": subject, "of_since": since, **moved}
                for budget, subject, since in json.loads(held_in)
            ],
        )


def dump_accounts(held_in: Sequence[BudgetAccount]) -> str:
    """Return which accounts money is HELD_IN, for the record: by tomorrow the file or the day may be another."""
    return json.dumps([[account.budget.name, account.subject, account.since] for account in held_in]) if held_in else ""


def raise_budget(connection: sa.Connection, call: RaiseCall, limit: int) -> RaiseResult:
    """Raise the budget that CALL names, whose LIMIT is in the file, once for its step."""
    key = {"of_budget": call.budget, "of_subject": call.subject, "of_since": call.since}
    row = connection.execute(_READ, key).one_or_none()
    raised = row[2] if row is not None else 0
    if connection.execute(sa.select(_RAISES.c.id).where(_RAISES.c.id == str(call.step))).first() is None:
        raised += call.nano_usd
        if row is None:
            connection.execute(_INSERT, _new_row(call.budget, call.subject, call.since, raised_nano_usd=raised))
        else:
            connection.execute(sa.update(_ROWS).where(_THIS).values(raised_nano_usd=raised), key)
        facts = call.model_dump(exclude={"step"})
        connection.execute(sa.insert(_RAISES), {**facts, "id": str(call.step), "at": now()})
    return RaiseResult(budget=call.budget, subject=call.subject, limit_nano_usd=limit + raised)


async def raise_by_hand(database: Database, state: BudgetState, nano_usd: int, *, by: str, why: str) -> BudgetState:
    """Raise the budget that STATE is about by NANO_USD, as BY said, and return what it is then."""
    step = StepRef(lineage=Lineage(namespace="", workflow_id="", first_execution_run_id=""), name=uuid.uuid4().hex)
    call = RaiseCall(
        step=step, budget=state.budget, subject=state.subject, since=state.since, nano_usd=nano_usd, by=by, why=why
    )
    commits = GroupCommit(database, lock=AdvisoryLock.MODEL_CALLS)
    raised = await commits.run(lambda connection: raise_budget(connection, call, 0), exclusive=True)
    return state.model_copy(update={"raised": raised.limit_nano_usd})


def format_usd(nano: int) -> str:
    """Return NANO US dollars as people write them: cents, or as many digits as a small amount needs."""
    if nano % 10_000_000 == 0 or nano >= 10_000_000_000:
        return f"${nano / 1e9:,.2f}"
    return f"${nano / 1e9:.9f}".rstrip("0")


def _new_row(budget: str, subject: str, since: str, **amounts: int) -> dict[str, object]:
    return {
        "budget": budget,
        "subject": subject,
        "since": since,
        "reserved_nano_usd": 0,
        "spent_nano_usd": 0,
        "raised_nano_usd": 0,
        **amounts,
    }


def _subject_of(budget: Budget, call: GenerateCall) -> str | None:
    if budget.per == "run":
        return str(call.step.lineage)
    if budget.per == "workflow":
        return call.step.workflow_type
    if budget.per == "agent":
        return call.agent or None
    if budget.per == "tenant":
        return call.tenant
    return call.task if budget.per == "task" else ""


def _start_of_period(budget: Budget, at: datetime) -> str:
    if budget.every == "day":
        return f"{at:%Y-%m-%d}"
    return f"{at:%Y-%m}" if budget.every == "month" else ""


def find_budget(routes: Routes, name: str) -> Budget:
    """Return the budget called NAME. Raises `InvalidInput` with the known ones."""
    if name not in routes.budgets:
        names = ", ".join(sorted(routes.budgets)) or "none"
        raise InvalidInput(f"there is no budget {name!r}; known budgets: {names}. Add [budgets.{name}] to models.toml.")
    return routes.budgets[name]

"""What models have cost and for what, out of the recorded calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa
from sqlmodel import col

from perdure.lineage import Frozen
from perdure.routing.tables import BudgetRow, ModelCallRow
from perdure.storage import Database

By = Literal["workflow", "task", "model", "deployment", "tier", "tenant", "agent", "day", "run"]

_CALLS = ModelCallRow.__table__  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # SQLModel's
_BUDGETS = BudgetRow.__table__  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # as above

_COLUMNS: Mapping[str, sa.ColumnElement[Any]] = {
    "workflow": _CALLS.c.workflow_type,
    "task": _CALLS.c.task,
    "model": _CALLS.c.model,
    "deployment": _CALLS.c.deployment,
    "tier": _CALLS.c.tier,
    "tenant": _CALLS.c.tenant,
    "agent": _CALLS.c.agent,
    "run": _CALLS.c.workflow_id + "/" + _CALLS.c.run_id,
}
_NAMES = ("deployment", "model", "version")
_NO_CALL = ("cached", "denied")
_ANSWERED = ("answered", "cached")
_UNSEEN = ("sent", "ambiguous", "cancelled")


class Cost(Frozen):
    """What one group of steps has cost. Amounts are nano-USD."""

    group: str
    completed: int
    """Steps that got a valid answer."""
    calls: int
    """Calls to providers, retries and failures among them."""
    failed: int
    """Those of them that brought no valid answer."""
    cost: int
    at_risk: int
    """The most that calls may have cost besides whose answer nobody saw."""
    hits: int
    """Answers out of the cache."""
    saved: int
    """What the cache and batches have saved."""
    prompt_tokens: int
    completion_tokens: int

    @property
    def per_completed(self) -> int | None:
        """What a completed step has cost, with its retries and with those steps that came to nothing; None: none was."""
        return -(-self.cost // self.completed) if self.completed else None


class Quality(Frozen):
    """How a deployment's model has done. Times are milliseconds, the cost nano-USD."""

    deployment: str
    model: str
    """The model that was asked for."""
    version: str
    """The version that answered, as the provider calls it; of a call without answer the one that had answered before it."""
    calls: int
    failed: int
    """Calls that brought no answer."""
    read: int
    """Answers that came."""
    invalid: int
    """Those of them that did not fit."""
    repaired: int
    cost: int
    p50: int
    p95: int
    p99: int

    @property
    def error_rate(self) -> float:
        """The share of calls without an answer."""
        return self.failed / self.calls if self.calls else 0.0

    @property
    def validity(self) -> float | None:
        """The share of answers that fitted; None: there was none."""
        return 1 - self.invalid / self.read if self.read else None


class BudgetState(Frozen):
    """What is left of a budget, for one subject and time. Amounts are nano-USD."""

    budget: str
    subject: str
    since: str
    spent: int
    reserved: int
    raised: int


async def costs(
    database: Database, by: By | None = None, *, since: datetime | None = None, until: datetime | None = None
) -> list[Cost]:
    """Return what the calls from SINCE, before UNTIL, have cost BY group, the dearest first; without BY as one group."""
    group = _day(database) if by == "day" else _COLUMNS[by] if by else sa.literal("")
    outcome = _CALLS.c.outcome
    step = _CALLS.c.namespace + "/" + _CALLS.c.workflow_id + "/" + _CALLS.c.first_execution_run_id + "/" + _CALLS.c.step
    query = sa.select(
        group.label("group"),
        sa.func.count(sa.distinct(sa.case((outcome.in_(_ANSWERED), step)))).label("completed"),
        _sum(sa.case((outcome.in_(_NO_CALL), 0), else_=1)).label("calls"),
        _sum(sa.case((outcome.in_((*_NO_CALL, "answered", "sent")), 0), else_=1)).label("failed"),
        _sum(_CALLS.c.cost_nano_usd).label("cost"),
        _sum(sa.case((outcome.in_(_UNSEEN), _CALLS.c.reserved_nano_usd), else_=0)).label("at_risk"),
        _sum(sa.case((outcome == "cached", 1), else_=0)).label("hits"),
        _sum(_CALLS.c.saved_nano_usd).label("saved"),
        _sum(_CALLS.c.prompt_tokens).label("prompt_tokens"),
        _sum(_CALLS.c.completion_tokens).label("completion_tokens"),
    ).select_from(_CALLS)
    if since is not None:
        query = query.where(_CALLS.c.sent_at >= since)
    if until is not None:
        query = query.where(_CALLS.c.sent_at < until)
    if by:
        query = query.group_by(sa.literal_column('"group"') if database.sqlite else group)
    async with database.read() as connection:
        found = [_cost(row) for row in (await connection.execute(query)).mappings()]
    key = (lambda each: (each.group,)) if by == "day" else (lambda each: (-each.cost, -each.at_risk, each.group))
    return sorted((each for each in found if by is None or each.calls or each.hits), key=key)


async def qualities(database: Database, *, since: datetime | None = None, until: datetime | None = None) -> list[Quality]:
    """Return how deployments have done from SINCE, before UNTIL, each version of its model by itself."""
    whose = (_CALLS.c.deployment, _CALLS.c.model)
    answered_by = sa.func.nullif(_CALLS.c.model_version, "")
    calls = sa.select(
        *whose,
        answered_by.label("answered_by"),
        # Numbers the calls with a version; those without one have the number of the last that had one.
        sa.func.count(answered_by).over(partition_by=whose, order_by=(_CALLS.c.sent_at, _CALLS.c.call_id)).label("era"),
        _CALLS.c.outcome,
        _CALLS.c.milliseconds,
        _CALLS.c.cost_nano_usd,
        _CALLS.c.repairs,
    ).where(_CALLS.c.outcome.not_in((*_NO_CALL, "sent")))
    if since is not None:
        calls = calls.where(_CALLS.c.sent_at >= since)
    if until is not None:
        calls = calls.where(_CALLS.c.sent_at < until)
    dated = calls.subquery()
    of_era = dated.c.deployment, dated.c.model, dated.c.era
    version = sa.func.coalesce(sa.func.max(dated.c.answered_by).over(partition_by=of_era), "").label("version")
    named = sa.select(dated, version).subquery()
    sides = named.c.deployment, named.c.model, named.c.version
    each = sa.select(
        named,
        sa.func.row_number().over(partition_by=sides, order_by=named.c.milliseconds).label("rank"),
        sa.func.count().over(partition_by=sides).label("of"),
    ).subquery()
    read = ("answered", "unsure", "invalid")
    query = sa.select(
        each.c.deployment,
        each.c.model,
        each.c.version,
        sa.func.count().label("calls"),
        _sum(sa.case((each.c.outcome.in_(("unavailable", "ambiguous", "refused")), 1), else_=0)).label("failed"),
        _sum(sa.case((each.c.outcome.in_(read), 1), else_=0)).label("read"),
        _sum(sa.case((each.c.outcome == "invalid", 1), else_=0)).label("invalid"),
        _sum(sa.case((each.c.repairs != "", 1), else_=0)).label("repaired"),
        _sum(each.c.cost_nano_usd).label("cost"),
        # The nearest rank: the smallest that so many per cent do not exceed.
        *(
            sa.func.max(sa.case((each.c.rank * 100 < each.c.of * per_cent + 100, each.c.milliseconds))).label(name)
            for name, per_cent in (("p50", 50), ("p95", 95), ("p99", 99))
        ),
    ).group_by(each.c.deployment, each.c.model, each.c.version)
    async with database.read() as connection:
        found = (await connection.execute(query.order_by(each.c.deployment, each.c.model, each.c.version))).mappings()
        return [
            Quality.model_validate({**row, **{name: int(row[name] or 0) for name in row if name not in _NAMES}})
            for row in found
        ]


def add_up(group: str, parts: Sequence[Cost]) -> Cost:
    """Return the costs of PARTS as those of one GROUP."""
    numbers = [name for name in Cost.model_fields if name != "group"]
    return Cost(group=group, **{name: sum(getattr(part, name) for part in parts) for name in numbers})


async def budget_states(database: Database) -> list[BudgetState]:
    """Return what every budget that was ever drawn on holds back and has spent."""
    query = sa.select(_BUDGETS).order_by(_BUDGETS.c.budget, _BUDGETS.c.since, _BUDGETS.c.subject)
    async with database.read() as connection:
        return [
            BudgetState(
                budget=row["budget"],
                subject=row["subject"],
                since=row["since"],
                spent=row["spent_nano_usd"],
                reserved=row["reserved_nano_usd"],
                raised=row["raised_nano_usd"],
            )
            for row in (await connection.execute(query)).mappings()
        ]


async def total_spending(database: Database) -> tuple[int, int]:
    """Return how many provider calls DATABASE has recorded, and what they cost together, in nano-USD."""
    query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(col(ModelCallRow.cost_nano_usd)), 0)).where(
        col(ModelCallRow.outcome).not_in(_NO_CALL)
    )
    async with database.read() as connection:
        calls, cost = (await connection.execute(query)).one()
    return int(calls), int(cost)


def _sum(column: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    return sa.func.coalesce(sa.func.sum(column), 0)


def _day(database: Database) -> sa.ColumnElement[str]:
    if database.sqlite:
        return sa.func.substr(sa.cast(_CALLS.c.sent_at, sa.String), 1, 10)
    return sa.func.to_char(sa.func.timezone("UTC", _CALLS.c.sent_at), "YYYY-MM-DD")


def _cost(row: sa.RowMapping) -> Cost:
    numbers = {name: int(row[name]) for name in Cost.model_fields if name != "group"}
    return Cost(group=str(row["group"]), **numbers)

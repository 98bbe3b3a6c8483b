"""How both arms of a canary have done: what `perdure canary` shows."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from perdure.lineage import Frozen
from perdure.routing.canary.canary import Arm
from perdure.routing.canary.rollback import (
    Comparison,
    Counts,
    Rule,
    compare_shares,
)
from perdure.routing.canary.trials import State, find, load_counts
from perdure.routing.tables import CanaryDecisionRow, CanaryRow, ModelCallRow
from perdure.storage import Database

_ROWS = CanaryRow.__table__  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # SQLModel's
_DECISIONS = CanaryDecisionRow.__table__  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # as above
_CALLS = ModelCallRow.__table__  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # as above

_STEP = _CALLS.c.namespace + "/" + _CALLS.c.workflow_id + "/" + _CALLS.c.first_execution_run_id + "/" + _CALLS.c.step
_ANSWERED = ("answered", "cached")
_READ = ("answered", "unsure", "invalid")


class Side(Frozen):
    """What one arm has done. Times are milliseconds, costs nano-USD."""

    arm: Arm
    steps: int
    """Steps that took part, also by a kept answer."""
    completed: int
    """Those that a model has answered. The others have failed, go on, or were answered by a person."""
    escalated: int
    """Those that went to a larger tier."""
    cost: int
    """What they have cost, with all that was asked after the first call."""
    counted: Counts
    """What came of the first calls of steps: the arms are compared by these."""
    p50: int
    p95: int
    """How long these took that were answered."""

    @property
    def per_completed(self) -> int | None:
        """What a completed step has cost; None: none was."""
        return -(-self.cost // self.completed) if self.completed else None


class Decision(Frozen):
    """What was decided about a canary. BY is empty for its rule; nobody has verified a name."""

    state: State
    by: str
    why: str
    at: datetime


class CanaryStatus(Frozen):
    """A canary and how it stands."""

    id: str
    name: str
    state: State
    by: str
    why: str
    at: datetime
    since: datetime
    adopting: str
    rule: Rule
    canary: Counts
    control: Counts


class Report(Frozen):
    """All that is known of a canary."""

    status: CanaryStatus
    sides: tuple[Side, Side]
    """The canary's and control's."""
    comparisons: tuple[Comparison, ...]
    decisions: tuple[Decision, ...]


async def list_canaries(database: Database) -> list[CanaryStatus]:
    """Return the canaries that calls have taken part in, the newest first."""

    def work(connection: sa.Connection) -> list[CanaryStatus]:
        rows = connection.execute(sa.select(_ROWS).order_by(_ROWS.c.since.desc())).mappings().all()
        return [_load_status(connection, row) for row in rows]

    return await database.query(work)


async def report(database: Database, name: str) -> Report:
    """Return what is known of the canary called NAME, or NAME@VERSION. Raises `NotFound`."""

    def work(connection: sa.Connection) -> Report:
        standing = _load_status(connection, row := find(connection, name))
        sides = _sides(connection, row, {"canary": standing.canary, "control": standing.control})
        decisions = sa.select(_DECISIONS).where(_DECISIONS.c.canary == standing.id).order_by(_DECISIONS.c.at)
        return Report(
            status=standing,
            sides=sides,
            comparisons=tuple(compare_shares(standing.rule, standing.canary, standing.control)),
            decisions=tuple(
                Decision.model_validate({name: each[name] for name in Decision.model_fields})
                for each in connection.execute(decisions).mappings()
            ),
        )

    return await database.query(work)


def _load_status(connection: sa.Connection, row: sa.RowMapping) -> CanaryStatus:
    known = {name: row[name] for name in CanaryStatus.model_fields if name in row}
    return CanaryStatus.model_validate(
        {**known, "rule": Rule.model_validate_json(row["rule"]), **load_counts(connection, row["id"])}
    )


def _sides(connection: sa.Connection, row: sa.RowMapping, counted: Mapping[Arm, Counts]) -> tuple[Side, Side]:
    begun = sa.and_(_CALLS.c.canary == row["id"], _CALLS.c.sent_at >= row["since"])
    found = {name: {**numbers} for name, numbers in _steps(connection, begun, row["tier"]).items()}
    for name, numbers in _latencies(connection, begun).items():
        found.setdefault(name, {}).update(numbers)
    zero = {name: 0 for name, field in Side.model_fields.items() if field.annotation is int}
    canary, control = (
        Side.model_validate({"arm": arm, "counted": counted[arm], **zero, **found.get(arm, {})})
        for arm in ("canary", "control")
    )
    return canary, control


def _steps(connection: sa.Connection, begun: sa.ColumnElement[bool], tier: str) -> dict[str, dict[str, int]]:
    outcome = _CALLS.c.outcome
    query = (
        sa.select(
            _CALLS.c.arm,
            _distinct(outcome != "denied").label("steps"),
            _distinct(outcome.in_(_ANSWERED)).label("completed"),
            _distinct(sa.and_(outcome != "denied", _CALLS.c.tier != tier)).label("escalated"),
            sa.func.coalesce(sa.func.sum(_CALLS.c.cost_nano_usd), 0).label("cost"),
        )
        .where(begun)
        .group_by(_CALLS.c.arm)
    )
    return {row["arm"]: _numbers(row) for row in connection.execute(query).mappings()}


def _distinct(holds: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
    return sa.func.count(sa.distinct(sa.case((holds, _STEP))))


def _latencies(connection: sa.Connection, begun: sa.ColumnElement[bool]) -> dict[str, dict[str, int]]:
    each = (
        sa.select(
            _CALLS.c.arm,
            _CALLS.c.milliseconds,
            sa.func.row_number().over(partition_by=_CALLS.c.arm, order_by=_CALLS.c.milliseconds).label("rank"),
            sa.func.count().over(partition_by=_CALLS.c.arm).label("of"),
        )
        .where(begun, _CALLS.c.trial, _CALLS.c.outcome.in_(_READ))
        .subquery()
    )
    # The nearest rank, as in `qualities`.
    ranks = [
        sa.func.max(sa.case((each.c.rank * 100 < each.c.of * per_cent + 100, each.c.milliseconds))).label(f"p{per_cent}")
        for per_cent in (50, 95)
    ]
    query = sa.select(each.c.arm, *ranks).group_by(each.c.arm)
    return {row["arm"]: _numbers(row) for row in connection.execute(query).mappings()}


def _numbers(row: Mapping[str, Any] | sa.RowMapping) -> dict[str, int]:
    return {name: int(value or 0) for name, value in row.items() if name != "arm"}

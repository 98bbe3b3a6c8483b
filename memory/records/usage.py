"""Which records were used: by which runs, how often, whether the answer relied on them, and what each cost."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import TypeAlias

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Mapped
from sqlmodel import col

from perdure.lineage import StepRef, digest
from perdure.memory.contracts import RecallCall, RecallHit
from perdure.memory.records.reading import is_visible
from perdure.memory.records.records import NAMES, scope_key
from perdure.memory.records.requests import (
    FeedbackCall,
    MemoryStats,
    RecordUse,
    StatsCall,
)
from perdure.memory.records.run_scopes import record_run_scopes
from perdure.memory.tables import (
    AccessRow,
    MemoryRow,
    OutboxRow,
    SourceRow,
)

_Text: TypeAlias = sa.ColumnElement[str] | Mapped[str]
MOST = 10
"""How many of the most used records `stats` names."""


def record_recall(connection: sa.Connection, call: RecallCall, hits: Sequence[RecallHit], now: datetime) -> None:
    """Write down that CALL found HITS. A retried call counts once."""
    where, scope = _step_columns(call.step), scope_key(call.scope)
    asked = digest(call.query)
    common = {
        "scope_key": scope,
        "scope_tenant": call.scope.tenant,
        **where,
        "query_digest": asked,
        "accessed_at": now,
    }

    def row(version_id: str | None, memory_id: str | None, rank: int, score: float) -> dict[str, object]:
        access = str(uuid.uuid5(NAMES, digest(["access", *where.values(), scope, asked, version_id])))
        found = {"access_id": access, "version_id": version_id, "memory_id": memory_id, "rank": rank, "score": score}
        return {**common, **found}

    rows = [
        row(hit.record.version_id, hit.record.memory_id, rank, hit.score) for rank, hit in enumerate(hits, start=1)
    ] or [row(None, None, 0, 0.0)]
    connection.execute(_INSERT[connection.dialect.name], rows)
    if hits:
        record_run_scopes(connection, call.step.lineage, [call.scope])


def record_feedback(connection: sa.Connection, call: FeedbackCall) -> int:
    """Write down what became of records that the run of CALL recalled; return how many uses it concerned."""
    row, lineage = AccessRow, call.step.lineage
    said = {"cited": call.cited, "useful": call.useful}
    values = {name: value for name, value in said.items() if value is not None}
    where = [
        col(row.scope_key) == scope_key(call.scope),
        col(row.namespace) == lineage.namespace,
        col(row.workflow_id) == lineage.workflow_id,
        col(row.first_execution_run_id) == lineage.first_execution_run_id,
        col(row.version_id).in_(call.version_ids),
    ]
    if call.recalled_by:
        where.append(col(row.step) == call.recalled_by)
    if not values:
        return 0
    return connection.execute(sa.update(row).where(*where).values(values)).rowcount


def count_usage(connection: sa.Connection, call: StatsCall, now: datetime) -> MemoryStats:
    """Return how much is known in the scope or tenant of CALL, or in all, and how it was used."""
    row = MemoryRow
    mine, used = _is_in(call, col(row.scope_key), col(row.scope_tenant)), AccessRow
    theirs = _is_in(call, col(used.scope_key), col(used.scope_tenant))
    stored = connection.execute(
        sa.select(
            sa.func.count().label("versions"),
            sa.func.count(sa.distinct(col(row.scope_key) + "/" + col(row.memory_id))).label("memories"),
            _count_if(col(row.legal_hold).is_(True)).label("held"),
            _count_if(col(row.erased_at).is_not(None)).label("erased"),
        ).where(mine)
    ).one()
    live = sa.select(col(row.kind), sa.func.count().label("live")).where(mine, is_visible(now)).group_by(col(row.kind))
    by_kind = {each.kind: each.live for each in connection.execute(live.order_by(col(row.kind)))}
    uses = connection.execute(
        sa.select(
            sa.func.count(col(used.version_id)).label("returned"),
            _count_if(col(used.cited).is_not(None)).label("judged"),
            _count_if(col(used.cited).is_(True)).label("cited"),
        ).where(theirs)
    ).one()
    recalls, with_hits = connection.execute(
        sa.select(sa.func.sum(_HITS.c.recalls), sa.func.sum(_HITS.c.with_hits)).where(
            _is_in(call, _HITS.c.scope_key, _HITS.c.scope_tenant)
        )
    ).one()
    joined = sa.join(SourceRow, MemoryRow, col(SourceRow.version_id) == col(MemoryRow.version_id))
    cost = sa.select(sa.func.sum(col(SourceRow.cost_nano_usd))).select_from(joined).where(mine)
    waiting = sa.select(sa.func.count()).select_from(OutboxRow)
    return MemoryStats(
        memories=stored.memories,
        versions=stored.versions,
        live=sum(by_kind.values()),
        by_kind=by_kind,
        held=stored.held or 0,
        erased=stored.erased or 0,
        waiting=connection.execute(waiting).scalar_one(),
        recalls=recalls or 0,
        with_hits=with_hits or 0,
        returned=uses.returned,
        judged=uses.judged or 0,
        cited=uses.cited or 0,
        cost_nano_usd=int(connection.execute(cost).scalar() or 0),
        most_used=_most_used(connection, call),
    )


def _most_used(connection: sa.Connection, call: StatsCall) -> tuple[RecordUse, ...]:
    most = (
        sa.select(_USE)
        .where(_is_in(call, _USE.c.scope_key, _USE.c.scope_tenant), _USE.c.recalls > 0)
        .order_by(_USE.c.recalls.desc(), _USE.c.version_id)
        .limit(MOST)
    )
    return tuple(
        RecordUse(
            memory_id=row.memory_id,
            version_id=row.version_id,
            recalls=row.recalls,
            runs=row.runs,
            cited=row.cited,
            useful=row.useful,
            cost_nano_usd=row.cost_nano_usd,
        )
        for row in connection.execute(most)
    )


def _is_in(call: StatsCall, scope: _Text, tenant: _Text) -> sa.ColumnElement[bool]:
    if call.scope is not None:
        return scope == scope_key(call.scope)
    return tenant == call.tenant if call.tenant is not None else sa.true()


def _count_if(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
    return sa.func.sum(sa.case((condition, 1), else_=0))


def _step_columns(step: StepRef) -> dict[str, str]:
    return {**step.lineage.model_dump(), "step": step.name}


def _view(name: str, *columns: str) -> sa.TableClause:
    return sa.table(name, *(sa.column(column) for column in columns))


# The migration makes these views.
_HITS = _view("memory_hits", "scope_key", "scope_tenant", "recalls", "with_hits")
_USE = _view(
    "memory_use",
    *("version_id", "memory_id", "scope_key", "scope_tenant", "recalls", "runs", "cited", "useful", "cost_nano_usd"),
)
_INSERT = {
    "sqlite": sqlite.insert(AccessRow).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(AccessRow).on_conflict_do_nothing(),
}

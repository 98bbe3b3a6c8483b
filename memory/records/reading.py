"""How a memory is read from SQL: which versions count at which moments, and what callers see of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, cast

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, aliased
from sqlmodel import col

from perdure.errors import InvalidInput
from perdure.lineage import Lineage, StepRef
from perdure.memory.contracts import (
    Kind,
    MemoryRecord,
    Provenance,
    Scope,
)
from perdure.memory.moments import FOR_EVER, microseconds
from perdure.memory.records.requests import ListCall
from perdure.memory.tables import DerivedRow, MemoryRow, SourceRow

_LATER = aliased(MemoryRow)  # made once: it is most of what putting a query together takes


class _AsOf(Protocol):
    @property
    def as_of(self) -> datetime | None: ...
    @property
    def valid_at(self) -> datetime | None: ...
    @property
    def known_at(self) -> datetime | None: ...


@dataclass(frozen=True)
class Moment:
    """The two times of a read."""

    valid_at: datetime
    """When it should hold in the world."""
    known_at: datetime
    """Whose knowledge counts."""

    @classmethod
    def of(cls, asked: _AsOf, now: datetime) -> Moment:
        """Return the two times that ASKED means at NOW."""
        return cls.at(now, asked.as_of, valid_at=asked.valid_at, known_at=asked.known_at)

    @classmethod
    def at(
        cls,
        now: datetime,
        as_of: datetime | None = None,
        *,
        valid_at: datetime | None = None,
        known_at: datetime | None = None,
    ) -> Moment:
        """Return the two times that are meant at NOW. Raises `InvalidInput` for one without a zone."""
        for name, moment in (("as_of", as_of), ("valid_at", valid_at), ("known_at", known_at)):
            if moment is not None and moment.tzinfo is None:
                raise InvalidInput(f"{name} {moment.isoformat()} has no zone; give it one, e.g. datetime.now(UTC)")
        both = min(as_of or now, now)  # nobody knows yet what will have been written
        return cls(valid_at=valid_at or both, known_at=min(known_at or both, now))

    @property
    def earlier(self) -> datetime:
        """The first of the two."""
        return min(self.valid_at, self.known_at)

    @property
    def later(self) -> datetime:
        """The second of the two."""
        return max(self.valid_at, self.known_at)


def require_storable(**texts: object) -> None:
    """Raise `InvalidInput` naming the field if one of TEXTS, or of the texts in it, holds what no database takes."""
    for field, value in texts.items():
        if isinstance(value, Scope):
            require_storable(**{f"{field}.{part}": name for part, name in value})
        elif any("\x00" in each for each in (value if isinstance(value, tuple) else (value,)) if isinstance(each, str)):
            raise InvalidInput(f"{field} holds a NUL character, which PostgreSQL cannot store; remove it")


def is_visible(valid_at: datetime, known_at: datetime | None = None) -> sa.ColumnElement[bool]:
    """Return the condition that a version holds at VALID_AT as it was known at KNOWN_AT, by default the same moment.

    It was recorded by then, neither forgotten nor expired; it is valid; and no later version of its chain that was known
    by then applies to VALID_AT.
    """
    known_at = known_at or valid_at
    row, later = MemoryRow, _LATER
    replaced = sa.exists().where(
        col(later.scope_key) == col(row.scope_key),
        col(later.chain) == col(row.chain),
        col(later.recorded_at) > col(row.recorded_at),
        col(later.recorded_at) <= known_at,
        col(later.valid_from) <= valid_at,
        _is_open(col(later.valid_to), valid_at),
    )
    return sa.and_(
        col(row.erased_at).is_(None),
        col(row.recorded_at) <= known_at,
        col(row.valid_from) <= valid_at,
        _is_open(col(row.valid_to), valid_at),
        _is_open(col(row.expires_at), known_at),
        _is_open(col(row.forgotten_at), known_at),
        # What follows from the versions below wherever they still are.
        _is_open(col(row.superseded_at), min(valid_at, known_at)),
        ~replaced,
    )


def index_interval(row: sa.Row[MemoryRow]) -> tuple[int, int]:
    """Return the microseconds outside of which ROW never holds: the first one in, the first one out.

    A read of two times T and U can see it only if it begins by the later and ends after the earlier of them.
    """
    since = max(row.recorded_at, row.valid_from)
    ends = [end for end in (row.superseded_at, row.valid_to, row.expires_at, row.forgotten_at) if end is not None]
    return microseconds(since), microseconds(min(ends)) if ends else FOR_EVER


def as_record(row: sa.Row[MemoryRow], *, with_end: bool, provenance: Provenance | None = None) -> MemoryRecord:
    """Return ROW as callers see it. WITH_END tells what was found out about it since: its end, a hold, a pin."""
    return MemoryRecord(
        memory_id=row.memory_id,
        version=row.version,
        version_id=row.version_id,
        scope=scope_of(row),
        kind=cast(Kind, row.kind),
        subject=row.subject,
        predicate=row.predicate,
        content=row.content,
        content_hash=row.content_hash,
        confidence=row.confidence,
        importance=row.importance,
        labels=tuple(row.labels),
        retention=row.retention_class,
        legal_hold=with_end and row.legal_hold,
        pinned=with_end and row.pinned,
        valid_from=row.valid_from,
        valid_to=row.valid_to,
        recorded_at=row.recorded_at,
        superseded_at=row.superseded_at if with_end else None,
        forgotten_at=row.forgotten_at if with_end else None,
        forgotten_as=row.forgotten_as if with_end else None,
        erased_at=row.erased_at,
        expires_at=row.expires_at,
        source=row.source,
        provenance=provenance,
    )


def scope_of(row: sa.Row[MemoryRow]) -> Scope:
    """Return whose ROW is."""
    return Scope(tenant=row.scope_tenant, agent=row.scope_agent, user=row.scope_user, session=row.scope_session)


def records_of(connection: sa.Connection, rows: Iterable[sa.Row[MemoryRow]], *, with_end: bool) -> list[MemoryRecord]:
    """Return ROWS as callers see them, with their provenance."""
    rows = list(rows)
    sources = read_provenance(connection, [row.version_id for row in rows])
    return [as_record(row, with_end=with_end, provenance=sources.get(row.version_id)) for row in rows]


def read_provenance(connection: sa.Connection, version_ids: list[str]) -> dict[str, Provenance]:
    """Return where each of VERSION_IDS comes from."""
    derived: dict[str, list[str]] = {}
    pairs = sa.select(DerivedRow).where(col(DerivedRow.version_id).in_(version_ids))
    for pair in connection.execute(pairs.order_by(col(DerivedRow.from_version_id))):
        derived.setdefault(pair.version_id, []).append(pair.from_version_id)
    found = connection.execute(sa.select(SourceRow).where(col(SourceRow.version_id).in_(version_ids)))
    return {row.version_id: _provenance(row, tuple(derived.get(row.version_id, ()))) for row in found}


def list_query(call: ListCall, moment: Moment, scope: str) -> sa.Select[MemoryRow]:
    """Return the query for the records of SCOPE, which is a scope's key, that CALL wants and that hold at MOMENT."""
    row = MemoryRow
    where = [col(row.scope_key) == scope, is_visible(moment.valid_at, moment.known_at)]
    if call.kinds:
        where.append(col(row.kind).in_(call.kinds))
    if call.subject is not None:
        where.append(col(row.subject) == call.subject)
    if call.predicate is not None:
        where.append(col(row.predicate) == call.predicate)
    if call.label is not None:
        # The text of the list, for neither database has a condition on JSON that the other has.
        where.append(sa.cast(col(row.labels), sa.String).contains(json.dumps(call.label), autoescape=True))
    if call.after:
        at, _, version_id = call.after.partition("/")
        try:
            recorded_at = datetime.fromisoformat(at)
        except ValueError:
            raise InvalidInput(f"after {call.after!r} is no `next` of a page") from None
        later = col(row.recorded_at) > recorded_at
        where.append(sa.or_(later, (col(row.recorded_at) == recorded_at) & (col(row.version_id) > version_id)))
    return sa.select(row).where(*where).order_by(col(row.recorded_at), col(row.version_id))


def is_memory(scope: str, memory_id: str) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    """Return the condition that a version is of MEMORY_ID in SCOPE, which is a scope's key."""
    return col(MemoryRow.scope_key) == scope, col(MemoryRow.memory_id) == memory_id


def _provenance(row: sa.Row[SourceRow], derived_from: tuple[str, ...]) -> Provenance:
    lineage = Lineage(
        namespace=row.namespace, workflow_id=row.workflow_id, first_execution_run_id=row.first_execution_run_id
    )
    return Provenance(
        step=StepRef(lineage=lineage, name=row.step, run_id=row.run_id, workflow_type=row.workflow_type),
        actor=row.actor,
        event=row.event,
        model=row.model,
        model_step=row.model_step,
        cost_nano_usd=row.cost_nano_usd,
        uri=row.uri,
        derived_from=derived_from,
    )


def _is_open(end: sa.ColumnElement[datetime | None] | Mapped[datetime | None], at: datetime) -> sa.ColumnElement[bool]:
    return sa.or_(end.is_(None), end > at)

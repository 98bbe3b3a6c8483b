"""Which memories are meant, and how SQL says that their time is over, that they were wrong, or that they are held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlmodel import col

from perdure.memory.contracts import Scope
from perdure.memory.records.records import enqueue, lock, scope_key
from perdure.memory.records.requests import (
    ForgetCall,
    ForgetResult,
    HoldCall,
    OverdueVersion,
    PinCall,
)
from perdure.memory.tables import MemoryRow

SUPERSEDED = "/superseded"
SHOWN = 100
"""How many ids a result names."""


def is_meant(call: ForgetCall) -> sa.ColumnElement[bool]:
    """Return the condition that a version is one that CALL means."""
    row = MemoryRow
    where = [_is_in_scope(call.scope) if call.narrower else col(row.scope_key) == scope_key(call.scope)]
    if call.memory_id is not None:
        where.append(col(row.memory_id) == call.memory_id)
    if call.subject is not None:
        where.append(col(row.subject) == call.subject)
    return sa.and_(col(row.erased_at).is_(None), *where)


def forget(connection: sa.Connection, call: ForgetCall, now: datetime) -> tuple[ForgetResult, list[str]]:
    """End the versions that CALL means at NOW, and return what was done with the versions that the index is to be told of.

    A retried step ends nothing twice.
    """
    if call.memory_id is not None:
        lock(connection, scope_key(call.scope), call.memory_id)
    row = MemoryRow
    standing = sa.select(col(row.version_id), col(row.memory_id)).where(is_meant(call), col(row.forgotten_at).is_(None))
    rows = connection.execute(standing.order_by(col(row.recorded_at), col(row.version_id))).all()
    ids = [each.version_id for each in rows]
    if not call.dry_run:
        _update_versions(connection, ids, forgotten_at=now, forgotten_as=call.how)
        enqueue(connection, ids, now)
    memories = tuple(dict.fromkeys(each.memory_id for each in rows))[:SHOWN]
    done = ForgetResult(how=call.how, memories=memories, versions=len(ids), dry_run=call.dry_run)
    return done, [] if call.dry_run else ids


def retire(connection: sa.Connection, version_ids: Sequence[str], now: datetime) -> list[str]:
    """End VERSION_IDS at NOW, for what they say was consolidated; pinned ones stay. Returns those that ended."""
    row = MemoryRow
    standing = sa.select(col(row.version_id)).where(
        col(row.version_id).in_(version_ids), col(row.forgotten_at).is_(None), ~col(row.pinned)
    )
    ids = list(connection.execute(standing).scalars())
    _update_versions(connection, ids, forgotten_at=now, forgotten_as="expire")
    enqueue(connection, ids, now)
    return ids


def hold(connection: sa.Connection, call: HoldCall) -> int:
    """Hold or release what CALL means and return how many versions it concerned."""
    where = col(MemoryRow.scope_key) == scope_key(call.scope)
    if call.memory_id is not None:
        lock(connection, scope_key(call.scope), call.memory_id)
        where &= col(MemoryRow.memory_id) == call.memory_id
    return connection.execute(sa.update(MemoryRow).where(where).values(legal_hold=call.held)).rowcount


def pin(connection: sa.Connection, call: PinCall) -> int:
    """Pin or unpin a memory and return how many versions it has."""
    lock(connection, scope_key(call.scope), call.memory_id)
    where = (col(MemoryRow.scope_key) == scope_key(call.scope)) & (col(MemoryRow.memory_id) == call.memory_id)
    return connection.execute(sa.update(MemoryRow).where(where).values(pinned=call.pinned)).rowcount


@dataclass(frozen=True)
class Retention:
    """How long records of each class are kept after their end. A class that is not named is kept for ever.

    `CLASS/superseded` says how long those versions are kept that a later one holds instead of.
    """

    keep: dict[str, timedelta]

    def find_overdue(self, connection: sa.Connection, now: datetime, limit: int) -> tuple[list[sa.Row[MemoryRow]], int]:
        """Return up to LIMIT versions whose time is over at NOW, and how many more a legal hold keeps."""
        row = MemoryRow
        over = []
        for name, kept in self.keep.items():
            kind = name.removesuffix(SUPERSEDED)
            ends = (col(row.superseded_at),) if name.endswith(SUPERSEDED) else (col(row.expires_at), col(row.forgotten_at))
            over.append((col(row.retention_class) == kind) & sa.or_(*(end <= now - kept for end in ends)))
        if not over:
            return [], 0
        ended = sa.and_(col(row.erased_at).is_(None), sa.or_(*over))
        free = sa.select(row).where(ended, ~col(row.legal_hold))
        rows = connection.execute(free.order_by(col(row.recorded_at), col(row.version_id)).limit(limit)).all()
        held = sa.select(sa.func.count()).select_from(row).where(ended, col(row.legal_hold))
        return list(rows), connection.execute(held).scalar_one()


def as_overdue(row: sa.Row[MemoryRow]) -> OverdueVersion:
    """Return what a sweep says of ROW."""
    ends = [end for end in (row.expires_at, row.forgotten_at, row.superseded_at) if end is not None]
    return OverdueVersion(
        memory_id=row.memory_id,
        version=row.version,
        version_id=row.version_id,
        retention=row.retention_class,
        ended_at=min(ends),
    )


def _is_in_scope(scope: Scope) -> sa.ColumnElement[bool]:
    columns = {
        "tenant": col(MemoryRow.scope_tenant),
        "agent": col(MemoryRow.scope_agent),
        "user": col(MemoryRow.scope_user),
        "session": col(MemoryRow.scope_session),
    }
    return sa.and_(*(columns[name] == value for name, value in scope if value is not None))


def _update_versions(connection: sa.Connection, version_ids: Sequence[str], **values: object) -> None:
    for start in range(0, len(version_ids), 500):
        page = version_ids[start : start + 500]
        connection.execute(sa.update(MemoryRow).where(col(MemoryRow.version_id).in_(page)).values(values))

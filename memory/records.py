"""How a memory is written to SQL and read back: its versions, its scope, and when each version counts."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import cast

import sqlalchemy as sa
from pydantic import JsonValue
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from perdure.errors import InvalidInput
from perdure.lineage import StepRef, digest
from perdure.memory.contracts import Kind, MemoryRecord, RememberCall, Remembered, Scope
from perdure.memory.index import FOR_EVER, microseconds
from perdure.memory.tables import MemoryRow, OutboxRow

NAMES = uuid.UUID("6f0d7a52-4a0b-5b0e-9d3c-2b8f1d1f6c11")
"""The namespace of our UUIDv5. Never changes: ids in databases come from it."""


def scope_key(scope: Scope) -> str:
    """Return the digest of SCOPE by which SQL and the index select exactly its records."""
    return digest([scope.tenant, scope.agent, scope.user, scope.session]).removeprefix("sha256:")[:32]


def checked(call: RememberCall) -> RememberCall:
    """Return CALL if it can be stored. Raises `InvalidInput` naming the field."""
    texts = {"content": call.content, "subject": call.subject, "memory_id": call.memory_id, "step": str(call.step)}
    for field, text in {**texts, **{f"scope.{name}": value for name, value in call.scope}}.items():
        if text is not None and "\x00" in text:
            raise InvalidInput(f"{field} holds a NUL character, which PostgreSQL cannot store; remove it")
    if call.memory_id is not None and not 1 <= len(call.memory_id) <= 200:
        raise InvalidInput(f"memory_id has {len(call.memory_id)} characters; give it 1 to 200")
    if call.ttl is not None and not timedelta(0) < call.ttl < timedelta(days=365_000):
        raise InvalidInput(f"ttl {call.ttl} is not between nothing and 1,000 years")
    aware("valid_from", call.valid_from)
    return call


def aware(field: str, moment: datetime | None) -> None:
    """Raise `InvalidInput` naming FIELD if MOMENT has no zone."""
    if moment is not None and moment.tzinfo is None:
        raise InvalidInput(f"{field} {moment.isoformat()} has no zone; give it one, e.g. datetime.now(UTC)")


@dataclass(frozen=True)
class Written:
    """What stands in SQL for a call, from when, and the versions that the index has to be told of."""

    remembered: Remembered
    recorded_at: datetime
    changed: tuple[str, ...] = ()


async def write(connection: AsyncConnection, call: RememberCall, now: datetime) -> Written:
    """Write what CALL says at NOW and return what stands.

    The same step with the same argument writes once, however often and from wherever it comes. The same step with another
    argument, as after a reset of its run, writes the next version. Wants a transaction of `Database.write`.
    """
    scope = scope_key(call.scope)
    memory_id = call.memory_id or str(uuid.uuid5(NAMES, digest(_step(call.step))))
    if connection.dialect.name == "postgresql":
        # One writer per memory, so that the look-ups below hold until the commit. SQLite has one writer anyway.
        lock = sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(f"{scope}/{memory_id}", 0)))
        await connection.execute(lock)
    write_key = _write_key(call)
    same = (col(MemoryRow.scope_key) == scope) & (col(MemoryRow.memory_id) == memory_id)
    newest = sa.select(sa.func.max(col(MemoryRow.version))).where(same).scalar_subquery()
    known = sa.select(MemoryRow).where(
        same, sa.or_(col(MemoryRow.write_key) == write_key, col(MemoryRow.version) == newest)
    )
    rows = (await connection.execute(known.order_by(col(MemoryRow.version)))).all()
    for row in rows:
        if row.write_key == write_key:
            same_write = Remembered(memory_id=row.memory_id, version=row.version, content_hash=row.content_hash)
            # Named again, for its first writer may have been stopped before it told the index.
            return Written(same_write, row.recorded_at, (row.version_id,))

    last = rows[-1] if rows else None
    # Clocks step back; the order of versions does not.
    recorded_at = now if last is None else max(now, last.recorded_at + timedelta(microseconds=1))
    valid_from = call.valid_from or recorded_at
    version = 1 if last is None else last.version + 1
    version_id = _version_id(scope, memory_id, version)
    changed = [version_id]
    if last is not None:
        changed += await _supersede(connection, same, from_=max(recorded_at, valid_from))
    content_hash = digest(call.content)
    row_values = {
        "version_id": version_id,
        "memory_id": memory_id,
        "version": version,
        "write_key": write_key,
        "scope_key": scope,
        **{f"scope_{name}": value for name, value in call.scope},
        "kind": call.kind,
        "subject": call.subject,
        "content": call.content,
        "content_hash": content_hash,
        "valid_from": valid_from,
        "recorded_at": recorded_at,
        "expires_at": None if call.ttl is None else recorded_at + call.ttl,
        "source": str(call.step),
    }
    await connection.execute(sa.insert(MemoryRow).values(row_values))
    await connection.execute(sa.insert(OutboxRow), [{"version_id": id_, "queued_at": recorded_at} for id_ in changed])
    remembered = Remembered(memory_id=memory_id, version=version, content_hash=content_hash)
    return Written(remembered, recorded_at, tuple(changed))


def visible(at: datetime) -> sa.ColumnElement[bool]:
    """Return the condition that a version could be recalled AT that moment: known, in force, valid and not expired."""
    row = MemoryRow
    return sa.and_(
        col(row.recorded_at) <= at,
        col(row.valid_from) <= at,
        *(sa.or_(end.is_(None), end > at) for end in (col(row.superseded_at), col(row.valid_to), col(row.expires_at))),
    )


def interval(row: sa.Row[MemoryRow]) -> tuple[int, int]:
    """Return the microseconds in between which `visible` holds for ROW: the first one in, the last one out."""
    since = max(row.recorded_at, row.valid_from)
    ends = [end for end in (row.superseded_at, row.valid_to, row.expires_at) if end is not None]
    return microseconds(since), microseconds(min(ends)) if ends else FOR_EVER


def as_record(row: sa.Row[MemoryRow], *, with_end: bool) -> MemoryRecord:
    """Return ROW as callers see it. WITH_END tells when it was superseded, which nobody knew before."""
    return MemoryRecord(
        memory_id=row.memory_id,
        version=row.version,
        version_id=row.version_id,
        scope=Scope(tenant=row.scope_tenant, agent=row.scope_agent, user=row.scope_user, session=row.scope_session),
        kind=cast(Kind, row.kind),
        subject=row.subject,
        content=row.content,
        content_hash=row.content_hash,
        valid_from=row.valid_from,
        valid_to=row.valid_to,
        recorded_at=row.recorded_at,
        superseded_at=row.superseded_at if with_end else None,
        expires_at=row.expires_at,
        source=row.source,
    )


async def _supersede(connection: AsyncConnection, same: sa.ColumnElement[bool], *, from_: datetime) -> list[str]:
    # A later version that becomes valid in the future leaves the present one in force until then.
    end = col(MemoryRow.superseded_at)
    ending = sa.select(col(MemoryRow.version_id)).where(same, sa.or_(end.is_(None), end > from_))
    ids: Sequence[str] = (await connection.execute(ending)).scalars().all()
    await connection.execute(sa.update(MemoryRow).where(col(MemoryRow.version_id).in_(ids)).values(superseded_at=from_))
    return list(ids)


def _step(step: StepRef) -> list[JsonValue]:
    # Not `str(step)`: workflow ids may hold slashes, so two steps could read the same.
    return [step.lineage.namespace, step.lineage.workflow_id, step.lineage.first_execution_run_id, step.name]


def _write_key(call: RememberCall) -> str:
    # Without defaults, so that a field that is added to the call later leaves the keys of older calls alone.
    said = call.model_dump(mode="json", exclude={"step"}, exclude_defaults=True)
    return digest([*_step(call.step), said])


def _version_id(scope: str, memory_id: str, version: int) -> str:
    return str(uuid.uuid5(NAMES, digest([scope, memory_id, version])))

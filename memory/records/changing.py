"""How a memory goes on: the next version with what changed, and one record in place of several."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlmodel import col

from perdure.errors import InvalidInput, NotFound
from perdure.lineage import digest
from perdure.memory.contracts import RememberCall
from perdure.memory.records.forgetting import retire
from perdure.memory.records.reading import is_memory
from perdure.memory.records.records import (
    WriteResult,
    lock,
    require_valid,
    scope_key,
    step_identity,
    write,
)
from perdure.memory.records.requests import ConsolidateCall, UpdateCall
from perdure.memory.tables import MemoryRow


def update(connection: sa.Connection, call: UpdateCall, now: datetime) -> WriteResult:
    """Write the next version of a memory with what CALL changes. Raises `NotFound` if there is nothing to go on from."""
    scope = scope_key(call.scope)
    lock(connection, scope, call.memory_id)
    # The call and not what it comes to: a retry finds the version that it wrote as the last one.
    key = digest(
        [
            "update",
            *step_identity(call.step),
            call.model_dump(mode="json", exclude={"step", "origin"}, exclude_defaults=True),
        ]
    )
    newest = sa.select(MemoryRow).where(*is_memory(scope, call.memory_id)).order_by(col(MemoryRow.version).desc()).limit(1)
    last = connection.execute(newest).first()
    ended = last is not None and (last.erased_at or last.forgotten_at or (last.expires_at and last.expires_at <= now))
    written_before = sa.select(col(MemoryRow.version)).where(col(MemoryRow.write_key) == key)
    if last is None or (ended and connection.execute(written_before).first() is None):
        raise NotFound(f"no memory {call.memory_id!r} in scope {call.scope} to go on from; `remember` writes a new one")
    following = RememberCall(
        step=call.step,
        scope=call.scope,
        content=call.content or last.content or "-",
        kind=last.kind,
        subject=last.subject,
        predicate=last.predicate,
        memory_id=call.memory_id,
        ttl=call.ttl,
        valid_from=call.valid_from,
        valid_to=call.valid_to,
        confidence=last.confidence if call.confidence is None else call.confidence,
        importance=last.importance if call.importance is None else call.importance,
        labels=tuple(last.labels) if call.labels is None else call.labels,
        retention=call.retention or last.retention_class,
        expected=call.expected,
        origin=call.origin,
    )
    return write(connection, require_valid(following), now, key=key, expires_at=None if call.ttl else last.expires_at)


def consolidate(connection: sa.Connection, call: ConsolidateCall, now: datetime) -> WriteResult:
    """Write one record derived from those that CALL names, and end them. Raises `InvalidInput` for foreign ones."""
    wanted = set(call.version_ids)
    row = MemoryRow
    found = sa.select(col(row.version_id)).where(
        col(row.version_id).in_(wanted), col(row.scope_key) == scope_key(call.scope)
    )
    if foreign := wanted - set(connection.execute(found).scalars()):
        raise InvalidInput(f"version {min(foreign)!r} is none of scope {call.scope}; consolidate records of one scope")
    origin = call.origin.model_copy(update={"derived_from": (*call.origin.derived_from, *call.version_ids)})
    said = RememberCall(
        step=call.step,
        scope=call.scope,
        content=call.content,
        kind=call.kind,
        subject=call.subject,
        predicate=call.predicate,
        labels=call.labels,
        confidence=call.confidence,
        origin=origin,
    )
    written = write(connection, require_valid(said), now)
    if written.remembered.erased or not call.retire:
        return written
    at = max(now, written.recorded_at)
    mine = written.remembered.version_id
    retired = retire(connection, [each for each in call.version_ids if each != mine], at)
    return WriteResult(written.remembered, written.recorded_at, (*written.changed, *retired))

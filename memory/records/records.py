"""How a memory is written to SQL: once, as the next version of its chain, with its source."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from pydantic import JsonValue
from sqlmodel import col

from perdure.errors import InvalidInput
from perdure.lineage import StepRef, digest
from perdure.memory.contracts import RememberCall, RememberResult
from perdure.memory.records.reading import (
    as_record,
    index_interval,
    is_visible,
    require_storable,
)
from perdure.memory.records.run_scopes import record_run_scopes, scope_key
from perdure.memory.tables import (
    DerivedRow,
    MemoryRow,
    OutboxRow,
    ReceiptRow,
    SourceRow,
    TombstoneRow,
)

__all__ = [
    "NAMES",
    "WriteResult",
    "as_record",
    "enqueue",
    "index_interval",
    "is_visible",
    "lock",
    "memory_key",
    "require_valid",
    "require_zone",
    "scope_key",
    "step_identity",
    "step_key",
    "thread_key",
    "version_id_of",
    "write",
]

NAMES = uuid.UUID("6f0d7a52-4a0b-5b0e-9d3c-2b8f1d1f6c11")
"""The namespace of our UUIDv5. Never changes: ids in databases come from it."""
TICK = timedelta(microseconds=1)


def thread_key(scope: str, step: StepRef) -> str:
    """Return the digest by which a recall finds what the run of STEP remembered in SCOPE, in order."""
    return digest([scope, *step_identity(step)[:3]]).removeprefix("sha256:")[:32]


def memory_key(scope: str, memory_id: str) -> str:
    """Return by which name an erased memory is known."""
    return digest([scope, memory_id])


def step_key(scope: str, chain: str, step: list[JsonValue]) -> str:
    """Return by which name it is known that a STEP wrote to CHAIN, without what it wrote."""
    return digest([*step, scope, chain])


def require_valid(call: RememberCall) -> RememberCall:
    """Return CALL if it can be stored. Raises `InvalidInput` naming the field."""
    texts = {"content": call.content, "subject": call.subject, "predicate": call.predicate, "memory_id": call.memory_id}
    texts |= {"step": str(call.step), "labels": "".join(call.labels), "retention": call.retention}
    texts |= {f"origin.{name}": str(value) for name, value in call.origin}
    require_storable(scope=call.scope, **texts)
    if call.memory_id is not None and not 1 <= len(call.memory_id) <= 200:
        raise InvalidInput(f"memory_id has {len(call.memory_id)} characters; give it 1 to 200")
    if call.predicate is not None and not (call.predicate.strip() and (call.subject or "").strip()):
        raise InvalidInput("predicate goes with a subject: a fact is named by both, as in subject='ada', predicate='home'")
    if call.ttl is not None and not timedelta(0) < call.ttl < timedelta(days=365_000):
        raise InvalidInput(f"ttl {call.ttl} is not between nothing and 1,000 years")
    require_zone("valid_from", call.valid_from)
    require_zone("valid_to", call.valid_to)
    return call


def require_zone(field: str, moment: datetime | None) -> None:
    """Raise `InvalidInput` naming FIELD if MOMENT has no zone."""
    if moment is not None and moment.tzinfo is None:
        raise InvalidInput(f"{field} {moment.isoformat()} has no zone; give it one, e.g. datetime.now(UTC)")


@dataclass(frozen=True)
class WriteResult:
    """What stands in SQL for a call, from when, and the versions that the index has to be told of."""

    remembered: RememberResult
    recorded_at: datetime
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Target:
    """Where a call's version belongs."""

    scope: str
    memory_id: str
    chain: str
    subject: str | None
    predicate: str | None
    last: sa.Row[MemoryRow] | None
    """The newest version of the chain, which may be of a memory of another name."""


def write(
    connection: sa.Connection,
    call: RememberCall,
    now: datetime,
    *,
    key: str | None = None,
    expires_at: datetime | None = None,
) -> WriteResult:
    """Write what CALL says at NOW and return what stands. KEY names another call, EXPIRES_AT is for one without a ttl.

    The same step with the same argument writes once, however often and from wherever it comes. The same step with another
    argument, as after a reset of its run, writes the next version. Wants a transaction of `Database.transact`.
    """
    place = _find_target(connection, call)
    write_key = key or _write_key(call)
    standing = sa.select(MemoryRow).where(col(MemoryRow.write_key) == write_key)
    row = connection.execute(standing).first()
    if row is not None:
        # Named again, for its first writer may have been stopped before it told the index.
        return WriteResult(_as_result(row), row.recorded_at, (row.version_id,))
    version, epoch, erased = _next_version(connection, call, place)
    if erased or _is_source_erased(connection, call):
        nothing = RememberResult(memory_id=place.memory_id, version=0, content_hash="", erased=True)
        return WriteResult(nothing, now)
    if call.expected is not None and call.expected != version - 1:
        raise InvalidInput(
            f"memory {place.memory_id!r} is at version {version - 1}, not {call.expected}: it changed meanwhile. "
            "Read it again and decide anew"
        )
    # Clocks step back; the order of versions does not.
    recorded_at = now if place.last is None else max(now, place.last.recorded_at + TICK)
    valid_from = call.valid_from or recorded_at
    if call.valid_to is not None and call.valid_to <= valid_from:
        raise InvalidInput(f"valid_to {call.valid_to.isoformat()} is not after valid_from {valid_from.isoformat()}")
    changed = []
    if place.last is not None and call.valid_to is None:
        # A later version that becomes valid in the future leaves the present one in force until then.
        changed = _supersede(connection, place, from_=max(recorded_at, valid_from))
    version_id = version_id_of(place.scope, place.memory_id, epoch, version)
    values = {
        **_content_columns(call, place),
        "version_id": version_id,
        "version": version,
        "epoch": epoch,
        "write_key": write_key,
        "valid_from": valid_from,
        "valid_to": call.valid_to,
        "recorded_at": recorded_at,
        "expires_at": expires_at if call.ttl is None else recorded_at + call.ttl,
        # What holds of a memory holds of its next version: a hold is not lost by writing on.
        "legal_hold": call.legal_hold or (place.last is not None and place.last.legal_hold),
        "pinned": place.last is not None and place.last.pinned,
    }
    connection.execute(sa.insert(MemoryRow).values(values))
    _write_source(connection, call, version_id)
    record_run_scopes(connection, call.step.lineage, [call.scope])
    enqueue(connection, [version_id, *changed], recorded_at)
    remembered = RememberResult(
        memory_id=place.memory_id, version=version, content_hash=str(values["content_hash"]), version_id=version_id
    )
    return WriteResult(remembered, recorded_at, (version_id, *changed))


def enqueue(connection: sa.Connection, version_ids: list[str], now: datetime) -> None:
    """Have the index told of VERSION_IDS."""
    if version_ids:
        connection.execute(sa.insert(OutboxRow), [{"version_id": id_, "queued_at": now} for id_ in version_ids])


def lock(connection: sa.Connection, scope: str, name: str) -> None:
    """Make other writers of NAME in SCOPE wait until this transaction ends. SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        held = sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(f"{scope}/{name}", 0)))
        connection.execute(held)


def _find_target(connection: sa.Connection, call: RememberCall) -> _Target:
    scope = scope_key(call.scope)
    chain = _fact_chain(call.subject, call.predicate)
    subject, predicate, memory_id = call.subject, call.predicate, call.memory_id
    if memory_id is None and chain is None:
        memory_id = str(uuid.uuid5(NAMES, digest(step_identity(call.step))))
    if memory_id is not None:
        # Always before the chain's lock, so that two writers never wait for each other.
        lock(connection, scope, memory_id)
        standing = sa.select(MemoryRow).where(col(MemoryRow.scope_key) == scope, col(MemoryRow.memory_id) == memory_id)
        first = connection.execute(standing.order_by(col(MemoryRow.version).desc()).limit(1)).first()
        if first is not None:
            if chain is not None and chain != first.chain:
                raise InvalidInput(
                    f"memory {memory_id!r} does not state {call.predicate!r} of {call.subject!r}; "
                    "leave memory_id out: the fact's own memory is found by subject and predicate"
                )
            chain = str(first.chain)
            if first.predicate is not None:
                subject, predicate = first.subject, first.predicate
    chain = chain or f"m:{memory_id}"
    if chain.startswith("f:"):
        lock(connection, scope, chain)
    newest = sa.select(MemoryRow).where(col(MemoryRow.scope_key) == scope, col(MemoryRow.chain) == chain)
    last = connection.execute(newest.order_by(col(MemoryRow.recorded_at).desc()).limit(1)).first()
    if memory_id is None:
        memory_id = last.memory_id if last is not None else str(uuid.uuid5(NAMES, digest([scope, chain])))
    return _Target(scope, memory_id, chain, subject, predicate, last)


def _next_version(connection: sa.Connection, call: RememberCall, place: _Target) -> tuple[int, int, bool]:
    """Return the version and epoch that come next, and whether what this step wrote before was erased."""
    mine = col(MemoryRow.scope_key) == place.scope, col(MemoryRow.memory_id) == place.memory_id
    highest = sa.select(sa.func.max(col(MemoryRow.version)), sa.func.max(col(MemoryRow.epoch))).where(*mine)
    version, epoch = connection.execute(highest).one()
    memory, step = memory_key(place.scope, place.memory_id), step_key(place.scope, place.chain, step_identity(call.step))
    row = TombstoneRow
    buried = sa.select(col(row.epoch), col(row.memory_key), col(row.step_key)).where(
        sa.or_(col(row.memory_key) == memory, col(row.step_key) == step)
    )
    gone = connection.execute(buried).all()
    if version is None:
        version, epoch = 0, max((each.epoch + 1 for each in gone if each.memory_key == memory), default=0)
    return version + 1, epoch, any(each.step_key == step for each in gone)


def _is_source_erased(connection: sa.Connection, call: RememberCall) -> bool:
    """Return whether something that CALL is derived from was erased. Raises `InvalidInput` for what never was."""
    wanted = set(call.origin.derived_from)
    if not wanted:
        return False
    row = MemoryRow
    found = sa.select(col(row.version_id), col(row.erased_at)).where(
        col(row.version_id).in_(wanted), col(row.scope_tenant) == call.scope.tenant
    )
    # Shared with other writers; an erasure that comes meanwhile waits, and then sees what was derived.
    rows = connection.execute(found.with_for_update(read=True)).all()
    if missing := wanted - {each.version_id for each in rows}:
        ours = sa.join(TombstoneRow, ReceiptRow, col(TombstoneRow.receipt_id) == col(ReceiptRow.receipt_id))
        buried = (
            sa.select(col(TombstoneRow.version_id))
            .select_from(ours)
            .where(col(TombstoneRow.version_id).in_(missing), col(ReceiptRow.scope_tenant) == call.scope.tenant)
        )
        gone = set(connection.execute(buried).scalars())
        if unknown := missing - gone:
            raise InvalidInput(
                f"derived_from names {min(unknown)!r}, which is no version of a memory of tenant {call.scope.tenant!r}; "
                "give the `version_id` of records"
            )
        return True
    return any(each.erased_at is not None for each in rows)


def _supersede(connection: sa.Connection, place: _Target, *, from_: datetime) -> list[str]:
    row = MemoryRow
    ending = sa.select(col(row.version_id)).where(
        col(row.scope_key) == place.scope,
        col(row.chain) == place.chain,
        col(row.erased_at).is_(None),
        sa.or_(col(row.superseded_at).is_(None), col(row.superseded_at) > from_),
    )
    ids = list(connection.execute(ending).scalars())
    connection.execute(sa.update(row).where(col(row.version_id).in_(ids)).values(superseded_at=from_))
    return ids


def _content_columns(call: RememberCall, place: _Target) -> dict[str, object]:
    return {
        "memory_id": place.memory_id,
        "chain": place.chain,
        "scope_key": place.scope,
        **{f"scope_{name}": value for name, value in call.scope},
        "kind": call.kind,
        "subject": place.subject,
        "predicate": place.predicate,
        "content": call.content,
        "content_hash": digest(call.content),
        "confidence": call.confidence,
        "importance": call.importance,
        "labels": list(call.labels),
        "retention_class": call.retention,
        "source": str(call.step),
        "thread": thread_key(place.scope, call.step),
    }


def _write_source(connection: sa.Connection, call: RememberCall, version_id: str) -> None:
    step, origin = call.step, call.origin
    source = {
        "version_id": version_id,
        **step.lineage.model_dump(),
        "run_id": step.run_id,
        "workflow_type": step.workflow_type,
        "step": step.name,
        **origin.model_dump(exclude={"derived_from"}),
    }
    connection.execute(sa.insert(SourceRow).values(source))
    if origin.derived_from:
        pairs = [{"version_id": version_id, "from_version_id": each} for each in dict.fromkeys(origin.derived_from)]
        connection.execute(sa.insert(DerivedRow), pairs)


def _as_result(row: sa.Row[MemoryRow]) -> RememberResult:
    return RememberResult(
        memory_id=row.memory_id,
        version=row.version,
        content_hash=row.content_hash,
        version_id=row.version_id,
        erased=row.erased_at is not None,
    )


def _fact_chain(subject: str | None, predicate: str | None) -> str | None:
    """Return the chain of the fact that SUBJECT and PREDICATE name, however they are spaced and capitalised."""
    if predicate is None:
        return None
    return "f:" + digest([" ".join(text.split()).casefold() for text in (subject or "", predicate)])


def step_identity(step: StepRef) -> list[JsonValue]:
    """Return what names STEP for good."""
    # Not `str(step)`: workflow ids may hold slashes, so two steps could read the same.
    return [step.lineage.namespace, step.lineage.workflow_id, step.lineage.first_execution_run_id, step.name]


def _write_key(call: RememberCall) -> str:
    # Without defaults, so that a field that is added to the call later leaves the keys of older calls alone.
    said = call.model_dump(mode="json", exclude={"step", "origin"}, exclude_defaults=True)
    return digest([*step_identity(call.step), said])


def version_id_of(scope: str, memory_id: str, epoch: int, version: int) -> str:
    """Return the id of that VERSION of MEMORY_ID, after the memory was erased EPOCH times."""
    # Records from before erasure existed have ids without an epoch.
    return str(uuid.uuid5(NAMES, digest([scope, memory_id, *([epoch] if epoch else []), version])))

"""How every trace of a memory goes from SQL: with what was made from it, against a receipt, and for good."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import sqlalchemy as sa
from pydantic import JsonValue
from sqlmodel import col

from perdure.errors import OnHold
from perdure.lineage import StepRef, digest
from perdure.memory.contracts import Scope
from perdure.memory.conversations import erasure as conversations
from perdure.memory.records import (
    NAMES,
    enqueue,
    lock,
    memory_key,
    scope_key,
    step_key,
)
from perdure.memory.tables import (
    AccessRow,
    DerivedRow,
    MemoryRow,
    ReceiptRow,
    SourceRow,
    SubjectKeyRow,
    TombstoneRow,
)

PAGE = 500
# Of routing, which memory does not know.
_ANSWERS = sa.table("model_answer", sa.column("value", sa.Text))
_CALLS = sa.table("model_call", sa.column("answer", sa.Text))


@dataclass(frozen=True)
class ErasureOrder:
    """Who wants something erased, and why."""

    step: StepRef
    scope: Scope | None
    """None: conversations of runs, whoever they were about."""
    cause: Literal["erase", "retention"]
    why: str = ""
    by: str = ""

    @property
    def receipt(self) -> str:
        """The id of the receipt: a retried step asks for the same erasure."""
        lineage = self.step.lineage
        place = [lineage.namespace, lineage.workflow_id, lineage.first_execution_run_id, self.step.name]
        return str(uuid.uuid5(NAMES, digest(["erase", *place, self.scope_key])))

    @property
    def scope_key(self) -> str:
        """The key of the scope; empty if there is none."""
        return scope_key(self.scope) if self.scope else ""


@dataclass(frozen=True)
class Erasure:
    """What was erased. The texts are only for finding what is left of them in files; nothing else may keep them."""

    receipt: str
    memories: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    conversations: tuple[str, ...] = ()
    messages: int = 0
    texts: tuple[str, ...] = field(default=(), repr=False)


def find_versions(connection: sa.Connection, where: sa.ColumnElement[bool], *, derived: bool) -> list[sa.Row[MemoryRow]]:
    """Return the versions that WHERE selects and, if DERIVED, all that was made from them; nobody changes them meanwhile.

    What is selected is locked first: a writer who derives from it either waits, or is done and is found.
    """
    named = sa.select(col(MemoryRow.scope_key), col(MemoryRow.memory_id)).where(where).distinct()
    for place in sorted(connection.execute(named).all()):
        lock(connection, *place)
    rows = list(connection.execute(sa.select(MemoryRow).where(where).with_for_update()))
    found = {row.version_id: row for row in rows}
    fresh = list(found)
    while derived and fresh:
        fresh = []
        for page in _pages(list(found)):
            made = sa.select(col(DerivedRow.version_id)).where(col(DerivedRow.from_version_id).in_(page))
            more = sa.select(MemoryRow).where(col(MemoryRow.version_id).in_(made), col(MemoryRow.erased_at).is_(None))
            for row in connection.execute(more.with_for_update()):
                if row.version_id not in found:
                    found[row.version_id] = row
                    fresh.append(row.version_id)
    return list(found.values())


def refuse_held(rows: Iterable[sa.Row[MemoryRow]]) -> None:
    """Raise `OnHold` if a legal hold keeps any of ROWS."""
    held = sorted({row.memory_id for row in rows if row.legal_hold})
    if held:
        named = ", ".join(map(repr, held[:5])) + (", ..." if len(held) > 5 else "")
        raise OnHold(
            f"a legal hold keeps {len(held)} of what would be erased: {named}. Nothing was erased; "
            "lift the hold, or name only memories that are free"
        )


def preview(rows: Sequence[sa.Row[MemoryRow]], talks: Sequence[conversations.AffectedConversation]) -> Erasure:
    """Return what an erasure of ROWS and TALKS would take."""
    return Erasure(
        receipt="",
        memories=tuple(dict.fromkeys(row.memory_id for row in rows)),
        versions=tuple(row.version_id for row in rows),
        conversations=tuple(each.label for each in talks),
        messages=sum(each.messages for each in talks),
    )


def erase(
    connection: sa.Connection,
    rows: Sequence[sa.Row[MemoryRow]],
    order: ErasureOrder,
    now: datetime,
    *,
    talks: Sequence[conversations.AffectedConversation] = (),
) -> Erasure:
    """Take out of SQL what ROWS and TALKS say and who used them, and leave a receipt.

    Returns what is gone, the same when retried.
    """
    standing = connection.execute(sa.select(ReceiptRow).where(col(ReceiptRow.receipt_id) == order.receipt)).first()
    if standing is not None:
        if rows or talks:  # the step's name was used for another erasure before, or something was written since
            return _erase(connection, rows, talks, order, now, receipt=None)
        gone = sa.select(col(TombstoneRow.version_id)).where(col(TombstoneRow.receipt_id) == order.receipt)
        versions = tuple(connection.execute(gone).scalars())
        return Erasure(order.receipt, versions=versions, messages=standing.messages)
    return _erase(connection, rows, talks, order, now, receipt=order.receipt)


def destroy_keys(connection: sa.Connection, scopes: Iterable[str], now: datetime) -> None:
    """Destroy the keys of SCOPES: what lies elsewhere under them can't be read any more."""
    row = SubjectKeyRow
    ending = sa.update(row).where(col(row.scope_key).in_(list(scopes)), col(row.key).is_not(None))
    connection.execute(ending.values(key=None, destroyed_at=now))


def unfinished_receipts(connection: sa.Connection) -> list[str]:
    """Return the receipts of erasures whose bytes may still be in files."""
    row = ReceiptRow
    return list(connection.execute(sa.select(col(row.receipt_id)).where(col(row.completed_at).is_(None))).scalars())


def mark_complete(connection: sa.Connection, receipts: Sequence[str], now: datetime) -> None:
    """Write down that the files hold nothing of what RECEIPTS are about."""
    connection.execute(sa.update(ReceiptRow).where(col(ReceiptRow.receipt_id).in_(receipts)).values(completed_at=now))


def _erase(
    connection: sa.Connection,
    rows: Sequence[sa.Row[MemoryRow]],
    talks: Sequence[conversations.AffectedConversation],
    order: ErasureOrder,
    now: datetime,
    *,
    receipt: str | None,
) -> Erasure:
    ids = [row.version_id for row in rows]
    named: list[JsonValue] = sorted(ids + [each.row.id for each in talks])
    receipt_id = receipt or str(uuid.uuid5(NAMES, digest([order.receipt, *named])))
    _write_tombstones(connection, rows, receipt_id)
    for page in _pages(ids):
        connection.execute(sa.delete(AccessRow).where(col(AccessRow.version_id).in_(page)))
        connection.execute(sa.delete(DerivedRow).where(col(DerivedRow.version_id).in_(page)))
        connection.execute(sa.delete(DerivedRow).where(col(DerivedRow.from_version_id).in_(page)))
        connection.execute(sa.delete(SourceRow).where(col(SourceRow.version_id).in_(page)))
    whole = _emptied_chains(connection, rows)
    _blank(connection, [row.version_id for row in rows if (row.scope_key, row.chain) not in whole], now)
    for scope, chain in whole:
        gone = sa.delete(MemoryRow).where(col(MemoryRow.scope_key) == scope, col(MemoryRow.chain) == chain)
        connection.execute(gone)
    enqueue(connection, ids, now)
    said = conversations.erase(connection, talks, receipt_id, now) if talks else []
    said += _empty_cache(connection) if ids or talks else []
    memories = tuple(dict.fromkeys(row.memory_id for row in rows))
    connection.execute(
        sa.insert(ReceiptRow).values(
            receipt_id=receipt_id,
            scope_tenant=order.scope.tenant if order.scope else "",
            scope_key=order.scope_key,
            cause=order.cause,
            why=order.why,
            requested_by=order.by,
            source=str(order.step),
            erased_at=now,
            memories=len(memories),
            versions=len(ids),
            conversations=len(talks),
            messages=sum(each.messages for each in talks),
            completed_at=None if ids or talks else now,
        )
    )
    texts = {text for row in rows for text in (row.content, row.subject, row.predicate, *row.labels) if text}
    return Erasure(
        receipt_id,
        memories,
        tuple(ids),
        conversations=tuple(each.label for each in talks),
        messages=sum(each.messages for each in talks),
        texts=(*texts, *said),
    )


def _empty_cache(connection: sa.Connection) -> list[str]:
    """Drop the answers of models that are kept for a time, and return them: any may have been given with what is erased.

    All of them, for nothing says from what they were made; whoever wants one asks again. A question that is on its way
    finds its place gone and is not kept. So it is with those that are kept an hour for a later attempt of their step.
    """
    kept = connection.execute(sa.select(_ANSWERS.c.value).where(_ANSWERS.c.value.is_not(None))).scalars().all()
    connection.execute(sa.delete(_ANSWERS))
    own = connection.execute(sa.select(_CALLS.c.answer).where(_CALLS.c.answer.is_not(None))).scalars().all()
    connection.execute(sa.update(_CALLS).where(_CALLS.c.answer.is_not(None)).values(answer=None))
    return [*kept, *own]


def _write_tombstones(connection: sa.Connection, rows: Sequence[sa.Row[MemoryRow]], receipt_id: str) -> None:
    by_id = {row.version_id: row for row in rows}
    stones = []
    for page in _pages(list(by_id)):
        for source in connection.execute(sa.select(SourceRow).where(col(SourceRow.version_id).in_(page))):
            row = by_id[source.version_id]
            step = [source.namespace, source.workflow_id, source.first_execution_run_id, source.step]
            stones.append(
                {
                    "version_id": row.version_id,
                    "receipt_id": receipt_id,
                    "memory_key": memory_key(row.scope_key, row.memory_id),
                    "epoch": row.epoch,
                    "step_key": step_key(row.scope_key, row.chain, step),
                }
            )
    if stones:
        connection.execute(sa.insert(TombstoneRow), stones)


def _emptied_chains(connection: sa.Connection, rows: Sequence[sa.Row[MemoryRow]]) -> set[tuple[str, str]]:
    """Return the chains of which nothing is left besides ROWS and what was erased earlier."""
    ids = {row.version_id for row in rows}
    whole = set()
    for scope, chain in {(row.scope_key, row.chain) for row in rows}:
        living = sa.select(col(MemoryRow.version_id)).where(
            col(MemoryRow.scope_key) == scope, col(MemoryRow.chain) == chain, col(MemoryRow.erased_at).is_(None)
        )
        if ids.issuperset(connection.execute(living).scalars()):
            whole.add((scope, chain))
    return whole


def _blank(connection: sa.Connection, version_ids: list[str], now: datetime) -> None:
    # The times stay: without them, an older version would seem to hold again.
    for page in _pages(version_ids):
        # Names of steps are people's texts too.
        said: dict[str, object] = {
            "content": "",
            "content_hash": "",
            "subject": None,
            "predicate": None,
            "labels": [],
            "source": "erased",
        }
        erased = {**said, "erased_at": now, "write_key": sa.literal("erased:") + col(MemoryRow.version_id)}
        connection.execute(sa.update(MemoryRow).where(col(MemoryRow.version_id).in_(page)).values(erased))


def _pages(items: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), PAGE):
        yield items[start : start + PAGE]

"""What a conversation stands on: that it may go on, and which memories its answers were made from."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import col

from perdure.errors import Erased, ErasedMeanwhile
from perdure.lineage import Lineage
from perdure.memory.conversations.tables import AnswerSourceRow, ConversationRow
from perdure.memory.tables import MemoryRow
from perdure.storage import now


def begin_conversation(connection: sa.Connection, id: str, lineage: Lineage, name: str) -> None:
    """Write down that there is a conversation ID, called NAME, of the run LINEAGE; once is enough."""
    if connection.execute(sa.select(col(ConversationRow.id)).where(col(ConversationRow.id) == id)).first() is None:
        row = {"id": id, "name": name, **lineage.model_dump(), "begun_at": now(), "legal_hold": False}
        connection.execute(_INSERT[connection.dialect.name], [row])


def refuse_ended(connection: sa.Connection, id: str, name: str, *, at_all: bool = True) -> None:
    """Raise `Erased` if the conversation ID, called NAME, was erased: AT_ALL, also its end alone."""
    row = connection.execute(sa.select(ConversationRow).where(col(ConversationRow.id) == id)).first()
    if row is not None and row.erased_at is not None and (at_all or row.erased_from == 1):
        raise Erased(
            f"what was said in conversation {name!r} was erased on {row.erased_at:%Y-%m-%d}, receipt {row.receipt_id}. To "
            " go on without it, catch `Erased` and call the conversation's `anew()`; otherwise let the run end."
        )


def refuse_erased(connection: sa.Connection, version_ids: Sequence[str]) -> None:
    """Raise `ErasedMeanwhile` if one of VERSION_IDS is not there any more; an erasure that comes later waits."""
    if version_ids:
        row = MemoryRow
        standing = sa.select(col(row.version_id)).where(col(row.version_id).in_(version_ids), col(row.erased_at).is_(None))
        # Before the conversation, which is the order of an erasure too: so neither waits for the other for ever.
        there = set(connection.execute(standing.with_for_update(read=True)).scalars())
        if gone := set(version_ids) - there:
            raise ErasedMeanwhile(
                f"memory version {min(gone)} was erased while a model was shown it, so its answer was not kept. "
                "The next attempt asks without it."
            )


def record_sources(connection: sa.Connection, conversation: str, position: int, version_ids: Sequence[str]) -> None:
    """Write down that what is said in CONVERSATION from POSITION on was made from VERSION_IDS, if nothing earlier was."""
    if not version_ids:
        return
    row = AnswerSourceRow
    earlier = sa.select(col(row.version_id)).where(
        col(row.conversation) == conversation, col(row.version_id).in_(version_ids), col(row.position) <= position
    )
    known = set(connection.execute(earlier).scalars())
    rows = [
        {"version_id": each, "conversation": conversation, "position": position}
        for each in dict.fromkeys(version_ids)
        if each not in known
    ]
    if rows:
        connection.execute(sa.insert(row), rows)


_INSERT = {
    "sqlite": sqlite.insert(ConversationRow).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(ConversationRow).on_conflict_do_nothing(),
}

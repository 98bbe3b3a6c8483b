"""Which conversations an erasure reaches, and how they go from SQL; which ones are held, and which there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlmodel import col

from perdure.errors import OnHold
from perdure.memory.contracts import Scope
from perdure.memory.conversations.tables import (
    AnswerSourceRow,
    ConversationRow,
    MessageRow,
    SummaryRow,
)
from perdure.memory.records import is_in_scope, lock
from perdure.memory.records.requests import ConversationInfo, ConversationsCall, ForgetCall
from perdure.memory.records.tables import RunScopeRow

PAGE = 500


@dataclass(frozen=True)
class AffectedConversation:
    """A conversation that an erasure reaches, from one of its messages on."""

    row: sa.Row[ConversationRow]
    position: int
    """1: all of it."""
    messages: int

    @property
    def label(self) -> str:
        """How people find it."""
        return f"{self.row.workflow_id}/{self.row.first_execution_run_id}/{self.row.name}"


def find_affected(connection: sa.Connection, call: ForgetCall, version_ids: Sequence[str]) -> list[AffectedConversation]:
    """Return what an erasure of VERSION_IDS by CALL reaches; nobody adds to it meanwhile.

    An answer that was given with one of them, and what was said after it. With `everything`, also the conversations of the
    scope: those that were said to be of it and, if it is a user's or a session's, those of runs that recalled from it or
    remembered in it. What an agent knows is not of one person: of that, only the answers go.
    """
    found = find_answers_from(connection, version_ids)
    if call.everything:
        found |= dict.fromkeys(of_scope(connection, call.scope, narrower=call.narrower), 1)
    return lock_conversations(connection, found)


def find_answers_from(connection: sa.Connection, version_ids: Sequence[str]) -> dict[str, int]:
    """Return the conversations in which a model answered with one of VERSION_IDS, and where it first did."""
    found: dict[str, int] = {}
    row = AnswerSourceRow
    for page in _pages(version_ids):
        first = sa.select(col(row.conversation), sa.func.min(col(row.position)).label("position"))
        for each in connection.execute(first.where(col(row.version_id).in_(page)).group_by(col(row.conversation))):
            found[each.conversation] = min(each.position, found.get(each.conversation, each.position))
    return found


def of_scope(connection: sa.Connection, scope: Scope, *, narrower: bool = False) -> list[str]:
    """Return the conversations of SCOPE and, if NARROWER, of scopes that name more."""
    row = RunScopeRow
    theirs = is_in_scope(scope, narrower=narrower)
    said = sa.select(col(row.conversation)).where(theirs, col(row.conversation) != "")
    ids = list(connection.execute(said.distinct()).scalars())
    somebody = sa.or_(col(row.scope_user).is_not(None), col(row.scope_session).is_not(None))
    runs = sa.select(col(row.workflow_id), col(row.first_execution_run_id)).where(theirs, somebody)
    for run in connection.execute(runs.distinct()).all():
        ids += of_run(connection, run.workflow_id, run.first_execution_run_id)
    return list(dict.fromkeys(ids))


def of_run(
    connection: sa.Connection,
    workflow_id: str,
    first_execution_run_id: str | None = None,
    *,
    namespace: str | None = None,
) -> list[str]:
    """Return the conversations in which a run of WORKFLOW_ID, by default any of any namespace, has said something."""
    said = sa.select(col(MessageRow.conversation)).where(col(MessageRow.workflow_id) == workflow_id)
    if first_execution_run_id is not None:
        said = said.where(col(MessageRow.first_execution_run_id) == first_execution_run_id)
    if namespace is not None:
        said = said.where(col(MessageRow.namespace) == namespace)
    return list(connection.execute(said.distinct()).scalars())


def lock_conversations(connection: sa.Connection, found: Mapping[str, int]) -> list[AffectedConversation]:
    """Return what there still is of the conversations FOUND, by id, from their position on; nobody adds to it meanwhile."""
    there = []
    for id, position in sorted(found.items()):
        lock(connection, id, "conversation")
        row = connection.execute(sa.select(ConversationRow).where(col(ConversationRow.id) == id)).first()
        if row is not None and row.erased_from != 1:
            count = sum(
                connection.execute(_count_query(table, id, position)).scalar_one() for table in (MessageRow, SummaryRow)
            )
            if count:
                there.append(AffectedConversation(row, position, count))
    return there


def refuse_held(those: Iterable[AffectedConversation]) -> None:
    """Raise `OnHold` if a legal hold keeps any of THOSE."""
    held = [each.label for each in those if each.row.legal_hold]
    if held:
        named = ", ".join(map(repr, held[:5])) + (", ..." if len(held) > 5 else "")
        raise OnHold(
            f"a legal hold keeps {len(held)} conversations that would be erased: {named}. Nothing was erased; "
            "lift the hold, or name only what is free"
        )


def erase(connection: sa.Connection, those: Sequence[AffectedConversation], receipt: str, now: datetime) -> list[str]:
    """Delete THOSE against RECEIPT and return what was said, only for finding what is left of it in files."""
    texts: list[str] = []
    for each in those:
        id, position = each.row.id, each.position
        for table in (MessageRow, SummaryRow):
            said = sa.select(col(table.content)).where(*_is_from(table, id, position))
            texts += connection.execute(said).scalars()
            connection.execute(sa.delete(table).where(*_is_from(table, id, position)))
        connection.execute(sa.delete(AnswerSourceRow).where(*_is_from(AnswerSourceRow, id, position)))
        values: dict[str, object] = {"erased_at": now, "receipt_id": receipt}
        values["erased_from"] = min(position, each.row.erased_from or position)
        if position == 1:
            # What people called it is theirs too.
            values["name"] = ""
            connection.execute(sa.delete(RunScopeRow).where(col(RunScopeRow.conversation) == id))
        connection.execute(sa.update(ConversationRow).where(col(ConversationRow.id) == id).values(values))
    # As they lie in the file: JSON, of which a text's quotes say nothing.
    return [text[1:-1] if text.startswith('"') else text for text in texts]


def drop_run_scopes(connection: sa.Connection, scope: Scope, *, narrower: bool) -> None:
    """Delete that runs had to do with SCOPE, of which everything was erased."""
    connection.execute(sa.delete(RunScopeRow).where(is_in_scope(scope, narrower=narrower)))


def hold(connection: sa.Connection, ids: Sequence[str], *, held: bool) -> int:
    """Hold or release the conversations IDS, and return how many."""
    row, count = ConversationRow, 0
    for page in _pages(ids):
        standing = col(row.id).in_(page), sa.or_(col(row.erased_from).is_(None), col(row.erased_from) > 1)
        count += connection.execute(sa.update(row).where(*standing).values(legal_hold=held)).rowcount
    return count


def list_conversations(connection: sa.Connection, call: ConversationsCall) -> list[ConversationInfo]:
    """Return the conversations that CALL asks for, the oldest first, without what was said in them."""
    row = ConversationRow
    query = sa.select(row).order_by(col(row.begun_at), col(row.id))
    ids = select_ids(connection, call)
    if ids is not None:
        query = query.where(col(row.id).in_(ids))
    return [_describe(connection, each) for each in connection.execute(query.limit(call.limit)).all()]


def select_ids(connection: sa.Connection, call: ConversationsCall) -> list[str] | None:
    """Return the ids of the conversations that CALL means; None means all."""
    row = ConversationRow
    ids = None
    if call.workflow_id is not None:
        ids = of_run(connection, call.workflow_id, call.first_execution_run_id, namespace=call.namespace)
    if call.scope is not None:
        theirs = of_scope(connection, call.scope, narrower=call.narrower)
        ids = theirs if ids is None else [each for each in ids if each in theirs]
    if call.name is not None and ids is not None:
        named = sa.select(col(row.id)).where(col(row.id).in_(ids), col(row.name) == call.name)
        ids = list(connection.execute(named).scalars())
    return ids


def _describe(connection: sa.Connection, row: sa.Row[ConversationRow]) -> ConversationInfo:
    said = sa.select(sa.func.count(), sa.func.max(col(MessageRow.stored_at))).where(
        col(MessageRow.conversation) == row.id, col(MessageRow.role) != "state"
    )
    count, last = connection.execute(said).one()
    return ConversationInfo(
        namespace=row.namespace,
        workflow_id=row.workflow_id,
        first_execution_run_id=row.first_execution_run_id,
        name=row.name,
        messages=count,
        begun_at=row.begun_at,
        last_at=last,
        legal_hold=row.legal_hold,
        erased_at=row.erased_at,
        receipt=row.receipt_id or "",
    )


def _count_query(table: type[MessageRow | SummaryRow], id: str, position: int) -> sa.Select[int]:
    return sa.select(sa.func.count()).select_from(table).where(*_is_from(table, id, position))


def _is_from(
    table: type[MessageRow | SummaryRow | AnswerSourceRow], id: str, position: int
) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    return col(table.conversation) == id, col(table.position) >= position


def _pages(items: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), PAGE):
        yield items[start : start + PAGE]

"""Where the messages of conversations are kept, and how a reference becomes what was said."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import rfc8785
import sqlalchemy as sa
from pydantic import JsonValue
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import SQLModel, col

from perdure.errors import InvalidInput, NotFound
from perdure.lineage import Lineage
from perdure.memory.contracts import Scope
from perdure.memory.conversations._sources import (
    begin_conversation,
    record_sources,
    refuse_ended,
    refuse_erased,
)
from perdure.memory.conversations.contracts import (
    ConversationRef,
    NewMessage,
    Role,
    message_id,
    root_of,
    short_digest,
)
from perdure.memory.conversations.tables import MessageRow, SummaryRow
from perdure.memory.records import lock, record_run_scopes
from perdure.storage import Database, now, without_password

PAGE = 32


@dataclass(frozen=True)
class Message:
    """A message as it was stored."""

    id: str
    position: int
    number: int
    role: Role
    name: str
    content: JsonValue
    tokens: int = 0

    @property
    def entry(self) -> dict[str, JsonValue]:
        """What a prompt shows of it."""
        return _entry(self.role, self.name, self.content)


@dataclass(frozen=True)
class Summary:
    """What stands for the messages up to NUMBER, which is at POSITION."""

    id: str
    position: int
    number: int
    content: str
    record: dict[str, JsonValue]


@dataclass(frozen=True)
class Window:
    """The newest messages of a conversation, oldest first, and what stands for those before them."""

    messages: tuple[Message, ...] = ()
    earlier: int = 0
    """How many messages there are between the summary and the first of these."""
    summary: Summary | None = None
    state: JsonValue = None


class Messages:
    """The messages in DATABASE. COUNT estimates the tokens of a text.

    A message's id is a digest over the one before it, so the newest id stands for the whole conversation: writing one again
    is nothing, and one that was changed in the database is found when it is read.
    """

    def __init__(self, database: Database, count: Callable[[str], int]) -> None:
        self._database = database
        self._count = count

    async def append(
        self,
        lineage: Lineage,
        ref: ConversationRef,
        messages: Sequence[NewMessage],
        *,
        of: Sequence[Scope] = (),
        made_from: Sequence[str] = (),
    ) -> ConversationRef:
        """Store MESSAGES, said in the run LINEAGE, after those of REF, and return the reference to all of them.

        OF says whose they are. MADE_FROM names the versions of memories that a model was shown when it answered them: when
        one of those is erased, so are they. Raises `NotFound` if the last message of REF is not there, `Erased` if it was
        erased, `ErasedMeanwhile` if something of MADE_FROM was, and `InvalidInput` for what cannot be stored.
        """
        said = [(message, to_canonical(message.content, ref)) for message in messages]
        if not said:
            return ref

        def work(connection: sa.Connection) -> str:
            refuse_erased(connection, made_from)
            last = self._lock_last(connection, lineage, ref)
            root = last.conversation if last else _root(lineage, ref)
            begin_conversation(connection, root, lineage, ref.name)
            record_run_scopes(connection, lineage, of, root)
            rows = []
            for message, content in said:
                last = self._next_row(last, lineage, ref, message, content)
                rows.append(last)
            connection.execute(_insert(MessageRow, sqlite=self._database.sqlite), [row.model_dump() for row in rows])
            record_sources(connection, root, rows[0].position, made_from)
            return rows[-1].id

        return ref.model_copy(update={"head": await self._database.transact(work)})

    async def window(self, ref: ConversationRef, tokens: int, *, lineage: Lineage | None = None) -> Window:
        """Return the newest messages of REF, at least one and from there on until they have TOKENS, and what is before.

        Raises `NotFound` if a message, the state or the summary is not there or is not what was stored; `Erased` if it is
        known of the run LINEAGE that it was erased.
        """
        if not ref.head:
            return Window()

        def work(connection: sa.Connection) -> Window:
            try:
                return self._window(connection, ref, tokens)
            except NotFound:
                refuse_ended(connection, _root(lineage, ref) if lineage else "", ref.name)
                raise

        async with self._database.read() as connection:
            return await connection.run_sync(work)

    async def check(self, lineage: Lineage, ref: ConversationRef) -> None:
        """Raise `NotFound` if the newest message of REF is not there or not as it was stored, `Erased` if it was erased."""

        def work(connection: sa.Connection) -> None:
            root = _root(lineage, ref)
            if not ref.head:
                refuse_ended(connection, root, ref.name, at_all=False)
                return
            try:
                self._read(connection, ref)
            except NotFound:
                refuse_ended(connection, root, ref.name)
                raise

        async with self._database.read() as connection:
            await connection.run_sync(work)

    async def summary(self, id: str) -> Summary | None:
        """Return the summary called ID, if somebody made it."""
        async with self._database.read() as connection:
            return await connection.run_sync(_summary, id)

    async def keep_summary(self, summary: Summary, ref: ConversationRef, *, lineage: Lineage) -> Summary:
        """Store SUMMARY for the conversation REF of the run LINEAGE, and return what stands: the first of its id.

        Raises as `append` does if what it sums up is not there any more.
        """

        def work(connection: sa.Connection) -> Summary:
            last = self._lock_last(connection, lineage, ref)
            assert last is not None, "nothing was said that could be summed up"
            row = SummaryRow(
                id=summary.id,
                conversation=last.conversation,
                position=summary.position,
                number=summary.number,
                content=summary.content,
                record=json.dumps(summary.record),
                stored_at=now(),
            )
            connection.execute(_insert(SummaryRow, sqlite=self._database.sqlite), [row.model_dump()])
            return _summary(connection, summary.id) or summary

        return await self._database.transact(work)

    def _lock_last(self, connection: sa.Connection, lineage: Lineage, ref: ConversationRef) -> MessageRow | None:
        """Return the last message of REF; from here on nobody erases it. Raises `Erased` if somebody did."""
        mine = _root(lineage, ref)
        try:
            root = self._read(connection, ref).conversation if ref.head else mine
            lock(connection, root, "conversation")
            # Again, for whoever erased it had the lock.
            last = self._read(connection, ref) if ref.head else None
        except NotFound:
            refuse_ended(connection, mine, ref.name)
            raise
        if last is None:
            refuse_ended(connection, mine, ref.name, at_all=False)
        return last

    def _next_row(
        self, last: MessageRow | None, lineage: Lineage, ref: ConversationRef, message: NewMessage, content: str
    ) -> MessageRow:
        root = last.conversation if last else _root(lineage, ref)
        id = message_id(last.id if last else root, message.role, message.name, message.content)
        return MessageRow(
            id=id,
            before=last.id if last else "",
            conversation=root,
            position=last.position + 1 if last else 1,
            number=(last.number if last else 0) + (message.role != "state"),
            state=id if message.role == "state" else (last.state if last else ""),
            role=message.role,
            name=message.name,
            content=content,
            tokens=self._count(rfc8785.dumps(_entry(message.role, message.name, message.content)).decode()) + 1,
            namespace=lineage.namespace,
            workflow_id=lineage.workflow_id,
            first_execution_run_id=lineage.first_execution_run_id,
            stored_at=now(),
        )

    def _read(self, connection: sa.Connection, ref: ConversationRef, id: str = "") -> MessageRow:
        wanted = id or ref.head
        row = connection.execute(sa.select(MessageRow).where(col(MessageRow.id) == wanted)).mappings().first()
        if row is None:
            raise self._not_found(ref, wanted)
        return self._require_intact(MessageRow(**row), ref)

    def _window(self, connection: sa.Connection, ref: ConversationRef, tokens: int) -> Window:
        head = self._read(connection, ref)
        summary = _summary(connection, ref.summary) if ref.summary else None
        if ref.summary and summary is None:
            raise self._not_found(ref, ref.summary, "summary")
        floor = summary.position if summary else 0
        chosen: list[MessageRow] = []
        row: MessageRow | None = head
        page: dict[str, MessageRow] = {}
        while row is not None and row.position > floor and (tokens > 0 or not chosen):
            if row.role != "state":
                chosen.append(row)
                tokens -= row.tokens
            row = self._read_before(connection, ref, row, page)
        numbers = summary.number if summary else 0
        return Window(
            messages=tuple(_message(each) for each in reversed(chosen)),
            earlier=(chosen[-1].number - 1 if chosen else head.number) - numbers,
            summary=summary,
            state=json.loads(self._read(connection, ref, head.state).content) if head.state else None,
        )

    def _read_before(
        self, connection: sa.Connection, ref: ConversationRef, row: MessageRow, page: dict[str, MessageRow]
    ) -> MessageRow | None:
        """Return the message before ROW. PAGE holds those that were read ahead."""
        if not row.before:
            return None
        if row.before not in page:
            # Other branches of the conversation, as resets leave them, are read along and not looked at.
            near = sa.select(MessageRow).where(
                col(MessageRow.conversation) == row.conversation,
                col(MessageRow.position) < row.position,
                col(MessageRow.position) >= row.position - PAGE,
            )
            page.clear()
            page |= {found["id"]: MessageRow(**found) for found in connection.execute(near).mappings()}
        if row.before not in page:
            raise self._not_found(ref, row.before)
        return self._require_intact(page[row.before], ref)

    def _require_intact(self, row: MessageRow, ref: ConversationRef) -> MessageRow:
        if not _is_intact(row):
            raise NotFound(
                f"message {row.position} of {_describe(ref)} was changed in {without_password(self._database.url)}: "
                f"it does "
                "not fit its digest any more. Restore the database, or start a new conversation."
            )
        return row

    def _not_found(self, ref: ConversationRef, id: str, what: str = "message") -> NotFound:
        return NotFound(
            f"{what} {id} of {_describe(ref)} is not in {without_password(self._database.url)}. It was erased, or the run "
            "was recorded with another database: set PERDURE_DATABASE_URL to that one, or start a new conversation."
        )


def count_newest(messages: Sequence[Message], tokens: int) -> int:
    """Return how many of MESSAGES, from the last one back, have TOKENS together: at least one, if there is one."""
    count = 0
    while count < len(messages) and (tokens > 0 or not count):
        count += 1
        tokens -= messages[-count].tokens
    return count


def summary_id(last: Message, before: str, task: str) -> str:
    """Return the id of the summary by TASK that stands for everything up to LAST and takes over the one called BEFORE."""
    return short_digest([last.id, before, task])


def _root(lineage: Lineage, ref: ConversationRef) -> str:
    return root_of(lineage, ref.name, ref.begun)


def to_canonical(value: JsonValue, ref: ConversationRef) -> str:
    """Return VALUE as canonical JSON (RFC 8785). Raises `InvalidInput` if it has none."""
    try:
        return rfc8785.dumps(value).decode()
    except (ValueError, UnicodeEncodeError) as error:
        raise InvalidInput(
            f"a message of {_describe(ref)} cannot be written as canonical JSON ({type(error).__name__}): numbers "
            "must be finite and integers below 2**53; write larger ones as text."
        ) from None


def _entry(role: Role, name: str, content: JsonValue) -> dict[str, JsonValue]:
    return {"role": role, **({"name": name} if name else {}), "content": content}


def _is_intact(row: MessageRow) -> bool:
    """Say whether ROW is what was stored under its id."""
    before = row.before or row.conversation
    if row.id == short_digest([before, row.role, row.name, row.content]):
        return True
    try:
        return row.role == "tool" and row.id == message_id(before, row.role, row.name, json.loads(row.content))
    except ValueError:
        return False


def _describe(ref: ConversationRef) -> str:
    return f"conversation {ref.name!r}" if ref.name else "the conversation"


def _message(row: MessageRow) -> Message:
    return Message(row.id, row.position, row.number, cast(Role, row.role), row.name, json.loads(row.content), row.tokens)


def _summary(connection: sa.Connection, id: str) -> Summary | None:
    row = connection.execute(sa.select(SummaryRow).where(col(SummaryRow.id) == id)).mappings().first()
    if row is None:
        return None
    return Summary(row["id"], row["position"], row["number"], row["content"], json.loads(row["record"]))


def _insert(table: type[SQLModel], *, sqlite: bool) -> sa.Insert:
    return (_sqlite_insert if sqlite else postgresql.insert)(table).on_conflict_do_nothing()


_sqlite_insert = sqlite.insert

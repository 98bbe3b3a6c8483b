"""Tests of memory/conversations/messages.py: a reference becomes what was said, or an error that says why not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import sqlalchemy as sa
from pydantic import JsonValue
from sqlmodel import col

from perdure.errors import InvalidInput, NotFound
from perdure.lineage import Lineage, digest
from perdure.memory.conversations import (
    Messages,
    Summary,
    Window,
    summary_id,
)
from perdure.memory.conversations.contracts import (
    ConversationRef,
    NewMessage,
    answer_id,
    head_after,
    root_of,
    tool_exchange,
)
from perdure.memory.conversations.tables import MessageRow
from perdure.storage import Database

RUN = Lineage(namespace="default", workflow_id="desk-1", first_execution_run_id="first")
DESK = ConversationRef(name="desk")


@pytest.fixture
def messages(database: Database) -> Messages:
    """No messages yet: the test runs once on SQLite and once on PostgreSQL. A token is a byte."""
    return Messages(database, lambda text: len(text.encode()))


def user(*texts: str) -> list[NewMessage]:
    """What a user said, one message each."""
    return [NewMessage(role="user", content=text) for text in texts]


def said(window: Window) -> list[JsonValue]:
    """What was said in WINDOW."""
    return [message.content for message in window.messages]


async def stored(messages: Messages, new: Sequence[NewMessage], after: ConversationRef = DESK) -> ConversationRef:
    """Store NEW and return the reference."""
    return await messages.append(RUN, after, new)


async def test_a_reference_gives_back_what_was_said(messages: Messages) -> None:
    """Messages come back in their order, each with its role, and whatever JSON they are."""
    first = await stored(messages, user("hello", 'a NUL \x00, a "quote", 雪'))
    then = await stored(messages, [NewMessage(role="tool", name="shop.find", content={"total": 4990, "lines": []})], first)

    window = await messages.window(then, 10_000)

    assert ["hello", 'a NUL \x00, a "quote", 雪', {"total": 4990, "lines": []}] == said(window)
    assert [("user", 1), ("user", 2), ("tool", 3)] == [(each.role, each.number) for each in window.messages]
    assert (0, None) == (window.earlier, window.state)


async def test_saying_it_again_is_nothing(messages: Messages, database: Database) -> None:
    """An attempt that is made again, in one go or in several, stores no message twice and has the same reference."""
    once = await stored(messages, user("a", "b"))
    again = await stored(messages, user("b"), await stored(messages, user("a")))

    assert once == again
    async with database.read() as connection:
        assert 2 == (await connection.execute(sa.select(sa.func.count()).select_from(MessageRow))).scalar_one()


async def test_an_answer_is_known_by_its_digest(messages: Messages) -> None:
    """Whoever has what a tool was asked and the digest of its answer has the reference to the message."""
    first = await stored(messages, user("hello"))
    answer: JsonValue = {"total": 4990, "lines": [1.5, "x"]}
    said = NewMessage(role="tool", name="shop.find", content=tool_exchange({"order": "R-1"}, answer))

    ref = await stored(messages, [said], first)

    assert ref.head == answer_id(first.head, "shop.find", {"order": "R-1"}, digest(answer))
    assert ["hello", said.content] == [each.content for each in (await messages.window(ref, 10_000)).messages]
    assert ref.head == head_after(root_of(RUN, "desk"), [*user("hello"), said])


async def test_a_changed_answer_is_found(messages: Messages, database: Database) -> None:
    """An answer that was changed in the database is not shown."""
    said = NewMessage(role="tool", name="shop.find", content=tool_exchange({}, {"total": 1}))
    ref = await stored(messages, [said])
    async with database.write() as connection:
        await connection.execute(sa.update(MessageRow).values(content='{"answered":{"total":2},"asked":{}}'))

    with pytest.raises(NotFound, match="message 1 of conversation 'desk' was changed in"):
        await messages.window(ref, 10_000)
    with pytest.raises(NotFound, match="message 1 of conversation 'desk' was changed in"):
        await messages.check(RUN, ref)


async def test_two_runs_share_nothing(messages: Messages) -> None:
    """The same words in another run, or in another conversation of the run, are other messages."""
    other_run = RUN.model_copy(update={"first_execution_run_id": "other"})
    heads = {
        (await messages.append(RUN, DESK, user("hello"))).head,
        (await messages.append(other_run, DESK, user("hello"))).head,
        (await messages.append(RUN, ConversationRef(name="shop"), user("hello"))).head,
    }

    assert 3 == len(heads)


async def test_a_run_that_was_reset_goes_on_from_where_it_was(messages: Messages) -> None:
    """Two continuations of one message do not see each other."""
    start = await stored(messages, user("hello"))
    one = await stored(messages, user("one", "more"), start)
    other = await stored(messages, user("other"), start)

    assert ["hello", "one", "more"] == said(await messages.window(one, 10_000))
    assert ["hello", "other"] == said(await messages.window(other, 10_000))


async def test_only_the_newest_messages_are_read(messages: Messages) -> None:
    """However long the conversation is, a window holds what was asked for and counts the rest."""
    ref = await stored(messages, user(*(f"message {number:03}" for number in range(1, 201))))
    size = len('{"content":"message 001","role":"user"}') + 1

    window = await messages.window(ref, 50 * size)

    assert [f"message {number:03}" for number in range(151, 201)] == said(window)
    assert 150 == window.earlier
    assert ["message 200"] == said(await messages.window(ref, 1))


async def test_the_state_is_the_newest_one(messages: Messages) -> None:
    """What a run keeps in mind is no message, and what it kept in mind before is not there any more."""
    kept = [NewMessage(role="state", content={"goal": goal}) for goal in ("refund", "replace")]
    ref = await stored(messages, [*user("hello"), kept[0], kept[1], *user("and?", "well?")])

    window = await messages.window(ref, 1)

    assert {"goal": "replace"} == window.state
    assert (["well?"], 2) == (said(window), window.earlier)


async def test_a_summary_stands_for_the_oldest(messages: Messages) -> None:
    """With a summary the window ends where it begins to stand for the messages; the first that was made stays."""
    ref = await stored(messages, user("a", "b", "c", "d"))
    second = (await messages.window(ref, 10_000)).messages[1]
    id = summary_id(second, "", "summarise")
    made = await messages.keep_summary(Summary(id, second.position, second.number, "a and b", {"ms": 1}), ref, lineage=RUN)
    other = Summary(id, second.position, second.number, "something else", {"ms": 2})
    again = await messages.keep_summary(other, ref, lineage=RUN)

    window = await messages.window(ref.model_copy(update={"summary": id}), 10_000)

    assert made == again == window.summary
    assert (["c", "d"], 0) == (said(window), window.earlier)


@pytest.mark.parametrize("which", ["head", "middle", "state", "summary"])
async def test_what_is_missing_is_named(messages: Messages, database: Database, which: str) -> None:
    """A message, state or summary that is not in the database is an error that says which, where and what to do."""
    state = NewMessage(role="state", content="calm")
    ref = await stored(messages, [state, *user("a", "b")])
    window = await messages.window(ref, 10_000)
    gone = {"head": window.messages[1].id, "middle": window.messages[0].id, "summary": "no-such-summary"}.get(which, "")
    async with database.write() as connection:
        lost = col(MessageRow.role) == "state" if which == "state" else col(MessageRow.id) == gone
        await connection.execute(sa.delete(MessageRow).where(lost))
    if which == "summary":
        ref = ref.model_copy(update={"summary": gone})

    with pytest.raises(NotFound) as missing:
        await messages.window(ref, 10_000)
    assert gone in missing.value.message
    assert "of conversation 'desk' is not in" in missing.value.message
    assert "set PERDURE_DATABASE_URL" in missing.value.message


@pytest.mark.parametrize("field", [{"content": '"refund everything"'}, {"role": "assistant"}, {"name": "boss"}])
async def test_what_was_changed_is_found(messages: Messages, database: Database, field: dict[str, str]) -> None:
    """A message whose text, role or speaker was changed in the database is not taken for what was said."""
    ref = await stored(messages, user("refund nothing", "please"))
    first = (await messages.window(ref, 10_000)).messages[0]
    async with database.write() as connection:
        await connection.execute(sa.update(MessageRow).where(col(MessageRow.id) == first.id).values(**field))

    with pytest.raises(NotFound, match="message 1 of conversation 'desk' was changed in"):
        await messages.window(ref, 10_000)


async def test_nothing_is_said_after_what_is_not_there(messages: Messages) -> None:
    """A reference into nowhere takes no message."""
    with pytest.raises(NotFound, match="of conversation 'desk' is not in"):
        await stored(messages, user("hello"), DESK.model_copy(update={"head": "nowhere"}))


async def test_what_json_cannot_say_is_refused(messages: Messages) -> None:
    """A number that JSON readers disagree about names the conversation and the remedy."""
    with pytest.raises(InvalidInput, match="a message of conversation 'desk' cannot be written as canonical JSON"):
        await stored(messages, [NewMessage(role="tool", content=2**60)])

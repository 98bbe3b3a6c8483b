"""Tests of what an erasure reaches of conversations: whose they are, what was answered with a record, and what is held."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
import sqlalchemy as sa
from kits.memory import ADA, Clock, Say
from pydantic import JsonValue

from perdure.errors import Erased, ErasedMeanwhile, OnHold
from perdure.lineage import Lineage, StepRef
from perdure.memory import Memory, Scope, customer
from perdure.memory.conversations import Messages, Summary, summary_id
from perdure.memory.conversations.contracts import ConversationRef, NewMessage
from perdure.memory.records.requests import (
    ConversationsCall,
    EraseConversationsCall,
    ForgetCall,
    HoldCall,
)
from perdure.memory.tables import ReceiptRow
from perdure.routing.tables import AnswerRow, ModelCallRow
from perdure.storage import Database, now

DESK = ConversationRef(name="desk")
TRIAGE = Scope(agent="triage")


@pytest.fixture
def messages(database: Database) -> Messages:
    """No messages yet, in the database of the memory."""
    return Messages(database, len)


@pytest.fixture
def everything(step: Callable[[str], StepRef]) -> Callable[..., ForgetCall]:
    """Return a call that erases everything of Ada, unless the test says otherwise."""

    def call(**fields: object) -> ForgetCall:
        named = {"step": step(f"erase {fields}"), "scope": ADA, "how": "erase", "everything": True}
        if {"memory_id", "subject"} & fields.keys():
            named["everything"] = False
        return ForgetCall.model_validate({**named, **fields})

    return call


def run(name: str) -> Lineage:
    """The run of this name."""
    return Lineage(namespace="default", workflow_id=name, first_execution_run_id=f"first of {name}")


def says(*texts: str) -> list[NewMessage]:
    """What a user says."""
    return [NewMessage(role="user", content=text) for text in texts]


async def said(messages: Messages, ref: ConversationRef) -> list[JsonValue]:
    """What is still there of REF."""
    return [each.content for each in (await messages.window(ref, 100_000)).messages]


async def stored(database: Database) -> list[str]:
    """Every message and summary that is in DATABASE."""
    async with database.read() as connection:
        rows = await connection.execute(
            sa.text("SELECT content FROM message UNION ALL SELECT content FROM message_summary ORDER BY 1")
        )
        return list(rows.scalars())


async def test_everything_of_somebody_takes_what_was_said(
    memory: Memory, messages: Messages, database: Database, *, to_remember: Say, everything: Callable[..., ForgetCall]
) -> None:
    """The conversations of a scope go with it: those said to be of it, and those of runs that had to do with it."""
    await messages.append(run("told"), DESK, says("told"), of=[ADA])
    await memory.remember(to_remember("likes tea", step=StepRef(lineage=run("remembers"), name="r")))
    await messages.append(run("remembers"), DESK, says("remembers"))
    await messages.append(run("session"), DESK, says("session"), of=[Scope(user="ada", session="s1")])
    await messages.append(run("grace"), DESK, says("grace"), of=[customer("grace")])
    await messages.append(run("acme"), DESK, says("acme"), of=[customer("ada", tenant="acme")])
    await messages.append(run("alike"), DESK, says("alike"), of=[customer("\u0430da"), customer("Ada"), customer("ada ")])
    await messages.append(run("nobody"), DESK, says("nobody"))

    dry = await memory.forget(everything(dry_run=True))
    assert 7 == len(await stored(database))
    done = await memory.forget(everything(why="she asked"))

    assert [(2, True), (2, False)] == [(len(each.conversations), each.dry_run) for each in (dry, done)]
    assert {"told/first of told/desk", "remembers/first of remembers/desk"} == set(done.conversations)
    assert ['"acme"', '"alike"', '"grace"', '"nobody"', '"session"'] == await stored(database)
    async with database.read() as connection:
        [receipt] = (await connection.execute(sa.select(ReceiptRow))).all()
    assert (2, 2, 1) == (receipt.conversations, receipt.messages, receipt.versions)
    assert receipt.completed_at is not None
    assert 1 == (await memory.forget(everything(narrower=True))).messages


async def test_what_an_agent_knows_is_not_of_one_person(
    memory: Memory, messages: Messages, database: Database, *, to_remember: Say, everything: Callable[..., ForgetCall]
) -> None:
    """Erasing an agent's memory takes the answers that were given with it, not all that its runs have talked about."""
    know = await memory.remember(to_remember("be brief", scope=TRIAGE, step=StepRef(lineage=run("a"), name="r")))
    await messages.append(run("a"), DESK, says("hello"))
    asked = await messages.append(run("b"), DESK, says("what now?"))
    await messages.append(run("b"), asked, says("brief"), made_from=[know.version_id])
    done = await memory.forget(everything(scope=TRIAGE))

    assert (1, 1) == (len(done.conversations), done.messages)
    assert ['"hello"', '"what now?"'] == await stored(database)


async def test_answers_go_with_what_they_were_made_from(
    memory: Memory, messages: Messages, database: Database, *, to_remember: Say, everything: Callable[..., ForgetCall]
) -> None:
    """The answer that a model gave with a record goes with it, and all after it; what was said before stays."""
    pet = await memory.remember(to_remember("a wombat", memory_id="pet"))
    animals = to_remember("keeps animals", memory_id="animals", origin={"derived_from": (pet.version_id,)})
    made = await memory.remember(animals)
    before = await messages.append(run("a"), DESK, says("hello"))
    answered = await messages.append(run("a"), before, says("your wombat"), made_from=[made.version_id])
    after = await messages.append(run("a"), answered, says("yes, it"), made_from=[made.version_id])
    [*_, last] = (await messages.window(after, 100_000)).messages
    summary = Summary(summary_id(last, "", "s"), last.position, last.number, "on wombats", {})
    await messages.keep_summary(summary, after, lineage=run("a"))

    done = await memory.forget(everything(memory_id="pet"))

    assert (2, ("a/first of a/desk",), 3) == (done.versions, done.conversations, done.messages)
    assert ["hello"] == await said(messages, before)
    assert ['"hello"'] == await stored(database)
    with pytest.raises(
        Erased, match=r"what was said in conversation 'desk' was erased on .* call the conversation's `anew\(\)"
    ):
        await messages.window(after, 100, lineage=run("a"))
    with pytest.raises(Erased):
        await messages.append(run("a"), answered, says("and then?"))
    with pytest.raises(Erased):
        await messages.keep_summary(summary, after, lineage=run("a"))
    again = await messages.append(run("a"), before, says("something else"))  # as a retry of the turn without the record
    assert ["hello", "something else"] == await said(messages, again)


async def test_an_answer_that_comes_after_the_erasure_is_not_kept(
    memory: Memory, messages: Messages, database: Database, *, to_remember: Say, everything: Callable[..., ForgetCall]
) -> None:
    """If a record is erased while a model is shown it, the answer is not stored, and the turn may be tried again."""
    pet = await memory.remember(to_remember("a wombat", memory_id="pet"))
    ref = await messages.append(run("a"), DESK, says("hello"))
    await memory.forget(everything(memory_id="pet"))

    with pytest.raises(ErasedMeanwhile) as gone:
        await messages.append(run("a"), ref, says("your wombat"), made_from=[pet.version_id])
    assert gone.value.retryable
    assert ['"hello"'] == await stored(database)


async def test_erased_stays_erased(
    memory: Memory, messages: Messages, database: Database, *, everything: Callable[..., ForgetCall]
) -> None:
    """A step that is retried after the erasure brings nothing back; begun anew, the conversation goes on empty."""
    ref = await messages.append(run("a"), DESK, says("hello"), of=[ADA])
    first = await memory.forget(everything())
    again = await memory.forget(everything())

    assert first.receipt == again.receipt
    assert (1, 1) == (first.messages, again.messages)
    for lost in (DESK, ref):
        with pytest.raises(Erased):
            await messages.append(run("a"), lost, says("hello"), of=[ADA])
    assert [] == await stored(database)
    anew = await messages.append(run("a"), ConversationRef(name="desk", begun=1), says("hello again"), of=[ADA])
    assert ["hello again"] == await said(messages, anew)
    assert 1 == (await memory.forget(everything())).messages


async def test_hold_keeps_conversations(
    memory: Memory,
    messages: Messages,
    *,
    everything: Callable[..., ForgetCall],
    step: Callable[[str], StepRef],
    clock: Clock,
) -> None:
    """A hold on a scope, or on a run's conversation, refuses its erasure as a whole, also of what is said later."""
    ref = await messages.append(run("a"), DESK, says("hello"), of=[ADA])
    held = await memory.hold(HoldCall(step=step("hold"), scope=ADA))
    await messages.append(run("a"), ref, says("more"))
    by_run = EraseConversationsCall(step=step("erase"), workflow_id="a")
    clock.move(timedelta(hours=1))

    assert (0, 1) == (held.count, held.conversations)
    for attempt in (memory.forget(everything()), memory.erase_conversations(by_run)):
        with pytest.raises(OnHold, match="keeps 1 conversations that would be erased: 'a/first of a/desk'"):
            await attempt
    of_run = ConversationsCall(workflow_id="a")
    assert 1 == (await memory.hold_conversations(of_run, held=False)).conversations
    assert 2 == (await memory.erase_conversations(by_run)).messages


async def test_a_run_can_be_erased(
    memory: Memory, messages: Messages, database: Database, step: Callable[[str], StepRef]
) -> None:
    """What a run said goes, or one conversation of it; the list says that there was one, and no more its name."""
    await messages.append(run("a"), DESK, says("one", "two"))
    await messages.append(run("a"), ConversationRef(name="shop"), says("three"))
    await messages.append(run("b"), DESK, says("theirs"))
    elsewhere = Lineage(namespace="acme", workflow_id="a", first_execution_run_id="another")
    await messages.append(elsewhere, DESK, says("elsewhere"))

    one = await memory.erase_conversations(
        EraseConversationsCall(step=step("one"), workflow_id="a", namespace="default", name="desk")
    )
    dry = await memory.erase_conversations(EraseConversationsCall(step=step("dry"), workflow_id="a", dry_run=True))
    rest = await memory.erase_conversations(
        EraseConversationsCall(step=step("rest"), workflow_id="a", first_execution_run_id="first of a")
    )

    assert [2, 2, 1] == [each.messages for each in (one, dry, rest)]
    assert ['"elsewhere"', '"theirs"'] == await stored(database)
    listed = await memory.conversations()
    names = {(each.workflow_id, each.name, each.messages, each.erased_at is None) for each in listed}
    assert {("a", "", 0, False), ("b", "desk", 1, True), ("a", "desk", 1, True)} == names


async def test_kept_answers_of_models_go(
    memory: Memory, messages: Messages, database: Database, everything: Callable[..., ForgetCall]
) -> None:
    """An erasure drops all answers that are kept, for others or for their step: nothing says from what they were made."""
    await messages.append(run("a"), DESK, says("hello"), of=[ADA])
    kept = AnswerRow(
        key="k",
        tenant="x",
        task="t",
        model="m",
        model_version="",
        value='"your wombat"',
        answer_digest="",
        prompt_tokens=0,
        completion_tokens=0,
        cost_nano_usd=0,
        holder="",
        expires_at=now(),
        held_until=now(),
    )
    of = {"namespace": "default", "workflow_id": "w", "first_execution_run_id": "r", "run_id": "r", "step": "triage"}
    whom = {"task": "t", "tier": "small", "deployment": "d", "model": "m", "model_version": "", "error": ""}
    made = {"attempt": 1, "ordinal": 1, "outcome": "answered", "prompt_digest": "", "answer_digest": "", "sent_at": now()}
    call = ModelCallRow.model_validate({"call_id": "c", **of, **whom, **made, "answer": '{"value": "your wombat"}'})
    async with database.write() as connection:
        await connection.execute(sa.insert(AnswerRow).values(kept.model_dump()))
        await connection.execute(sa.insert(ModelCallRow).values(call.model_dump()))
    await memory.forget(everything())
    async with database.read() as connection:
        assert [] == (await connection.execute(sa.text("SELECT * FROM model_answer"))).all()
        assert [None] == (await connection.execute(sa.text("SELECT answer FROM model_call"))).scalars().all()

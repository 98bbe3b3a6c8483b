"""Tests of conversations in runs: what the model is shown, what the history holds, what survives."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from kits.conversation_workflows import Acts, Chats, GoesOn, Knows, Looks, Renews, Talk, Visit, Writes
from kits.runs import activity_names
from kits.workflows import Governed, Handle, OpenWorker
from pydantic import JsonValue
from sqlmodel import col
from stand_ins.provider import Answers, Fails, Stub, stub_provider
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError

from perdure.lineage import Lineage, StepRef, digest
from perdure.memory import customer
from perdure.memory.conversations.tables import MessageRow
from perdure.memory.records.requests import ForgetCall, ForgetResult
from perdure.memory.tables import MemoryRow
from perdure.memory.unindexed import records_only
from perdure.storage import open_database
from perdure.workflows import Plan, PlanRun, PlanWorkflow

ROUTES = """
[tasks.reply]
tier = "small"
instructions = "Answer the user."
{more}
[deployments.stub]
tier = "small"
model = "openai/stub"
api_base = "{url}"
input_usd_per_mtok = 1
output_usd_per_mtok = 1
"""
SUMMARISES = """
[tasks.summarise]
tier = "small"
instructions = "Sum up."
"""
ELSEWHERE = """
[tasks.summarise]
tier = "medium"

[deployments.broken]
tier = "medium"
model = "openai/broken"
api_base = "{url}"
input_usd_per_mtok = 0
output_usd_per_mtok = 0
"""
WORKFLOWS = (Chats, Renews, Looks, Writes, Acts, Knows, GoesOn)


@pytest.fixture
async def stub() -> AsyncIterator[Stub]:
    """A provider that numbers its answers."""
    async with stub_provider() as stub:
        stub.will(*(Answers(json.dumps({"say": f"answer {number}"})) for number in range(1, 200)))
        yield stub


class Open:
    """Opens a worker whose only model is the stub."""

    def __init__(self, governed: OpenWorker, stub: Stub, folder: Path) -> None:
        self._governed, self._stub, self._folder = governed, stub, folder

    def __call__(self, more: str = "", **settings: Any) -> AbstractAsyncContextManager[Governed]:
        routes = self._folder / "models.toml"
        routes.write_text(ROUTES.format(url=self._stub.url, more=more))
        return self._governed(*WORKFLOWS, settings={"models": routes, **settings})


@pytest.fixture
def desk(governed: OpenWorker, stub: Stub, tmp_path: Path) -> Open:
    """What opens a worker."""
    return Open(governed, stub, tmp_path)


def shown(stub: Stub, call: int = -1) -> dict[str, Any]:
    """The inputs that the model was shown at its CALL."""
    inputs: dict[str, Any] = json.loads(stub.messages[call][1]["content"])
    return inputs


def told(stub: Stub, call: int = -1) -> list[Any]:
    """What stood in the conversation that the model was shown at its CALL."""
    return [each["content"] for each in shown(stub, call)["conversation"]]


async def happens(handle: Handle, event_type: EventType.ValueType) -> None:
    """Return when the run's history has an event of EVENT_TYPE."""
    while event_type not in [event.event_type for event in (await handle.fetch_history()).events]:  # noqa: ASYNC110
        await asyncio.sleep(0.02)  # a history cannot be waited on


async def test_the_model_is_shown_what_was_said(desk: Open, stub: Stub, database_url: str) -> None:
    """Each turn holds all before it, in order and with who said it; the history holds none of it twice; it replays."""
    async with desk(database_url=database_url) as opened:
        handle = await opened.start(Chats.run, Talk(says=("one", "two", "three")))

        assert ["answer 1", "answer 2", "answer 3"] == await handle.result()
        assert ["one", {"say": "answer 1"}, "two", {"say": "answer 2"}, "three"] == told(stub)
        assert ["user", "assistant", "user", "assistant", "user"] == [each["role"] for each in shown(stub)["conversation"]]
        assert ["perdure.converse"] * 3 == activity_names(await handle.fetch_history())
        assert await opened.replays(handle, WORKFLOWS)


async def test_a_turn_costs_the_same_at_any_length(desk: Open) -> None:
    """The events of a late turn are as large as those of an early one, give or take the digits of counters."""
    async with desk() as opened:
        handle = await opened.start(Looks.run, 24)
        await handle.result()

        sizes = [
            event.ByteSize()
            for event in (await handle.fetch_history()).events
            if event.event_type
            in (EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED, EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED)
        ]
        early, late = sum(sizes[4:10]) / 3, sum(sizes[-6:]) / 3
        assert late - early < 20
        assert await opened.replays(handle, WORKFLOWS)


async def test_what_a_look_finds_is_said_by_reference(desk: Open, stub: Stub) -> None:
    """The model sees what was asked and answered and the newest state; the history has one event of it."""
    async with desk() as opened:
        handle = await opened.start(Looks.run, 2)
        await handle.result()

        assert {"asked": {"text": "x"}, "answered": {"number": 0, "text": ""}} == told(stub)[-1]
        assert {"role": "tool", "name": "null.read"}.items() <= shown(stub)["conversation"][-1].items()
        assert {"turn": 1} == shown(stub)["state"]
        assert ["perdure.converse"] * 2 == activity_names(await handle.fetch_history())


async def test_what_an_act_did_is_said_by_reference(desk: Open, stub: Stub, database_url: str) -> None:
    """The model sees what was asked and answered; the history has the arguments and the receipt, and not the answer."""
    async with desk(database_url=database_url) as opened:
        handle = await opened.start(Acts.run, 2)
        receipts = await handle.result()

        asked: dict[str, JsonValue] = {"text": "long " * 100}
        answers: list[JsonValue] = [{"number": number, **asked} for number in (1, 2)]
        said = [{"asked": asked, "answered": answer} for answer in answers]
        assert said == [each for each in told(stub) if isinstance(each, dict) and "asked" in each]
        assert [digest(answer) for answer in answers] == [each.response_digest for each in receipts]
        assert sorted(opened.null.effects) == sorted(each.key for each in receipts)
        done = [e.activity_task_completed_event_attributes.result for e in (await handle.fetch_history()).events]
        assert not [each for each in done if b"long" in each.SerializeToString()]
        assert await opened.replays(handle, WORKFLOWS)


async def test_a_look_only_looks(desk: Open) -> None:
    """An action that does more than read is refused before anything happens."""
    async with desk() as opened:
        handle = await opened.start(Writes.run, 0)

        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
        assert "null.write does more than read: use act()" in str(failed.value.cause)
        assert not opened.null.effects


async def test_a_look_does_not_pass_a_queue(desk: Open) -> None:
    """A connector whose calls the server rations is not read behind its back."""
    async with desk(connectors={"null": {"per_second": "5"}}) as opened:
        handle = await opened.start(Looks.run, 1)

        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
        assert "connector 'null' has a task queue of its own" in str(failed.value.cause)


async def test_what_does_not_fit_is_left_out_with_a_note(desk: Open, stub: Stub) -> None:
    """Without a task that sums up, the oldest messages go, and the model is told how many."""
    async with desk() as opened:
        says = tuple(f"{number} {'word ' * 30}" for number in range(8))
        handle = await opened.start(Chats.run, Talk(says=says, tokens=250))
        await handle.result()

        assert "earlier messages are left out" in told(stub)[0]
        assert says[-1] == told(stub)[-1]
        assert 8 == stub.calls


async def test_the_oldest_messages_are_summed_up(desk: Open, stub: Stub) -> None:
    """With one, the summary takes their place before they no longer fit, and its cost is the run's."""
    stub._planned.clear()
    stub.will(Answers(json.dumps({"say": "yes", "summary": "they greeted each other"})))
    async with desk(more=SUMMARISES) as opened:
        says = tuple(f"{number} {'word ' * 30}" for number in range(8))
        handle = await opened.start(Chats.run, Talk(says=says, tokens=400))
        await handle.result()

        names = activity_names(await handle.fetch_history())
        assert 1 <= names.count("perdure.summarise") <= 3
        summary, *rest = shown(stub)["conversation"]
        assert ("summary", "they greeted each other") == (summary["role"], summary["content"])
        assert 15 == summary["messages"] + len(rest)
        assert len(names) == stub.calls
        assert await opened.replays(handle, WORKFLOWS)


async def test_a_summary_that_fails_holds_nobody_up(desk: Open) -> None:
    """If the provider refuses to sum up, the conversation goes on without, and the oldest messages are left out."""
    async with stub_provider() as broken:
        broken.will(Fails(400))
        async with desk(more=ELSEWHERE.format(url=broken.url)) as opened:
            says = tuple(f"{number} {'word ' * 30}" for number in range(6))
            handle = await opened.start(Chats.run, Talk(says=says, tokens=400))

            assert [f"answer {number}" for number in range(1, 7)] == await handle.result()
            assert broken.calls
            assert await opened.replays(handle, WORKFLOWS)


async def test_records_are_shown_with_where_they_came_from(desk: Open, stub: Stub) -> None:
    """What memory says stands in the prompt as data with its source, and the receipt names it."""
    async with desk() as opened:
        handle = await opened.start(Knows.run, False)
        receipt = await handle.result()

        [record] = shown(stub)["records"]
        assert "Ada wants her parcels at the back door" == record["content"]
        assert "untrusted" == record["trust"]
        assert f"/{handle.id}/" in record["source"]
        assert 1 == len(receipt.records)


async def test_a_record_that_is_gone_is_not_shown(desk: Open, stub: Stub) -> None:
    """A record that was erased between the recall and the prompt is left out, and the receipt says so."""
    async with desk() as opened:
        handle = await opened.start(Knows.run, True)
        await happens(handle, EventType.EVENT_TYPE_MARKER_RECORDED)
        async with open_database(opened.settings.database) as database, database.write() as connection:
            await connection.execute(sa.delete(MemoryRow))
        await handle.signal("go_on")
        receipt = await handle.result()

        assert "records" not in shown(stub)
        assert 1 == len(receipt.records_left_out)


# What it survives


async def test_it_goes_on_after_a_continue_as_new(desk: Open, stub: Stub, database_url: str) -> None:
    """Runs that renew themselves hold one conversation, and each of their histories stays short and replays."""
    async with desk(database_url=database_url) as opened:
        handle = await opened.start(Chats.run, Talk(says=("one", "two", "three"), events=9))

        assert ["answer 1", "answer 2", "answer 3"] == await handle.result()
        assert ["one", {"say": "answer 1"}, "two", {"say": "answer 2"}, "three"] == told(stub)
        first = opened.client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id)
        last = opened.client.get_workflow_handle(handle.id)
        assert ["perdure.converse"] == activity_names(await last.fetch_history())
        assert await opened.replays(first, WORKFLOWS)
        assert await opened.replays(last, WORKFLOWS)


async def test_what_was_not_stored_yet_goes_along(desk: Open, stub: Stub) -> None:
    """A plain continue-as-new takes along what was said and not stored."""
    async with desk() as opened:
        handle = await opened.start(Renews.run, 0)
        await handle.result()

        assert ["from the run before"] == told(stub)


async def test_a_reset_goes_on_from_where_it_was_reset_to(desk: Open, stub: Stub, database_url: str) -> None:
    """After a reset to the second turn the model is shown the first turn's answer and not what came later."""
    async with desk(database_url=database_url) as opened:
        handle = await opened.start(Chats.run, Talk(says=("one", "two")))
        await handle.result()
        history = await handle.fetch_history()
        tasks = [e.event_id for e in history.events if e.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED]

        answer = await opened.client.workflow_service.reset_workflow_execution(
            ResetWorkflowExecutionRequest(
                namespace="default",
                workflow_execution=WorkflowExecution(workflow_id=handle.id, run_id=history.run_id),
                reason="test",
                workflow_task_finish_event_id=tasks[1],
                request_id="reset",
            )
        )
        again = opened.client.get_workflow_handle(handle.id, run_id=answer.run_id)

        assert ["answer 1", "answer 3"] == await again.result()
        assert ["one", {"say": "answer 1"}, "two"] == told(stub)
        assert await opened.replays(again, WORKFLOWS)


async def test_missing_messages_end_the_run_readably(desk: Open, stub: Stub) -> None:
    """If what was said is not in the database any more, the run fails with which message, where and what to do."""
    async with desk() as opened:
        handle = await opened.start(Chats.run, Talk(says=("one", "two"), waits=True))
        await happens(handle, EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED)
        async with open_database(opened.settings.database) as database:
            run = str(handle.first_execution_run_id)
            async with database.write() as connection:
                gone = await connection.execute(sa.delete(MessageRow).where(col(MessageRow.first_execution_run_id) == run))
            assert 2 == gone.rowcount
        await handle.signal("go_on")

        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
        assert "of conversation 'desk' is not in sqlite" in str(failed.value.cause)


def _step(name: str) -> StepRef:
    lineage = Lineage(namespace="default", workflow_id="erase", first_execution_run_id="1")
    return StepRef(lineage=lineage, name=name)


async def erase(opened: Governed, user: str) -> ForgetResult:
    """Erase everything of USER, beside the worker."""
    async with open_database(opened.settings.database) as database:
        call = ForgetCall(step=_step("erase"), scope=customer(user), how="erase", everything=True)
        return await records_only(database).forget(call)


async def test_a_run_whose_conversation_was_erased_fails_readably(desk: Open) -> None:
    """If everything of the customer is erased while the run waits, its next turn fails at once and says so; it replays."""
    async with desk() as opened:
        handle = await opened.start(GoesOn.run, Visit(user="ada", goes_on=False))
        await happens(handle, EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED)
        assert 2 == (await erase(opened, "ada")).messages
        await handle.signal("go_on")

        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
        cause = failed.value.cause
        assert isinstance(cause, ApplicationError)
        assert ("Erased", True) == (cause.type, "in conversation 'desk' was erased on" in cause.message)
        assert await opened.replays(handle, WORKFLOWS)


async def test_answers_given_with_an_erased_record_go(desk: Open, stub: Stub, database_url: str) -> None:
    """The answer that was given with a record is tied to it; so is the run's whole conversation to the customer."""
    async with desk(database_url=database_url) as opened:
        handle = await opened.start(Knows.run, False)
        receipt = await handle.result()
        async with open_database(opened.settings.database) as database:
            [name] = (each.partition("@")[0] for each in receipt.records)
            memory = records_only(database)
            one: dict[str, Any] = {"step": _step("dry"), "scope": customer("ada"), "how": "erase", "dry_run": True}
            record = await memory.forget(ForgetCall(**one, memory_id=name))
            all_of_her = await memory.forget(ForgetCall(**one, everything=True))

        assert (1, 1) == (record.versions, record.messages)
        assert (1, 2) == (all_of_her.versions, all_of_her.messages)
        assert record.conversations == all_of_her.conversations


async def test_a_run_goes_on_without_what_was_erased(desk: Open, stub: Stub, database_url: str) -> None:
    """A run that catches `Erased` begins anew: the model sees only what was said since, and that can be erased too."""
    async with desk(database_url=database_url) as opened:
        handle = await opened.start(GoesOn.run, Visit(user="ada"))
        await happens(handle, EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED)
        await erase(opened, "ada")
        await handle.signal("go_on")

        assert ["answer 1", "answer 2"] == await handle.result()
        assert ["two"] == told(stub)
        assert ["perdure.converse"] * 3 == activity_names(await handle.fetch_history())
        assert await opened.replays(handle, WORKFLOWS)
        assert 2 == (await erase(opened, "ada")).messages


# In plans


PLAN = {
    "name": "desk",
    "steps": [
        {"id": "known", "remember": "Ada has a dog", "scope": {"user": "ada"}},
        {"id": "past", "recall": "pets", "scope": {"user": "ada"}, "needs": ["known"]},
        {
            "id": "first",
            "generate": "reply",
            "conversation": "desk",
            "message": "${input.text}",
            "output": {"type": "object"},
            "context": {"tokens": 500, "records": ["past"]},
        },
        {
            "id": "second",
            "generate": "reply",
            "conversation": "desk",
            "message": "And now?",
            "scope": {"user": "grace"},
            "output": {"type": "object"},
        },
    ],
    "outcome": "${second.value.say}",
}


async def test_a_plan_talks_too(desk: Open, stub: Stub) -> None:
    """Steps of one conversation are its turns, in the order in which they stand, with the records of a recall."""
    async with desk() as opened:
        handle = await opened.start(PlanWorkflow.run, PlanRun(plan=Plan.model_validate(PLAN), input={"text": "Hello"}))

        assert "answer 2" == await handle.result()
        assert ["Ada has a dog"] == [each["content"] for each in shown(stub, 0)["records"]]
        assert ["Hello", {"say": "answer 1"}, "And now?"] == told(stub)
        assert await opened.replays(handle, [])
        assert 4 == (await erase(opened, "grace")).messages

"""Tests of activities/tool_message.py: whatever an effect has answered can be told."""

from __future__ import annotations

import json

import pytest
from pydantic import JsonValue

from perdure.activities.tool_message import append_tool_message
from perdure.connectors.contracts import EffectCall, EffectResult, Receipt
from perdure.connectors.wire import canonical_json, sha256
from perdure.errors import Erased
from perdure.lineage import Lineage, StepRef
from perdure.memory import customer
from perdure.memory.conversations import Messages
from perdure.memory.conversations.contracts import (
    ConversationRef,
    NewMessage,
    answer_id,
    root_of,
)
from perdure.memory.records.requests import ForgetCall
from perdure.memory.unindexed import records_only
from perdure.storage import Database

RUN = Lineage(namespace="default", workflow_id="w", first_execution_run_id="r")
DESK = ConversationRef(name="desk")


def effect(answer: JsonValue) -> tuple[EffectCall, EffectResult]:
    """An effect that was answered with ANSWER."""
    call = EffectCall(step=StepRef(lineage=RUN, name="pay"), action="till.pay", args={"amount": 5})
    receipt = Receipt(key="pe-" + "0f" * 20, action="till.pay", response_digest=sha256(canonical_json(answer)))
    return call, EffectResult(value=answer, receipt=receipt)


async def test_an_answer_leaves_its_receipt(sqlite_database: Database) -> None:
    """The run finds the message by the arguments and the receipt, so it is told no more."""
    messages = Messages(sqlite_database, len)
    call, done = effect({"id": 7})

    acted = await append_tool_message(messages, RUN, DESK, call, done)

    assert (None, "") == (acted.value, acted.head)
    head = answer_id(root_of(RUN, "desk"), "till.pay", {"amount": 5}, done.receipt.response_digest)
    window = await messages.window(ConversationRef(head=head), 1000)
    assert [{"asked": {"amount": 5}, "answered": {"id": 7}}] == [each.content for each in window.messages]


@pytest.mark.parametrize("answer", [{"id": 2**60}, [2**53 + 1, "x"]])
async def test_an_answer_that_no_message_holds_is_told_as_text(sqlite_database: Database, answer: JsonValue) -> None:
    """It has happened, so it is told, and the run is given the reference."""
    messages = Messages(sqlite_database, len)
    call, done = effect(answer)

    acted = await append_tool_message(messages, RUN, DESK, call, done)

    [told] = (await messages.window(ConversationRef(head=acted.head), 1000)).messages
    assert isinstance(told.content, dict)
    assert answer == json.loads(str(told.content["answered"]))


async def test_an_effect_in_a_conversation_that_was_erased_meanwhile(sqlite_database: Database) -> None:
    """It has happened, so its receipt is told; the answer is stored nowhere, and the next turn says that all was erased."""
    messages = Messages(sqlite_database, len)
    ada = customer("ada")
    ref = await messages.append(RUN, DESK, [NewMessage(role="user", content="pay me")], of=[ada])
    await messages.check(RUN, ref)
    erase = StepRef(lineage=RUN, name="erase")
    await records_only(sqlite_database).forget(ForgetCall(step=erase, scope=ada, how="erase", everything=True))
    call, done = effect({"id": 7})

    acted = await append_tool_message(messages, RUN, ref, call, done)

    assert (done.receipt, None) == (acted.receipt("till.pay"), acted.value)
    with pytest.raises(Erased):
        await messages.check(RUN, ref)
    with pytest.raises(Erased):
        await messages.window(ref.model_copy(update={"head": "gone"}), 1000, lineage=RUN)

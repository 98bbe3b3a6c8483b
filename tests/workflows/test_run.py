"""Tests of workflows/run.py: what a run takes over from the one before."""

from __future__ import annotations

from perdure.lineage import Lineage
from perdure.memory.conversations.contracts import ConversationRef, NewMessage
from perdure.workflows.run import (
    Continuation,
    ContinuedConversation,
    OpenConversation,
    Run,
)

LINEAGE = Lineage(namespace="default", workflow_id="desk", first_execution_run_id="first")


def test_what_a_signal_said_first_comes_after_what_was_carried_over() -> None:
    """A signal that is handled before the run's own code begins adds to the conversation and replaces nothing."""
    run = Run("second", "Chats", lambda: (LINEAGE, True))
    early = run.conversations["desk"] = OpenConversation(ConversationRef(name="desk"))
    early.new.append(NewMessage(role="user", content="late"))
    ref = ConversationRef(name="desk", head="h", summary="s")

    run.take_over(
        Continuation(
            conversations=(ContinuedConversation(ref=ref, new=(NewMessage(role="user", content="before"),), full=True),)
        )
    )

    assert early is run.conversations["desk"]
    assert (ref, True) == (early.ref, early.full)
    assert ["before", "late"] == [each.content for each in early.new]


def test_a_run_without_conversations_carries_what_it_always_did() -> None:
    """What a worker of an older version would have to read has no new field."""
    run = Run("first", "Chats", lambda: (LINEAGE, True), counts={"a": 1})

    assert {"counts": {"a": 1}, "spent_nano_usd": 0, "plan": ""} == run.continuation().model_dump(exclude_unset=True)

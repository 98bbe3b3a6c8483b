"""What a conversation is to those who only hold a reference to it. Pure models: safe to import in workflow code."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, cast

import rfc8785
from pydantic import Field, JsonValue

from perdure.lineage import Lineage, digest
from perdure.memory.contracts import CompactModel, Recall, Scope

Role = Literal["user", "assistant", "tool", "state"]
"""Who said it. `state` is what the run itself keeps in mind; of that only the newest counts."""

RESERVED = ("conversation", "records", "state")
"""The inputs of a prompt that a context fills, so that no input may have these names."""


class NewMessage(CompactModel):
    """A message that the database does not hold yet. It goes along with the next step, once."""

    role: Role
    content: JsonValue
    name: str = Field(default="", max_length=200)
    """Of a tool: which one. Else who said it, if that matters."""


def tool_exchange(asked: JsonValue, answered: JsonValue) -> JsonValue:
    """Return the content of the message in which a tool says what it was ASKED and what it ANSWERED."""
    return {"asked": asked, "answered": answered}


class ConversationRef(CompactModel):
    """A whole conversation in two digests, however long it is."""

    name: str = Field(default="", max_length=200)
    """Empty: it is not needed, for the newest message stands for the conversation."""
    head: str = ""
    """The newest message, whose digest covers all before it; empty: there is none."""
    summary: str = ""
    """The summary that stands for the oldest messages; empty: there is none."""
    begun: int = 0
    """How often it was begun anew, after what was said had been erased."""


class RecordsRef(CompactModel):
    """Memory records that a recall returned, best first, as they were known at AS_OF."""

    scope: Scope
    as_of: datetime
    ids: tuple[tuple[str, int], ...]
    """(memory id, version)."""

    @classmethod
    def of(cls, recall: Recall) -> RecordsRef:
        """Return the reference to what RECALL returned."""
        receipt = recall.receipt
        return cls(
            scope=receipt.scope, as_of=receipt.as_of, ids=tuple((id, version) for id, version, _ in receipt.returned)
        )


class PackReceipt(CompactModel):
    """The receipt of a context: what went into a prompt, and what did not. Messages are counted from 1."""

    tokens: int
    """How many it has, by our estimate."""
    first: int = 1
    last: int = 0
    """The messages from FIRST to LAST went in; LAST is 0 if none did."""
    left_out: int = 0
    """How many messages before FIRST neither went in nor stand in the summary."""
    summarised: int = 0
    """The summary stands for the messages up to this one."""
    cut: int = 0
    """How many characters the newest message or the summary lost, because it did not fit by itself."""
    records: tuple[str, ...] = ()
    """The memory records that went in, as `ID@VERSION`."""
    records_left_out: tuple[str, ...] = ()
    """Those for which there was no room, or which are not there any more."""


def root_of(lineage: Lineage, name: str, begun: int = 0) -> str:
    """Return what the first message of the conversation NAME comes after, when it was BEGUN anew so often.

    Without the namespace, which is another one in a Replayer. The first run's id is unique everywhere.
    """
    named: list[JsonValue] = [lineage.workflow_id, lineage.first_execution_run_id, name]
    return short_digest([*named, begun] if begun else named)


def message_id(before: str, role: str, name: str, content: JsonValue) -> str:
    """Return the digest of a message after BEFORE: it covers all that was said up to there.

    A tool's answer goes in by its own digest, so that a run that has only the receipt of an answer knows the id too.
    """
    if role == "tool" and isinstance(content, dict) and content.keys() == {"asked", "answered"}:
        return answer_id(before, name, content["asked"], digest(content["answered"]))
    return short_digest([before, role, name, rfc8785.dumps(cast(Any, content)).decode()])


def answer_id(before: str, name: str, asked: JsonValue, answer_digest: str) -> str:
    """Return the id of the message after BEFORE in which the tool NAME answers ASKED with what has ANSWER_DIGEST."""
    return short_digest([before, "tool", name, asked, answer_digest])


def head_after(before: str, said: Sequence[NewMessage]) -> str:
    """Return the id of the last of the messages SAID after BEFORE."""
    for message in said:
        before = message_id(before, message.role, message.name, message.content)
    return before


def short_digest(value: list[JsonValue]) -> str:
    """Return the digest of VALUE's canonical JSON in 192 bits of base64.

    Several of these stand in the history with every call, and whoever wants two messages with the same one has to try
    2**96.
    """
    whole = hashlib.sha256(rfc8785.dumps(cast("list[Any]", value))).digest()
    return base64.urlsafe_b64encode(whole[:24]).decode()

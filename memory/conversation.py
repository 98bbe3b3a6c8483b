"""What a conversation is to those who only hold a reference to it. Pure models: safe to import in workflow code."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field, JsonValue, SerializerFunctionWrapHandler, model_serializer

from perdure.lineage import Frozen
from perdure.memory.contracts import Recall, Scope

Role = Literal["user", "assistant", "tool", "state"]
"""Who said it. `state` is what the run itself keeps in mind; of that only the newest counts."""

RESERVED = ("conversation", "records", "state")
"""The inputs of a prompt that a context fills, so that no input may have these names."""


class Compact(Frozen):
    """A model that is recorded with every call: on the wire it leaves out whatever is as by default."""

    @model_serializer(mode="wrap")
    def _without_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, JsonValue]:
        fields = type(self).model_fields
        said: dict[str, JsonValue] = dump(self)
        return {
            name: value
            for name, value in said.items()
            if fields[name].is_required() or getattr(self, name) != fields[name].default
        }


class NewMessage(Compact):
    """A message that the database does not hold yet. It goes along with the next step, once."""

    role: Role
    content: JsonValue
    name: str = Field(default="", max_length=200)
    """Of a tool: which one. Else who said it, if that matters."""


class ConversationRef(Compact):
    """A whole conversation in two digests, however long it is."""

    name: str = Field(min_length=1, max_length=200)
    head: str = ""
    """The newest message, whose digest covers all before it; empty: there is none."""
    summary: str = ""
    """The summary that stands for the oldest messages; empty: there is none."""
    begun: int = 0
    """How often it was begun anew, after what was said had been erased."""


class RecordsRef(Compact):
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


class Packed(Compact):
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

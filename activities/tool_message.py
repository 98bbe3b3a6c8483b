"""How the answer of an effect becomes a message, and the history needs no more than its receipt."""

from __future__ import annotations

from typing import Any, cast

import rfc8785
from pydantic import JsonValue

from perdure.connectors.contracts import EffectCall, EffectResult
from perdure.connectors.wire import canonical_json
from perdure.errors import Erased
from perdure.lineage import Lineage, digest
from perdure.memory.conversations import Messages
from perdure.memory.conversations.contracts import ConversationRef, NewMessage, tool_exchange
from perdure.workflows.effect_model import ActResult


async def append_tool_message(
    messages: Messages, lineage: Lineage, ref: ConversationRef, effect: EffectCall, done: EffectResult
) -> ActResult:
    """Store what EFFECT was asked and what was DONE after the messages of REF, and return what the run needs to know.

    If the conversation was erased meanwhile nothing is stored: it has happened, so the run gets the receipt all the same,
    and its next turn says what became of the conversation.
    """
    asked, answered = _storable(cast(JsonValue, effect.args)), _storable(done.value)
    said = NewMessage(role="tool", name=effect.action, content=tool_exchange(asked, answered))
    try:
        ref = await messages.append(lineage, ref, [said])
    except Erased:
        return ActResult.from_receipt(done.receipt)
    as_it_is = asked == effect.args and done.receipt.response_digest == digest(answered)
    return ActResult.from_receipt(done.receipt).model_copy(update={"head": "" if as_it_is else ref.head})


def _storable(value: JsonValue) -> JsonValue:
    """Return VALUE, or its text if it has numbers that no message can hold: it has happened, so it must be told somehow."""
    try:
        rfc8785.dumps(cast(Any, value))
    except ValueError:
        return canonical_json(value).decode()
    return value

"""The activities behind conversations: references become what was said, and what was said becomes references."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import JsonValue
from temporalio import activity

from perdure.activities.step_context import current_step
from perdure.activities.steps import StepActivities
from perdure.connectors.contracts import EffectCall
from perdure.errors import InvalidInput, NotFound
from perdure.memory.conversations.contracts import (
    ConversationRef,
    NewMessage,
    PackReceipt,
    RecordsRef,
    tool_exchange,
)
from perdure.routing.contracts import GenerateCall, OutputRef
from perdure.workflows.conversation_model import (
    ConverseCall,
    KeepCall,
    KeepResult,
    LookCall,
    SummariseCall,
    SummariseResult,
    Turn,
    TurnRecord,
    task_name,
)

if TYPE_CHECKING:
    from perdure.activities.rooms import Rooms
    from perdure.memory.conversations import Message, PackableRecord, Window

_SUMMARY = OutputRef(
    name="perdure:Summary",
    json_schema={"type": "object", "properties": {"summary": {"type": "string", "minLength": 1}}, "required": ["summary"]},
)


class ConversationActivities:
    """The activities that work in ROOMS and call models by STEPS. Their names are on the wire and never change."""

    def __init__(self, rooms: Rooms, steps: StepActivities) -> None:
        self._rooms = rooms
        self._steps = steps

    @activity.defn(name="perdure.converse")
    async def converse(self, call: ConverseCall) -> Turn:
        """Store what is new, pack the context, call one deployment once, store the answer."""
        from perdure.memory.conversations import Window

        rooms, step = self._rooms.open, current_step(call)
        window, ref = Window(), call.conversation or call.ref
        if ref is not None:
            ref = await rooms.messages.append(step.lineage, ref, call.new, of=call.of)
            window = await rooms.messages.window(ref, call.tokens, lineage=step.lineage)
        context, packed, shown = await self._pack(window, call.records, call.tokens)
        asked = GenerateCall(
            step=step,
            task=call.task or task_name(step.name),
            inputs={**call.inputs, **context},
            output=OutputRef(name=call.output, json_schema=call.json_schema),
            tenant=call.tenant,
            agent=call.agent,
        )
        answer = await self._steps.answer(asked)
        if ref is not None:
            said = NewMessage(role="assistant", content=answer.value)
            ref = await rooms.messages.append(step.lineage, ref, [said], of=call.of, made_from=shown)
        return Turn(
            value=answer.value,
            confidence=None if answer.confidence is None else round(answer.confidence, 4),
            ask_below=answer.ask_below,
            head=ref.head if ref and call.conversation else "",
            packed=packed,
            full=call.summary in rooms.router.routes.tasks and _nearly_full(window, packed, call.tokens),
            record=TurnRecord.from_record(answer.record),
        )

    @activity.defn(name="perdure.summarise")
    async def summarise(self, call: SummariseCall) -> SummariseResult:
        """Sum up all but the newest messages that fill a quarter of the context, together with the summary before."""
        from perdure.memory.conversations import Summary, summary_id

        rooms, step, ref = self._rooms.open, current_step(call), call.conversation
        window = await rooms.messages.window(ref, call.tokens, lineage=step.lineage)
        older = _oldest_messages(window, call.tokens)
        if not older:
            return SummariseResult(summary=ref.summary)
        last = older[-1]
        id = summary_id(last, ref.summary, call.task)
        found = await rooms.messages.summary(id)
        if found is None:
            context, _, _ = await self._pack(replace(window, messages=older, state=None), (), call.tokens)
            asked = GenerateCall(
                step=step, task=call.task, inputs=context, output=_SUMMARY, tenant=call.tenant, agent=call.agent
            )
            answer = await self._steps.answer(asked)
            text = answer.value["summary"] if isinstance(answer.value, dict) else answer.value
            record = TurnRecord.from_record(answer.record).model_dump(mode="json")
            made = Summary(id, last.position, last.number, str(text), record)
            found = await rooms.messages.keep_summary(made, ref, lineage=step.lineage)
        return SummariseResult(summary=id, messages=found.number, record=TurnRecord.model_validate(found.record))

    @activity.defn(name="perdure.look")
    async def look(self, call: LookCall) -> KeepResult:
        """Read something and store it as the next message."""
        rooms, step = self._rooms.open, current_step(call)
        if not rooms.ledger.action(call.action).reads:
            raise InvalidInput(f"{call.action} does more than read: do it with act()")
        connector = call.action.partition(".")[0]
        if connector in rooms.queued:
            raise InvalidInput(
                f"{call.action}: connector {connector!r} has a task queue of its own, and look() does not wait there. "
                "Do it with act()."
            )
        done = await rooms.ledger.perform(EffectCall(step=step, action=call.action, args=call.args))
        said = NewMessage(role="tool", name=call.action, content=tool_exchange(call.args, done.value))
        ref = await rooms.messages.append(step.lineage, call.conversation, [*call.new, said], of=call.of)
        return KeepResult(head=ref.head)

    @activity.defn(name="perdure.keep")
    async def keep(self, call: KeepCall) -> KeepResult:
        """Store what is new."""
        lineage = current_step(call).lineage
        ref: ConversationRef = await self._rooms.open.messages.append(lineage, call.conversation, call.new, of=call.of)
        return KeepResult(head=ref.head)

    def all(self) -> list[Callable[..., object]]:
        """Return the activities to register with a worker."""
        return [self.converse, self.summarise, self.look, self.keep]

    async def _pack(
        self, window: Window, records: Sequence[RecordsRef], tokens: int
    ) -> tuple[dict[str, JsonValue], PackReceipt, list[str]]:
        """Return the inputs, the receipt, and the versions of memories that are among the inputs."""
        from perdure.memory.conversations import pack
        from perdure.routing.prompts import estimate_tokens

        found, gone = await self._read(records)
        inputs, packed = pack(window, found, tokens=tokens, count=estimate_tokens, gone=gone)
        shown = set(packed.records)
        return inputs, packed, [each.version_id for each in found if each.id in shown and each.version_id]

    async def _read(self, wanted: Sequence[RecordsRef]) -> tuple[list[PackableRecord], list[str]]:
        """Return the records that are still there, each once, and what to call the others."""
        from perdure.memory.conversations import label_record

        found: dict[str, PackableRecord] = {}
        gone: list[str] = []
        for each in wanted:
            for memory_id, version in each.ids:
                name = f"{memory_id}@{version}"
                try:
                    record = await self._rooms.open.memory.get(memory_id, each.scope, as_of=each.as_of)
                except NotFound:
                    gone.append(name)
                    continue
                found.setdefault(name, label_record(record))
        return list(found.values()), list(dict.fromkeys(gone))


def _nearly_full(window: Window, packed: PackReceipt, tokens: int) -> bool:
    """Say whether the messages come near to filling the context: then the oldest are to be summed up."""
    filled = sum(message.tokens for message in window.messages)
    return bool(_oldest_messages(window, tokens)) and (packed.left_out > 0 or filled > tokens * 3 // 4)


def _oldest_messages(window: Window, tokens: int) -> tuple[Message, ...]:
    """Return what a summary would stand for: all messages but the newest that have a quarter of TOKENS."""
    from perdure.memory.conversations import count_newest

    return window.messages[: len(window.messages) - count_newest(window.messages, tokens // 4)]

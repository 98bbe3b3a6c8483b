"""How a run talks with a model over many turns: it holds one reference, and each turn says only what is new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from pydantic import BaseModel
from temporalio import workflow
from temporalio.exceptions import ActivityError, is_cancelled_exception

from perdure.connectors.contracts import PARKED_WITHIN, Action, Receipt
from perdure.errors import InvalidInput, ModelError, PerdureError
from perdure.memory.contracts import Recall, Scope
from perdure.memory.conversations.contracts import (
    RESERVED,
    ConversationRef,
    NewMessage,
    PackReceipt,
    RecordsRef,
    Role,
    answer_id,
    head_after,
    root_of,
)
from perdure.routing.contracts import Generation, OutputRef
from perdure.workflows.budgets import ask_within_budget
from perdure.workflows.call import (
    LOOKUP_RETRIES,
    MODEL_RETRIES,
    Value,
    as_json,
    execute,
    raise_translated,
)
from perdure.workflows.conversation_model import (
    SUMMARY,
    TOKENS,
    ConversationPosition,
    ConverseCall,
    KeepCall,
    KeepResult,
    LookCall,
    SummariseCall,
    SummariseResult,
    Turn,
    position_in,
    task_name,
)
from perdure.workflows.effects import EffectRequest, perform_effect
from perdure.workflows.run import OpenConversation, Run, current_run

In = TypeVar("In", bound=BaseModel)
Out = TypeVar("Out", bound=BaseModel)


@dataclass(frozen=True)
class Context:
    """What of a conversation and of memory goes into a prompt: as much as fits into TOKENS, always the same way.

    RECORDS are what recalls returned, the best first. If the routes have a task called SUMMARY, it sums up the oldest
    messages before they no longer fit; otherwise they are left out. docs/context.md tells in which order.
    """

    tokens: int = TOKENS
    records: Sequence[Recall] = ()
    summary: str = SUMMARY

    def __post_init__(self) -> None:
        if self.tokens < 64:
            raise InvalidInput(f"a context of {self.tokens} tokens is too small; give it 64 or more")


class Conversation:
    """The run's conversation called NAME, which goes on where it was, also after a continue-as-new.

    OF says whose it is, so that an erasure of everything of that scope takes what was said in it. What is said is stored
    once in the database; the run holds two digests and what is not stored yet. So a turn costs the same history however
    long the conversation is. Turns of one conversation wait for each other.
    """

    def __init__(self, name: str = "main", *, of: Scope | None = None) -> None:
        if not name:
            raise InvalidInput("a conversation has a name; leave it out for the one called `main`")
        self._open = current_run().conversations.setdefault(name, OpenConversation(ConversationRef(name=name)))
        if of is not None:
            self._open.of.setdefault(of, False)

    @property
    def name(self) -> str:
        """Its name, unique within the run."""
        return self._open.ref.name

    @property
    def ref(self) -> ConversationRef:
        """The reference to all that is stored of it."""
        return self._open.ref

    @property
    def new(self) -> int:
        """How many messages no step has stored yet, such as what a signal's handler said for the next turn."""
        return len(self._open.new)

    @property
    def packed(self) -> PackReceipt | None:
        """The receipt of the last turn: which messages and records went into the prompt. None: there was no turn yet."""
        return self._open.packed

    def user(self, content: Value, *, name: str = "") -> None:
        """Let the user, called NAME if there are several, have said CONTENT. It goes along with the next turn."""
        self._say("user", content, name)

    def tool(self, name: str, content: Value) -> None:
        """Let the tool NAME have answered CONTENT."""
        self._say("tool", content, name)

    def assistant(self, content: Value) -> None:
        """Let the model have said CONTENT, e.g. when a person wrote its answer. What `generate` gave is there already."""
        self._say("assistant", content, "")

    def keep_in_mind(self, state: Value) -> None:
        """Let STATE be what the run keeps in mind, instead of what it was before. It is in every prompt from now on."""
        self._say("state", state, "")

    def anew(self) -> None:
        """Begin it anew, without what was said in it: the way on after `Erased`. What is not stored yet stays new."""
        ref = self._open.ref
        self._open.ref = ConversationRef(name=ref.name, begun=ref.begun + 1)
        self._open.full = False
        self._open.of = dict.fromkeys(self._open.of, False)

    async def look(self, action: Action[In, Out], args: In, *, name: str | None = None, summary: str | None = None) -> None:
        """Do ACTION, which only reads, and let its answer be the next message. The history holds a reference to it.

        A local activity: one event instead of six, for what answers within a second or so. It is done again if the worker
        is killed. A connector that has a queue of its own raises `InvalidInput`: a look does not wait there.
        """
        if not isinstance(args, action.input):
            raise InvalidInput(f"{action.name} takes {action.input.__name__}, not {type(args).__name__}")
        if not action.reads:
            raise InvalidInput(f"{action.name} does more than read: use act()")
        run = current_run()
        run.list_it()
        step = run.step(name or action.name)
        said = summary or (action.describe(args) if action.describe else action.name)
        async with self._open.turn:
            place = self._position()
            call = LookCall(
                **run.call_context(recorded=False),
                conversation=self.ref,
                new=place["new"],
                of=place["of"],
                action=action.name,
                args=args.model_dump(mode="json"),
            )
            try:
                kept: KeepResult = await workflow.execute_local_activity(
                    "perdure.look",
                    call,
                    result_type=KeepResult,
                    activity_id=step.name,
                    summary=said,
                    start_to_close_timeout=action.target.deadline + timedelta(seconds=30),
                    retry_policy=LOOKUP_RETRIES,
                )
            except ActivityError as error:
                raise_translated(error)
            self._mark_stored(kept.head, place)
        run.note_done(said)

    async def act(
        self,
        action: Action[In, Out],
        args: In,
        *,
        item: str = "",
        name: str | None = None,
        summary: str | None = None,
        parked_within: timedelta = PARKED_WITHIN,
        must: bool = False,
        settle: bool = True,
    ) -> Receipt:
        """Do what `act` does, and let the answer be the next message. The history holds its digest, in the receipt.

        For what the model goes on from. What the workflow goes on from as well is an `act`, whose answer is told with
        `tool`. Turns wait until it is done. One that fails says nothing: tell the model by `tool`, if it should know.
        """
        async with self._open.turn:
            ref, place = self.ref, self._position()
            request = EffectRequest.of(action, args, item=item, name=name, summary=summary, must=must, position=place)
            result = await perform_effect(request, parked_within=parked_within, settle=settle)
            receipt = result.receipt(action.name)
            head = result.head or answer_id(
                _head_after(ref, place["new"]), action.name, args.model_dump(mode="json"), receipt.response_digest
            )
            self._mark_stored(head, place)
        return receipt

    async def keep(self, *, name: str | None = None) -> None:
        """Store what is new now, instead of with the next turn; nothing to store is no step."""
        async with self._open.turn:
            place = self._position()
            if not place["new"]:
                return
            run = current_run()
            step = run.step(name or f"keep:{self.name}")
            call = KeepCall(**run.call_context(), conversation=self.ref, new=place["new"], of=place["of"])
            kept = await execute(
                "perdure.keep",
                call,
                KeepResult,
                id=step.name,
                summary=f"Store {len(call.new)} messages of {self.name}",
                timeout=timedelta(seconds=60),
                retries=LOOKUP_RETRIES,
            )
            self._mark_stored(kept.head, place)

    def _say(self, role: Role, content: Value, name: str) -> None:
        self._open.new.append(NewMessage(role=role, content=as_json(content), name=name))

    def _mark_stored(self, head: str, said: ConversationPosition) -> None:
        # Not all of `new`: more may have been said meanwhile, by a signal's handler.
        del self._open.new[: len(said["new"])]
        if self._open.ref.begun == said["begun"]:  # else it was begun anew meanwhile
            self._open.ref = self._open.ref.model_copy(update={"head": head})
            self._open.of |= dict.fromkeys(said["of"], True)

    def _position(self) -> ConversationPosition:
        return position_in(self._open.ref, tuple(self._open.new), self._open.unstored_scopes)


def _head_after(ref: ConversationRef, said: Sequence[NewMessage]) -> str:
    return head_after(ref.head or root_of(current_run().lineage, ref.name, ref.begun), said)


async def converse(
    task: str,
    output: OutputRef,
    *,
    inputs: Mapping[str, Value],
    conversation: Conversation | None,
    context: Context | None,
    tenant: str,
    agent: str,
    name: str,
    summary: str,
    timeout: timedelta,
) -> Generation:
    """Do what `generate_json` does, with what CONTEXT lets in of CONVERSATION and of memory, and add the answer to it."""
    context = context or Context()
    if clash := [each for each in RESERVED if each in inputs]:
        raise InvalidInput(f"input {clash[0]!r} of {name}: the context fills it, so give it another name")
    run = current_run()
    talk = conversation._open if conversation else OpenConversation(ConversationRef(name=name))  # noqa: SLF001  same module
    async with talk.turn:
        if talk.full:
            await _summarise(run, talk, context, tenant, agent)
        ref = talk.ref
        place = conversation._position() if conversation else position_in(None)  # noqa: SLF001  same module
        call = ConverseCall(
            **run.call_context(),
            task="" if task_name(name) == task else task,
            output=output.name,
            json_schema=output.json_schema,
            inputs={key: as_json(value) for key, value in inputs.items()},
            **place,
            tokens=context.tokens,
            records=tuple(RecordsRef.of(each) for each in context.records),
            summary=context.summary,
            tenant=tenant,
            agent=agent,
        )

        async def ask() -> Turn:
            step = run.step(name)
            return await execute(
                "perdure.converse", call, Turn, id=step.name, summary=summary, timeout=timeout, retries=MODEL_RETRIES
            )

        turn = await ask_within_budget(ask)
        if conversation is not None:
            said = [*place["new"], NewMessage(role="assistant", content=turn.value)]
            conversation._mark_stored(turn.head or _head_after(ref, said), place)  # noqa: SLF001  same module
        talk.full, talk.packed = turn.full, turn.packed
    record = turn.record.to_record(task, turn.value)
    run.spend(record.usage.cost_nano_usd)
    return Generation(value=turn.value, confidence=turn.confidence, ask_below=turn.ask_below, record=record)


async def _summarise(run: Run, talk: OpenConversation, context: Context, tenant: str, agent: str) -> None:
    """Have the oldest messages summed up. If that fails the conversation goes on, and they are left out."""
    talk.full = False
    step = run.step(f"summarise:{talk.ref.name}")
    call = SummariseCall(
        **run.call_context(),
        conversation=talk.ref,
        task=context.summary,
        tokens=context.tokens,
        tenant=tenant,
        agent=agent,
    )
    try:
        summed = await execute(
            "perdure.summarise",
            call,
            SummariseResult,
            id=step.name,
            summary=f"Sum up the beginning of {talk.ref.name}",
            timeout=timedelta(minutes=5),
            retries=MODEL_RETRIES,
        )
    except (ActivityError, PerdureError) as error:
        if is_cancelled_exception(error):
            raise
        if isinstance(error, ModelError):
            run.spend(error.spent_nano_usd)
        workflow.logger.warning(
            "conversation could not be summarised", extra={"conversation": talk.ref.name, "why": str(error)}
        )
        return
    talk.ref = talk.ref.model_copy(update={"summary": summed.summary})
    if summed.record is not None:
        run.spend(summed.record.used[2])

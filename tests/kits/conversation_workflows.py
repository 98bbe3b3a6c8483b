"""Workflows that talk with a model, in a module of their own for the sandbox."""

from __future__ import annotations

from datetime import timedelta

from pydantic import BaseModel
from temporalio import workflow

from perdure.connectors.contracts import Receipt
from perdure.connectors.null import Entry, null
from perdure.errors import Erased
from perdure.lineage import Frozen
from perdure.memory.conversations.contracts import PackReceipt
from perdure.workflows import (
    Context,
    Conversation,
    customer,
    generate,
    recall,
    remember,
    renew,
)

__all__ = ["Acts", "Answer", "Chats", "GoesOn", "Knows", "Looks", "Renews", "Talk", "Visit", "Writes"]


class Answer(BaseModel):
    """What the model says."""

    say: str


class Talk(Frozen):
    """What a user says, one after the other, and how much of it the model is shown."""

    says: tuple[str, ...]
    tokens: int = 4000
    events: int | None = None
    """How long the history may become."""
    waits: bool = False
    """Whether it waits to be told after each answer."""
    answers: tuple[str, ...] = ()
    """What was answered so far."""
    tenant: str = "default"
    agent: str = ""
    or_ask: str = ""


@workflow.defn
class Chats:
    """Answers each thing that the user says."""

    def __init__(self) -> None:
        self._told = False

    @workflow.run
    async def run(self, talk: Talk) -> list[str]:
        conversation = Conversation("desk")
        answers = list(talk.answers)
        for said in talk.says[len(answers) :]:
            conversation.user(said)
            answer = await generate(
                "reply",
                Answer,
                conversation=conversation,
                context=Context(tokens=talk.tokens),
                tenant=talk.tenant,
                agent=talk.agent,
                or_ask=talk.or_ask,
            )
            answers.append(answer.value.say)
            await workflow.wait_condition(lambda: self._told or not talk.waits)
            await renew(talk.model_copy(update={"answers": tuple(answers)}), events=talk.events)
        return answers

    @workflow.signal
    async def go_on(self) -> None:
        """Let it go on."""
        self._told = True


@workflow.defn
class Renews:
    """Goes on as a new run with something said that nobody has stored yet, without `renew`."""

    @workflow.run
    async def run(self, lap: int) -> str:
        conversation = Conversation("desk")
        if lap == 0:
            conversation.user("from the run before")
            workflow.continue_as_new(1)
        return (await generate("reply", Answer, conversation=conversation)).value.say


@workflow.defn
class Looks:
    """Looks something up for the model and says what it keeps in mind."""

    @workflow.run
    async def run(self, turns: int) -> int:
        conversation = Conversation("desk")
        conversation.user("what is in it?")
        for turn in range(turns):
            conversation.keep_in_mind({"turn": turn})
            await generate("reply", Answer, conversation=conversation)
            await conversation.look(null.read, Entry(text="x"))
        return turns


@workflow.defn
class Writes:
    """Tries to look with what does more than look."""

    @workflow.run
    async def run(self, _: int) -> None:
        await Conversation("desk").look(null.write, Entry(text="x"))


class Visit(Frozen):
    """Who comes, and whether the desk goes on when what was said was erased."""

    user: str
    goes_on: bool = True


@workflow.defn
class GoesOn:
    """Talks with a customer and, if what was said is erased, begins anew."""

    def __init__(self) -> None:
        self._told = False

    @workflow.run
    async def run(self, visit: Visit) -> list[str]:
        conversation = Conversation("desk", of=customer(visit.user))
        answers = []
        for said in ("one", "two"):
            conversation.user(said)
            try:
                answer = await generate("reply", Answer, conversation=conversation)
            except Erased:
                if not visit.goes_on:
                    raise
                conversation.anew()
                answer = await generate("reply", Answer, conversation=conversation)
            answers.append(answer.value.say)
            await workflow.wait_condition(lambda: self._told)
        return answers

    @workflow.signal
    async def go_on(self) -> None:
        """Let it go on."""
        self._told = True


@workflow.defn
class Acts:
    """Does something for the model after each answer, and returns the receipts."""

    @workflow.run
    async def run(self, turns: int) -> list[Receipt]:
        conversation = Conversation("desk")
        receipts = []
        for turn in range(turns):
            conversation.user(f"write {turn}")
            await generate("reply", Answer, conversation=conversation)
            receipts.append(await conversation.act(null.write, Entry(text="long " * 100)))
        conversation.user("done?")
        await generate("reply", Answer, conversation=conversation)
        return receipts


@workflow.defn
class Knows:
    """Asks with what memory says of the customer, once it is told to go on."""

    def __init__(self) -> None:
        self._told = False

    @workflow.run
    async def run(self, wait: bool) -> PackReceipt | None:
        await remember(customer("ada"), "Ada wants her parcels at the back door", ttl=timedelta(days=9))
        past = await recall("where do parcels go?", scope=customer("ada"))
        await workflow.wait_condition(lambda: self._told or not wait)
        conversation = Conversation("desk")
        conversation.user("where do I leave it?")
        await generate("reply", Answer, conversation=conversation, context=Context(records=[past]))
        return conversation.packed

    @workflow.signal
    async def go_on(self) -> None:
        """Let it go on."""
        self._told = True

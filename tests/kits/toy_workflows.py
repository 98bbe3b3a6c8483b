"""Small workflows for tests, in a module of their own: the sandbox imports a workflow's module anew for each run."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from pydantic import JsonValue
from temporalio import workflow
from temporalio.exceptions import ApplicationError

from perdure.connectors.null import Entry, null
from perdure.errors import ApprovalError, InvalidInput
from perdure.examples.returns_desk.models import Triage
from perdure.lineage import Frozen
from perdure.routing import Generation, ModelRecord
from perdure.workflows import (
    Context,
    Conversation,
    Saga,
    act,
    approval,
    consolidate,
    customer,
    feedback,
    forget,
    generate,
    get_memory,
    judge,
    list_memories,
    memory_history,
    pin,
    recall,
    remember,
    renew,
    update_memory,
)


class Big(Frozen):
    """A value of any size."""

    text: str


@workflow.defn
class Remembers:
    """Remembers something and recalls it."""

    @workflow.run
    async def run(self, what: str) -> list[str]:
        await remember(customer("c-1"), what)
        found = await recall("parcel", scope=customer("c-1"))
        return found.texts


@workflow.defn
class Keeps:
    """Says a fact, contradicts it, uses what it knows, and forgets it again."""

    @workflow.run
    async def run(self, user: str) -> list[str]:
        scope = customer(user)
        home = await remember(scope, "Graz", subject=user, predicate="lives in", labels=["crm"])
        await remember(scope, "Wien", subject=user, predicate="lives in", ttl=timedelta(days=9))
        await remember(scope, "likes tea", memory_id="taste")
        found = await recall("home", scope=scope)
        await feedback(found, cited=[found.hits[0].record.version_id], useful=1)
        listed = await list_memories(scope, label="crm")
        await pin(scope, "taste")
        await update_memory(scope, "taste", content="likes coffee", expected=1)
        taste = await get_memory(scope, "taste")
        one = await consolidate(scope, [hit.record for hit in found.hits if hit.record.memory_id == "taste"], "drinks")
        await forget(scope, home.memory_id, how="retract")
        versions = await memory_history(scope, home.memory_id)
        gone = await forget(scope, everything=True, how="erase", why="test")
        known = [hit.record.content for hit in found.hits]
        said = [*sorted(known), *(each.content for each in (*listed.records, *versions))]
        return [*said, taste.content if taste else "", str(one.version), str(gone.versions)]


@workflow.defn
class Converses:
    """Takes one turn of a conversation in each of two runs."""

    @workflow.run
    async def run(self, lap: int) -> str:
        conversation = Conversation("desk")
        conversation.user("the cup came in two halves")
        conversation.keep_in_mind({"lap": lap})
        await remember(customer("c-1"), "c-1 has returned a cup before")
        past = await recall("cups", scope=customer("c-1"))
        context = Context(tokens=600, records=[past])
        request = {"subject": "my cup", "message": "the cup came in two halves"}
        triage = await generate("triage", Triage, inputs={"request": request}, conversation=conversation, context=context)
        await conversation.look(null.read, Entry(text="the cup"))
        conversation.user("and now?")
        if lap == 0:
            await renew(1, events=1)
        return triage.value.verdict


@workflow.defn
class SaysWhatWasRight:
    """Asks a model, says that its answer was wrong, and lets a person say it as well."""

    @workflow.run
    async def run(self, message: str) -> str:
        triage = await generate("triage", Triage, inputs={"request": {"subject": message, "message": message}})
        await judge(triage, correct=False, by="the books")
        decision = await approval("Is that right?", of="editor", about=triage.value, judges=triage)
        return decision.by


@workflow.defn
class JudgesWhatIsGone:
    """Asks a person about a model's answer whose call is not recorded here."""

    @workflow.run
    async def run(self, call_id: str) -> str:
        record = ModelRecord(
            task="triage", tier="small", deployment="one", model="openai/one", prompt_digest=call_id, provider_calls=1
        )
        decision = await approval("Is that right?", of="editor", judges=Generation(value={}, record=record))
        return decision.by


@workflow.defn
class ActsAndTells:
    """Acts in a conversation and outside, and asks a model in it and outside."""

    @workflow.run
    async def run(self, _: int) -> list[str]:
        conversation = Conversation("desk")
        conversation.user("the cup came in two halves")
        request = {"subject": "my cup", "message": "the cup came in two halves"}
        first = await conversation.act(null.write, Entry(text="the cup"))
        triage = await generate("triage", Triage, inputs={"request": request}, conversation=conversation)
        second = await conversation.act(null.write, Entry(text="the cup"), name="once more")
        alone = await generate("triage", Triage, inputs={"request": request})
        done = await act(null.write, Entry(text="the saucer"))
        return [triage.value.verdict, alone.value.verdict, first.key, second.key, done.receipt.key]


@workflow.defn
class WritesTwice:
    """Acts twice with the same arguments, which are two steps, and lets the first loop iteration run in two runs."""

    @workflow.run
    async def run(self, lap: int) -> list[str]:
        first = await act(null.write, Entry(text="same"))
        second = await act(null.write, Entry(text="same"))
        if lap == 0:
            workflow.continue_as_new(1)
        return [first.receipt.key, second.receipt.key]


@workflow.defn
class MisusesAct:
    """Gives an action the wrong argument."""

    @workflow.run
    async def run(self, given: str) -> None:
        try:
            await act(null.write, Big(text=given))  # type: ignore[misc]  # the point of the test
        except InvalidInput as error:
            raise ApplicationError(error.message, type="Refused", non_retryable=True) from None


@workflow.defn
class Echo:
    """Returns a text of the wanted length, given in characters."""

    @workflow.run
    async def run(self, length: int) -> Big:
        return Big(text="x" * length)


@workflow.defn
class Asks:
    """Asks a person, then writes."""

    @workflow.run
    async def run(self, hours: int) -> str:
        decision = await approval("Write it?", of="editor", within=timedelta(hours=hours), about={"hours": hours})
        await act(null.write, Entry(text=decision.by))
        return decision.by


@workflow.defn
class AsksAbout:
    """Asks about what it was given, and says what was said."""

    @workflow.run
    async def run(self, about: dict[str, JsonValue]) -> str:
        try:
            return (await approval("Pay it?", of="purchasing", about=about)).by
        except ApprovalError as refused:
            return refused.message


@workflow.defn
class AsksTwoAtOnce:
    """Asks two people at the same time."""

    @workflow.run
    async def run(self, hours: int) -> list[str]:
        first, second = await asyncio.gather(
            approval("First?", of="editor", name="first"), approval("Second?", of="owner", name="second")
        )
        return [first.by, second.by]


@workflow.defn
class Unwinds:
    """Writes twice in a saga and then fails in the way it is told."""

    @workflow.run
    async def run(self, how: str) -> None:
        async with Saga() as saga:
            await saga.act(null.write, Entry(text="one"))
            await saga.act(null.write, Entry(text="two"))
            if how == "fail":
                raise ApplicationError("told to fail", non_retryable=True)
            if how == "wait":
                await workflow.wait_condition(lambda: False)

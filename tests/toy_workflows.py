"""Small workflows for tests, in a module of their own: the sandbox imports a workflow's module anew for each run."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ApplicationError

from perdure.connectors.null import Entry, null
from perdure.errors import InvalidInput
from perdure.lineage import Frozen
from perdure.workflows import Saga, act, approval, customer, recall, remember


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

"""Workflows that put things into the box of tests/stand_ins/box.py, in a module of their own for the sandbox."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from stand_ins.box import VERBS, Entry, Thing, labelled, put
from temporalio import workflow
from temporalio.exceptions import ApplicationError

from perdure.lineage import Frozen
from perdure.workflows import Saga, act, approval

__all__ = ["Labels", "Packing", "Packs", "Puts", "Shipping", "ShipsFirst"]


class Packing(Frozen):
    """What to do in one saga, e.g. `put a`, and how it ends."""

    steps: tuple[str, ...] = ("put a", "put b")
    end: Literal["well", "fail", "wait"] = "well"
    undo: Literal["reverse", "parallel"] = "reverse"
    parked_within: timedelta = timedelta(minutes=5)


class Shipping(Frozen):
    """Whether the shipping is approved, and with whose decision."""

    approved: bool = True


@workflow.defn
class Packs:
    """Does steps in a saga and ends as it is told."""

    @workflow.run
    async def run(self, packing: Packing) -> list[str]:
        keys = []
        async with Saga(undo=packing.undo, parked_within=packing.parked_within) as saga:
            for each in packing.steps:
                verb, _, text = each.partition(" ")
                keys.append((await saga.act(VERBS[verb], Thing(text=text), name=each)).receipt.remote_ref)
            if packing.end == "fail":
                raise ApplicationError("told to fail", type="Told", non_retryable=True)
            if packing.end == "wait":
                await workflow.wait_condition(lambda: False)
        return keys


@workflow.defn
class Puts:
    """Puts one thing into the box, and waits for a person if need be for so many seconds."""

    @workflow.run
    async def run(self, seconds: int) -> str:
        done = await act(put, Thing(text="a"), parked_within=timedelta(seconds=seconds))
        return done.receipt.confirmed_by + " " + done.receipt.remote_ref


@workflow.defn
class Labels:
    """Labels the thing with the number 1, once in the world."""

    @workflow.run
    async def run(self, text: str) -> str:
        return (await act(labelled, Entry(id="1", text=text))).value.text


@workflow.defn
class ShipsFirst:
    """Ships before something that can be undone, with a decision if there is one, and then fails."""

    @workflow.run
    async def run(self, shipping: Shipping) -> None:
        decision = await approval("Ship it?", of="owner") if shipping.approved else None
        async with Saga() as saga:
            await saga.act(put, Thing(text="a"))
            await saga.act(VERBS["ship"], Thing(text="b"), approved=decision)
            await saga.act(put, Thing(text="c"))
            raise ApplicationError("told to fail", type="Told", non_retryable=True)

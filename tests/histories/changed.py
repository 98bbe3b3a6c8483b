"""Workflows as they could look after a careless change: the stored histories of the originals must not fit them."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ApplicationError

from perdure.connectors.null import Entry, null
from perdure.errors import EffectRejected
from perdure.examples.returns_desk.desk_connectors import (
    LookUp,
    Refund,
    Reserve,
    inventory,
    orders,
    payments,
)
from perdure.examples.returns_desk.models import Outcome, ReturnRequest, Triage
from perdure.workflows import (
    Saga,
    act,
    approval,
    customer,
    generate,
    recall,
    remember,
)


@workflow.defn(name="Remembers")
class RecallsFirst:
    """Recalls before it remembers."""

    @workflow.run
    async def run(self, what: str) -> list[str]:
        found = await recall("parcel", scope=customer("c-1"))
        await remember(customer("c-1"), what)
        return found.texts


@workflow.defn(name="Asks")
class WritesFirst:
    """Writes before it asks."""

    @workflow.run
    async def run(self, hours: int) -> str:
        await act(null.write, Entry(text="nobody"))
        decision = await approval("Write it?", of="editor", within=timedelta(hours=hours), about={"hours": hours})
        return decision.by


@workflow.defn(name="ReturnsTriage")
class RefundsFirst:
    """Refunds before it reserves: two steps of one kind have changed places."""

    @workflow.run
    async def run(self, request: ReturnRequest) -> Outcome:
        try:
            order = (await act(orders.look_up, LookUp(order=request.order))).value
        except EffectRejected:
            raise ApplicationError("only for requests about an order that exists") from None
        past = await recall(f"returns and complaints of {request.customer}", scope=customer(request.customer))
        triage = await generate("triage", Triage, inputs={"request": request, "past": past})
        async with Saga() as saga:
            refund = await saga.act(
                payments.refund, Refund(order=order.order, amount=order.amount, currency=order.currency)
            )
            await saga.act(inventory.reserve, Reserve(order=order.order))
        await remember(customer(request.customer), f"refunded {order.order}: {triage.value.why}", ttl=timedelta(days=730))
        return Outcome(refunded=True, proposed="refund", verdict="refund", why=triage.value.why, receipt=refund.receipt)


@workflow.defn(name="Remembers")
class ForgetsToRecall:
    """Remembers, and recalls nothing."""

    @workflow.run
    async def run(self, what: str) -> list[str]:
        await remember(customer("c-1"), what)
        return [what]


@workflow.defn(name="ReturnsTriage")
class ForgetsToRemember:
    """Refunds and writes nothing down."""

    @workflow.run
    async def run(self, request: ReturnRequest) -> Outcome:
        order = (await act(orders.look_up, LookUp(order=request.order))).value
        past = await recall(f"returns and complaints of {request.customer}", scope=customer(request.customer))
        triage = await generate("triage", Triage, inputs={"request": request, "past": past})
        async with Saga() as saga:
            await saga.act(inventory.reserve, Reserve(order=order.order))
            refund = await saga.act(
                payments.refund, Refund(order=order.order, amount=order.amount, currency=order.currency)
            )
        return Outcome(refunded=True, proposed="refund", verdict="refund", why=triage.value.why, receipt=refund.receipt)


@workflow.defn(name="Unwinds")
class WritesOther:
    """Calls the second of two equal steps something else."""

    @workflow.run
    async def run(self, how: str) -> None:
        async with Saga() as saga:
            await saga.act(null.write, Entry(text="one"))
            await saga.act(null.write, Entry(text="two"), name="second")
            raise ApplicationError(how, non_retryable=True)

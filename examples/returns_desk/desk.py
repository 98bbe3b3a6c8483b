"""The returns desk as a Python workflow: triage a request, ask a person about the edge cases, refund once."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

from temporalio import workflow

from perdure.errors import ApprovalError, EffectRejected
from perdure.examples.returns_desk.desk_connectors import (
    LookUp,
    Order,
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

__all__ = ["ROUTES", "ReturnsTriage", "inventory", "orders", "payments"]

ROUTES = Path(__file__).parent / "models.toml"
"""Which model answers the task `triage`; the worker reads it with this module."""

RETURN_PERIOD = timedelta(days=30)
SMALL = 10_000
"""Refunds above this many minor units are put before a person, whatever the model says."""


@workflow.defn
class ReturnsTriage:
    """Handles one return request from the mail to the refund."""

    @workflow.run
    async def run(self, request: ReturnRequest) -> Outcome:
        """Return how the request ended."""
        if not request.order:
            return Outcome(refunded=False, verdict="ask", decided_by="rules", why="the mail names no order")
        try:
            order = (await act(orders.look_up, LookUp(order=request.order))).value
        except EffectRejected:
            return Outcome(refunded=False, verdict="ask", decided_by="rules", why="the shop knows no such order")

        past = await recall(f"returns and complaints of {request.customer}", scope=customer(request.customer))
        triage = await generate("triage", Triage, inputs={"request": request, "past": past})
        doubts = _doubts(request, order, triage.value, unsure=triage.unsure)
        if triage.value.verdict == "reject" and not triage.unsure:
            return Outcome(refunded=False, proposed="reject", why=triage.value.why)
        if doubts:
            try:
                await approval(
                    f"Refund order {request.order}? {'; '.join(doubts)}",
                    of="support-lead",
                    within=timedelta(days=2),
                    about={"request": request, "order": order, "triage": triage.value},
                    risk="high" if order.amount > SMALL else "medium",
                )
            except ApprovalError as refused:
                return Outcome(refunded=False, proposed=triage.value.verdict, decided_by="person", why=refused.message)

        # The amount is the shop's, never the mail's. A failure below undoes what was done above it.
        async with Saga() as saga:
            await saga.act(inventory.reserve, Reserve(order=order.order))
            refund = await saga.act(
                payments.refund, Refund(order=order.order, amount=order.amount, currency=order.currency)
            )
        await remember(customer(request.customer), f"refunded {order.order}: {triage.value.why}", ttl=timedelta(days=730))
        return Outcome(
            refunded=True,
            proposed=triage.value.verdict,
            verdict="refund",
            decided_by="person" if doubts else "model",
            why=triage.value.why,
            receipt=refund.receipt,
        )


def _doubts(request: ReturnRequest, order: Order, triage: Triage, *, unsure: bool) -> list[str]:
    """Return why a person should look at a request before it is paid."""
    doubts = []
    if triage.verdict == "ask" or triage.edge_case:
        doubts.append(f"the model wants a person to decide: {triage.why}")
    if unsure:
        doubts.append("the model is not sure")
    if order.amount > SMALL:
        doubts.append("the amount is high")
    if order.customer != request.customer:
        doubts.append("the order is another customer's")
    if order.final_sale:
        doubts.append("it was a final sale")
    received = date.fromisoformat(request.received[:10])
    if order.delivered_on and received - order.delivered_on > RETURN_PERIOD:
        doubts.append("the return period is over")
    return doubts

"""What a worker serves that is killed at each transition: a saga that pays, and one that fails and takes back."""

from __future__ import annotations

from processes.watch_desk import inventory, payments
from temporalio import workflow
from temporalio.exceptions import ApplicationError

from perdure.examples.returns_desk.desk_connectors import Refund, Reserve
from perdure.lineage import Frozen
from perdure.workflows import Saga

__all__ = ["Sale", "Sells", "inventory", "payments"]


class Sale(Frozen):
    """What to refund, and whether it comes to that."""

    order: str
    fails: bool = False


@workflow.defn
class Sells:
    """Reserves a slot for an order and refunds it, or fails in between."""

    @workflow.run
    async def run(self, sale: Sale) -> str:
        async with Saga() as saga:
            await saga.act(inventory.reserve, Reserve(order=sale.order))
            if sale.fails:
                raise ApplicationError("told to fail", type="Told", non_retryable=True)
            return (await saga.act(payments.refund, Refund(order=sale.order, amount=100))).receipt.key

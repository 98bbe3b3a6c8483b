"""What a worker serves in the tests of reconciliation and drift: the shop's refunds and stock, and one workflow.

It imports nothing else of the tests: the sandbox imports a workflow's module anew for each run.
"""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow

from perdure.connectors import (
    HttpAction,
    HttpConnector,
    Listing,
    Target,
    undo_by,
)
from perdure.examples.returns_desk.desk_connectors import (
    Refund,
    RefundDone,
    Release,
    Released,
    Reserve,
    Reserved,
)
from perdure.workflows import act

__all__ = ["Pays", "archive", "inventory", "payments"]

FAST = Target(mechanism="natural-key", settle=timedelta(seconds=0.3), deadline=timedelta(seconds=1), looks=3)


class ListedPayments(HttpConnector):
    """The shop's refunds, which it lists, with a high risk and a contract."""

    openapi = "/openapi.json"
    refund = HttpAction(
        "payments.refund",
        Refund,
        RefundDone,
        request="POST /refunds",
        key="reference",
        probe="GET /refunds?reference={key}",
        target=FAST,
        risk="high",
        listing=Listing("GET /refunds", at="created_at"),
    )


class ListedInventory(HttpConnector):
    """The shop's stock, which it lists."""

    openapi = "/openapi.json"
    release = HttpAction(
        "inventory.release",
        Release,
        Released,
        request="POST /reservations/{id}/release",
        key="released_by",
        probe="GET /reservations?released_by={key}",
        target=FAST,
        risk="low",
    )
    reserve = HttpAction(
        "inventory.reserve",
        Reserve,
        Reserved,
        request="POST /reservations",
        key="reference",
        probe="GET /reservations?reference={key}",
        target=FAST,
        risk="low",
        reversibility="compensatable",
        undo=undo_by(release, lambda _, slot: Release(id=slot.id)),
        listing=Listing("GET /reservations", at="created_at", stands=lambda slot: slot.get("released_at") is None),
        describe=lambda wanted: f"reserve a slot for order {wanted.order}",
    )


class Archive(HttpConnector):
    """What the shop no longer describes: its document is not where it was."""

    openapi = "/gone.json"
    find = HttpAction("archive.find", Reserve, Reserved, request="GET /archive/{order}", reads=True)


archive = Archive()
inventory = ListedInventory()
payments = ListedPayments()


@workflow.defn
class Pays:
    """Reserves a slot for an order and refunds it."""

    @workflow.run
    async def run(self, order: str) -> str:
        await act(inventory.reserve, Reserve(order=order))
        return (await act(payments.refund, Refund(order=order, amount=100))).receipt.key

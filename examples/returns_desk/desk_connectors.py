"""What the returns desk can do: look orders up, reserve the slot for what comes back, and refund."""

from __future__ import annotations

from datetime import date, timedelta

from pydantic import Field

from perdure.connectors import (
    HttpAction,
    HttpConnector,
    Listing,
    Target,
    undo_by,
)
from perdure.lineage import Frozen

__all__ = [
    "LookUp",
    "Order",
    "Refund",
    "RefundDone",
    "Release",
    "Released",
    "Reserve",
    "Reserved",
    "inventory",
    "orders",
    "payments",
]

# The shop does nothing against repeats, but it stores our reference and can be asked for it. What it was tried to do: a
# request whose connection is gone lands after a second at the latest.
_SHOP = Target(mechanism="natural-key", settle=timedelta(seconds=1.5), deadline=timedelta(seconds=2))


class LookUp(Frozen):
    """Which order to look up."""

    order: str


class Order(Frozen):
    """An order as the shop has it. The amount is in minor units of the currency."""

    order: str
    customer: str
    item: str
    amount: int
    currency: str
    bought_on: date
    delivered_on: date | None = None
    final_sale: bool = False
    stock: int = 0


class Reserve(Frozen):
    """Which order a slot in the stock is reserved for."""

    order: str


class Reserved(Frozen):
    """The slot."""

    id: str
    order: str


class Release(Frozen):
    """Which slot to give back."""

    id: str


class Released(Frozen):
    """The slot that was given back."""

    id: str
    order: str


class Refund(Frozen):
    """How much of which order to pay back, in minor units of the currency."""

    order: str
    amount: int = Field(gt=0)
    currency: str = "EUR"
    reason: str = ""


class RefundDone(Frozen):
    """What was paid back."""

    id: str
    order: str
    amount: int
    currency: str


class Orders(HttpConnector):
    """The shop's orders."""

    openapi = "/openapi.json"

    look_up = HttpAction(
        "orders.look_up",
        LookUp,
        Order,
        reads=True,
        request="GET /orders/{order}",
        target=_SHOP,
        risk="low",
        describe=lambda wanted: f"look up order {wanted.order}",
    )


class Inventory(HttpConnector):
    """The shop's stock."""

    openapi = "/openapi.json"

    release = HttpAction(
        "inventory.release",
        Release,
        Released,
        request="POST /reservations/{id}/release",
        # Releasing twice is the same as once, and the release is kept under our reference.
        key="released_by",
        probe="GET /reservations?released_by={key}",
        target=_SHOP,
        risk="low",
        reversibility="retriable",
        describe=lambda slot: f"release {slot.id}",
    )
    reserve = HttpAction(
        "inventory.reserve",
        Reserve,
        Reserved,
        request="POST /reservations",
        key="reference",
        probe="GET /reservations?reference={key}",
        target=_SHOP,
        risk="low",
        reversibility="compensatable",
        undo=undo_by(release, lambda _, slot: Release(id=slot.id)),
        listing=Listing("GET /reservations", at="created_at", stands=lambda slot: slot.get("released_at") is None),
        describe=lambda wanted: f"reserve a slot for order {wanted.order}",
    )


class Payments(HttpConnector):
    """The shop's refunds."""

    openapi = "/openapi.json"

    refund = HttpAction(
        "payments.refund",
        Refund,
        RefundDone,
        request="POST /refunds",
        key="reference",
        probe="GET /refunds?reference={key}",
        target=_SHOP,
        risk="high",
        reversibility="irreversible",
        listing=Listing("GET /refunds", at="created_at"),
        describe=lambda wanted: f"refund {wanted.amount / 100:.2f} {wanted.currency} for order {wanted.order}",
    )


orders = Orders()
inventory = Inventory()
payments = Payments()

"""What is asked of a Vendure shop, and what it answers. Amounts are in minor units, with tax."""

from __future__ import annotations

from pydantic import Field, model_validator

from perdure.lineage import Frozen


class OrderCode(Frozen):
    """Which order, by the code that customers see."""

    code: str = Field(min_length=1)


class Refunded(Frozen):
    """A refund. `Pending`: somebody still has to send the money and to say so with `settle_refund`."""

    id: str
    total: int
    state: str
    reason: str | None = None
    transaction: str | None = None


class OrderPayment(Frozen):
    """A payment of an order, and what was given back of it."""

    id: str
    amount: int
    state: str
    method: str
    refunds: tuple[Refunded, ...] = ()


class OrderLine(Frozen):
    """A line of an order."""

    id: str
    sku: str
    variant: str
    quantity: int


class Order(Frozen):
    """An order as it stands."""

    id: str
    code: str
    state: str
    total: int
    currency: str
    payments: tuple[OrderPayment, ...] = ()
    lines: tuple[OrderLine, ...] = ()


class Refund(Frozen):
    """How much of which payment of an order to give back, and why. The customer may get to read the reason."""

    order: str = Field(min_length=1)
    payment: str = Field(min_length=1)
    amount: int = Field(gt=0)
    reason: str = Field(default="", max_length=200)


class SettleRefund(Frozen):
    """Which refund was paid out, and the bank's or the provider's reference for that."""

    order: str = Field(min_length=1)
    refund: str = Field(min_length=1)
    transaction: str = Field(min_length=1)


class CancelledLine(Frozen):
    """How many pieces of which line of an order."""

    line: str
    quantity: int = Field(gt=0)


class Cancel(Frozen):
    """Which order to cancel, and why: all of it, or those LINES."""

    order: str = Field(min_length=1)
    lines: tuple[CancelledLine, ...] = ()
    shipping: bool = False
    """Whether shipping is cancelled as well."""
    reason: str = Field(default="", max_length=200)


class OrderState(Frozen):
    """The state that an order is in."""

    id: str
    state: str


class Note(Frozen):
    """What to write into the history of an order. Customers see it if it is PUBLIC."""

    order: str = Field(min_length=1)
    text: str = Field(min_length=1, max_length=4000)
    public: bool = False


class Noted(Frozen):
    """A note in the history of an order."""

    id: str


class NoteOf(Frozen):
    """Which note of an order."""

    order: str = Field(min_length=1)
    note: str = Field(min_length=1)


class Sku(Frozen):
    """Which variant, and where: LOCATION may be left out in a shop that has only one."""

    sku: str = Field(min_length=1)
    location: str = ""


class StockLevel(Frozen):
    """How much there is of a variant at a location."""

    variant: str
    location: str
    on_hand: int
    allocated: int
    """How much of it belongs to orders that were not sent yet."""
    adjustments: int
    """How often its stock was set so far: who sets it next says so, and that it has not been set since."""


class AdjustStock(Frozen):
    """From which reading of the stock to which number, e.g. after a delivery of 5: `StockLevel` says 12, so TO is 17.

    What is sold meanwhile is taken off; if somebody has set the stock since that reading, nothing is done.
    """

    variant: str = Field(min_length=1)
    location: str = Field(min_length=1)
    on_hand: int
    adjustments: int = Field(ge=0)
    to: int

    @model_validator(mode="after")
    def _changes_something(self) -> AdjustStock:
        if self.to == self.on_hand:
            raise ValueError(f"the stock is {self.to} already")
        return self

"""What the returns desk talks about."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from perdure.connectors.contracts import Receipt
from perdure.lineage import Frozen


class ReturnRequest(Frozen):
    """What a customer wrote, and what the shop's form added."""

    id: str
    received: str
    order: str = ""
    """The order's number; empty if the customer did not give one."""
    customer: str
    amount: int = Field(ge=0)
    """In minor units of the currency."""
    currency: str = "EUR"
    subject: str = ""
    message: str


class Triage(Frozen):
    """What the model says about a request."""

    verdict: Literal["refund", "reject", "ask"]
    edge_case: bool = False
    why: str


class Outcome(Frozen):
    """How a request ended."""

    refunded: bool
    proposed: Literal["refund", "reject", "ask"] = "ask"
    """What the model, or a rule before it, made of the request; a person may have decided otherwise."""
    verdict: Literal["refund", "reject", "ask"] = "reject"
    """How it ended; `ask`: the customer has to say more first."""
    decided_by: Literal["rules", "model", "person"] = "model"
    why: str = ""
    receipt: Receipt | None = None

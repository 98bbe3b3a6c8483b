"""What the tests of reconciliation and drift share: the shop with lists, a bank whose list a test writes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import cast

from kits.connectors import Bank, ShopProcess
from processes.watch_desk import ListedInventory, ListedPayments
from pydantic import JsonValue

from perdure.connectors import (
    AnyAction,
    Contract,
    Listed,
    Operation,
)
from perdure.connectors.contracts import Action
from perdure.connectors.reconciliation.contracts import ReconcileCall
from perdure.errors import TargetUnavailable
from perdure.storage import now


@dataclass
class ListedBank(Bank):
    """A bank in this process whose list and contract a test writes."""

    listed: list[Listed] = field(default_factory=list)
    said: Contract | None = None
    down: bool = False
    asked: int = 0
    risk: str = "high"
    contract_age: timedelta = timedelta(0)

    @property
    def actions(self) -> dict[str, AnyAction]:
        """The actions by full name; paying is risky here."""
        actions = dict(super().actions)
        pay = actions["bank.pay"]
        risky = Action("bank.pay", pay.input, pay.output, risk="high", target=pay.target, undo=pay.undo)
        return actions | {"bank.pay": risky}

    @property
    def listed_actions(self) -> Collection[str]:
        """Payments only."""
        return ["bank.pay"]

    async def listing(self, since: datetime, until: datetime) -> AsyncIterator[Listed]:
        """Yield what the test has written."""
        if self.down:
            raise TargetUnavailable("the bank is closed")
        for each in self.listed:
            yield each

    async def contract(self) -> Contract | None:
        """Return what the test has written."""
        self.asked += 1
        if self.down:
            raise TargetUnavailable("the bank is closed")
        return self.said

    def lists(self, key: str, *, amount: int = 5, ref: str = "b-1", at: datetime | None = None) -> None:
        """Put a payment on the list."""
        self.listed.append(Listed(action="bank.pay", remote_ref=ref, key=key, facts={"amount": amount}, at=at))

    def says(self, request: dict[str, JsonValue], response: dict[str, JsonValue] | None = None, **more: str) -> None:
        """Say what a payment's request and response look like from now on."""
        operation = Operation(
            request=request, response=response, actions=("bank.pay", "bank.wire"), description=more.get("description", "")
        )
        self.said = Contract(source="json-schema", operations={"pay": operation})


def everything(connector: str) -> ReconcileCall:
    """Return the call that compares all there is and ever was."""
    return ReconcileCall(connector=connector, since=now() - timedelta(days=400))


def an_object(required: Sequence[str] = (), **properties: JsonValue) -> dict[str, JsonValue]:
    """Return the JSON Schema of an object."""
    return {"type": "object", "properties": properties, "required": cast(list[JsonValue], list(required))}


async def reserve_directly(shop: ShopProcess, order: str, reference: str) -> str:
    """Have somebody reserve a slot past the ledger; return what the shop calls it."""
    status, answer = await shop.ask("POST", "/reservations", {"order": order, "reference": reference})
    assert 201 == status, answer
    assert isinstance(answer, dict)
    return str(answer["id"])


__all__ = ["ListedBank", "ListedInventory", "ListedPayments", "an_object", "everything", "reserve_directly"]

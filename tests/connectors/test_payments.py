"""Tests of what is made of each status with which Stripe answers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from kits.recorded import KEY, Recorded, answered, execute, probe
from pydantic import BaseModel, JsonValue

from perdure.connectors import Absent, Action, CannotTell, Found
from perdure.connectors.payments import Capture, Intent, Pay, Refund, StripeConnector
from perdure.errors import EffectRejected, EffectUnknown

PAY = Pay(amount=500, currency="eur", payment_method="pm_1")
INPUTS: dict[str, BaseModel] = {
    "refund": Refund(payment="pi_1"),
    "capture": Capture(payment="pi_1"),
    "cancel": Intent(payment="pi_1"),
    "confirm": Intent(payment="pi_1"),
    "create": PAY,
    "authorize": PAY,
    "charge": PAY,
}
HAPPENED = [
    *(("refund", "succeeded"), ("capture", "succeeded"), ("cancel", "canceled"), ("charge", "succeeded")),
    *(("authorize", "requires_capture"), ("create", "requires_confirmation"), ("create", "requires_payment_method")),
    *(("confirm", "requires_action"), ("confirm", "requires_capture")),
]
FAILED = [
    *(("refund", "failed"), ("refund", "canceled"), ("capture", "canceled"), ("capture", "requires_payment_method")),
    *(("cancel", "succeeded"), ("charge", "canceled"), ("charge", "requires_payment_method"), ("create", "canceled")),
    *(("authorize", "requires_payment_method"), ("confirm", "requires_payment_method"), ("confirm", "canceled")),
]
OPEN = [
    *(("refund", "pending"), ("refund", "requires_action"), ("refund", "on_hold"), ("capture", "processing")),
    *(("charge", "processing"), ("charge", "requires_action"), ("authorize", "requires_action"), ("confirm", "processing")),
    *(("cancel", "processing"), ("charge", "")),
]


@pytest.fixture
def recorded() -> Recorded:
    """What comes next."""
    return Recorded("stripe")


@pytest.fixture
async def stripe(recorded: Recorded) -> AsyncIterator[StripeConnector]:
    """The connector."""
    connector = StripeConnector().with_options({"url": "http://stripe", "token": "t"})
    async with answered(connector, recorded):
        yield connector


@pytest.mark.parametrize(("name", "status"), HAPPENED)
async def test_what_has_happened(recorded: Recorded, stripe: StripeConnector, name: str, status: str) -> None:
    """A status that says that it is done is success, in the answer and in the look-up (case 09)."""
    recorded.next(_answer(status), _looked_up(name, status))

    assert status == vars((await execute(stripe, _action(stripe, name), INPUTS[name])).output)["status"]
    assert isinstance(await probe(stripe, _action(stripe, name), INPUTS[name]), Found)


@pytest.mark.parametrize(("name", "status"), FAILED)
async def test_what_has_failed(recorded: Recorded, stripe: StripeConnector, name: str, status: str) -> None:
    """A status that says that it failed is a refusal with its reason, and for the look-up nothing (case 09)."""
    recorded.next(_answer(status, failure_reason="lost_or_stolen_card"), _looked_up(name, status))

    with pytest.raises(EffectRejected, match=f"'{status}' .lost_or_stolen_card"):
        await execute(stripe, _action(stripe, name), INPUTS[name])
    assert isinstance(await probe(stripe, _action(stripe, name), INPUTS[name]), Absent)


@pytest.mark.parametrize(("name", "status"), OPEN)
async def test_what_is_open(recorded: Recorded, stripe: StripeConnector, name: str, status: str) -> None:
    """What is pending, waits for the customer or has an unknown status is no success and no failure (case 09)."""
    recorded.next(_answer(status), _looked_up(name, status))

    with pytest.raises(EffectUnknown, match="neither done nor failed"):
        await execute(stripe, _action(stripe, name), INPUTS[name])
    assert isinstance(await probe(stripe, _action(stripe, name), INPUTS[name]), CannotTell)


def _action(stripe: StripeConnector, name: str) -> Action[BaseModel, BaseModel]:
    return stripe.actions[f"stripe.{name}"]


def _item(status: str) -> dict[str, JsonValue]:
    return {"id": "x_1", "amount": 500, "currency": "eur", "status": status, "metadata": {"perdure_key": KEY}}


def _answer(status: str, **more: JsonValue) -> httpx.Response:
    return httpx.Response(200, json=_item(status) | more)


def _looked_up(name: str, status: str) -> httpx.Response:
    one = name in ("capture", "cancel", "confirm")
    return httpx.Response(200, json=_item(status) if one else {"data": [_item(status)], "has_more": False})

"""Tests of the payments connector against localstripe: every fault, every way that money goes."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import cast

import httpx
import pytest
from kits.connectors import key_of, persist, step, undo
from pydantic import JsonValue

from perdure.connectors import (
    Attempt,
    EffectCall,
    EffectResult,
    Found,
    Target,
)
from perdure.connectors.ledger import Ledger
from perdure.connectors.payments import Pay, Refund, StripeConnector
from perdure.connectors.reconciliation import Reconciler
from perdure.connectors.reconciliation._compare import find_differences
from perdure.connectors.reconciliation.contracts import ReconcileCall
from perdure.connectors.testing import (
    Case,
    Fault,
    HttpFaultProxy,
    check,
)
from perdure.errors import EffectRejected
from perdure.storage import Database, now

pytestmark = pytest.mark.targets

BRISK = Target(mechanism="natural-key", settle=timedelta(seconds=0.2), deadline=timedelta(seconds=5))
KEY = "sk_test_12345"


class Stripe:
    """The stand-in's own view, from beside the connector."""

    def __init__(self, url: str) -> None:
        self.client = httpx.AsyncClient(base_url=url, auth=(KEY, ""))

    async def card(self, number: str = "4242424242424242") -> str:
        """Return a new payment method."""
        card = {"card[number]": number, "card[exp_month]": "12", "card[exp_year]": "2030", "card[cvc]": "123"}
        return str((await self._post("/v1/payment_methods", {"type": "card", **card}))["id"])

    async def refunded(self, payment: str, amount: int) -> str:
        """Give back AMOUNT of PAYMENT, by hand."""
        return str((await self._post("/v1/refunds", {"payment_intent": payment, "amount": amount}))["id"])

    async def cancelled(self, payment: str) -> None:
        """Let go of PAYMENT, by hand."""
        await self._post(f"/v1/payment_intents/{payment}/cancel", {})

    async def paid(self, amount: int, **metadata: str) -> str:
        """Return a new payment of AMOUNT that went through."""
        asked = {"amount": amount, "currency": "eur", "payment_method": await self.card(), "confirm": "true"}
        asked |= {f"metadata[{name}]": value for name, value in metadata.items()}
        return str((await self._post("/v1/payment_intents", {**asked, "capture_method": "automatic"}))["id"])

    async def all(self, path: str) -> list[dict[str, JsonValue]]:
        """Return all objects of a list."""
        answer = await self.client.get(path, params={"limit": 10000})
        return cast(list[dict[str, JsonValue]], answer.raise_for_status().json()["data"])

    async def _post(self, path: str, asked: dict[str, object]) -> dict[str, JsonValue]:
        answer = await self.client.post(path, data=asked)
        return cast(dict[str, JsonValue], answer.raise_for_status().json())


@pytest.fixture
async def stripe(localstripe: str) -> AsyncIterator[Stripe]:
    """The stand-in."""
    stripe = Stripe(localstripe)
    yield stripe
    await stripe.client.aclose()


@pytest.fixture
async def connector(localstripe: str) -> AsyncIterator[StripeConnector]:
    """The connector."""
    connector = StripeConnector().with_options({"url": localstripe, "token": KEY})
    yield connector
    await connector.close()


@pytest.fixture
def ledger(sqlite_database: Database, connector: StripeConnector) -> Ledger:
    """A ledger before it."""
    return Ledger(sqlite_database, {"stripe": connector})


async def test_refunds_under_every_fault(localstripe: str, stripe: Stripe) -> None:
    """Under every fault a refund is made once; a client that retries makes some of them twice."""
    payment = await stripe.paid(1_000_000)

    async def refunds(args: Refund) -> int:
        return sum(refund["amount"] == args.amount for refund in await stripe.all("/v1/refunds"))

    async with HttpFaultProxy(localstripe) as proxy:
        connector = StripeConnector().with_options({"url": proxy.url, "token": KEY})
        matrix = await check(
            Case(
                connector=connector,
                action=connector.refund,
                args=lambda number: Refund(payment=payment, amount=100 + number),
                count=refunds,
                proxy=proxy,
                target=BRISK,
            )
        )
        await connector.close()

    assert [] == matrix.problems
    assert 10 <= matrix.total().naive.duplicates


async def test_authorizations_under_every_fault(localstripe: str, stripe: Stripe) -> None:
    """The same holds for money that is reserved."""
    card = await stripe.card()

    async def intents(args: Pay) -> int:
        return sum(intent["amount"] == args.amount for intent in await stripe.all("/v1/payment_intents"))

    async with HttpFaultProxy(localstripe) as proxy:
        connector = StripeConnector().with_options({"url": proxy.url, "token": KEY})
        matrix = await check(
            Case(
                connector=connector,
                action=connector.authorize,
                args=lambda number: Pay(amount=50_000 + number, currency="eur", payment_method=card),
                count=intents,
                proxy=proxy,
                target=BRISK,
                operations=2,
            )
        )
        await connector.close()

    assert [] == matrix.problems
    assert 0 < matrix.total().naive.duplicates


async def test_reserve_then_take(ledger: Ledger, stripe: Stripe) -> None:
    """What was reserved is taken, and is found as taken."""
    reserved = await ledger.perform(_pay("authorize", 700, await stripe.card()))
    payment = reserved.receipt.remote_ref
    taken = await ledger.perform(_of("capture", payment))

    assert ("requires_capture", "succeeded") == (_status(reserved), _status(taken))
    assert "succeeded" == _status(await ledger.perform(_of("payment", payment)))


async def test_undo_of_a_reservation_lets_go_of_it(ledger: Ledger, stripe: Stripe) -> None:
    """Undoing what was reserved cancels it, once."""
    reserving = _pay("authorize", 701, await stripe.card())
    payment = (await ledger.perform(reserving)).receipt.remote_ref

    assert "compensated" == (await ledger.undo(undo(reserving))).outcome
    assert "compensated" == (await ledger.undo(undo(reserving))).outcome
    assert "canceled" == _status(await ledger.perform(_of("payment", payment)))


async def test_undo_of_a_charge_gives_it_back(ledger: Ledger, stripe: Stripe) -> None:
    """Undoing a charge refunds all of it."""
    charging = _pay("charge", 702, await stripe.card())
    payment = (await ledger.perform(charging)).receipt.remote_ref
    await ledger.undo(undo(charging))

    given_back = [refund for refund in await stripe.all("/v1/refunds") if refund["payment_intent"] == payment]
    assert [702] == [refund["amount"] for refund in given_back]


async def test_created_then_confirmed(ledger: Ledger, stripe: Stripe) -> None:
    """A payment may be prepared first, and be confirmed later."""
    prepared = await ledger.perform(_pay("create", 703, await stripe.card()))
    confirmed = await ledger.perform(_of("confirm", prepared.receipt.remote_ref))

    assert ("requires_confirmation", "succeeded") == (_status(prepared), _status(confirmed))


async def test_declined_card(ledger: Ledger, stripe: Stripe) -> None:
    """A card that is declined is a refusal with the provider's words."""
    with pytest.raises(EffectRejected, match="declined"):
        await ledger.perform(_pay("charge", 704, await stripe.card("4000000000000341")))


@pytest.mark.parametrize("fault", ["lose response", "500 after commit"])
async def test_lost_answer_of_a_decline(localstripe: str, stripe: Stripe, sqlite_database: Database, fault: Fault) -> None:
    """When the answer that a card was declined is lost, the object that was left behind is not taken for a payment."""
    async with HttpFaultProxy(localstripe) as proxy:
        connector = _brisk(proxy.url)
        ledger = Ledger(sqlite_database, {"stripe": connector})
        proxy.faults.script(fault)
        charging = _pay("charge", 705, await stripe.card("4000000000000341"))
        with pytest.raises(EffectRejected, match="declined"):
            await persist(lambda: ledger.perform(charging))
        await connector.close()


@pytest.mark.parametrize("verb", ["capture", "confirm", "cancel"])
async def test_lost_answer_of_a_change(localstripe: str, stripe: Stripe, sqlite_database: Database, verb: str) -> None:
    """A change whose answer was lost is found by the payment's state."""
    async with HttpFaultProxy(localstripe) as proxy:
        connector = _brisk(proxy.url)
        ledger = Ledger(sqlite_database, {"stripe": connector})
        before = "authorize" if verb == "capture" else "create"
        payment = (await ledger.perform(_pay(before, 706, await stripe.card()))).receipt.remote_ref
        proxy.faults.script("lose response")
        change = _of(verb, payment)
        changed = await persist(lambda: ledger.perform(change))
        await connector.close()

    assert ("probe", 1) == (changed.receipt.confirmed_by, changed.receipt.sent)


async def test_found_on_a_later_page(ledger: Ledger, connector: StripeConnector, stripe: Stripe) -> None:
    """A list longer than a page is read on."""
    card = await stripe.card()
    calls = [_pay("create", 800, card) for _ in range(120)]
    for each in calls:
        await ledger.perform(each)
    effect = await ledger.get(key_of(calls[-1]))
    attempt = Attempt(key=effect.key, fence=1, deadline=timedelta(seconds=20))

    found = await connector.probe(connector.actions["stripe.create"], Pay.model_validate(effect.args), attempt)

    assert isinstance(found, Found)
    assert effect.remote_ref == found.executed.remote_ref


async def test_reconciliation(connector: StripeConnector, stripe: Stripe, sqlite_database: Database) -> None:
    """What somebody refunds by hand, pays twice or takes back is found; what we did and undid ourselves is right."""
    ledger = Ledger(sqlite_database, {"stripe": connector})
    since = now() - timedelta(seconds=30)
    card = await stripe.card()
    charging, undone, reserving = _pay("charge", 901, card), _pay("charge", 902, card), _pay("authorize", 903, card)
    payment = (await ledger.perform(charging)).receipt.remote_ref
    await ledger.perform(undone)
    await ledger.undo(undo(undone))
    reserved = (await ledger.perform(reserving)).receipt.remote_ref
    by_hand = await stripe.refunded(payment, 5)
    await stripe.cancelled(reserved)
    again = await stripe.paid(901, perdure_key=key_of(charging), perdure_action="stripe.charge")

    reconciler = Reconciler(sqlite_database, {"stripe": connector})
    listed = [each async for each in connector.listing(since, now() + timedelta(minutes=1))]
    effects = await ledger.list()
    found = find_differences(connector.actions, effects, listed, since=since, until=now()).found
    report = await reconciler.reconcile(ReconcileCall(connector="stripe", since=since))

    ours = {each.remote_ref: (each.kind, each.action) for each in found if each.remote_ref in (by_hand, reserved, again)}
    assert {
        by_hand: ("unknown", "stripe.refund"),
        reserved: ("missing", "stripe.authorize"),
        again: ("duplicate", "stripe.charge"),
    } == ours
    mine = {effect.remote_ref for effect in effects} - {by_hand, reserved, again}
    assert not mine & {each.remote_ref for each in found}
    assert {"stripe.authorize", "stripe.charge", "stripe.create", "stripe.refund"} == set(report.actions)


def _status(result: EffectResult) -> JsonValue:
    assert isinstance(result.value, dict)
    return result.value["status"]


def _brisk(url: str) -> StripeConnector:
    connector = StripeConnector().with_options({"url": url, "token": KEY})
    connector._actions = {name: replace(action, target=BRISK) for name, action in connector.actions.items()}
    return connector


def _pay(verb: str, amount: int, card: str) -> EffectCall:
    # Each test of the session needs keys of its own: the stand-in remembers them all.
    args = {"amount": amount, "currency": "eur", "payment_method": card}
    return EffectCall(step=step("pay", workflow_id=uuid.uuid4().hex), action=f"stripe.{verb}", args=args)


def _of(verb: str, payment: str) -> EffectCall:
    return EffectCall(step=step(verb, workflow_id=uuid.uuid4().hex), action=f"stripe.{verb}", args={"payment": payment})

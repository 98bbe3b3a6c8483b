"""Tests of the Vendure connector against a real shop: every fault, every action."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import cast

import httpx
import pytest
from kits.connectors import key_of, persist, step, undo
from kits.vendure import Shop
from pydantic import JsonValue

from perdure.connectors import (
    AnyAction,
    Attempt,
    EffectCall,
    EffectResult,
    Target,
)
from perdure.connectors.drift._compatibility import compare
from perdure.connectors.ledger import Ledger
from perdure.connectors.reconciliation._compare import find_differences
from perdure.connectors.testing import (
    Case,
    Fault,
    HttpFaultProxy,
    Matrix,
    check,
)
from perdure.connectors.testing.http_proxy import ProxiedRequest
from perdure.connectors.vendure import (
    AdjustStock,
    Cancel,
    CancelledLine,
    Note,
    Order,
    OrderCode,
    Refund,
    VendureConnector,
)
from perdure.errors import EffectRejected, TargetUnavailable
from perdure.storage import Database

pytestmark = pytest.mark.targets

BRISK = Target(mechanism="natural-key", settle=timedelta(seconds=1.5), deadline=timedelta(seconds=8))
LOGIN = {"user": "superadmin", "password": "superadmin"}


def mutates(asked: ProxiedRequest) -> bool:
    """Say whether ASKED changes the shop: all of GraphQL is POST."""
    return b"mutation" in asked.body and b"login(" not in asked.body


@pytest.fixture
async def proxy(shop: Shop) -> AsyncIterator[HttpFaultProxy]:
    """What has requests to the shop go wrong."""
    async with HttpFaultProxy(shop.url.removesuffix("/admin-api"), strikes=mutates) as proxy:
        yield proxy


@pytest.fixture
async def connector(proxy: HttpFaultProxy) -> AsyncIterator[VendureConnector]:
    """The connector, behind the proxy."""
    connector = VendureConnector().with_options({"url": f"{proxy.url}/admin-api", **LOGIN})
    connector._actions = {name: replace(action, target=BRISK) for name, action in connector.actions.items()}
    yield connector
    await connector.close()


@pytest.fixture
def ledger(sqlite_database: Database, connector: VendureConnector) -> Ledger:
    """A ledger before it."""
    return Ledger(sqlite_database, {"vendure": connector})


async def test_refunds_under_every_fault(shop: Shop, proxy: HttpFaultProxy, connector: VendureConnector) -> None:
    """Under every fault a refund is made once; a client that retries makes some of them twice."""
    order, _, payment = shop.order(900)

    async def refunds(args: Refund) -> int:
        return sum(refund["total"] == args.amount for refund in shop.refunds(order))

    matrix = await check(
        Case(
            connector=connector,
            action=connector.refund,
            args=lambda number: Refund(order=order, payment=payment, amount=100 + number, reason="broken"),
            count=refunds,
            proxy=proxy,
            target=BRISK,
        )
    )

    assert [] == matrix.problems
    assert 5 <= matrix.total().naive.duplicates


async def test_partial_cancellations_under_every_fault(
    shop: Shop, proxy: HttpFaultProxy, connector: VendureConnector
) -> None:
    """So many pieces of a line are cancelled once, though the shop would cancel as many again."""
    order, code, _ = shop.order(900)
    line = (await _read(connector, code)).lines[0].id

    async def cancellations(args: Cancel) -> int:
        return sum(str(each["reason"]).startswith(args.reason) for each in shop.history(order, "ORDER_CANCELLATION"))

    matrix = await check(
        Case(
            connector=connector,
            action=connector.cancel,
            args=lambda n: Cancel(order=order, lines=(CancelledLine(line=line, quantity=1),), reason=f"reason {n}."),
            count=cancellations,
            proxy=proxy,
            target=BRISK,
            operations=2,
        )
    )

    _kept_its_word(matrix)


async def test_notes_under_every_fault(shop: Shop, proxy: HttpFaultProxy, connector: VendureConnector) -> None:
    """A note is written once."""
    order, _, _ = shop.order(1)

    async def notes(args: Note) -> int:
        return sum(str(each["note"]).startswith(args.text) for each in shop.history(order, "ORDER_NOTE"))

    matrix = await check(
        Case(
            connector=connector,
            action=connector.note,
            args=lambda number: Note(order=order, text=f"note {number}."),
            count=notes,
            proxy=proxy,
            target=BRISK,
            operations=2,
        )
    )

    _kept_its_word(matrix)


async def test_stock_under_every_fault(shop: Shop, proxy: HttpFaultProxy, connector: VendureConnector) -> None:
    """A stock is adjusted once from one reading."""

    async def adjustments(args: AdjustStock) -> int:
        return shop.adjustments(args.variant).count(5)

    def adjust(number: int) -> AdjustStock:
        # All have been set once, when they were made. The first is what the orders are of.
        return AdjustStock(variant=shop.variants[number + 1], location="1", on_hand=100_000, adjustments=1, to=100_005)

    matrix = await check(
        Case(
            connector=connector,
            action=connector.adjust_stock,
            args=adjust,
            count=adjustments,
            proxy=proxy,
            target=BRISK,
            operations=2,
        )
    )

    assert [] == matrix.problems


async def test_order_and_refund(shop: Shop, ledger: Ledger) -> None:
    """What a refund needs to know is in the order, and the order says that it got one."""
    order, code, payment = shop.order(5)
    found = await ledger.perform(_call("order", code=code))
    refund = await ledger.perform(_call("refund", order=order, payment=payment, amount=120, reason="dented"))
    again = await ledger.perform(_call("order", code=code))

    assert {"id": order, "code": code, "state": "PaymentSettled", "total": 500}.items() <= _value(found).items()
    assert ("Settled", 120) == (_value(refund)["state"], _value(refund)["total"])
    assert [_value(refund)] == cast("list[dict[str, JsonValue]]", _value(again)["payments"])[0]["refunds"]


@pytest.mark.parametrize("fault", ["lose response", "500 after commit", "truncate", "lose request"])
async def test_refund_that_somebody_pays_out(shop: Shop, proxy: HttpFaultProxy, ledger: Ledger, fault: Fault) -> None:
    """A refund of money that came in by other ways is pending until it is settled, which is found by its state."""
    order, _, payment = shop.order(5, by="transfer")
    refund = await ledger.perform(_call("refund", order=order, payment=payment, amount=120))
    proxy.faults.script(fault)
    settle = _call("settle_refund", order=order, refund=refund.receipt.remote_ref, transaction="tx-1")
    settled = await persist(lambda: ledger.perform(settle))

    assert "Pending" == _value(refund)["state"]
    assert ("Settled", "tx-1") == (_value(settled)["state"], _value(settled)["transaction"])
    assert ["Settled"] == [each["state"] for each in shop.refunds(order)]


async def test_refund_of_too_much(shop: Shop, ledger: Ledger) -> None:
    """A refusal is told in the shop's words."""
    order, _, payment = shop.order(5)

    with pytest.raises(EffectRejected, match="exceeds the refundable amount"):
        await ledger.perform(_call("refund", order=order, payment=payment, amount=501))


@pytest.mark.parametrize("fault", ["lose response", "500 after commit", "truncate", "lose request"])
async def test_cancelled_order(shop: Shop, proxy: HttpFaultProxy, ledger: Ledger, fault: Fault) -> None:
    """A whole order is cancelled once, and asking for it again finds it so."""
    order, _, _ = shop.order(2)
    proxy.faults.script(fault)
    cancel = _call("cancel", order=order, shipping=True, reason="changed their mind")
    cancelled = await persist(lambda: ledger.perform(cancel))
    again = await ledger.perform(_call("cancel", order=order, shipping=True))

    assert [{"id": order, "state": "Cancelled"}] * 2 == [_value(cancelled), _value(again)]
    assert 1 == len(shop.history(order, "ORDER_CANCELLATION"))


async def test_undo_of_a_note(shop: Shop, ledger: Ledger) -> None:
    """Undoing a note deletes it, also if somebody was quicker."""
    order, _, _ = shop.order(1)
    first, second = (_call("note", order=order, text=text) for text in ("one", "two"))
    await ledger.perform(first)
    quicker = (await ledger.perform(second)).receipt.remote_ref
    shop.ask("mutation($id: ID!) { deleteOrderNote(id: $id) { result } }", id=quicker)

    assert ["compensated"] * 2 == [(await ledger.undo(undo(each))).outcome for each in (first, second)]
    assert [] == shop.history(order, "ORDER_NOTE")


async def test_undo_of_an_adjustment_keeps_what_was_sold(shop: Shop, ledger: Ledger) -> None:
    """Setting a stock back takes off what was added, whatever was sold in between."""
    level = _value(await ledger.perform(_call("stock", sku="K0")))
    adjust = _adjust(level, by=7)
    await ledger.perform(adjust)
    shop.ship(shop.order(3)[0])
    undone = await ledger.undo(undo(adjust))
    now = _value(await ledger.perform(_call("stock", sku="K0")))

    assert "compensated" == undone.outcome
    assert -3 == cast(int, now["on_hand"]) - cast(int, level["on_hand"])


async def test_stock_that_others_have_set(shop: Shop, ledger: Ledger) -> None:
    """Who decided by an old reading is told so, and nothing is set."""
    level = _value(await ledger.perform(_call("stock", sku="K98")))
    counted: JsonValue = [{"id": level["variant"], "stockLevels": [{"stockLocationId": "1", "stockOnHand": 42}]}]
    shop.ask(
        "mutation($input: [UpdateProductVariantInput!]!) { updateProductVariants(input: $input) { id } }", input=counted
    )

    with pytest.raises(EffectRejected, match="read it again"):
        await ledger.perform(_adjust(level, by=7))
    assert 42 == _value(await ledger.perform(_call("stock", sku="K98")))["on_hand"]


async def test_session_that_ended(shop: Shop, ledger: Ledger, connector: VendureConnector) -> None:
    """When the shop has forgotten the session, the next attempt logs in again and nothing is done twice."""
    order, _, _ = shop.order(1)
    await ledger.perform(_call("note", order=order, text="before"))
    assert connector._session is not None
    async with httpx.AsyncClient() as client:
        headers = await connector._session.auth_headers(client, timedelta(seconds=5))
        await client.post(shop.url, json={"query": "mutation { logout { success } }"}, headers=headers)
    shop.log_in()
    note = _call("note", order=order, text="after")
    with pytest.raises(TargetUnavailable, match="log in again"):
        await ledger.perform(note)
    await ledger.perform(note)

    assert 2 == len(shop.history(order, "ORDER_NOTE"))


async def test_listing(shop: Shop, connector: VendureConnector, ledger: Ledger) -> None:
    """Set against the ledger, the list shows a refund that was made twice and one that somebody made by hand."""
    order, _, payment = shop.order(5)
    refund = _call("refund", order=order, payment=payment, amount=120, reason="dented")
    await ledger.perform(refund)
    shop.refund(payment, 120, reason=f"dented [{key_of(refund)}]")
    shop.refund(payment, 7, reason="by hand")
    effect = await ledger.get(key_of(refund))
    since, until = effect.created_at - timedelta(seconds=2), datetime.now(UTC) + timedelta(days=1)
    listed = [each async for each in connector.listing(since, until) if each.facts["order"] == order]

    result = find_differences(connector.actions, [effect], listed, since=since, until=until)

    assert 3 == len(listed)
    assert ["duplicate", "unknown"] == sorted(finding.kind for finding in result.found)


async def test_contract(connector: VendureConnector) -> None:
    """The contract has every operation that is relied on, and a field that is gone from it breaks."""
    contract = await connector.contract()
    assert contract is not None
    refund = contract.operations["mutation refundOrder"]
    without = refund.model_copy(update={"response": {"anyOf": [{"type": "object", "properties": {}}]}})
    changed = contract.model_copy(update={"operations": {**contract.operations, "mutation refundOrder": without}})

    assert {"mutation cancelOrder", "query productVariant"} <= contract.operations.keys()
    assert [] == compare(contract, contract)
    assert "breaking" == compare(contract, changed)[0].verdict


async def _read(connector: VendureConnector, code: str) -> Order:
    attempt = Attempt(key="", fence=0, deadline=timedelta(seconds=20))
    done = await connector.execute(cast(AnyAction, connector.order), OrderCode(code=code), attempt)
    assert isinstance(done.output, Order)
    return done.output


def _call(verb: str, **args: JsonValue) -> EffectCall:
    return EffectCall(step=step(verb, workflow_id=uuid.uuid4().hex), action=f"vendure.{verb}", args=args)


def _adjust(level: dict[str, JsonValue], *, by: int) -> EffectCall:
    given = {name: level[name] for name in ("variant", "location", "on_hand", "adjustments")}
    return _call("adjust_stock", **given, to=cast(int, level["on_hand"]) + by)


def _value(result: EffectResult) -> dict[str, JsonValue]:
    assert isinstance(result.value, dict)
    return result.value


def _kept_its_word(matrix: Matrix) -> None:
    assert [] == matrix.problems
    assert 0 < matrix.total().naive.duplicates

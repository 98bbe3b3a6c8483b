"""The fault matrix, against the shop's own process, beside a naive client."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress

import httpx
import pytest
from kits.connectors import QuickPayments, ShopProcess, key_of, persist, step

from perdure.connectors import EffectCall
from perdure.connectors.ledger import Ledger
from perdure.errors import EffectRejected, EffectUnknown, TargetUnavailable

FAULTS = {"lose_requests": 0.15, "lose_responses": 0.25, "land_late": 0.15, "late": 0.15, "seed": 11}
OPERATIONS = 60


async def test_faults_make_no_duplicates_and_lose_nothing(shop: ShopProcess, desk: Ledger) -> None:
    """Under lost requests, lost responses and late landings each refund happens once; a naive client repeats many."""
    await shop.faults(**FAULTS)
    results = await asyncio.gather(*(_refund(desk, number) for number in range(OPERATIONS)))
    ours = Counter(str(refund["reference"]) for refund in await shop.refunds())
    await shop.faults(**FAULTS)
    await asyncio.gather(*(_naive_refund(shop, number) for number in range(OPERATIONS)))
    await asyncio.sleep(2 * FAULTS["late"])
    naive = Counter(str(refund["reference"]) for refund in await shop.refunds()) - ours

    assert {key_of(_call(number)): 1 for number in range(OPERATIONS)} == ours
    assert {"succeeded"} == {effect.state for effect in await desk.list()}
    assert ours.keys() == set(results)
    assert naive.total() - len(naive) >= OPERATIONS / 10, "the control shows no duplicates, so this proves nothing"


@pytest.mark.parametrize(
    ("fault", "sent", "confirmed_by"),
    [
        ("none", 1, "response"),
        ("lose request", 2, "response"),
        ("lose response", 1, "probe"),
        ("land late", 1, "probe"),
    ],
)
async def test_each_fault_ends_in_one_refund(
    shop: ShopProcess, desk: Ledger, fault: str, sent: int, confirmed_by: str
) -> None:
    """A lost request is sent again, a lost or late one is found; in the books there is one."""
    await shop.faults(next=[fault], late=0.15)

    result = await persist(lambda: desk.perform(_call(1)))

    assert [result.receipt.remote_ref] == [refund["id"] for refund in await shop.refunds()]
    assert (sent, confirmed_by) == (result.receipt.sent, result.receipt.confirmed_by)


async def test_shop_that_is_down_takes_nothing(shop: ShopProcess, desk: Ledger) -> None:
    """While nothing listens, the refund stays proposed; it is made when the shop is back."""
    shop.stop()
    with pytest.raises(TargetUnavailable, match="cannot be reached"):
        await desk.perform(_call(1))
    proposed = (await desk.get(key_of(_call(1)))).state
    shop.start()

    await persist(lambda: desk.perform(_call(1)))

    assert ("proposed", 1) == (proposed, len(await shop.refunds()))


async def test_shop_says_no(shop: ShopProcess, desk: Ledger) -> None:
    """A refusal comes with the shop's own words."""
    call = EffectCall(step=step(), action="payments.refund", args={"order": "R-1", "amount": 100})

    with pytest.raises(EffectRejected, match="answered 404: there is no order 'R-1'"):
        await desk.perform(call)


async def test_killed_shop_is_asked_again(shop: ShopProcess, desk: Ledger) -> None:
    """When the shop is killed after it acted and before it answered, the refund is found in its books."""
    await shop.faults(next=["lose response"])
    with pytest.raises(EffectUnknown):
        await desk.perform(_call(1))
    shop.stop(kill=True)
    shop.start()

    result = await persist(lambda: desk.perform(_call(1)))

    assert ("probe", 1) == (result.receipt.confirmed_by, len(await shop.refunds()))


def _call(number: int) -> EffectCall:
    return EffectCall(step=step(f"refund {number}"), action="payments.refund", args={"order": "R-1001", "amount": 100})


async def _refund(desk: Ledger, number: int) -> str:
    return (await persist(lambda: desk.perform(_call(number)))).receipt.key


async def _naive_refund(shop: ShopProcess, number: int) -> None:
    # What most clients do: send it again when there is no answer.
    body = {"order": "R-1001", "amount": 100, "currency": "EUR", "reference": f"naive-{number}"}
    async with httpx.AsyncClient(base_url=shop.url) as client:
        for _ in range(4):
            with suppress(httpx.HTTPError):
                await client.post("/refunds", json=body)
                break


def test_connector_is_the_shops() -> None:
    """The quick connector of these tests differs from the desk's in its times only."""
    from perdure.examples.returns_desk.desk_connectors import payments

    quick, real = QuickPayments.refund, payments.refund
    assert (real.name, real.request, real.key, real.probe) == (quick.name, quick.request, quick.key, quick.probe)

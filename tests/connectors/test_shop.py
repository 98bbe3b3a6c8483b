"""The stand-in shop is as bad as it says."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from kits.connectors import ShopProcess

ASKED = {"order": "R-1001", "amount": 100, "currency": "EUR", "reference": "k"}


async def test_shop_says_what_it_is(shop: ShopProcess) -> None:
    """Nobody can take it for a real shop."""
    assert (200, {"what": "a stand-in for a shop's API, for demos and tests: no real money moves"}) == await shop.ask(
        "GET", "/"
    )


async def test_repeat_is_a_second_refund(shop: ShopProcess) -> None:
    """As with many real APIs, neither a reference nor an Idempotency-Key keeps a repeat from acting."""
    async with httpx.AsyncClient(base_url=shop.url, headers={"Idempotency-Key": "k"}) as client:
        answers = [(await client.post("/refunds", json=ASKED)).status_code for _ in range(2)]

    assert [201, 201] == answers
    assert ["re_1", "re_2"] == [refund["id"] for refund in await shop.refunds()]
    assert (200, []) == await shop.ask("GET", "/refunds?reference=other")


@pytest.mark.parametrize(
    ("fault", "answered", "made"), [("lose request", 0, 0), ("lose response", 0, 1), ("none", 1, 1), ("land late", 0, 1)]
)
async def test_faults(shop: ShopProcess, fault: str, answered: int, made: int) -> None:
    """A lost request does nothing, a lost response did it, and a late one does it after the connection is gone."""
    await shop.faults(next=[fault], late=0.2)

    try:
        await shop.ask("POST", "/refunds", ASKED)
        heard = 1
    except httpx.RemoteProtocolError:
        heard = 0
    at_once = len(await shop.refunds())
    await asyncio.sleep(0.5)

    assert (answered, made) == (heard, len(await shop.refunds()))
    assert at_once == (0 if fault == "land late" else made)


async def test_chance_is_seeded(shop: ShopProcess) -> None:
    """The same seed gives the same faults."""
    drawn = []
    for _ in range(2):
        await shop.faults(lose_requests=0.5, lose_responses=0.2, seed=7)
        drawn.append([await _heard(shop) for _ in range(20)])

    assert drawn[0] == drawn[1]
    assert {True, False} == set(drawn[0])


async def test_stock_is_reserved_and_released(shop: ShopProcess) -> None:
    """A reservation takes one off the stock until it is released; releasing twice is releasing once."""
    wanted = {"order": "R-1001", "reference": "k"}
    taken = [(await shop.ask("POST", "/reservations", wanted))[0] for _ in range(4)]
    released = [(await shop.ask("POST", "/reservations/rs_1/release", {"released_by": "u"}))[0] for _ in range(2)]

    assert [201, 201, 201, 409] == taken
    assert [200, 200] == released
    status, order = await shop.ask("GET", "/orders/R-1001")
    assert isinstance(order, dict)
    assert (200, 1) == (status, order["stock"])
    assert 404 == (await shop.ask("POST", "/reservations/rs_9/release", {}))[0]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"order": "R-1"}, 404),
        ({"amount": 4991}, 422),
        ({"amount": 0}, 422),
        ({"currency": "USD"}, 422),
        ({"order": 5}, 422),
    ],
)
async def test_wrong_refunds_are_refused(shop: ShopProcess, change: dict[str, str | int], status: int) -> None:
    """The shop checks a refund against the order."""
    assert status == (await shop.ask("POST", "/refunds", ASKED | change))[0]
    assert [] == await shop.refunds()


async def test_books_survive_a_kill(shop: ShopProcess) -> None:
    """What was answered is in the books after a kill -9."""
    await shop.ask("POST", "/refunds", ASKED)
    shop.stop(kill=True)
    shop.start()

    assert 1 == len(await shop.refunds())


def test_shop_stops_on_sigterm(shop: ShopProcess) -> None:
    """It ends by itself, and well."""
    code = shop.stop()
    shop.start()

    assert 0 == code


async def _heard(shop: ShopProcess) -> bool:
    try:
        await shop.ask("POST", "/refunds", ASKED)
    except httpx.RemoteProtocolError:
        return False
    return True

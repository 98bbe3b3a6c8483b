"""Tests of examples/returns_desk: the workflow, the plan, and what the shop's books say after every kind of trouble."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest
from kits.returns import CASES, Desk, DeskShop, decide, open_desk, open_request, open_shop, plain_request, write_models
from pydantic import JsonValue
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError, CancelledError, WorkflowAlreadyStartedError

from perdure.connectors.ledger import Ledger
from perdure.examples.returns_desk.models import Outcome, ReturnRequest
from perdure.examples.returns_desk.stage import DATA, Stage
from perdure.storage import open_database

FLOWS = pytest.mark.parametrize("plan", [False, True], ids=["python", "plan"])


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[DeskShop]:
    """The stand-in shop in its own process."""
    with open_shop(tmp_path, "R-1") as shop:
        yield shop


@pytest.fixture
async def desk(temporal_address: str, tmp_path: Path, shop: DeskShop) -> AsyncIterator[Desk]:
    """A desk with its worker in this process."""
    async with open_desk(temporal_address, tmp_path, shop) as desk:
        yield desk


# How requests end


async def test_the_plan_ends_as_the_workflow_does(temporal_address: str, tmp_path: Path) -> None:
    """Each way through the procedure ends as it should, and as a plan as in Python, receipts aside."""
    python = await all_outcomes(temporal_address, tmp_path / "python", plan=False)
    yaml = await all_outcomes(temporal_address, tmp_path / "plan", plan=True)

    assert {name: case.ends for name, case in CASES.items()} == without_why(python)
    assert python == yaml


async def test_on_postgresql(temporal_address: str, tmp_path: Path, postgres_url: str) -> None:
    """The whole desk ends the same on PostgreSQL."""
    python = await all_outcomes(temporal_address, tmp_path / "python", plan=False, database_url=postgres_url)

    assert {name: case.ends for name, case in CASES.items()} == without_why(python)


async def test_only_what_was_decided_is_refunded(desk: Desk) -> None:
    """The books hold the orders that were to be refunded, each once with the shop's amount, and a slot for each."""
    refunded = ["by-model", "expensive", "unsure-reject"]
    for name in [*refunded, "rejected-by-model", "rejected-by-person", "no-order", "unknown-order"]:
        await desk.end(CASES[name], await desk.start(CASES[name].request))

    books = {str(refund["order"]): refund["amount"] for refund in await desk.shop.refunds()}
    assert {"R-by-model": 4990, "R-expensive": 10_001, "R-unsure-reject": 4990} == books
    assert len(refunded) == len(await desk.shop.refunds()) == len(await desk.shop.reservations())


async def test_the_same_mail_again_starts_no_second_run(desk: Desk) -> None:
    """A second run under the same id is refused, while the first runs and after it."""
    first = await desk.start(plain_request("R-1"), id="return-R-1-again")
    with pytest.raises(WorkflowAlreadyStartedError):
        await desk.start(plain_request("R-1"), id="return-R-1-again")
    outcome = await first.result()
    with pytest.raises(WorkflowAlreadyStartedError):
        await desk.start(plain_request("R-1"), id="return-R-1-again", plan=True)

    assert outcome.refunded
    assert ["R-1"] == [refund["order"] for refund in await desk.shop.refunds()]


# When things go wrong


@pytest.mark.parametrize("fault", ["lose response", "land late", "lose request"])
@FLOWS
async def test_a_fault_at_the_refund_leaves_one_refund(desk: Desk, fault: str, plan: bool) -> None:
    """Whether the shop lost the request or its answer or acted late: the books have one refund, and the receipt is its."""
    await desk.shop.faults(next=["none", fault])  # the first is the reservation
    outcome = await (await desk.start(plain_request("R-1"), plan=plan)).result()

    [refund] = await desk.shop.refunds()
    assert 1 == (await desk.shop.drawn())[fault]
    assert outcome.refunded
    assert (refund["id"], refund["reference"]) == (outcome.receipt.remote_ref, outcome.receipt.key)
    assert ("response" if fault == "lose request" else "probe") == outcome.receipt.confirmed_by


@FLOWS
async def test_a_refused_refund_gives_the_reservation_back(desk: Desk, plan: bool) -> None:
    """The shop says no to the refund: the run fails and says so, nothing is paid, and the slot is free again."""
    case = CASES["edge-case"]
    handle = await desk.start(case.request, plan=plan)
    request = await open_request(handle)
    # While the person thinks, the order is changed at the shop: what was paid is now less than what is to be refunded.
    desk.shop.change_amount(case.order_number, 100)
    await decide(handle, request, "approve")

    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    cause = failed.value.cause
    assert isinstance(cause, ApplicationError)
    assert (
        "EffectRejected",
        "payments.refund: payments answered 422: order R-edge-case was 100, which is less than 4990",
    ) == (
        cause.type,
        cause.message,
    )
    assert [] == await desk.shop.refunds()
    [slot] = await desk.shop.reservations()
    assert slot["released_at"]


@FLOWS
async def test_nothing_is_refunded_where_nothing_was_paid(desk: Desk, plan: bool) -> None:
    """An order of 0.00 fits no refund: the run fails and names the field, and the slot is free again."""
    desk.shop.change_amount("R-1", 0)
    handle = await desk.start(plain_request("R-1"), plan=plan)

    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    cause = failed.value.cause
    assert isinstance(cause, ApplicationError)
    assert ("InvalidInput", True) == (cause.type, "amount: Input should be greater than 0" in cause.message)
    assert [] == await desk.shop.refunds()
    assert all(slot["released_at"] for slot in await desk.shop.reservations())


@FLOWS
async def test_a_cancel_while_the_refund_is_in_flight(desk: Desk, plan: bool) -> None:
    """The request is out, so the refund stands, its slot with it, and the ledger knows it; the run ends as cancelled."""
    await desk.shop.faults(latency=1.0)
    handle = await desk.start(plain_request("R-1"), plan=plan)
    await in_flight(desk.settings.database, "payments.refund")
    await handle.cancel()

    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    assert isinstance(failed.value.cause, CancelledError)
    [refund] = await desk.shop.refunds()
    assert {str(refund["reference"]): "succeeded"} == await effects(desk.settings.database, "payments.refund")
    [slot] = await desk.shop.reservations()
    assert not slot["released_at"]


@FLOWS
async def test_a_cancel_while_the_reservation_is_in_flight(desk: Desk, plan: bool) -> None:
    """The reservation landed after the cancel and is given back; no refund is attempted."""
    await desk.shop.faults(latency=1.0)
    handle = await desk.start(plain_request("R-1"), plan=plan)
    await in_flight(desk.settings.database, "inventory.reserve")
    await handle.cancel()

    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    assert isinstance(failed.value.cause, CancelledError)
    assert [] == await desk.shop.refunds()
    assert {} == await effects(desk.settings.database, "payments.refund")
    [slot] = await desk.shop.reservations()
    assert slot["released_at"]


@pytest.mark.faults
async def test_a_killed_worker_refunds_once(tmp_path: Path) -> None:
    """Kill -9 while refunds are in flight, as Python and as plans, another worker: each order is refunded once."""
    own = tmp_path / "own"
    own.mkdir()
    known = json.loads((DATA / "orders.json").read_text())
    plain = [order for order in known if order["delivered_on"] and order["amount"] <= 10_000 and not order["final_sale"]]
    requests = [request_for(order) for order in plain[:4]]
    async with Stage(tmp_path / "stage", models=write_models(own), say=lambda _: None) as stage:
        desk = Desk(stage.client, stage.settings, DeskShop(stage.home, url=stage.shop_url))
        await desk.shop.faults(latency=0.7, lose_requests=0, lose_responses=0, land_late=0)
        handles = [await desk.start(request, plan=number % 2 == 0) for number, request in enumerate(requests)]
        await in_flight(stage.settings.database, "payments.refund")
        await stage.kill_worker()
        cut_off = {
            key
            for key, state in (await effects(stage.settings.database, "payments.refund")).items()
            if state == "in flight"
        }
        await stage.start_worker()
        outcomes = [await handle.result() for handle in handles]
        books = await stage.books()

    assert cut_off
    assert all(outcome.refunded for outcome in outcomes)
    assert sorted(request.order for request in requests) == sorted(str(refund["order"]) for refund in books)
    assert cut_off <= {outcome.receipt.key for outcome in outcomes if outcome.receipt}


async def all_outcomes(address: str, home: Path, *, plan: bool, database_url: str = "") -> dict[str, dict[str, JsonValue]]:
    """Run every case at once and return how each ended."""
    home.mkdir()  # noqa: ASYNC240  a folder of the test's own
    with open_shop(home) as shop:
        async with open_desk(address, home, shop, database_url=database_url) as desk:
            handles = {name: await desk.start(case.request, plan=plan) for name, case in CASES.items()}
            ended = await asyncio.gather(*(desk.end(CASES[name], handle) for name, handle in handles.items()))
    return {name: shown(outcome) for name, outcome in zip(handles, ended, strict=True)}


def shown(outcome: Outcome) -> dict[str, JsonValue]:
    """Return all of OUTCOME but the receipt. A refusal quotes the question, which the two put in different words."""
    fields = outcome.model_dump(mode="json", exclude={"receipt"})
    return fields | {"why": re.sub(r""" (['"])Refund order .*\1(?=: )""", "", outcome.why)}


def without_why(outcomes: Mapping[str, Mapping[str, JsonValue]]) -> dict[str, dict[str, JsonValue]]:
    """Return OUTCOMES without the reasons."""
    return {name: {key: value for key, value in each.items() if key != "why"} for name, each in outcomes.items()}


def request_for(order: Mapping[str, JsonValue]) -> ReturnRequest:
    """Return a request about an ORDER of the demo's, on the day it came, that nobody has a doubt about."""
    special = {"customer": order["customer"], "amount": order["amount"], "received": order["delivered_on"]}
    return plain_request(str(order["order"])).model_copy(update=special)


async def in_flight(database_url: str, action: str) -> None:
    """Return when an effect of ACTION is in flight."""
    while "in flight" not in (await effects(database_url, action)).values():  # noqa: ASYNC110  another process writes it
        await asyncio.sleep(0.02)


async def effects(database_url: str, action: str) -> dict[str, str]:
    """Return the states of the effects of ACTION by key."""
    async with open_database(database_url) as database:
        return {
            effect.key: effect.state for effect in await Ledger(database, {}).list(limit=1000) if effect.action == action
        }

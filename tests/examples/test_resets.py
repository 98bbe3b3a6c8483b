"""Tests that a reset of the returns desk, to whichever workflow task, refunds nothing a second time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from kits.returns import CASES, Desk, Handle, decide, open_desk, open_shop, plain_request
from kits.workflows import reset, task_ends
from temporalio.client import WorkflowFailureError

from perdure.connectors.ledger import Ledger
from perdure.examples.returns_desk.models import Outcome
from perdure.governance.contracts import APPROVALS, ApprovalRequest
from perdure.storage import open_database

FLOWS = pytest.mark.parametrize("plan", [False, True], ids=["python", "plan"])
TASKS = range(1, 9)
"""More workflow tasks than a run of the desk has that asks nobody."""
RUNNING = [f"R-1{number}" for number in TASKS]


@pytest.fixture
async def desk(temporal_address: str, tmp_path: Path) -> AsyncIterator[Desk]:
    """A desk with its worker in this process, and the shop in its own."""
    with open_shop(tmp_path, *RUNNING) as shop:
        async with open_desk(temporal_address, tmp_path, shop) as desk:
            yield desk


@FLOWS
async def test_a_completed_run_is_reset_to_each_of_its_tasks(desk: Desk, plan: bool) -> None:
    """Each reset run ends as the first did, with its receipt, and the shop's books have one refund and one slot."""
    case = CASES["expensive"]
    handle = await desk.start(case.request, plan=plan)
    first = await ended(handle)
    history = await handle.fetch_history()

    again = [
        await ended(await reset(desk.client, handle, event, run_id=str(history.run_id))) for event in task_ends(history)
    ]

    assert first.refunded
    assert len(again) > 4
    assert [first] * len(again) == again
    assert [case.order_number] == [refund["order"] for refund in await desk.shop.refunds()]
    assert [None] == [slot["released_at"] for slot in await desk.shop.reservations()]


@FLOWS
async def test_a_running_run_is_reset_at_each_of_its_tasks(desk: Desk, plan: bool) -> None:
    """Whatever is on its way when the run is reset: the run after it finds that, and each order is refunded once."""
    await desk.shop.faults(latency=0.1)
    outcomes = await asyncio.gather(*(_reset_at(desk, task, plan=plan) for task in TASKS))

    assert [True] * len(TASKS) == [outcome.refunded for outcome in outcomes]
    assert dict.fromkeys(RUNNING, 1) == Counter(refund["order"] for refund in await desk.shop.refunds())
    slots = await desk.shop.reservations()
    assert dict.fromkeys(RUNNING, 1) == Counter(slot["order"] for slot in slots if not slot["released_at"])
    async with open_database(desk.settings.database) as database:
        states = Counter(effect.state for effect in await Ledger(database, {}).list(limit=1000))
    assert {"succeeded": 2 * len(TASKS)} == states


async def _reset_at(desk: Desk, task: int, *, plan: bool) -> Outcome:
    """Reset a run as soon as its workflow task with the number TASK has ended, if it has that many; return how it ended."""
    handle = await desk.start(plain_request(RUNNING[task - 1]), plan=plan)
    seen = 0
    async for event in handle.fetch_history_events(wait_new_event=True):
        seen += event.HasField("workflow_task_completed_event_attributes")
        if seen == task:
            return await ended(await reset(desk.client, handle, event.event_id, run_id=str(handle.result_run_id)))
    return await ended(handle)


async def ended(handle: Handle) -> Outcome:
    """Approve whatever the run asks, and return how it ended."""
    result = asyncio.ensure_future(handle.result())
    while not result.done():
        for request in await handle.query(APPROVALS, result_type=list[ApprovalRequest]):
            await decide(handle, request, "approve")
        await asyncio.wait((result,), timeout=0.05)  # a query cannot be waited on
    try:
        return Outcome.model_validate(result.result())
    except WorkflowFailureError as failure:
        raise AssertionError(f"{handle.id} failed: {failure.cause}") from failure

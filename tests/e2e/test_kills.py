"""Tests that a worker that is killed with -9 at a transition of the ledger leaves nothing undone, twice done or unknown."""

from __future__ import annotations

import json
import signal
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from kits.connectors import ShopProcess
from kits.e2e import TESTS, environment, running
from processes.mortal_desk import Sale, Sells
from temporalio.client import Client, WorkflowFailureError
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.exceptions import ApplicationError

from perdure.connectors.ledger import Ledger
from perdure.storage import open_database

pytestmark = pytest.mark.faults

KILLS = ("1", "2", "2")
"""At which of its transitions each worker dies. All of it takes nine at least, so none of them lives to see the end."""


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[ShopProcess]:
    """The stand-in shop, running."""
    shop = ShopProcess(tmp_path)
    shop.start()
    yield shop
    shop.stop()


@pytest.mark.timeout(400)
@pytest.mark.parametrize("side", ["before", "after"])
async def test_killed_at_every_transition(temporal_address: str, tmp_path: Path, shop: ShopProcess, side: str) -> None:
    """Each worker dies at another transition, with answers lost besides; the next ones find out, and it is done once."""
    queue = f"kills-{uuid.uuid4()}"
    await shop.faults(next=["lose response", "none", "lose request"])
    connectors = {name: {"url": shop.url} for name in ("inventory", "payments")}
    more = {"PERDURE_TASK_QUEUE": queue, "PERDURE_CONNECTORS": json.dumps(connectors)}
    client = await Client.connect(temporal_address, data_converter=pydantic_data_converter)
    command = [sys.executable, "-m", "processes.mortal_worker", side, *KILLS]
    env = environment(temporal_address, tmp_path / "home", more)
    async with running(command, env, cwd=TESTS, log=tmp_path / "log") as workers:
        paying = await client.start_workflow(Sells.run, Sale(order="R-1001"), id=f"{queue}-1", task_queue=queue)
        failing = await client.start_workflow(
            Sells.run, Sale(order="R-1002", fails=True), id=f"{queue}-2", task_queue=queue
        )
        receipt = await paying.result()
        with pytest.raises(WorkflowFailureError) as failed:
            await failing.result()
        deaths = [line for line in workers.log.splitlines() if line == str(-signal.SIGKILL)]

    slots = (await shop.ask("GET", "/reservations"))[1]
    assert isinstance(slots, list)
    assert isinstance(failed.value.cause, ApplicationError)
    assert ("Told", len(KILLS)) == (failed.value.cause.type, len(deaths))
    assert [(receipt, "R-1001")] == [(refund["reference"], refund["order"]) for refund in await shop.refunds()]
    standing = {slot["order"]: bool(slot["released_at"]) for slot in slots if isinstance(slot, dict)}
    assert (2, {"R-1001": False, "R-1002": True}) == (len(slots), standing)
    async with open_database(f"sqlite+aiosqlite:///{tmp_path}/home/perdure.db") as database:
        effects = await Ledger(database, {}).list()
    assert {"succeeded": 3, "compensated": 1} == Counter(effect.state for effect in effects)

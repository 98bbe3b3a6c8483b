"""What a kill -9 leaves behind is finished by who comes next."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest
from kits.connectors import QuickInventory, ShopProcess, key_of, persist, step, undo

from perdure.connectors import EffectCall
from perdure.connectors.ledger import Ledger
from perdure.storage import Database

pytestmark = pytest.mark.faults

KILLED = -signal.SIGKILL

PLAIN = ["before write 1", "after write 1", "before send 1", "after send 1", "before write 2", "after write 2"]
LOST = [*PLAIN, "before write 3", "after write 3", "before look 1", "after look 1", "before write 4", "after write 4"]
LOST_REQUEST = [*LOST, "before send 2", "after send 2", "before write 5"]


async def test_kill_at_every_boundary_pays_once(shop: ShopProcess, desk: Ledger, sqlite_database: Database) -> None:
    """Whatever it is killed in the middle of, a process that comes after it finishes the refund, and there is one."""
    died: list[int] = []
    calls: list[EffectCall] = []
    rounds = {
        "plain": (PLAIN, {}),
        "responses": (LOST, {"lose_responses": 1}),
        "requests": (LOST_REQUEST, {"lose_requests": 1}),
    }
    for name, (points, odds) in rounds.items():
        await shop.faults(**{"lose_responses": 0, "lose_requests": 0} | odds)
        jobs = [{"call": _refund(f"{name}: {point}").model_dump(mode="json"), "die": point} for point in points]
        died += await _crash(shop, sqlite_database, jobs)
        calls += [_refund(f"{name}: {point}") for point in points]
    await shop.faults(lose_responses=0, lose_requests=0)

    await asyncio.gather(*(_finish(desk, call) for call in calls))

    assert {KILLED} == set(died)
    assert {key_of(call): 1 for call in calls} == Counter(refund["reference"] for refund in await shop.refunds())
    assert {"succeeded"} == {effect.state for effect in await desk.list()}


async def test_kill_in_the_middle_of_an_undo(shop: ShopProcess, sqlite_database: Database) -> None:
    """Whatever an undo is killed in the middle of, the next one finishes it: nothing stays reserved."""
    inventory = QuickInventory().with_options({"url": shop.url})
    ledger = Ledger(sqlite_database, {"inventory": inventory})
    points = [
        "before write 1",
        "after write 1",
        "before send 1",
        "after send 1",
        "after write 2",
        "before write 3",
        "after write 3",
    ]
    calls = [_reservation(point, number) for number, point in enumerate(points)]
    for call in calls:
        await ledger.perform(call)

    jobs = [{"undo": undo(call).model_dump(mode="json"), "die": point} for call, point in zip(calls, points, strict=True)]
    died = await _crash(shop, sqlite_database, jobs)
    await asyncio.gather(*(_take_back(ledger, call) for call in calls))

    await inventory.close()
    reservations = cast(list[dict[str, Any]], (await shop.ask("GET", "/reservations"))[1])
    assert {KILLED} == set(died)
    assert len(calls) == len(reservations)
    assert all(reservation["released_by"] for reservation in reservations)


async def test_two_processes_race_on_one_key(shop: ShopProcess, desk: Ledger, sqlite_database: Database) -> None:
    """Processes that attempt the same effect at the same moment make it once, also when answers are lost."""
    await shop.faults(lose_responses=0.4, lose_requests=0.2, seed=3)
    calls = [_refund(f"race {number}") for number in range(4)]

    ended = await _crash(
        shop, sqlite_database, [{"call": call.model_dump(mode="json")} for call in calls for _ in range(3)]
    )

    assert {0} == set(ended)
    assert {key_of(call): 1 for call in calls} == Counter(refund["reference"] for refund in await shop.refunds())


def _refund(name: str) -> EffectCall:
    return EffectCall(step=step(name), action="payments.refund", args={"order": "R-1001", "amount": 100})


def _reservation(name: str, number: int) -> EffectCall:
    return EffectCall(step=step(name), action="inventory.reserve", args={"order": f"R-{1001 + number}"})


async def _finish(ledger: Ledger, call: EffectCall) -> None:
    await persist(lambda: ledger.perform(call))


async def _take_back(ledger: Ledger, call: EffectCall) -> None:
    await persist(lambda: ledger.undo(undo(call)))


async def _crash(shop: ShopProcess, database: Database, jobs: list[dict[str, Any]]) -> list[int]:
    told = json.dumps({"database": database.url, "shop": shop.url, "jobs": jobs})
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "processes.effects_crasher", told),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    output, _ = await process.communicate()
    return cast(list[int], json.loads(output))

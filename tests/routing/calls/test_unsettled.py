"""What becomes of calls that nobody has settled, and of the money that is held back for them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from kits.routing import HashingEmbedder, Triage, asking, rows
from stand_ins.provider import Answers, Holds, Stub

from perdure.errors import AskAgain, BudgetReserved, BudgetSpent
from perdure.routing import Router
from perdure.routing.calls import budget_states, costs, recovery, sweep
from perdure.routing.tables import ModelCallRow
from perdure.storage import Database, now

Routed = Callable[..., Router]
GOOD = Answers('{"verdict": "refund"}')
COST = 21_000


def cap(usd: str) -> str:
    """A budget of all calls together."""
    return f'\n[budgets.cap]\nper = "all"\nusd = {usd}\n'


def another(router: Router, database: Database) -> Router:
    """A router of another worker with the same routes."""
    return Router(database, router.routes, HashingEmbedder())


async def age(database: Database) -> None:
    """Let every call on its way be overdue."""
    async with database.write() as connection:
        await connection.execute(sa.update(ModelCallRow).values(due_at=now() - timedelta(seconds=1)))


def of_run(number: int) -> object:
    """The step of another run."""
    step = asking().step
    return step.model_copy(update={"lineage": step.lineage.model_copy(update={"workflow_id": f"run-{number}"})})


async def test_a_dead_call_is_not_waited_for(routed: Routed, stub: Stub, database: Database) -> None:
    """What is held back for a call that nobody settled in time counts as spent: who needs it is not told to wait."""
    stub.will(Holds(then=GOOD))
    router = routed(database=database, more=cap("0.001"))
    dying = asyncio.create_task(router.generate(asking(), attempt=1, output=Triage))
    await stub.arrived.wait()
    other = asking().model_copy(update={"step": of_run(2)})
    with pytest.raises(BudgetReserved):
        await another(router, database).generate(other, attempt=1, output=Triage)

    await age(database)
    with pytest.raises(BudgetSpent) as caught:
        await router.generate(other, attempt=1, output=Triage)

    assert BudgetSpent is type(caught.value)
    [lost] = [row for row in await rows(database) if row["outcome"] == "ambiguous"]
    [budget] = await budget_states(database)
    assert ("not settled", 0, lost["reserved_nano_usd"]) == (lost["error"], budget.reserved, budget.spent)
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)
    assert [budget] == await budget_states(database)


@pytest.mark.parametrize("given_up_by", ["the next attempt", "another worker"])
async def test_late_after_all(routed: Routed, stub: Stub, database: Database, given_up_by: str) -> None:
    """An answer that comes when its call was given up is booked at its price, instead of the most that it could cost."""
    held = Holds(then=GOOD)
    stub.will(held, GOOD)
    router = routed(database=database, more=cap("1"))
    slow = asyncio.create_task(router.generate(asking(), attempt=1, output=Triage))
    await stub.arrived.wait()
    await age(database)

    if given_up_by == "the next attempt":
        await router.generate(asking(), attempt=2, output=Triage)
    else:
        await another(router, database).generate(asking().model_copy(update={"step": of_run(2)}), attempt=1, output=Triage)
    [between] = await costs(database)
    held.go.set()
    await slow

    [cost] = await costs(database)
    [budget] = await budget_states(database)
    assert 0 < between.at_risk
    assert (2, 2 * COST, 0) == (cost.calls, cost.cost, cost.at_risk)
    assert (0, 2 * COST) == (budget.reserved, budget.spent)
    assert ["answered", "answered"] == [row["outcome"] for row in await rows(database)]


async def test_not_yet_due(routed: Routed, stub: Stub, sqlite_database: Database) -> None:
    """A call that may still be on its way stays so, whatever other steps do."""
    stub.will(Holds(then=GOOD), GOOD)
    router = routed(more=cap("1"))
    slow = asyncio.create_task(router.generate(asking(), attempt=1, output=Triage))
    await stub.arrived.wait()

    await another(router, sqlite_database).generate(
        asking().model_copy(update={"step": of_run(2)}), attempt=2, output=Triage
    )

    assert ["sent", "answered"] == [row["outcome"] for row in await rows(sqlite_database)]
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)


async def test_looking_for_them_costs_little(sqlite_database: Database) -> None:
    """Neither look, of those that come every minute, reads the calls that have ended."""
    seen: list[str] = []

    def look(connection: sa.Connection) -> None:
        """Have SQLite say how it would find them."""

        @sa.event.listens_for(connection, "before_cursor_execute", retval=True)
        def explain(*given: Any) -> tuple[str, Any]:
            return f"EXPLAIN QUERY PLAN {given[2]}", given[3]

        @sa.event.listens_for(connection, "after_cursor_execute")
        def noted(*given: Any) -> None:
            seen.extend(str(row[-1]) for row in given[1].fetchall())

        sweep(connection)

    await sqlite_database.query(look)

    assert ["ix_model_call_sent", "ix_model_call_answer"] == re.findall(r"INDEX (\w+)", " ".join(seen))


async def test_an_answer_is_not_paid_twice(routed: Routed, stub: Stub, database: Database) -> None:
    """A step whose answer was written and never told gets it again, for an hour, and nobody else does."""
    stub.will(GOOD, Answers('{"verdict": "reject"}'))
    router = routed(database=database)
    first = await router.generate(asking(), attempt=1, output=Triage)

    again = await another(router, database).generate(asking(), attempt=2, output=Triage)
    other = await router.generate(asking().model_copy(update={"step": of_run(2)}), attempt=2, output=Triage)
    reset = asking().step.model_copy(update={"run_id": "run-3"})
    anew = await router.generate(asking().model_copy(update={"step": reset}), attempt=2, output=Triage)

    assert first == again
    assert (3, "reject", "reject") == (stub.calls, _verdict(other.value), _verdict(anew.value))


async def test_kept_for_an_hour(routed: Routed, stub: Stub, sqlite_database: Database) -> None:
    """After an hour the answer is gone, from the database as well once a worker asks for anything."""
    stub.will(GOOD)
    router = routed()
    await router.generate(asking(), attempt=1, output=Triage)
    [before] = await rows(sqlite_database)
    async with sqlite_database.write() as connection:
        await connection.execute(sa.update(ModelCallRow).values(settled_at=now() - recovery.KEPT - timedelta(seconds=1)))

    await another(router, sqlite_database).generate(asking(), attempt=2, output=Triage)

    [first, second] = await rows(sqlite_database)
    assert 2 == stub.calls
    assert (True, None, True) == ("refund" in before["answer"], first["answer"], "refund" in second["answer"])


@pytest.mark.parametrize("task", ["", 'cache = "1d"'])
async def test_only_answers_are_kept(routed: Routed, stub: Stub, sqlite_database: Database, task: str) -> None:
    """What did not count is not kept, nor what the cache has."""
    stub.will(Answers("no JSON"), GOOD)
    router = routed(task=task)
    with pytest.raises(AskAgain):
        await router.generate(asking(), attempt=1, output=Triage)
    await router.generate(asking(), attempt=2, output=Triage)

    assert [False, not task] == [row["answer"] is not None for row in await rows(sqlite_database)]


def _verdict(value: object) -> object:
    return value["verdict"] if isinstance(value, dict) else value

"""Budgets: held back before a call, settled after it, never exceeded, on both databases."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from kits.routing import Triage, asking, rows
from stand_ins.provider import Answers, Fails, Hangs, Holds, Stub

from perdure.errors import (
    AskAgain,
    BudgetReserved,
    BudgetSpent,
    InvalidInput,
    ModelUnavailable,
)
from perdure.lineage import Lineage, StepRef
from perdure.routing import (
    GenerateCall,
    RaiseCall,
    Router,
    load_routes,
)
from perdure.routing.calls import BudgetState, budget_states, costs, find_accounts, raise_by_hand
from perdure.routing.calls.budgets import format_usd
from perdure.storage import Database, open_database

Routed = Callable[..., Router]
GOOD = Answers('{"verdict": "refund"}')
COST = 21_000
"""What one answer of the stub costs, in nano-USD."""


def of_run(number: int, **facts: str) -> GenerateCall:
    """A call of run NUMBER."""
    lineage = Lineage(namespace="default", workflow_id=f"run-{number}", first_execution_run_id=f"first-{number}")
    step = StepRef(lineage=lineage, name="triage", run_id=f"first-{number}", workflow_type="ReturnsTriage")
    return asking().model_copy(update={"step": step, **facts})


def budget(limit: str, *, per: str = "all", **keys: str) -> str:
    """The table of a budget called `cap`."""
    return f'\n[budgets.cap]\nper = "{per}"\nusd = {limit}\n' + "".join(
        f'{key} = "{value}"\n' for key, value in keys.items()
    )


async def test_settled_to_the_cent(routed: Routed, stub: Stub, database: Database) -> None:
    """After a call a budget holds nothing back and has spent what the call has cost."""
    stub.will(GOOD)

    await routed(database=database, more=budget("1")).generate(asking(), attempt=1, output=Triage)

    [state] = await budget_states(database)
    assert ("cap", COST, 0) == (state.budget, state.spent, state.reserved)


async def test_never_exceeded(routed: Routed, stub: Stub, database: Database) -> None:
    """A hundred runs at once spend no more than the budget has, whatever they are told in between."""
    stub.will(GOOD)
    router = routed(database=database, more=budget("0.005"))

    async def run(number: int) -> int:
        try:
            return (await router.generate(of_run(number), attempt=1, output=Triage)).record.usage.cost_nano_usd
        except BudgetSpent:
            return 0

    spent = sum(await asyncio.gather(*(run(number) for number in range(100))))

    [state] = await budget_states(database)
    assert (spent, 0) == (state.spent, state.reserved)
    assert 0 < spent == stub.calls * COST <= 5_000_000
    sent = [row for row in await rows(database) if row["outcome"] != "denied"]
    assert stub.calls == len(sent) < 100


MANY = """
[tasks.triage]
tier = "small"
budget_usd_per_day = 0.0006
[deployments.stub]
tier = "small"
model = "openai/stub"
input_usd_per_mtok = 1
output_usd_per_mtok = 1
[budgets.run]
per = "run"
usd = 0.000012
[budgets.workflow]
per = "workflow"
usd = 0.00055
every = "month"
[budgets.agent]
per = "agent"
usd = 0.0003
[budgets.tenant]
per = "tenant"
usd = 0.00028
[budgets.all]
per = "all"
usd = 0.0005
every = "day"
"""


@pytest.mark.timeout(120)
async def test_several_workers_and_all_budgets_at_once(database_url: str, tmp_path: Path) -> None:
    """Three workers with a hundred runs, and someone who raises: no budget is overspent by a nano-USD, the sums agree."""
    models = tmp_path / "models.toml"
    models.write_text(MANY)
    command = [sys.executable, "-m", "processes.budget_spender", database_url, str(models)]
    workers = [
        await asyncio.create_subprocess_exec(
            *command, str(seed), "34", stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
        )
        for seed in range(3)
    ]
    async with open_database(database_url) as database:
        raised = 0
        while any(worker.returncode is None for worker in workers) and raised < 30:
            state = BudgetState(
                budget="all", subject="", since=f"{datetime.now(UTC):%Y-%m-%d}", spent=0, reserved=0, raised=0
            )
            await raise_by_hand(database, state, 1_000, by="ann", why="test")
            raised += 1
        told = [json.loads((await worker.communicate())[0]) for worker in workers]
        states = await budget_states(database)

    assert [0, 0, 0] == [worker.returncode for worker in workers]
    spent: Counter[tuple[str, str]] = Counter()
    for tenant, agent, run, cost in (call for calls in told for call in calls):
        for key in (("tenant", tenant), ("agent", agent), ("run", run), ("workflow", "Returns")):
            spent[key] += cost
        spent["triage-a-day", "triage"] += cost
        spent["all", ""] += cost
    routes = load_routes([models])
    assert spent == Counter({(each.budget, each.subject): each.spent for each in states})
    assert {0} == {each.reserved for each in states}
    assert [] == [each for each in states if each.spent > routes.budgets[each.budget].limit + each.raised]
    assert raised * 1_000 == next(each.raised for each in states if each.budget == "all")
    assert spent["all", ""] > 400_000


async def test_midnight(routed: Routed, stub: Stub, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that goes over midnight is paid from the day on which it began, and the next day begins with nothing."""
    days = [datetime(2026, 11, 23, 23, 59, 59, tzinfo=UTC), datetime(2026, 11, 24, tzinfo=UTC)]
    held = Holds(then=GOOD)
    stub.will(held, GOOD)
    monkeypatch.setattr("perdure.routing.calls.budgets.now", lambda: days[0])
    router = routed(database=database, more=budget("0.001", every="day"))
    late = asyncio.create_task(router.generate(of_run(1), attempt=1, output=Triage))
    await stub.arrived.wait()

    monkeypatch.setattr("perdure.routing.calls.budgets.now", lambda: days[1])
    await router.generate(of_run(2), attempt=1, output=Triage)
    held.go.set()
    await late

    states = [(each.since, each.spent, each.reserved) for each in await budget_states(database)]
    assert [("2026-11-23", COST, 0), ("2026-11-24", COST, 0)] == states


async def test_denied(routed: Routed, stub: Stub, sqlite_database: Database) -> None:
    """A call that might cost more than is left is not made, and the error names budget, amounts and remedy."""
    router = routed(more=budget("0.0001", per="tenant"))

    with pytest.raises(BudgetSpent, match=r"'cap' of tenant 'default' has \$0.0001 left of \$0.0001.* may cost up to"):
        await router.generate(asking(), attempt=1, output=Triage)

    [row] = await rows(sqlite_database)
    assert (0, "denied", "budget cap", 0) == (stub.calls, row["outcome"], row["error"], row["cost_nano_usd"])
    [cost] = await costs(sqlite_database)
    assert (0, 0) == (cost.calls, cost.completed)


async def test_waits_for_what_is_held_back(routed: Routed, stub: Stub) -> None:
    """Where only calls in progress stand in the way the step is tried again, at the same deployment."""
    stub.will(Hangs(), GOOD)
    router = routed(deployments=["first", "second"], more=budget("0.001"))
    hanging = asyncio.create_task(router.generate(of_run(1), attempt=1, output=Triage))
    await stub.arrived.wait()

    with pytest.raises(BudgetReserved, match="is held back for calls in progress") as caught:
        await router.generate(of_run(2), attempt=1, output=Triage)
    hanging.cancel()
    await asyncio.gather(hanging, return_exceptions=True)

    assert caught.value.retryable


async def test_what_nobody_saw_counts_as_spent(routed: Routed, stub: Stub, sqlite_database: Database) -> None:
    """A call whose answer was lost may have been charged: the budget counts the most that it can have cost."""
    stub.will(Hangs())
    with pytest.raises(ModelUnavailable):
        await routed(timeout="0.3", more=budget("1")).generate(asking(), attempt=1, output=Triage)

    [row] = await rows(sqlite_database)
    [state] = await budget_states(sqlite_database)
    [cost] = await costs(sqlite_database)
    assert 0 < row["reserved_nano_usd"] == state.spent == cost.at_risk
    assert (0, 0) == (state.reserved, cost.cost)


async def test_cancelled_before_it_was_sent(routed: Routed, stub: Stub, sqlite_database: Database) -> None:
    """A step that is cancelled while it waits for another's answer neither holds back nor spends anything."""
    stub.will(Hangs())
    router = routed(task='cache = "1d"', more=budget("1"))
    asks = asyncio.create_task(router.generate(of_run(1), attempt=1, output=Triage))
    await stub.arrived.wait()
    waits = asyncio.create_task(router.generate(of_run(2), attempt=1, output=Triage))
    await asyncio.sleep(0)
    [before] = await budget_states(sqlite_database)

    waits.cancel()
    await asyncio.gather(waits, return_exceptions=True)

    assert [before] == await budget_states(sqlite_database)
    asks.cancel()
    await asyncio.gather(asks, return_exceptions=True)
    [after] = await budget_states(sqlite_database)
    assert (0, before.reserved) == (after.reserved, after.spent)


async def test_failures_cost_nothing(routed: Routed, stub: Stub, sqlite_database: Database) -> None:
    """What is held back for a call that was refused goes back into the budget."""
    stub.will(Fails(503))
    with pytest.raises(ModelUnavailable):
        await routed(more=budget("1")).generate(asking(), attempt=1, output=Triage)

    [state] = await budget_states(sqlite_database)
    assert (0, 0) == (state.spent, state.reserved)


@pytest.mark.parametrize(
    ("per", "every", "subject", "since"),
    [
        ("run", "", "default/run-1/first-1", ""),
        ("workflow", "", "ReturnsTriage", ""),
        ("agent", "", "desk", ""),
        ("tenant", "month", "acme", "2026-11"),
        ("task", "day", "triage", "2026-11-23"),
        ("all", "day", "", "2026-11-23"),
    ],
)
def test_whose(routed: Routed, per: str, every: str, subject: str, since: str) -> None:
    """Each run, workflow type, agent, tenant or task has a budget for itself, for ever or for a day or month."""
    routes = routed(more=budget("1", per=per, every=every)).routes
    call = of_run(1, agent="desk", tenant="acme")

    [account] = find_accounts(routes, call, at=datetime(2026, 11, 23, tzinfo=UTC))

    assert (subject, since) == (account.subject, account.since)


def test_of_one_only(routed: Routed) -> None:
    """A budget of one tenant does not concern the others, and one of agents nobody who is none."""
    assert () == find_accounts(routed(more=budget("1", per="tenant", of="acme")).routes, of_run(1))
    assert () == find_accounts(routed(more=budget("1", per="agent")).routes, of_run(1))


async def test_a_task_may_state_its_own(routed: Routed, stub: Stub) -> None:
    """`budget_usd_per_day` of a task is a budget of that task."""
    with pytest.raises(BudgetSpent, match="budget 'triage-a-day' of task 'triage' since 20"):
        await routed(task="budget_usd_per_day = 0").generate(asking(), attempt=1, output=Triage)


async def test_all_or_none(routed: Routed, stub: Stub, database: Database) -> None:
    """A call that one budget denies draws on none of the others."""
    more = budget("1") + '[budgets.tight]\nper = "run"\nusd = 0.0001\n'

    with pytest.raises(BudgetSpent, match="budget 'tight'"):
        await routed(database=database, more=more).generate(asking(), attempt=1, output=Triage)

    assert [] == await budget_states(database)


async def test_raised_once_for_a_step(routed: Routed, stub: Stub, database: Database) -> None:
    """What a person grants is added once, however often the activity is retried, and the next call fits."""
    stub.will(GOOD)
    router = routed(database=database, more=budget("0.0001", per="run", ask="finance"))
    with pytest.raises(BudgetSpent, match="finance is asked to raise it") as caught:
        await router.generate(asking(), attempt=1, output=Triage)
    short = cast(dict[str, Any], caught.value.facts["budget"])
    call = RaiseCall(step=asking().step, budget="cap", subject=short["subject"], nano_usd=short["raise_nano_usd"], by="ann")

    first, second = await router.raise_budget(call), await router.raise_budget(call)

    assert first == second
    assert (await router.generate(asking(), attempt=1, output=Triage)).value == {"verdict": "refund", "why": ""}
    with pytest.raises(InvalidInput, match="no budget 'cup'; known budgets: cap"):
        await router.raise_budget(call.model_copy(update={"budget": "cup"}))


async def test_costs(routed: Routed, stub: Stub, database: Database) -> None:
    """Costs are told by group: per completed step, with retries, and with what may have been charged besides."""
    stub.will(Answers("no JSON"), GOOD, Fails(503), GOOD)
    router = routed(database=database)
    for attempt, number in ((1, 1), (2, 1), (1, 2), (2, 2)):
        # The next attempt is the point.
        with contextlib.suppress(AskAgain, ModelUnavailable):
            await router.generate(of_run(number, tenant=f"tenant-{number}"), attempt=attempt, output=Triage)

    [total] = await costs(database)
    by_tenant = {each.group: each for each in await costs(database, "tenant")}
    [day] = await costs(database, "day")

    assert (2, 4, 2, 3 * COST, 3 * COST // 2) == (
        total.completed,
        total.calls,
        total.failed,
        total.cost,
        total.per_completed,
    )
    assert (2 * COST, COST) == (by_tenant["tenant-1"].per_completed, by_tenant["tenant-2"].per_completed)
    assert f"{datetime.now(UTC):%Y-%m-%d}" == day.group
    assert [] == await costs(database, "run", since=datetime(2100, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("nano", "said"), [(0, "$0.00"), (5_000_000, "$0.005"), (21_000, "$0.000021"), (12_340_000_000, "$12.34")]
)
def test_amounts(nano: int, said: str) -> None:
    """Small amounts are told with as many digits as they need."""
    assert said == format_usd(nano)

"""What we have booked is what the provider bills, whatever goes wrong: nothing is lost, nothing is paid twice unseen.

`PERDURE_MIXED_CALLS=10000 pytest tests/routing/calls/test_invoice.py` makes as many steps.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from kits.routing import Triage, asking, lost_calls, of_run, rows
from stand_ins.provider import Answers, Behaviour, Fails, Hangs, Sends, Stub, says

from perdure.errors import ModelError
from perdure.routing import Router
from perdure.routing.calls import budget_states, costs
from perdure.routing.providers import CircuitBreakers
from perdure.storage import Database

Routed = Callable[..., Router]
STEPS = int(os.environ.get("PERDURE_MIXED_CALLS", "120"))
GOOD = '{"verdict": "refund"}'
BUDGET = '\n[budgets.all]\nper = "all"\nusd = 100\n'
PRICES = {"stub-first": (Fraction("0.15"), Fraction("0.6")), "stub-second": (Fraction("0.15"), Fraction("0.6"))}
NO_ANSWER = says(200, {"error": {"message": "no"}})
"""An error all the same, so nothing was lost."""
CUT = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{"id":'


class Biller:
    """Decides what the stub does, at random, and writes the invoice as the provider would."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.billed = Fraction()
        """US dollars, for answers that arrived."""
        self.lost = 0
        """Answers that did not arrive, or not whole."""

    def __call__(self, model: str) -> Behaviour:
        tokens = (self._random.randint(20, 400), self._random.randint(3, 200))
        behaviours: list[Behaviour] = [
            Answers(GOOD, tokens=tokens),
            Answers("no JSON", tokens=tokens),
            Answers('{"verdict": 7}', tokens=tokens),
            Answers("", refusal="no", tokens=tokens),
            Answers("", finish="content_filter", tokens=tokens),
            Fails(429),
            Fails(429, "insufficient_quota"),
            Fails(500),
            Fails(529),
            Sends(),
            Sends(CUT),
            Hangs(),
            Answers("", tools=(GOOD,), tokens=tokens),
            Answers("", tools=(GOOD, GOOD[:-1]), tokens=tokens),
            Answers(f"```json\n{GOOD}", tokens=tokens, model="a\x00b\ud800"),
            Fails(402),
            Fails(504),
            Fails(307, headers={"location": "http://127.0.0.1:9/"}),
            says(200, b"<html>"),
            NO_ANSWER,
        ]
        weights = [70, 6, 4, 2, 2, 4, 1, 3, 3, 2, 2, 1, 4, 2, 4, 1, 2, 2, 2, 2]
        [answer] = self._random.choices(behaviours, weights=weights)
        if isinstance(answer, Answers):
            for number, price in zip(tokens, PRICES[model], strict=True):
                self.billed += number * price / 1_000_000
        elif answer != NO_ANSWER and (isinstance(answer, Sends | Hangs) or answer == Fails(504)):
            self.lost += 1
        return answer


@pytest.mark.timeout(3600)
async def test_books_equal_the_invoice(routed: Routed, stub: Stub, sqlite_database: Database) -> None:
    """After many steps with every fault the booked costs are the invoice's, calls are attempts, and budgets agree."""
    biller = Biller(seed=5)
    now = 0.0
    router = routed(
        deployments=["first", "second"],
        timeout="6",
        more='\n[budgets.all]\nper = "all"\nusd = 100000\n',
        breakers=CircuitBreakers(lambda: now),
    )
    stub.will(Answers(GOOD, tokens=(100, 10)))
    await router.generate(asking(), attempt=1, output=Triage)  # LiteLLM's first call takes long
    biller.billed += Fraction("0.000021")
    stub.choose = biller
    slots = asyncio.Semaphore(16)
    attempts = 1
    paid = 21_000

    async def step(number: int) -> None:
        """Do what Temporal does with a step: try again as long as the error says that it may help."""
        nonlocal attempts, paid, now
        async with slots:
            for attempt in range(1, 9):
                attempts += 1
                try:
                    done = await router.generate(of_run(number), attempt=attempt, output=Triage)
                except ModelError as error:
                    if "is out of service; the first" in error.message:  # so nobody was called
                        attempts -= 1
                        now += error.retry_after.total_seconds() if error.retry_after else 0
                    if not error.retryable or attempt == 8:
                        paid += error.spent_nano_usd
                        return
                else:
                    paid += done.record.usage.cost_nano_usd
                    return

    await asyncio.gather(*(step(number) for number in range(STEPS)))

    [cost] = await costs(sqlite_database)
    [budget] = await budget_states(sqlite_database)
    billed = int(biller.billed * 10**9)
    lost = await lost_calls(sqlite_database)
    assert (stub.calls, stub.calls) == (cost.calls, attempts)
    assert (billed, billed) == (cost.cost, paid)
    assert biller.lost == len(lost)
    assert (billed + cost.at_risk, 0) == (budget.spent, budget.reserved)
    assert 0 < cost.completed <= STEPS + 1


async def crash(url: str, folder: Path, when: str) -> asyncio.subprocess.Process:
    """Start a worker's process that asks once and dies, or pauses, WHEN it writes down what came of it."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "processes.routing_crasher",
        url,
        str(folder / "models.toml"),
        when,
        cwd=Path(__file__).parents[2],
    )


@pytest.mark.faults
async def test_killed_between_answer_and_record(
    routed: Routed, stub: Stub, sqlite_database: Database, sqlite_url: str, tmp_path: Path
) -> None:
    """A worker that dies with an answer in its hands leaves one ambiguous call on the books, and the step goes on."""
    stub.will(Answers(GOOD))
    router = routed(more=BUDGET)

    assert -9 == await (await crash(sqlite_url, tmp_path, "before")).wait()
    generation = await router.generate(asking(), attempt=2, output=Triage)

    [lost, answered] = await rows(sqlite_database)
    [cost] = await costs(sqlite_database)
    [budget] = await budget_states(sqlite_database)
    assert (2, "ambiguous", "answered") == (stub.calls, lost["outcome"], answered["outcome"])
    assert [lost["call_id"]] == await lost_calls(sqlite_database)
    assert (21_000, lost["reserved_nano_usd"]) == (cost.cost, cost.at_risk)
    assert (0, cost.at_risk + 21_000) == (budget.reserved, budget.spent)
    [earlier] = generation.record.earlier
    assert ("ambiguous", lost["reserved_nano_usd"]) == (earlier.outcome, earlier.at_risk_nano_usd)


@pytest.mark.faults
async def test_killed_between_record_and_completion(
    routed: Routed, stub: Stub, sqlite_database: Database, sqlite_url: str, tmp_path: Path
) -> None:
    """A worker that dies when the answer is written, and Temporal does not know it, has not asked for nothing."""
    stub.will(Answers(GOOD), Answers("another"))
    router = routed(more=BUDGET)

    assert -9 == await (await crash(sqlite_url, tmp_path, "after")).wait()
    generation = await router.generate(asking(), attempt=2, output=Triage)

    [row] = await rows(sqlite_database)
    [budget] = await budget_states(sqlite_database)
    assert (1, "answered", {"verdict": "refund", "why": ""}) == (stub.calls, row["outcome"], generation.value)
    assert (21_000, 1, 1) == (
        generation.record.usage.cost_nano_usd,
        generation.record.provider_calls,
        generation.record.attempt,
    )
    assert (0, 21_000) == (budget.reserved, budget.spent)


@pytest.mark.faults
async def test_paused_between_answer_and_record(
    routed: Routed, stub: Stub, sqlite_database: Database, sqlite_url: str, tmp_path: Path
) -> None:
    """A worker that was only paused may come late: what its call has cost replaces what it could have cost, once."""
    stub.will(Answers(GOOD))
    router = routed(more=BUDGET)

    pausing = await crash(sqlite_url, tmp_path, "paused")
    await asyncio.to_thread(os.waitid, os.P_PID, pausing.pid, os.WSTOPPED | os.WNOWAIT)
    await router.generate(asking(), attempt=2, output=Triage)
    [given_up] = await budget_states(sqlite_database)
    pausing.send_signal(signal.SIGCONT)
    assert 0 == await pausing.wait()

    [cost] = await costs(sqlite_database)
    [budget] = await budget_states(sqlite_database)
    assert (0, 2 * 21_000) == (budget.reserved, budget.spent)
    assert budget.spent < given_up.spent
    assert (2, 2 * 21_000, 0) == (cost.calls, cost.cost, cost.at_risk)

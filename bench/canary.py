"""How often the rule rolls back a canary that is as good as the rest, and how soon one that is not.

Calls are drawn with seeds: valid or not, with latencies whose logarithm varies by one (a 95th percentile of five times the
median), and the whole rule with its defaults looks at them after every one. Then: the CPU that a canary takes of each call,
over what is written for the call itself.

    python -m bench.canary [--rounds 200] [--calls 3000] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from dataclasses import dataclass

import sqlalchemy as sa

from perdure.routing.canary import Canary, CanaryAssignment, CanaryTable, Counts
from perdure.routing.canary.rollback import problem
from perdure.storage import open_database


@dataclass(frozen=True)
class Case:
    """What is drawn: how probable a valid answer is in each arm, and the share of calls that try the canary."""

    canary: float
    control: float
    weight: float


CASES = (
    Case(0.9, 0.9, 0.1),
    Case(0.9, 0.9, 0.5),
    Case(0.6, 0.9, 0.1),
    Case(0.6, 0.9, 0.5),
    Case(0.75, 0.9, 0.1),
    Case(0.0, 0.9, 0.1),
)


def newer(weight: float) -> Canary:
    """Return a canary with the defaults of models.toml."""
    table = {"name": "newer", "task": "triage", "instructions": "Judge better.", "weight": weight}
    return Canary(CanaryTable.model_validate(table), None, "small")


def rolled_back(case: Case, seed: int, calls: int) -> int | None:
    """Draw at most CALLS; return how many of the canary's there were when it was rolled back, if it was."""
    draw = random.Random(seed)  # noqa: S311  drawn alike each time
    rule = newer(case.weight).table.rule
    arms = {True: Counts(), False: Counts()}
    for _ in range(calls):
        tries = draw.random() < case.weight
        arm = arms[tries]
        # `model_copy` and its checks would take longer than the rule.
        arms[tries] = Counts.model_construct(
            calls=arm.calls + 1,
            failed=0,
            valid=arm.valid + (draw.random() < (case.canary if tries else case.control)),
            unsure=0,
            judged=0,
            overridden=0,
            log_milliseconds=arm.log_milliseconds + draw.gauss(6, 1),
            cost_nano_usd=0,
        )
        if problem(rule, arms[True], arms[False]):
            return arms[True].calls
    return None


def simulated(case: Case, rounds: int, calls: int) -> dict[str, float | int | None]:
    """Return how many of ROUNDS were rolled back, and after how many of the canary's calls."""
    found = sorted(each for seed in range(rounds) if (each := rolled_back(case, seed, calls)) is not None)
    return {
        "validity": case.canary,
        "control": case.control,
        "weight": case.weight,
        "rolled_back": len(found) / rounds,
        "median": found[len(found) // 2] if found else None,
        "p95": found[len(found) * 95 // 100] if found else None,
    }


async def cpu_us(calls: int) -> float:
    """Return what a canary takes of a call, in microseconds of CPU: to see how it stands, and to count the call."""
    canary = newer(0.5)
    parts = [
        CanaryAssignment(canary, "canary", "running", True, True),
        CanaryAssignment(canary, "control", "running", True, False),
    ]

    def work(connection: sa.Connection) -> None:
        for number in range(calls):
            part = parts[number % 2]
            part.check_state(connection)
            part.settle(connection, "invalid" if number % 10 < 2 else "answered", milliseconds=200, nano_usd=1)

    with tempfile.TemporaryDirectory() as folder:
        async with open_database(f"sqlite+aiosqlite:///{folder}/perdure.db") as database:
            await database.transact(work)
            began = time.process_time()
            await database.transact(work)
            return (time.process_time() - began) / calls * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="how often each case is drawn")
    parser.add_argument("--calls", type=int, default=3_000, help="how many calls, both arms together")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    cases = [simulated(case, given.rounds, given.calls) for case in CASES]
    took = asyncio.run(cpu_us(1_000))
    if given.json:
        print(json.dumps({"cases": cases, "cpu_us_per_call": took}))
        return
    print("VALIDITY  CONTROL  WEIGHT  ROLLED BACK  AFTER (MEDIAN, P95) CALLS OF THE CANARY")
    for each in cases:
        after = f"{each['median']}, {each['p95']}" if each["median"] is not None else "-"
        print(
            f"{each['validity']:8.0%} {each['control']:8.0%} {each['weight']:7.0%} {each['rolled_back']:12.1%}  {after}",
        )
    print(f"{took:.0f} us of CPU a call")


if __name__ == "__main__":
    main()

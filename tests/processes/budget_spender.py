"""A worker's process that spends from budgets as fast as it can, without a provider: `URL MODELS SEED RUNS`.

Prints what it has spent as JSON: tenant, agent, run and nano-USD of each call that was made.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from functools import partial
from pathlib import Path

from perdure.lineage import Lineage, StepRef
from perdure.routing import GenerateCall, OutputRef, load_routes
from perdure.routing.calls import BudgetDenial, ModelCall, Settlement, find_accounts
from perdure.routing.contracts import Usage
from perdure.routing.load import Routes
from perdure.storage import AdvisoryLock, GroupCommit, open_database


async def spend(commits: GroupCommit, routes: Routes, chance: random.Random, run: str) -> list[tuple[str, str, str, int]]:
    """Make the calls of one RUN until a budget is used up."""
    spent: list[tuple[str, str, str, int]] = []
    tenant, agent = chance.choice(["acme", "umbrella"]), chance.choice(["desk", "clerk"])
    lineage = Lineage(namespace="default", workflow_id=run, first_execution_run_id=run)
    for number in range(4):
        asked = GenerateCall(
            step=StepRef(lineage=lineage, name=f"step-{number}", run_id=run, workflow_type="Returns"),
            task="triage",
            output=OutputRef(name="kits.runs:Answer"),
            tenant=tenant,
            agent=agent,
        )
        most = chance.randint(1_000, 9_000)
        call = ModelCall(
            asked,
            routes.deployments["stub"],
            1,
            prompt_digest="",
            reserved_nano_usd=most,
            accounts=find_accounts(routes, asked),
        )
        denied = await commits.run(call.begin, exclusive=True)
        if isinstance(denied, BudgetDenial):
            if denied.temporary:
                continue
            break
        await asyncio.sleep(chance.random() / 100)  # the provider thinks
        cost = chance.randint(0, most)
        lost = chance.random() < 0.1
        settled = (
            Settlement("ambiguous", error="time-out") if lost else Settlement("answered", usage=Usage(cost_nano_usd=cost))
        )
        await commits.run(partial(call.settle, settled=settled), exclusive=True)
        spent.append((tenant, agent, f"default/{run}/{run}", most if lost else cost))
    return spent


async def main(url: str, models: str, seed: str, runs: str) -> None:
    """Let all runs spend at once."""
    chance = random.Random(seed)
    routes = load_routes([Path(models)])
    async with open_database(url) as database:
        commits = GroupCommit(database, lock=AdvisoryLock.MODEL_CALLS)
        spent = await asyncio.gather(
            *(spend(commits, routes, chance, f"run-{seed}-{number}") for number in range(int(runs)))
        )
    print(json.dumps([each for of_run in spent for each in of_run]))  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

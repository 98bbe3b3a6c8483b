"""A worker that is killed with -9 in the middle of a batch: each run gets one answer, and the batch is paid once."""

from __future__ import annotations

import asyncio
import signal
import sys
import uuid
from pathlib import Path

import pytest
from kits.e2e import TESTS, environment, running
from kits.model_workflows import Ask, Judged, Judges
from stand_ins.provider import Answers, stub_provider
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from perdure.routing.calls import budget_states, costs
from perdure.storage import open_database

pytestmark = pytest.mark.faults

CALLS = 50
COST = 10_500
"""What one answer costs in a batch, in nano-USD."""

MODELS = """
[tasks.triage]
tier = "small"
[deployments.{name}]
tier = "small"
model = "openai/stub"
api_base = "{url}"
input_usd_per_mtok = 0.15
output_usd_per_mtok = 0.6
batch_price = 0.5
batch_size = 50
batch_wait = "5m"
batch_poll = "1s"
[budgets.all]
per = "all"
usd = 1
every = "day"
"""


async def killed(temporal_address: str, folder: Path, *dooms: str) -> None:
    """Have fifty runs ask in a batch, with a worker that dies of each of the DOOMS, and look at all that is left of it."""
    queue = f"batches-{uuid.uuid4()}"
    client = await Client.connect(temporal_address, data_converter=pydantic_data_converter)
    async with stub_provider() as stub:
        stub.choose = lambda _: Answers('{"verdict": "refund"}')
        stub.batches_end.set()
        (folder / "models.toml").write_text(MODELS.format(name=f"night-{uuid.uuid4().hex[:8]}", url=stub.url))
        more = {"PERDURE_TASK_QUEUE": queue, "PERDURE_MODELS": str(folder / "models.toml")}
        env = environment(temporal_address, folder / "home", more)
        command = [sys.executable, "-m", "processes.mortal_batches", *dooms]
        async with running(command, env, cwd=TESTS, log=folder / "log") as workers:
            runs = [
                await client.start_workflow(
                    Judges.run, Ask(lane="batch", message=f"question {number}"), id=f"{queue}-{number}", task_queue=queue
                )
                for number in range(CALLS)
            ]
            answers: list[Judged] = await asyncio.gather(*(run.result() for run in runs))
            deaths = [line for line in workers.log.splitlines() if line == str(-signal.SIGKILL)]
    async with open_database(f"sqlite+aiosqlite:///{folder}/home/perdure.db") as database:
        [cost] = await costs(database)
        [budget] = await budget_states(database)

    assert [("refund",)] * CALLS == [each.verdicts for each in answers]
    assert (len(dooms), 1, 0) == (len(deaths), len(stub.batches), stub.calls)
    [batch] = stub.batches.values()
    assert CALLS == len(stub.files[str(batch["input_file_id"])].splitlines())
    assert (CALLS, CALLS, CALLS * COST, CALLS * COST, 0) == (
        cost.completed,
        cost.calls,
        cost.cost,
        cost.saved,
        cost.at_risk,
    )
    assert (CALLS * COST, 0) == (budget.spent, budget.reserved)


@pytest.mark.timeout(300)
async def test_sent_and_not_told(temporal_address: str, tmp_path: Path) -> None:
    """A batch whose worker died before it could say that it was sent is found again; so is a run that was told already."""
    await killed(temporal_address, tmp_path, "created:1", "signalled:25")


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "dooms",
    [
        ("enqueued:1", "enqueued:20"),
        ("reserved:1", "reserved:25", "uploaded:1"),
        ("created:1", "polled:1"),
        ("fetched:1", "settled:1", "settled:25"),
        ("signalled:1", "signalled:20"),
        ("enqueued:30", "reserved:40", "uploaded:1", "created:1", "polled:1", "fetched:1", "settled:10", "signalled:10"),
    ],
    ids=" ".join,
)
async def test_at_every_stage(temporal_address: str, tmp_path: Path, dooms: tuple[str, ...]) -> None:
    """Wherever workers die, all fifty have one answer each, from one batch, at the price on the invoice."""
    await killed(temporal_address, tmp_path, *dooms)

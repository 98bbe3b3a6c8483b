"""Tests of the batch lane: calls go together, answers come back to their runs, and a crash sends nothing twice."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from model_workflows import Ask, Judged, Judges
from stub_provider import Answers, Behaviour, Fails, Sends, Stub, stub_provider
from workflow_kit import Governed, Handle, OpenWorker

from perdure.routing.spending import costs
from perdure.storage import open_database

GOOD = Answers('{"verdict": "refund"}')
BATCHED = "batch_price = 0.5\nbatch_size = 50\nbatch_wait = '2s'\nbatch_poll = '1s'\n"


@pytest.fixture
async def stub() -> AsyncIterator[Stub]:
    """A provider on loopback."""
    async with stub_provider() as provider:
        yield provider


def routes(folder: Path, stub: Stub, *, more: str = BATCHED) -> Path:
    """Write a routing file for the stub, named after this test so that no other one's collector is met."""
    name = f"batched-{uuid.uuid4().hex[:8]}"
    (folder / "models.toml").write_text(
        f'[tasks.triage]\ntier = "small"\n[deployments.{name}]\ntier = "small"\nmodel = "openai/stub"\n'
        f'api_base = "{stub.url}"\ninput_usd_per_mtok = 0.15\noutput_usd_per_mtok = 0.6\n{more}'
    )
    return folder / "models.toml"


async def start(desk: Governed, count: int) -> list[Handle]:
    """Start COUNT runs that ask in the batch lane."""
    return [await desk.start(Judges.run, Ask(lane="batch", message=f"question {number}")) for number in range(count)]


async def judged(handles: list[Handle]) -> list[Judged]:
    """What the runs have got."""
    return [Judged.model_validate(each) for each in await asyncio.gather(*(handle.result() for handle in handles))]


async def test_a_batch(governed: OpenWorker, stub: Stub, tmp_path: Path) -> None:
    """Calls that can wait go to the provider as one batch, at half the price, and nothing else in the workflow changes."""
    stub.will(GOOD)
    stub.batches_end.set()
    async with governed(Judges, settings={"models": routes(tmp_path, stub)}) as desk:
        handles = await start(desk, 5)
        answers = await judged(handles)
        replays = await desk.replays(handles[0], [Judges])
    async with open_database(desk.settings.database) as database:
        [cost] = await costs(database)

    assert [("refund",)] * 5 == [each.verdicts for each in answers]
    assert (0, True) == (stub.calls, replays)
    assert 5 == sum(len(stub.files[str(batch["input_file_id"])].splitlines()) for batch in stub.batches.values())
    assert (5, 5, 5 * 10_500, 5 * 10_500, 0) == (cost.completed, cost.calls, cost.cost, cost.saved, cost.at_risk)


async def test_fifty_across_a_worker_that_goes(governed: OpenWorker, stub: Stub, tmp_path: Path) -> None:
    """Fifty calls make a batch of fifty; the worker may go while the provider works, and each run gets its own answer."""
    stub.choose = lambda _: GOOD
    models = routes(tmp_path, stub)
    async with governed(Judges, settings={"models": models}) as desk:
        handles = await start(desk, 50)
        await stub.arrived.wait()
    stub.batches_end.set()
    async with governed(Judges, settings={"models": models, "task_queue": desk.task_queue}):
        answers = await judged(handles)

    assert [("refund",)] * 50 == [each.verdicts for each in answers]
    assert (1, 0) == (len(stub.batches), stub.calls)
    [batch] = stub.batches.values()
    questions = [json.loads(line) for line in stub.files[str(batch["input_file_id"])].splitlines()]
    assert 50 == len({str(each["body"]["messages"]) for each in questions})


@pytest.mark.parametrize("fault", [Sends(), Fails(503)])
async def test_sent_once(governed: OpenWorker, stub: Stub, tmp_path: Path, fault: Behaviour) -> None:
    """A batch whose acknowledgement got lost is found again and not sent twice; one that was refused is sent again."""
    stub.will(GOOD)
    stub.batch_faults.append(fault)
    stub.batches_end.set()
    async with governed(Judges, settings={"models": routes(tmp_path, stub)}) as desk:
        answers = await judged(await start(desk, 2))

    assert [("refund",)] * 2 == [each.verdicts for each in answers]
    assert 1 == len({json.dumps(batch["metadata"]) for batch in stub.batches.values()}) == len(stub.batches)


async def test_stragglers_ask_by_themselves(governed: OpenWorker, stub: Stub, tmp_path: Path) -> None:
    """A call that the batch has no valid answer to is made by itself, and what the batch has cost is booked."""
    stub.will(GOOD, Answers("no JSON"), Fails(500), GOOD)
    stub.batches_end.set()
    async with governed(Judges, settings={"models": routes(tmp_path, stub)}) as desk:
        answers = await judged(await start(desk, 3))
    async with open_database(desk.settings.database) as database:
        [cost] = await costs(database)

    assert [("refund",)] * 3 == [each.verdicts for each in answers]
    assert (2, 2 * 10_500 + 2 * 21_000) == (stub.calls, cost.cost)


async def test_no_batches(governed: OpenWorker, stub: Stub, tmp_path: Path) -> None:
    """Where no deployment takes batches the call is made at once."""
    stub.will(GOOD)
    async with governed(Judges, settings={"models": routes(tmp_path, stub, more="")}) as desk:
        [answer] = await judged(await start(desk, 1))

    assert (("refund",), 1, {}) == (answer.verdicts, stub.calls, stub.batches)

"""Tests of the batch lane: calls go together, answers come back to their runs, and a crash sends nothing twice."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from kits.model_workflows import Ask, Judged, Judges
from kits.routing import HashingEmbedder
from kits.workflows import Governed, Handle, OpenWorker
from stand_ins.provider import Answers, Behaviour, Fails, Sends, Stub, stub_provider

from perdure.lineage import Lineage, StepRef
from perdure.routing import (
    GenerateCall,
    OutputRef,
    Router,
    load_routes,
)
from perdure.routing.batches import Batches
from perdure.routing.calls import budget_states, costs
from perdure.routing.contracts import BatchCall, CollectorState
from perdure.storage import open_database
from perdure.workflows.batches import ADD

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


@pytest.mark.parametrize("count", [450, pytest.param(1000, marks=[pytest.mark.long, pytest.mark.timeout(300)])])
async def test_large_calls(governed: OpenWorker, stub: Stub, tmp_path: Path, count: int) -> None:
    """Calls of 20 KB each make as many batches as fit into payloads, none gets lost, and no history becomes too long."""
    stub.will(GOOD)
    stub.batches_end.set()
    models = routes(tmp_path, stub, more=BATCHED.replace("50", "1000"))
    async with governed(Judges, settings={"models": models}) as desk:
        [deployment] = load_routes([models]).deployments.values()
        collecting = CollectorState(
            deployment=deployment.name, size=1000, wait=timedelta(seconds=6), poll=deployment.batch_poll
        )
        collector = await desk.start("perdure.batch_collector", collecting)
        for first in range(0, count, 50):
            await asyncio.gather(*(collector.signal(ADD, large(number)) for number in range(first, first + 50)))
        while count > sum(len(content.splitlines()) for content in stub.files.values()) // 2:  # noqa: ASYNC110  it only counts
            await asyncio.sleep(0.05)
        ended = [
            await desk.client.get_workflow_handle(f"perdure-batch-{name}").result()
            for name in (batch["metadata"]["perdure_batch"] for batch in stub.batches.values())  # type: ignore[call-overload, index]  # JSON
        ]
        run = await collector.describe()
    async with open_database(desk.settings.database) as database:
        [cost] = await costs(database)

    assert (count, count, 0) == (cost.completed, cost.calls, cost.at_risk)
    assert count == sum(fanned["answered"] for fanned in ended)
    assert 2 <= len(stub.batches)
    assert max(map(len, stub.files.values())) < 9 * 1024 * 1024
    assert run.history_length < 4_000


def large(number: int) -> GenerateCall:
    """A call with 20 KB of inputs, of a run that is not there any more."""
    lineage = Lineage(namespace="default", workflow_id=str(uuid.uuid4()), first_execution_run_id=str(uuid.uuid4()))
    return GenerateCall(
        step=StepRef(lineage=lineage, name=f"step-{number}"),
        task="triage",
        inputs={"message": f"{number} " + "x" * 20_000},
        output=OutputRef(name="kits.model_workflows:Judgement"),
    )


async def test_a_task_that_is_gone(governed: OpenWorker, stub: Stub, tmp_path: Path) -> None:
    """A call whose task models.toml has no more is told so, and the others of its batch are answered."""
    stub.will(GOOD)
    stub.batches_end.set()
    models = routes(tmp_path, stub)
    async with governed(Judges, settings={"models": models}) as desk, open_database(desk.settings.database) as database:
        router = Router(database, load_routes([models]), HashingEmbedder())
        room = Batches(database, router)
        [deployment] = router.routes.deployments
        calls = (large(1), large(2).model_copy(update={"task": "gone"}))
        batch = BatchCall(batch="night-1", deployment=deployment, poll=timedelta(seconds=1), calls=calls)
        sent = await room.submit(batch, attempt=1)
        answers = await room.fetch(batch.model_copy(update={"at_provider": sent.at_provider}))

    assert [True, False] == [each.generation is not None for each in answers]
    assert "no route serves task 'gone'" in answers[1].why


async def test_the_next_day(governed: OpenWorker, stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that is answered on the day after is paid from the day on which it was sent, at the prices of that day."""
    stub.will(replace(GOOD, tokens=(40_000, 10)))
    stub.batches_end.set()
    days = [datetime(2026, 11, 23, 23, tzinfo=UTC), datetime(2026, 11, 24, 9, tzinfo=UTC)]
    models = routes(tmp_path, stub)
    [name] = load_routes([models]).deployments
    later = f"[[deployments.{name}.prices]]\nsince = 2026-11-24\ninput_usd_per_mtok = 9\noutput_usd_per_mtok = 9\n"
    models.write_text(models.read_text() + later + '[budgets.all]\nper = "all"\nusd = 1\nevery = "day"\n')
    async with governed(Judges) as desk, open_database(desk.settings.database) as database:
        room = Batches(database, Router(database, load_routes([models]), HashingEmbedder()))
        batch = BatchCall(batch="night-1", deployment=name, poll=timedelta(seconds=1), calls=(large(1),))
        clocks = ("calls.budgets", "batches.batches", "calls.calls")
        for module in clocks:
            monkeypatch.setattr(f"perdure.routing.{module}.now", lambda: days[0])
        sent = await room.submit(batch, attempt=1)
        for module in clocks:
            monkeypatch.setattr(f"perdure.routing.{module}.now", lambda: days[1])
        await room.fetch(batch.model_copy(update={"at_provider": sent.at_provider}))
        states = await budget_states(database)
        [cost] = await costs(database)

    assert [("2026-11-23", 3_003_000, 0)] == [(each.since, each.spent, each.reserved) for each in states]
    assert 3_003_000 == cost.cost


async def test_no_batches(governed: OpenWorker, stub: Stub, tmp_path: Path) -> None:
    """Where no deployment takes batches the call is made at once."""
    stub.will(GOOD)
    async with governed(Judges, settings={"models": routes(tmp_path, stub, more="")}) as desk:
        [answer] = await judged(await start(desk, 1))

    assert (("refund",), 1, {}) == (answer.verdicts, stub.calls, stub.batches)

"""Tests of the steps around memory, and of the workflows that sweep it and that ask for another process."""

from __future__ import annotations

from datetime import timedelta

from kits.runs import activity_names
from kits.toy_workflows import Keeps
from kits.workflows import OpenWorker

from perdure.lineage import Lineage, StepRef
from perdure.memory import customer
from perdure.memory.contracts import RecallCall, RememberCall
from perdure.memory.records.requests import (
    EnforceRetention,
    ForgetCall,
    MemoryAnswer,
    MemoryRequest,
    ReindexCall,
    RetentionReport,
    StatsCall,
    VerifyCall,
)
from perdure.memory.unindexed import records_only
from perdure.storage import open_database


def _step(name: str) -> StepRef:
    return StepRef(lineage=Lineage(namespace="test", workflow_id="w", first_execution_run_id="1"), name=name)


async def test_a_run_keeps_its_memory(governed: OpenWorker) -> None:
    """Every verb is a step: a fact is contradicted, used, changed, consolidated, retracted and erased; the run replays."""
    async with governed(Keeps) as desk:
        handle = await desk.start(Keeps.run, "ada")

        assert ["Wien", "likes tea", "Graz", "Wien", "likes coffee", "1", "5"] == await handle.result()
        names = activity_names(await handle.fetch_history())
        assert {"perdure.forget", "perdure.feedback", "perdure.consolidate", "perdure.update_memory"} < set(names)
        async with open_database(desk.settings.database) as database:
            assert 0 == (await records_only(database).stats(StatsCall())).versions
        assert await desk.replays(handle, [Keeps])


async def test_provenance_comes_from_the_run(governed: OpenWorker) -> None:
    """A record names the run, step and event that wrote it, although the workflow says nothing of them."""
    from kits.toy_workflows import Remembers

    async with governed(Remembers) as desk:
        handle = await desk.start(Remembers.run, "the parcel of c-1 was lost")
        await handle.result()
        async with open_database(desk.settings.database) as database:
            memory = records_only(database)
            line = [line async for line in memory.export() if line.startswith('{"source"')]

    assert 1 == len(line)
    for said in (handle.id, '"step": "remember"', '"workflow_type": "Remembers"', '"event": 3'):
        assert said in line[0]


async def test_sweep_is_a_workflow(governed: OpenWorker) -> None:
    """A sweep erases on the worker what is over, and a dry run before it erases nothing."""
    async with (
        governed(settings={"retention": {"standard": timedelta(0)}}) as desk,
        open_database(desk.settings.database) as database,
    ):
        memory = records_only(database)
        call = RememberCall(step=_step("a"), scope=customer("ada"), content="a code", ttl=timedelta(microseconds=1))
        await memory.remember(call)
        dry: RetentionReport = await desk.client.execute_workflow(
            "perdure.sweep_memory",
            EnforceRetention(dry_run=True),
            id="dry",
            task_queue=desk.task_queue,
            result_type=RetentionReport,
        )
        swept: RetentionReport = await desk.client.execute_workflow(
            "perdure.sweep_memory", EnforceRetention(), id="sweep", task_queue=desk.task_queue, result_type=RetentionReport
        )
        left = (await memory.stats()).versions

    assert (1, 1, 0) == (dry.versions, swept.versions, left)
    assert swept.complete


async def test_another_process_asks_the_worker(governed: OpenWorker) -> None:
    """What needs the index is asked of its owner by a workflow, and no text of a record comes into its history."""
    ada = customer("ada")
    async with governed() as desk:
        async with open_database(desk.settings.database) as database:
            await records_only(database).remember(RememberCall(step=_step("a"), scope=ada, content="Ada likes wombats"))

        async def ask(**wanted: object) -> tuple[MemoryAnswer, str]:
            request = MemoryRequest.model_validate(wanted)
            handle = await desk.client.start_workflow(
                "perdure.memory_request",
                request,
                id=f"ask-{next(iter(wanted))}",
                task_queue=desk.task_queue,
                result_type=MemoryAnswer,
            )
            return await handle.result(), (await handle.fetch_history()).to_json()

        found, history = await ask(find=RecallCall(step=_step("b"), scope=ada, query="animals"))
        verified, _ = await ask(verify=VerifyCall())
        reindexed, _ = await ask(reindex=ReindexCall())
        erased, _ = await ask(forget=ForgetCall(step=_step("c"), scope=ada, how="erase", everything=True))

    assert found.found is not None
    assert 1 == len(found.found.returned)
    assert "wombat" not in history
    assert verified.verified is not None
    assert reindexed.reindexed is not None
    assert (True, 1) == (verified.verified.sound, reindexed.reindexed.count)
    assert erased.forgotten is not None
    assert (1, True) == (erased.forgotten.versions, erased.forgotten.complete)

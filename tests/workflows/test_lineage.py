"""Tests of which runs of one workflow id share the effects that have happened (case 70)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from kits.chain_workflows import WritesAndGoesOn, WritesOnce
from kits.workflows import Governed, OpenWorker, reset, task_ends
from temporalio.common import RetryPolicy
from temporalio.testing import ActivityEnvironment

from perdure.activities.run_status import is_running
from perdure.lineage import Continues, Lineage, RunStart, first_run_of_lineage
from perdure.storage import open_database

QUICKLY = RetryPolicy(initial_interval=timedelta(milliseconds=10), maximum_attempts=3)


async def test_each_run_by_cron_does_its_own(governed: OpenWorker) -> None:
    """A workflow that refunds once a day refunds once a day: each run by cron is a lineage of its own (case 70)."""
    async with governed(WritesOnce) as worker:
        handle = await worker.client.start_workflow(
            WritesOnce.run, 0, id="daily", task_queue=worker.task_queue, cron_schedule="@every 1s"
        )
        await worker.null_effects(3)
        await handle.terminate()

        assert {1} == set(worker.null.effects.values())
        runs = await effects(worker)
        first, second, third = runs[:3]
        assert handle.first_execution_run_id == first["first_execution_run_id"] == first["run_id"]
        assert second["first_execution_run_id"] == second["run_id"] != third["first_execution_run_id"] == third["run_id"]
        assert await worker.replays(worker.client.get_workflow_handle("daily", run_id=second["run_id"]), [WritesOnce])


async def test_a_retry_of_a_workflow_does_it_anew(governed: OpenWorker) -> None:
    """What Temporal calls the second attempt of a workflow is a new run, which does what it is written to do."""
    async with governed(WritesOnce) as worker:
        handle = await worker.client.start_workflow(
            WritesOnce.run, 2, id="retried", task_queue=worker.task_queue, retry_policy=QUICKLY
        )
        key = await handle.result()

        assert [1, 1, 1] == list(worker.null.effects.values())
        assert key == list(worker.null.effects)[-1]


async def test_a_reset_of_a_run_by_cron_repeats_nothing(governed: OpenWorker) -> None:
    """A run in the middle of a chain that is reset finds what it has done."""
    async with governed(WritesOnce) as worker:
        handle = await worker.client.start_workflow(
            WritesOnce.run, 1, id="reset", task_queue=worker.task_queue, retry_policy=QUICKLY
        )
        await handle.result()
        second = worker.client.get_workflow_handle("reset", run_id=(await effects(worker))[1]["run_id"])
        done = len(worker.null.effects)
        again = await reset(worker.client, second, task_ends(await second.fetch_history())[0], run_id=second.run_id or "")

        assert (await effects(worker))[1]["key"] == await again.result()
        assert done == len(worker.null.effects)


async def test_a_continuation_is_told_from_its_retry(governed: OpenWorker) -> None:
    """A continue-as-new goes on with the lineage, and a retry of the continuation does not, though it has its headers."""
    async with governed(WritesAndGoesOn) as worker:
        handle = await worker.client.start_workflow(
            WritesAndGoesOn.run, 0, id="goes on", task_queue=worker.task_queue, retry_policy=QUICKLY
        )
        await worker.null_effects(4)

        first, continued, retried, last = await effects(worker)
        assert first["first_execution_run_id"] == continued["first_execution_run_id"] == handle.first_execution_run_id
        assert retried["run_id"] == retried["first_execution_run_id"] == last["first_execution_run_id"] != last["run_id"]
        assert ["null.write", "null.write#2"] * 2 == [each["step"] for each in (first, continued, retried, last)]
        # Whoever sweeps up what ended runs have left finds the same.
        running = [await says_running(worker, each) for each in (first, continued, retried, last)]
        assert [False, False, True, True] == running
        await handle.terminate()
        assert not await says_running(worker, last)


START = RunStart(first_run="r1", run="r3", after="r2", attempt=1, cron=False)


@pytest.mark.parametrize(
    ("start", "said", "given", "begins"),
    [
        (START._replace(after="", run="r1"), None, {}, "r1"),
        (START, None, {"carried": True}, "r1"),
        (START, Continues(first="r0", after="r2"), {}, "r0"),
        (START, Continues(first="r0", after="r1"), {}, "r3"),
        (START, None, {}, "r3"),
        (START._replace(attempt=2), None, {"carried": True}, "r3"),
        (START._replace(cron=True), None, {"carried": True}, "r3"),
        (START._replace(cron=True), None, {"before": True}, "r1"),
        (START._replace(cron=True), Continues(first="r0", after="r2"), {"before": True}, "r0"),
    ],
)
def test_where_a_lineage_begins(start: RunStart, said: Continues | None, given: dict[str, Any], begins: str) -> None:
    """Only what was said by the run before counts, but for continuations by 0.1 and runs that began under it."""
    found = first_run_of_lineage(
        start, said, carried=given.get("carried", False), by_chain_before=lambda: given.get("before", False)
    )

    assert begins == found


async def effects(worker: Governed) -> list[dict[str, Any]]:
    """Return the ledger's effects, oldest first."""
    import sqlalchemy as sa

    async with open_database(worker.settings.database) as database, database.read() as connection:
        rows = await connection.execute(sa.text("SELECT * FROM effect ORDER BY created_at"))
        return [dict(row) for row in rows.mappings()]


async def says_running(worker: Governed, effect: dict[str, Any]) -> bool | None:
    """Say what an activity finds: whether the run that made EFFECT, or what continues it, is running."""
    lineage = Lineage(**{name: effect[name] for name in Lineage.model_fields})
    return await ActivityEnvironment(client=worker.client).run(is_running, lineage)

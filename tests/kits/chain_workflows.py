"""Workflows whose runs come in chains: by cron, as a retry of the whole workflow, as continuations."""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import ApplicationError

from perdure.connectors.null import Entry, null
from perdure.workflows import act


@workflow.defn
class WritesOnce:
    """Acts once, and fails as often as it is told."""

    @workflow.run
    async def run(self, failures: int) -> str:
        done = await act(null.write, Entry(text="once"))
        if workflow.info().attempt <= failures:
            raise ApplicationError("told to fail")
        return done.receipt.key


@workflow.defn
class WritesAndGoesOn:
    """Acts, goes on as a new run, acts there and fails; its retry acts, goes on and stays."""

    @workflow.run
    async def run(self, lap: int) -> None:
        await act(null.write, Entry(text=f"lap {lap}"))
        if lap == 0:
            workflow.continue_as_new(1)
        if lap == 1 and workflow.info().attempt == 1:
            raise ApplicationError("the first attempt fails")
        if lap == 1:
            workflow.continue_as_new(2)
        await workflow.wait_condition(lambda: False)

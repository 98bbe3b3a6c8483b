"""Tests of workflows/saga.py: what is taken back, and in which order."""

from __future__ import annotations

import pytest
from kits.runs import step_summaries
from kits.toy_workflows import Unwinds
from kits.workflows import OpenWorker
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import CancelledError


async def test_a_failure_undoes_what_was_done_in_reverse(governed: OpenWorker) -> None:
    """Both writes are erased, the later one first, and the run fails with its own error."""
    async with governed(Unwinds) as desk:
        handle = await desk.start(Unwinds.run, "fail")

        with pytest.raises(WorkflowFailureError, match="Workflow execution failed") as failed:
            await handle.result()
        assert "told to fail" == str(failed.value.cause)
        summaries = step_summaries(await handle.fetch_history())
        assert ["null.write", "null.write", "Undo null.write#2", "Undo null.write"] == summaries
        assert 4 == len(desk.null.effects)
        assert await desk.replays(handle, [Unwinds])


async def test_a_saga_that_ends_well_undoes_nothing(governed: OpenWorker) -> None:
    """Without an exception everything stays."""
    async with governed(Unwinds) as desk:
        handle = await desk.start(Unwinds.run, "well")
        await handle.result()

        assert 2 == len(desk.null.effects)


async def test_a_cancelled_run_undoes_what_it_did(governed: OpenWorker) -> None:
    """Cancelling between steps undoes everything and ends the run as cancelled."""
    async with governed(Unwinds) as desk:
        handle = await desk.start(Unwinds.run, "wait")
        await desk.null_effects(2)
        await handle.cancel()

        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
        assert isinstance(failed.value.cause, CancelledError)
        assert 4 == len(desk.null.effects)

"""Tests of workflows/call.py: what a step costs, records and refuses."""

from __future__ import annotations

import pytest
from kits.runs import activity_names, step_summaries
from kits.toy_workflows import Echo, MisusesAct, Remembers, WritesTwice
from kits.workflows import OpenWorker, reset, task_ends
from temporalio.client import WorkflowFailureError


async def test_what_is_remembered_is_recalled(governed: OpenWorker) -> None:
    """A memory written by one step is there for the next, and the recall is one event."""
    async with governed(Remembers) as desk:
        handle = await desk.start(Remembers.run, "the parcel of c-1 was lost")

        assert ["the parcel of c-1 was lost"] == await handle.result()
        assert ["perdure.remember"] == activity_names(await handle.fetch_history())
        assert await desk.replays(handle, [Remembers])


async def test_steps_read_like_the_procedure(governed: OpenWorker) -> None:
    """Every activity carries a summary for the Web UI."""
    async with governed(Remembers) as desk:
        handle = await desk.start(Remembers.run, "the parcel of c-1 was lost")
        await handle.result()

        assert ["Remember something of user c-1"] == step_summaries(await handle.fetch_history())


async def test_equal_steps_are_told_apart_also_across_a_continuation(governed: OpenWorker) -> None:
    """The same action with the same arguments, done twice in each of two runs of a chain, is four effects, each once."""
    async with governed(WritesTwice) as desk:
        handle = await desk.start(WritesTwice.run, 0)
        keys = await handle.result()

        assert 4 == len(desk.null.effects)
        assert {1} == set(desk.null.effects.values())
        assert set(keys) < set(desk.null.effects)


async def test_an_effect_is_known_by_the_run_and_not_by_the_attempt(governed: OpenWorker) -> None:
    """A reset makes a new run, in which the effects that were done are answered from the ledger."""
    async with governed(WritesTwice) as desk:
        handle = await desk.start(WritesTwice.run, 1)
        before = await handle.result()
        history = await handle.fetch_history()

        again = await reset(desk.client, handle, task_ends(history)[0], run_id=str(history.run_id))

        assert before == await again.result()
        assert {1} == set(desk.null.effects.values())


async def test_an_action_refuses_arguments_that_are_not_its_own(governed: OpenWorker) -> None:
    """The mistake is named before anything is sent."""
    async with governed(MisusesAct) as desk:
        handle = await desk.start(MisusesAct.run, "x")

        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
        assert "null.write takes Entry, not Big" in str(failed.value.cause)
        assert not desk.null.effects


async def test_an_input_that_does_not_fit_fails_the_run_at_once(governed: OpenWorker) -> None:
    """A wrong input, e.g. from the temporal CLI, ends the run with the field's name, and no task retries for ever."""
    async with governed(Echo) as desk:
        handle = await desk.start("Echo", "many")

        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
        assert "int does not fit: the value: Input should be a valid integer" in str(failed.value.cause)


async def test_a_large_value_goes_beside_the_history(governed: OpenWorker) -> None:
    """A megabyte costs the history a few hundred bytes, comes back whole and replays."""
    async with governed(Echo) as desk:
        handle = await desk.start(Echo.run, 1_000_000)

        assert 1_000_000 == len((await handle.result()).text)
        raw = await desk.client.get_workflow_handle(handle.id).fetch_history()
        assert sum(event.ByteSize() for event in raw.events) < 5_000
        assert await desk.replays(handle, [Echo])


async def test_a_value_above_the_limit_fails_readably(governed: OpenWorker) -> None:
    """What is too large for one payload is an error that says so, at once."""
    async with governed(Echo, settings={"payload_limit": 100_000}) as desk:
        handle = await desk.start(Echo.run, 200_000)

        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
        assert "a Big of 200,011 bytes is above the limit of 100,000 bytes" in str(failed.value.cause)

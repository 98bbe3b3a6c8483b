"""Tests of workflows/parked.py: how a run waits for a person who finds out what happened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from kits.box_workflows import Labels, Packing, Packs, Puts
from kits.workflows import Governed, Handle, OpenWorker, parked
from stand_ins.box import Box
from temporalio.client import WorkflowFailureError
from temporalio.common import SearchAttributeKey
from temporalio.exceptions import ApplicationError, CancelledError

from perdure.connectors import Resolution
from perdure.connectors.ledger import Ledger
from perdure.connectors.ledger.contracts import RESOLVED, Verdict
from perdure.storage import open_database

STATE = SearchAttributeKey.for_keyword("PerdureState")


@pytest.fixture
def box() -> Box:
    """A box that does what it is asked and can tell nobody: a lost answer is parked."""
    box = Box()
    box.blind = True
    return box


async def test_a_parked_step_waits_and_goes_on(governed: OpenWorker, box: Box) -> None:
    """The run waits, says so, and goes on with what a person found at the target; it replays."""
    box.wrong = {"put": ["silent"]}
    async with governed(Puts, connectors=[box]) as desk:
        handle = await desk.start(Puts.run, 300)
        waiting = await parked(handle)
        state = (await handle.describe()).typed_search_attributes[STATE]
        page = (await handle._client.get_workflow_handle(handle.id).query("__temporal_workflow_metadata")).current_details
        await resolve(desk, waiting.key, "happened", remote_ref="1")
        await handle.signal(RESOLVED, {"key": waiting.key})

        assert "person 1" == await handle.result()
        assert ("box.put", "box.put", "parked") == (waiting.step, waiting.action, state)
        assert f"perdure effects resolve {waiting.key}" in page
        assert "completed" == (await handle.describe()).typed_search_attributes[STATE]
        assert ["put a"] == box.done
        assert await desk.replays(handle, [Puts])


async def test_a_signal_carries_no_authority(governed: OpenWorker, box: Box) -> None:
    """Being told does not make it so: the ledger is asked again, and the run goes on waiting until that says otherwise."""
    box.wrong = {"put": ["lost"]}
    async with governed(Puts, connectors=[box]) as desk:
        handle = await desk.start(Puts.run, 300)
        waiting = await parked(handle)
        for nonsense in (waiting.key, {"key": waiting.key}, {"key": "pe-another"}, 7):
            await handle.signal(RESOLVED, nonsense)
        again = await parked(handle, since=waiting)

        await resolve(desk, waiting.key, "send again")
        await handle.signal(RESOLVED, waiting.key)

        assert "response 1" == await handle.result()
        assert waiting.key == again.key
        assert ["put a"] == box.done
        assert await desk.replays(handle, [Puts])


async def test_what_did_not_happen_fails_the_step(governed: OpenWorker, box: Box) -> None:
    """A person's no is what the run ends with."""
    box.wrong = {"put": ["lost"]}
    async with governed(Puts, connectors=[box]) as desk:
        handle = await desk.start(Puts.run, 300)
        waiting = await parked(handle)
        await resolve(desk, waiting.key, "did not happen")
        await handle.signal(RESOLVED, waiting.key)

        cause = await failure(handle)
        assert isinstance(cause, ApplicationError)
        assert ("EffectRejected", True) == (cause.type, "mara says that it did not happen" in cause.message)


async def test_the_wait_ends(governed: OpenWorker, box: Box) -> None:
    """When nobody has said anything in time, the step fails with what is parked; it is not forgotten in the ledger."""
    box.wrong = {"put": ["silent"]}
    async with governed(Puts, connectors=[box]) as desk:
        handle = await desk.start(Puts.run, 1)

        cause = await failure(handle)
        assert isinstance(cause, ApplicationError)
        assert "EffectParked" == cause.type
        async with ledger_of(desk) as ledger:
            assert 1 == len(await ledger.list(state="parked"))
        assert await desk.replays(handle, [Puts])


async def test_nobody_is_waited_for_where_no_time_is_given(governed: OpenWorker, box: Box) -> None:
    """With no time to wait, the step fails at once and no timer is started."""
    box.wrong = {"put": ["silent"]}
    async with governed(Puts, connectors=[box]) as desk:
        handle = await desk.start(Puts.run, 0)

        assert isinstance(await failure(handle), ApplicationError)
        history = await handle.fetch_history()
        assert not [event for event in history.events if event.HasField("timer_started_event_attributes")]


async def test_a_lost_signal_costs_time_only(governed: OpenWorker, box: Box) -> None:
    """What was resolved and not told is found when the wait ends: the ledger is asked a last time."""
    box.wrong = {"put": ["silent"]}
    async with governed(Puts, connectors=[box]) as desk:
        handle = await desk.start(Puts.run, 2)
        waiting = await parked(handle)
        await resolve(desk, waiting.key, "happened", remote_ref="1")

        assert "person 1" == await handle.result()


async def test_a_contradiction_waits_for_a_person(governed: OpenWorker, box: Box) -> None:
    """A run that asks for something else than was done in the world waits, and does it once it is approved."""
    async with governed(Labels, connectors=[box]) as desk:
        assert "red" == await (await desk.start(Labels.run, "red")).result()
        assert "red" == await (await desk.start(Labels.run, "red")).result()
        handle = await desk.start(Labels.run, "blue")
        waiting = await parked(handle)
        before = list(box.done)
        await resolve(desk, waiting.key, "new generation")
        await handle.signal(RESOLVED, waiting.key)

        assert "blue" == await handle.result()
        assert (["labelled red"], ["labelled red", "labelled blue"]) == (before, box.done)


async def test_a_parked_run_survives_its_worker(governed: OpenWorker, box: Box) -> None:
    """While no worker runs, the effect is resolved and the run told; the next worker goes on."""
    box.wrong = {"put": ["silent"]}
    async with governed(Puts, connectors=[box]) as desk:
        handle = await desk.start(Puts.run, 300)
        waiting = await parked(handle)
    await resolve(desk, waiting.key, "happened", remote_ref="1")
    await handle.signal(RESOLVED, waiting.key)

    async with governed(Puts, settings={"task_queue": desk.task_queue}, connectors=[box]):
        assert "person 1" == await handle.result()


async def test_an_undo_waits_for_a_person(governed: OpenWorker, box: Box) -> None:
    """An undo that the target refuses waits, with the run partially compensated; the rest is undone meanwhile."""
    box.wrong = {"take": ["refused"]}
    async with governed(Packs, connectors=[box]) as desk:
        handle = await desk.start(Packs.run, Packing(end="fail"))
        waiting = await parked(handle)
        state = (await handle.describe()).typed_search_attributes[STATE]
        await until(box, ["b"])
        await resolve(desk, waiting.key, "send again")
        await handle.signal(RESOLVED, waiting.key)

        cause = await failure(handle)
        assert isinstance(cause, ApplicationError)
        assert ("undo:put b", "partially_compensated") == (waiting.step, state)
        assert ("Told", []) == (cause.type, box.texts)
        assert await desk.replays(handle, [Packs])


async def test_what_stands_in_the_end_is_named(governed: OpenWorker, box: Box) -> None:
    """When a person says that an undo will not be, the run ends as partially compensated, with what stands."""
    box.wrong = {"take": ["refused"]}
    async with governed(Packs, connectors=[box]) as desk:
        handle = await desk.start(Packs.run, Packing(end="fail"))
        waiting = await parked(handle)
        await resolve(desk, waiting.key, "did not happen")
        await handle.signal(RESOLVED, waiting.key)

        cause = await failure(handle)
        assert isinstance(cause, ApplicationError)
        assert ("PartiallyCompensated", ["b"]) == (cause.type, box.texts)
        assert "this stands: put b: mara says that it did not happen" in cause.message
        assert "partially_compensated" == (await handle.describe()).typed_search_attributes[STATE]
        assert await desk.replays(handle, [Packs])


async def test_an_undo_is_waited_for_so_long(governed: OpenWorker, box: Box) -> None:
    """After the time that the saga gives it, the run ends as partially compensated."""
    box.wrong = {"take": ["refused"]}
    async with governed(Packs, connectors=[box]) as desk:
        handle = await desk.start(Packs.run, Packing.model_validate({"end": "fail", "parked_within": "PT0S"}))

        cause = await failure(handle)
        assert isinstance(cause, ApplicationError)
        assert ("PartiallyCompensated", ["b"]) == (cause.type, box.texts)


async def test_a_cancel_while_parked_waits_for_what_happened(governed: OpenWorker, box: Box) -> None:
    """A cancelled run undoes what it knows; what it does not know it waits for, and undoes that if it happened."""
    box.wrong = {"put": ["", "silent"]}
    async with governed(Packs, connectors=[box]) as desk:
        handle = await desk.start(Packs.run, Packing())
        waiting = await parked(handle)
        await handle.cancel()
        undoing = await parked(handle, since=waiting)
        await until(box, ["b"])
        await resolve(desk, waiting.key, "happened", remote_ref="2")
        await handle.signal(RESOLVED, undoing.key)

        assert isinstance(await failure(handle), CancelledError)
        assert [] == box.texts
        assert (waiting.key, "undo:put b") == (undoing.key, undoing.step)
        assert await desk.replays(handle, [Packs])


async def until(box: Box, texts: list[str]) -> None:
    """Return when BOX holds TEXTS."""
    while box.texts != texts:  # noqa: ASYNC110  the box only holds
        await asyncio.sleep(0.02)


@asynccontextmanager
async def ledger_of(desk: Governed) -> AsyncIterator[Ledger]:
    """Open the ledger as the command line does, in a process of its own."""
    async with open_database(desk.settings.database) as database:
        yield Ledger(database, {"box": Box()})


async def resolve(desk: Governed, key: str, verdict: Verdict, *, remote_ref: str = "") -> None:
    """Say VERDICT about the effect under KEY, in the ledger only; a target needs its time to settle before that."""
    said = Resolution(effect=key, verdict=verdict, by="mara", comment="I looked", remote_ref=remote_ref)
    async with ledger_of(desk) as ledger:
        effect = await ledger.get(key)
        if effect.doubt_until is not None:
            async with open_database(desk.settings.database) as database:
                await Ledger(database, {"box": Box()}, clock=lambda: effect.doubt_until or effect.updated_at).resolve(said)
        else:
            await ledger.resolve(said)


async def failure(handle: Handle) -> BaseException | None:
    """Return what the run ended with."""
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    return failed.value.cause

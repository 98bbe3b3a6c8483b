"""Tests of workflows/saga.py: the kinds of steps, their order, and undoing all at once."""

from __future__ import annotations

import asyncio

import pytest
from kits.box_workflows import Packing, Packs, Shipping, ShipsFirst
from kits.runs import step_summaries
from kits.workflows import Handle, OpenWorker, parked
from stand_ins.box import Box
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError

from perdure.connectors import Action, Resolution
from perdure.connectors.ledger import Ledger
from perdure.connectors.ledger.contracts import RESOLVED
from perdure.governance.contracts import (
    APPROVALS,
    DECIDE,
    ApprovalRequest,
    Decision,
    DecisionCall,
)
from perdure.lineage import Frozen
from perdure.storage import open_database


@pytest.fixture
def box() -> Box:
    """A box that works."""
    return Box()


async def test_undoing_all_at_once(governed: OpenWorker, box: Box) -> None:
    """With `parallel`, no undo waits for another: each request is on its way before any is answered."""
    together = asyncio.Barrier(3)

    async def before(verb: str) -> None:
        if verb == "take":
            await together.wait()

    box.before = before
    async with governed(Packs, connectors=[box]) as desk:
        handle = await desk.start(Packs.run, Packing(steps=("put a", "put b", "put c"), end="fail", undo="parallel"))

        assert "Told" == (await failure(handle)).type
        assert [] == box.texts
        assert await desk.replays(handle, [Packs])


@pytest.mark.parametrize("undo", ["reverse", "parallel"])
async def test_what_stands_before_a_pivot_stays(governed: OpenWorker, box: Box, undo: str) -> None:
    """Once the pivot has happened nothing is undone, and the run fails with its own error."""
    async with governed(Packs, connectors=[box]) as desk:
        packing = Packing.model_validate({"steps": ["put a", "seal b", "label c"], "end": "fail", "undo": undo})
        handle = await desk.start(Packs.run, packing)

        assert "Told" == (await failure(handle)).type
        assert ["a", "b", "c"] == box.texts
        assert await desk.replays(handle, [Packs])


@pytest.mark.parametrize("undo", ["reverse", "parallel"])
async def test_a_pivot_that_did_not_happen_ends_nothing(governed: OpenWorker, box: Box, undo: str) -> None:
    """If the pivot itself is refused, what was done before it is undone."""
    box.wrong = {"seal": ["refused"]}
    async with governed(Packs, connectors=[box]) as desk:
        packing = Packing.model_validate({"steps": ["put a", "seal b"], "undo": undo})
        handle = await desk.start(Packs.run, packing)

        assert "EffectRejected" == (await failure(handle)).type
        assert [] == box.texts


@pytest.mark.parametrize("undo", ["reverse", "parallel"])
async def test_a_lost_pivot_is_found_before_anything_is_undone(governed: OpenWorker, box: Box, undo: str) -> None:
    """Whether the pivot happened is known before what stands before it is touched: a person is waited for."""
    box.wrong, box.blind = {"seal": ["silent"]}, True
    async with governed(Packs, connectors=[box]) as desk:
        packing = Packing.model_validate({"steps": ["put a", "seal b"], "undo": undo})
        handle = await desk.start(Packs.run, packing)
        await parked(handle)
        await handle.cancel()
        waiting = await parked(handle, step="undo:seal b")
        inside = box.texts
        async with open_database(desk.settings.database) as database:
            ledger = Ledger(database, {"box": box})
            await ledger.resolve(
                Resolution(effect=waiting.key, verdict="happened", by="mara", comment="sealed", remote_ref="2")
            )
        await handle.signal(RESOLVED, waiting.key)

        with pytest.raises(WorkflowFailureError):
            await handle.result()
        assert (["a", "b"], ["a", "b"]) == (inside, box.texts)
        assert ["put a", "seal b"] == box.done


async def test_past_the_pivot_it_only_goes_forward(governed: OpenWorker, box: Box) -> None:
    """A retriable step that is refused after the pivot waits for a person and is done in the end."""
    box.wrong = {"label": ["refused"]}
    async with governed(Packs, connectors=[box]) as desk:
        handle = await desk.start(Packs.run, Packing(steps=("put a", "seal b", "label c", "ship d")))
        waiting = await parked(handle)
        async with open_database(desk.settings.database) as database:
            await Ledger(database, {}).resolve(
                Resolution(effect=waiting.key, verdict="send again", by="mara", comment="there was no paper")
            )
        await handle.signal(RESOLVED, waiting.key)

        assert 4 == len(await handle.result())
        assert ["put a", "seal b", "label c", "ship d"] == box.done
        assert await desk.replays(handle, [Packs])


@pytest.mark.parametrize(
    ("steps", "refused", "left"),
    [
        (("ship a", "put b"), "box.put", ["a"]),
        (("put a", "label b", "put c"), "box.put", ["a", "b"]),
        (("seal a", "seal b"), "box.seal", ["a"]),
        (("put a", "ship b", "seal c"), "box.seal", ["a", "b"]),
    ],
)
async def test_another_order_is_refused(
    governed: OpenWorker, box: Box, steps: tuple[str, ...], refused: str, left: list[str]
) -> None:
    """What can be undone, and a pivot, do not come after what cannot: nothing of it is sent, and the error says why."""
    async with governed(Packs, connectors=[box]) as desk:
        handle = await desk.start(Packs.run, Packing(steps=steps))

        cause = await failure(handle)
        assert "InvalidInput" == cause.type
        assert cause.message.startswith(f"{refused} (")
        assert "cannot come after" in cause.message
        assert left == box.texts


async def test_what_is_approved_may_come_earlier(governed: OpenWorker, box: Box) -> None:
    """With a person's decision, what cannot be undone stands whatever happens, and the rest is undone around it."""
    async with governed(ShipsFirst, connectors=[box]) as desk:
        handle = await desk.start(ShipsFirst.run, Shipping())
        request = await asked(handle)
        decision = DecisionCall(approval=request.approval, digest=request.digest, verdict="approve", by="mara")
        await handle.execute_update(DECIDE, decision, result_type=Decision)

        assert "Told" == (await failure(handle)).type
        assert ["b"] == box.texts
        undone = [each for each in step_summaries(await handle.fetch_history()) if each.startswith("Undo")]
        assert ["Undo box.put#2", "Undo box.ship", "Undo box.put"] == undone
        assert await desk.replays(handle, [ShipsFirst])


async def test_without_a_decision_it_may_not(governed: OpenWorker, box: Box) -> None:
    """The same workflow without an approval is refused before the third step is sent."""
    async with governed(ShipsFirst, connectors=[box]) as desk:
        handle = await desk.start(ShipsFirst.run, Shipping(approved=False))

        assert "InvalidInput" == (await failure(handle)).type
        assert ["a", "b"] == box.texts


def test_a_pivot_has_no_undo() -> None:
    """An action that says that nothing takes it back and names an undo is refused where it is declared."""

    class Nothing(Frozen):
        pass

    undo = Box.actions["box.put"].undo
    with pytest.raises(ValueError, match="is a pivot"):
        Action("box.turn", Nothing, Nothing, reversibility="pivot", undo=undo)


async def asked(handle: Handle) -> ApprovalRequest:
    """Return what the run asks as soon as it does."""
    while True:
        for request in await handle.query(APPROVALS, result_type=list[ApprovalRequest]):
            return ApprovalRequest.model_validate(request)
        await asyncio.sleep(0.02)  # a query cannot be waited on


async def failure(handle: Handle) -> ApplicationError:
    """Return what the run failed with."""
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    assert isinstance(failed.value.cause, ApplicationError), failed.value.cause
    assert failed.value.cause.type is not None
    return failed.value.cause

"""Tests that a cancellation, wherever it comes, leaves the books as the outcome says."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from kits.box_workflows import Packing, Packs, Puts
from kits.workflows import Handle, OpenWorker
from stand_ins.box import Box
from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import (
    UnsandboxedWorkflowRunner,
    Worker,
    WorkflowInstance,
    WorkflowInstanceDetails,
)

from perdure.connectors.ledger import Ledger
from perdure.plugin import PerdurePlugin
from perdure.settings import Settings
from perdure.storage import open_database

SHIPS = Packing(steps=("put a", "put b", "ship c"))
FAILS = Packing(steps=("put a", "put b"), end="fail")
EVERYTHING = ["a", "b", "c"]


@pytest.mark.parametrize("packing", [SHIPS, FAILS], ids=["ships", "fails"])
async def test_cancel_after_each_event(governed: OpenWorker, packing: Packing) -> None:
    """After each event of its history a run is cancelled: it ends with nothing, or with all that it came for."""
    boxes = {number: Box() for number in range(1, 34)}
    async with governed(Packs, connectors=[Boxes(boxes)]) as desk:
        handles = {number: await desk.start(Packs.run, packing, id=f"{number}:{uuid.uuid4()}") for number in boxes}
        await asyncio.gather(*(_cancel_after(handle, number) for number, handle in handles.items()))
        ended = {number: await outcome(handle) for number, handle in handles.items()}

        wrong = {number: (how, boxes[number].texts) for number, how in ended.items() if not agree(how, boxes[number])}
        assert {} == wrong
        assert "cancelled" in ended.values()
        await _agree_with_the_ledger(desk.settings.database, boxes, {handles[each].id: each for each in boxes})


@pytest.mark.parametrize("packing", [SHIPS, FAILS], ids=["ships", "fails"])
@pytest.mark.parametrize("task", range(1, 9))
async def test_cancel_during_each_workflow_task(
    temporal: WorkflowEnvironment, tmp_path: Path, packing: Packing, task: int
) -> None:
    """A cancellation that arrives while the Nth workflow task is under way is taken at exactly the next one."""
    box = Box()
    settings = Settings(home=tmp_path, task_queue=str(uuid.uuid4()))
    client = await Client.connect(
        temporal.client.service_client.config.target_host, plugins=[PerdurePlugin(settings, connectors=[box])]
    )
    handle: Handle
    loop = asyncio.get_running_loop()

    def cancel() -> None:
        asyncio.run_coroutine_threadsafe(handle.cancel(), loop).result(10)

    runner = Interrupting(task, cancel)
    worker = Worker(client, task_queue=settings.task_queue, workflows=[Packs], workflow_runner=runner)
    handle = await client.start_workflow(Packs.run, packing, id=str(uuid.uuid4()), task_queue=settings.task_queue)
    async with worker:
        how = await outcome(handle)

    assert agree(how, box), (how, box.texts)
    assert how != "completed" or runner.seen < task


@pytest.mark.parametrize("fault", ["", "silent", "lost", "refused"])
@pytest.mark.parametrize(("verb", "text"), [("put", "a"), ("put", "b"), ("ship", "c")])
async def test_cancel_while_a_request_is_on_its_way(governed: OpenWorker, verb: str, text: str, fault: str) -> None:
    """A cancellation that comes while the target is at work waits for what becomes of that, and undoes it."""
    box = Box()
    async with governed(Packs, connectors=[box]) as desk:
        handle = await desk.start(Packs.run, SHIPS)
        box.wrong = {verb: ["", fault] if text == "b" else [fault]}
        box.before = cancelling(handle, verb, 2 if text == "b" else 1)
        how = await outcome(handle)

        assert agree(how, box), (how, box.texts)
        assert await desk.replays(handle, [Packs])


@pytest.mark.parametrize("undo", ["reverse", "parallel"])
@pytest.mark.parametrize("fault", ["", "silent", "lost"])
@pytest.mark.parametrize("request_", [1, 2])
async def test_cancel_while_undoing(governed: OpenWorker, request_: int, fault: str, undo: str) -> None:
    """A run that is cancelled while it undoes goes on undoing to its end, and ends as cancelled."""
    box = Box()
    async with governed(Packs, connectors=[box]) as desk:
        handle = await desk.start(Packs.run, Packing.model_validate({"end": "fail", "undo": undo}))
        box.wrong = {"take": [fault]}
        box.before = cancelling(handle, "take", request_)
        how = await outcome(handle)

        assert ("cancelled", []) == (how, box.texts)
        assert await desk.replays(handle, [Packs])


@pytest.mark.parametrize(
    ("fault", "blind", "state"),
    [("", False, "succeeded"), ("silent", False, "succeeded"), ("lost", False, "proposed"), ("silent", True, "parked")],
)
async def test_cancel_outside_of_a_saga(governed: OpenWorker, fault: str, blind: bool, state: str) -> None:
    """When a cancelled run's answer was lost, the ledger does not stay in doubt: it finds out, or asks a person."""
    box = Box()
    async with governed(Puts, connectors=[box]) as desk:
        handle = await desk.start(Puts.run, 0)
        box.wrong, box.blind = {"put": [fault]}, blind
        box.before = cancelling(handle, "put", 1)
        how = await outcome(handle)

        async with open_database(desk.settings.database) as database:
            (effect,) = await Ledger(database, {}).list()
        assert ("cancelled", state) == (how, effect.state)
        assert (0 if fault == "lost" else 1) == len(box.texts)
        assert await desk.replays(handle, [Puts])


class Boxes:
    """A box for each run, by the number before the colon in what is asked."""

    name = "box"
    actions = Box.actions

    def __init__(self, boxes: dict[int, Box]) -> None:
        self._boxes = boxes

    def _box(self) -> Box:
        from temporalio import activity

        return self._boxes[int(str(activity.info().workflow_id).partition(":")[0])]

    async def execute(self, *args: Any) -> Any:
        return await self._box().execute(*args)

    async def probe(self, *args: Any) -> Any:
        return await self._box().probe(*args)

    async def close(self) -> None:
        """Do nothing."""


class Interrupting(UnsandboxedWorkflowRunner):
    """Runs workflows, and calls CANCEL in the middle of the workflow task with the number TASK."""

    def __init__(self, task: int, cancel: Callable[[], None]) -> None:
        super().__init__()
        self.seen = 0
        self._task = task
        self._cancel = cancel

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        instance = super().create_instance(det)
        inner = instance.activate

        def activate(act: WorkflowActivation) -> WorkflowActivationCompletion:
            if not act.is_replaying and any(not job.HasField("remove_from_cache") for job in act.jobs):
                self.seen += 1
                if self.seen == self._task:
                    self._cancel()
            return inner(act)

        instance.activate = activate  # type: ignore[method-assign]  # one instance only
        return instance


def cancelling(handle: Handle, verb: str, number: int) -> Callable[[str], Any]:
    """Return what cancels the run when the request with the NUMBER of VERB is on its way."""
    seen: list[str] = []

    async def before(asked: str) -> None:
        seen.append(asked)
        if asked == verb and seen.count(verb) == number:
            await handle.cancel()

    return before


def agree(how: str, box: Box) -> bool:
    """Say whether what is in BOX is what a run that ended so may leave there."""
    left = sorted(box.texts)
    if how == "completed":
        return left == EVERYTHING
    # Once it is shipped there is no way back, and what belongs to it stays.
    return left == [] or (how == "cancelled" and left == EVERYTHING)


async def outcome(handle: Handle) -> str:
    """Return how the run ended: completed, cancelled, or failed as it was told to."""
    ended = await asyncio.gather(handle.result(), return_exceptions=True)
    if not isinstance(ended[0], WorkflowFailureError):
        return "completed"
    cause = ended[0].cause
    if isinstance(cause, CancelledError):
        return "cancelled"
    assert isinstance(cause, ApplicationError)
    assert cause.type in ("Told", "EffectRejected"), cause
    return "failed"


async def _cancel_after(handle: Handle, number: int) -> None:
    async for event in handle.fetch_history_events(wait_new_event=True):
        if event.event_id >= number:
            await handle.cancel()
            return


async def _agree_with_the_ledger(url: str, boxes: dict[int, Box], runs: dict[str, int]) -> None:
    """Check that each run's box holds just what the ledger says has succeeded."""
    async with open_database(url) as database:
        effects = await Ledger(database, {}).list(state="succeeded", limit=10_000)
    found: dict[int, Sequence[str]] = {number: [] for number in boxes}
    for effect in effects:
        if effect.undo_of is None:
            found[runs[effect.step.lineage.workflow_id]] = [
                *found[runs[effect.step.lineage.workflow_id]],
                str(effect.args["text"]),
            ]
    assert {number: sorted(texts) for number, texts in found.items()} == {
        number: sorted(box.texts) for number, box in boxes.items()
    }

"""The activities behind the batch lane: collecting, sending, asking, giving back. The work is in routing/batches/."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog
from temporalio import activity
from temporalio.service import RPCError, RPCStatusCode

from perdure.routing.contracts import (
    BatchAnswer,
    BatchCall,
    EnqueueCall,
    EnqueueResult,
    FanResult,
    GenerateCall,
    PollResult,
    SubmitResult,
)
from perdure.workflows.batches import ADD, ANSWER

if TYPE_CHECKING:
    from perdure.activities.rooms import Rooms

log = structlog.get_logger(__name__)

_SIGNALS = 16
"""So many runs are told at a time."""


class BatchActivities:
    """The activities that work in ROOMS. Their names are on the wire and never change."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    @activity.defn(name="perdure.enqueue")
    async def enqueue(self, call: EnqueueCall) -> EnqueueResult:
        """Hand a call to the collector of the deployment that takes batches for its task."""
        deployment = self._rooms.open.batches.choose_deployment(call.call)
        if deployment is not None:
            await activity.client().start_workflow(
                "perdure.batch_collector",
                self._rooms.open.batches.new_collector(deployment),
                id=f"perdure-batches-{deployment.name}",
                task_queue=activity.info().task_queue,
                start_signal=ADD,
                start_signal_args=[call.call],
            )
        return self._rooms.open.batches.describe_deployment(deployment)

    @activity.defn(name="perdure.submit_batch")
    async def submit(self, batch: BatchCall) -> SubmitResult:
        """Send a batch to its provider, or find that an earlier attempt has."""
        submitted = await self._rooms.open.batches.submit(batch, attempt=activity.info().attempt)
        log.info("batch sent", batch=batch.batch, calls=len(batch.calls), adopted=submitted.adopted)
        return submitted

    @activity.defn(name="perdure.poll_batch")
    async def poll(self, batch: BatchCall) -> PollResult:
        """Ask the provider how a batch stands."""
        return await self._rooms.open.batches.poll(batch)

    @activity.defn(name="perdure.fan_batch")
    async def fan(self, batch: BatchCall) -> FanResult:
        """Read the answers of a batch and signal them to the runs that wait."""
        answers = await self._rooms.open.batches.fetch(batch)
        turns = asyncio.Semaphore(_SIGNALS)
        told = await asyncio.gather(
            *(self._signal_answer(call, answer, turns) for call, answer in zip(batch.calls, answers, strict=True)),
            return_exceptions=True,
        )
        # One run that cannot be told must not keep the others waiting; then it is tried again.
        for error in told:
            if error is not None:
                raise error
        answered = sum(answer.generation is not None for answer in answers)
        return FanResult(answered=answered, stragglers=len(answers) - answered)

    async def _signal_answer(self, call: GenerateCall, answer: BatchAnswer, turns: asyncio.Semaphore) -> None:
        async with turns:
            try:
                handle = activity.client().get_workflow_handle(call.step.lineage.workflow_id)
                await handle.signal(ANSWER, answer)
            except RPCError as error:
                if error.status != RPCStatusCode.NOT_FOUND:  # else the run has ended and waits for nothing
                    raise

    def all(self) -> list[Callable[..., object]]:
        """Return the activities to register with a worker."""
        return [self.enqueue, self.submit, self.poll, self.fan]

"""How calls that can wait go to a provider together, and how their answers come back to the runs that wait for them."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from itertools import accumulate
from typing import NoReturn

from pydantic import JsonValue, ValidationError
from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.workflow import ParentClosePolicy

from perdure.errors import PerdureError
from perdure.routing.contracts import (
    BatchAnswer,
    BatchCall,
    CollectorState,
    EnqueueCall,
    EnqueueResult,
    FanResult,
    GenerateCall,
    Generation,
    PollResult,
    SubmitResult,
)
from perdure.workflows.call import execute
from perdure.workflows.run import Run, current_run

ADD = "perdure.batch_add"
"""The signal that adds a call to a collector."""

ANSWER = "perdure.batch_answer"
"""The signal that answers a run."""

_BYTES = 8 * 1024 * 1024
"""So large are the calls of a batch at most: they are one payload."""
_IDLE = timedelta(minutes=5)
"""A collector that gets nothing for so long ends; the next call starts another."""
_LONGEST_POLL = timedelta(minutes=10)
_BATCHES_A_RUN = 20
_RETRIES = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=5))
_SUBMIT_RETRIES = RetryPolicy(
    initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=1), maximum_attempts=12
)


async def ask_in_batch(call: GenerateCall, *, summary: str) -> Generation | None:
    """Put CALL into a batch and return its answer. None: there is no batch for it, or it brought no answer in time."""
    run = current_run()
    enqueued = await execute(
        "perdure.enqueue",
        EnqueueCall(call=call),
        EnqueueResult,
        id=call.step.name,
        summary=f"{summary}, in a batch",
        timeout=timedelta(minutes=1),
        retries=_RETRIES,
    )
    if not enqueued.deployment:
        return None
    try:
        await workflow.wait_condition(
            lambda: call.step.name in run.batch_answers,
            timeout=enqueued.within,
            timeout_summary=f"{call.step.name} waits for its batch until then",
        )
    except TimeoutError:
        return None
    answer = run.batch_answers.pop(call.step.name)
    run.spend(answer.cost_nano_usd)
    return answer.generation


def install_handlers(run: Run) -> None:
    """Give the run the signal that brings answers of batches."""

    def answered(given: JsonValue) -> None:
        """Take the answer of a batch to one of this run's steps."""
        try:
            answer = BatchAnswer.model_validate(given)
        except ValidationError:
            workflow.logger.warning("a signal %s that is no answer of a batch is ignored", ANSWER)
            return
        if answer.first_execution_run_id == run.lineage.first_execution_run_id:
            run.batch_answers[answer.step] = answer

    workflow.set_signal_handler(ANSWER, answered)


@workflow.defn(name="perdure.batch_collector")
class BatchCollector:
    """Collects calls for one deployment and sends them off when there are enough, or when the first has waited."""

    @workflow.init
    def __init__(self, state: CollectorState) -> None:
        self._calls = list(state.calls)
        self._sizes = [_size(call) for call in self._calls]
        self._seen = dict.fromkeys(state.seen)

    @workflow.run
    async def run(self, state: CollectorState) -> None:
        """Send batches, each a workflow of its own, until no calls come any more."""
        number = state.number
        since = state.since
        while True:
            try:
                await workflow.wait_condition(lambda: bool(self._calls), timeout=_IDLE, timeout_summary="idle")
            except TimeoutError:
                if not self._calls:
                    return
            since = since or workflow.now()
            if not self._batch_is_full(state) and await self._wait_for_more(state, since):
                self._continue_as_new(state, number, since)
            count = self._batch_size(state)
            calls, self._calls, self._sizes = self._calls[:count], self._calls[count:], self._sizes[count:]
            number += 1
            await self._send(state, calls)
            since = None
            # What waits then goes along, so it must not be more than a batch.
            if (number - state.number >= _BATCHES_A_RUN or _history_is_long()) and not self._batch_is_full(state):
                self._continue_as_new(state, number, None)

    @workflow.signal(name=ADD)
    def add(self, call: GenerateCall) -> None:
        """Take a call into the next batch."""
        # An activity that is tried again may signal twice.
        key = hashlib.sha256(f"{call.step}/{call.step.run_id}".encode()).hexdigest()[:16]
        if key not in self._seen:
            self._seen[key] = None
            self._calls.append(call)
            self._sizes.append(_size(call))

    def _batch_is_full(self, state: CollectorState) -> bool:
        return len(self._calls) >= state.size or sum(self._sizes) >= _BYTES

    def _batch_size(self, state: CollectorState) -> int:
        """Return how many of the calls make a batch."""
        together = accumulate(self._sizes[: state.size])
        return max(sum(each <= _BYTES for each in together), 1)

    async def _wait_for_more(self, state: CollectorState, since: datetime) -> bool:
        """Wait until there are enough calls, or the first has waited for long enough. True: the history is too long."""
        try:
            await workflow.wait_condition(
                lambda: self._batch_is_full(state) or _history_is_long(),
                timeout=max(since + state.wait - workflow.now(), timedelta()),
                timeout_summary="wait for more calls",
            )
        except TimeoutError:
            return False
        return not self._batch_is_full(state)

    def _continue_as_new(self, state: CollectorState, number: int, since: datetime | None) -> NoReturn:
        seen = tuple(self._seen)[-max(2 * state.size, 1000) :]
        on = {"calls": tuple(self._calls), "number": number, "seen": seen, "since": since}
        workflow.continue_as_new(state.model_copy(update=on))

    async def _send(self, state: CollectorState, calls: list[GenerateCall]) -> None:
        name = f"{state.deployment}-{workflow.uuid4().hex[:12]}"
        await workflow.start_child_workflow(
            Batch.run,
            BatchCall(batch=name, deployment=state.deployment, poll=state.poll, calls=tuple(calls)),
            id=f"perdure-batch-{name}",
            # It goes on when the collector ends or continues as new.
            parent_close_policy=ParentClosePolicy.ABANDON,
            static_summary=f"A batch of {len(calls)} calls",
        )


@workflow.defn(name="perdure.batch")
class Batch:
    """Sends one batch, waits until the provider has done with it, and gives every run its answer."""

    @workflow.run
    async def run(self, batch: BatchCall) -> FanResult:
        """Return how many calls were answered. The others ask by themselves."""
        if not batch.at_provider:
            batch = batch.model_copy(update={"at_provider": await self._submit(batch)})
        wait = batch.poll
        while batch.at_provider:
            await workflow.sleep(wait, summary=f"until {batch.batch} is asked about again")
            polled = await self._poll(batch)
            if polled.ended:
                break
            if workflow.info().is_continue_as_new_suggested():
                workflow.continue_as_new(batch)
            wait = min(wait * 1.5, max(_LONGEST_POLL, batch.poll))
        return await execute(
            "perdure.fan_batch",
            batch,
            FanResult,
            id="fan",
            summary=f"Give the answers of {batch.batch} to the runs that wait",
            timeout=timedelta(minutes=15),
            retries=_RETRIES,
        )

    async def _poll(self, batch: BatchCall) -> PollResult:
        try:
            return await execute(
                "perdure.poll_batch",
                batch.model_copy(update={"calls": ()}),
                PollResult,
                id=current_run().step("poll").name,
                summary=f"Ask about batch {batch.batch}",
                timeout=timedelta(minutes=3),
                retries=_RETRIES,
            )
        except PerdureError as error:
            workflow.logger.warning("batch %s cannot be asked about: %s", batch.batch, error.message)
            return PollResult(ended=True, status="lost")

    async def _submit(self, batch: BatchCall) -> str:
        try:
            submitted = await execute(
                "perdure.submit_batch",
                batch,
                SubmitResult,
                id="submit",
                summary=f"Send {len(batch.calls)} calls as batch {batch.batch}",
                timeout=timedelta(minutes=10),
                retries=_SUBMIT_RETRIES,
            )
        except PerdureError as error:
            workflow.logger.warning("batch %s could not be sent: %s", batch.batch, error.message)
            return ""
        return submitted.at_provider


def _size(call: GenerateCall) -> int:
    return len(call.model_dump_json())


def _history_is_long() -> bool:
    return workflow.info().is_continue_as_new_suggested()


WORKFLOWS = [BatchCollector, Batch]
"""What every worker serves besides its own."""

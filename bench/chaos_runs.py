"""The workflows of bench/chaos.py, the worker that is killed under them, and who resets and cancels them.

python -m bench.chaos_runs '{"client": "perdure", ...}'     is a worker, by the environment's TEMPORAL_ADDRESS
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import resource
import signal
import sys
import uuid
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from temporalio import workflow
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import CancelledError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    from datetime import timedelta

    from bench.chaos_connectors import argument, every_action
    from bench.chaos_plan import Operation, Pace

    from perdure.lineage import Frozen
    from perdure.workflows import Saga, act

if TYPE_CHECKING:
    from bench.chaos_clients import Ending, Told

QUEUE = "chaos"
AT_ONCE = 40
"""How many runs go on at the same time."""
AT_ONCE_WHERE_KILLED = 15
"""How many do while workers are killed, so that each kill finds some that have just begun."""
WORKERS = 2


class Wanted(Frozen):
    """What a run is to do once."""

    operation: Operation
    settle: float
    late: float
    deadline: float


@workflow.defn(name="chaos.once")
class Once:
    """Does one operation."""

    @workflow.run
    async def run(self, wanted: Wanted) -> str:
        """Return how the target calls what was made."""
        operation = wanted.operation
        action = every_action(Pace(wanted.settle, wanted.late, wanted.deadline))[operation.action]
        within = timedelta(0)  # nobody resolves anything here: what is parked is counted as such
        if operation.saga:
            async with Saga(parked_within=within) as saga:
                return (await saga.act(action, argument(operation))).receipt.remote_ref
        return (await act(action, argument(operation), parked_within=within)).receipt.remote_ref


@workflow.defn(name="chaos.nothing")
class Nothing:
    """Ends at once: whoever has its result knows that a worker serves."""

    @workflow.run
    async def run(self) -> None:
        """Do nothing."""


@dataclass
class Fleet:
    """WORKERS processes that serve the runs; each is followed by another when it is killed."""

    told: Told
    home: Path
    address: str
    deaths: list[str] = field(default_factory=list)
    """Where the next ones are killed."""
    killed: Counter[str] = field(default_factory=Counter)

    async def __aenter__(self) -> Fleet:
        self._keeping = [asyncio.create_task(self._keep()) for _ in range(WORKERS)]
        self._processes: set[asyncio.subprocess.Process] = set()
        return self

    async def __aexit__(self, *_: object) -> None:
        from perdure.commands.dev import child_process

        for keeping in self._keeping:
            keeping.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)
        await asyncio.gather(*(child_process.stop(process, patience=15) for process in self._processes))

    async def _keep(self) -> None:
        while True:
            point = self.deaths.pop() if self.deaths else ""
            process = await self._start(point)
            self._processes.add(process)
            code = await process.wait()
            self._processes.discard(process)
            if code != -signal.SIGKILL:
                raise RuntimeError(f"a worker ended with {code}; {self.home / 'log'} says why")
            self.killed[point] += 1

    async def _start(self, point: str) -> asyncio.subprocess.Process:
        from bench.chaos_processes import start

        ours = {
            "TEMPORAL_ADDRESS": self.address,
            "PERDURE_HOME": str(self.home / f"worker-{uuid.uuid4().hex[:8]}"),
            "PERDURE_DATABASE_URL": self.told.ledgers["sqlite"],
            "PERDURE_LOG_LEVEL": "error",
            "CHAOS_DIES": point,
        }
        return await start("bench.chaos_runs", self.told.model_dump_json(), self.home, more=ours, says=False)


class Runs:
    """Starts the runs of operations on the server of CLIENT, and does to them what the schedule says."""

    def __init__(self, client: Client, pace: Pace) -> None:
        self._client = client
        self._pace = pace
        self._slots = asyncio.Semaphore(AT_ONCE)
        self.started = self.resets = self.cancels = 0

    async def perform(self, operations: Sequence[Operation], *, at_once: int = AT_ONCE) -> dict[str, list[Ending]]:
        """Return what the askers of each of OPERATIONS were told in the end."""
        self._slots = asyncio.Semaphore(at_once)
        await self._client.execute_workflow(Nothing.run, id=f"served-{uuid.uuid4()}", task_queue=QUEUE)
        endings = await asyncio.gather(*(self._one(each) for each in operations))
        return {each.name: told for each, told in zip(operations, endings, strict=True)}

    async def _one(self, operation: Operation) -> list[Ending]:
        async with self._slots:
            if operation.fault == "triple delivery":
                return list(await asyncio.gather(*(self._plain(operation, f"-{asker}") for asker in range(3))))
            if operation.fault == "reset":
                return [await self._reset(operation)]
            if operation.fault == "cancel":
                return [await self._cancel(operation)]
            return [await self._plain(operation)]

    async def _plain(self, operation: Operation, asker: str = "") -> Ending:
        return await _ending(await self._start(operation, asker))

    async def _cancel(self, operation: Operation) -> Ending:
        handle = await self._start(operation)
        await asyncio.sleep(operation.pause or 0)
        with suppress(RPCError):  # it has ended by now
            await handle.cancel()
            self.cancels += 1
        return await _ending(handle)

    async def _reset(self, operation: Operation) -> Ending:
        handle = await self._start(operation)
        if operation.pause is None:
            await _ending(handle)
        else:
            await asyncio.sleep(operation.pause)
        run_id = await self._to_its_beginning(handle)
        self.resets += 1
        return await _ending(self._client.get_workflow_handle(handle.id, run_id=run_id))

    async def _to_its_beginning(self, handle: WorkflowHandle[Once, str]) -> str:
        """Reset the run to its first workflow task and return the id of the run that this makes."""
        for _ in range(600):
            try:
                answer = await self._client.workflow_service.reset_workflow_execution(
                    ResetWorkflowExecutionRequest(
                        namespace=self._client.namespace,
                        workflow_execution=WorkflowExecution(
                            workflow_id=handle.id, run_id=handle.first_execution_run_id or ""
                        ),
                        reason="chaos",
                        workflow_task_finish_event_id=4,
                        request_id=str(uuid.uuid4()),
                    )
                )
            except RPCError as error:
                if error.status not in (RPCStatusCode.INVALID_ARGUMENT, RPCStatusCode.UNAVAILABLE):
                    raise
                await asyncio.sleep(0.1)  # its first task has not been done yet; the server tells of no such event
            else:
                return answer.run_id
        raise RuntimeError(f"{handle.id} cannot be reset")

    async def _start(self, operation: Operation, asker: str = "") -> WorkflowHandle[Once, str]:
        self.started += 1
        given = Wanted(operation=operation, settle=self._pace.settle, late=self._pace.late, deadline=self._pace.deadline)
        return await self._client.start_workflow(Once.run, given, id=f"{operation.name}{asker}", task_queue=QUEUE)


async def _ending(handle: WorkflowHandle[Once, str]) -> Ending:
    try:
        await handle.result(follow_runs=False)
    except WorkflowFailureError as error:
        return "cancelled" if isinstance(error.cause, CancelledError) else "refused"
    return "done"


async def perform(
    told: Told, operations: Sequence[Operation], home: Path, *, seed: int
) -> tuple[dict[str, list[Ending]], dict[str, object]]:
    """Perform OPERATIONS through workflows; return what the askers were told, and what was done to the runs."""
    from perdure.commands.dev.server import DevServer
    from perdure.connection import connect
    from perdure.plugin import PerdurePlugin
    from perdure.settings import Settings

    quiet = [each for each in operations if each.fault != "kill -9"]
    killed = [each for each in operations if each.fault == "kill -9"]
    plugin = PerdurePlugin(Settings(home=home / "client", database_url=told.ledgers["sqlite"]))
    async with DevServer(home / "server", headless=True, port=0) as server:
        client = await connect(plugin, address=server.address, namespace="default")
        runs = Runs(client, told.pace)
        async with Fleet(told, home, server.address) as fleet:
            endings = await runs.perform(quiet)
        async with Fleet(told, home, server.address, _deaths(killed, seed)) as doomed:
            endings |= await runs.perform(killed, at_once=AT_ONCE_WHERE_KILLED)
        await plugin.close()
    assert not fleet.killed
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    facts = {"runs": runs.started, "resets": runs.resets, "cancellations": runs.cancels, "killed": dict(doomed.killed)}
    facts["cpu_seconds_of_children"] = round(used.ru_utime + used.ru_stime, 1)
    return endings, facts


def _deaths(operations: Sequence[Operation], seed: int) -> list[str]:
    """Return where the workers under OPERATIONS are killed. Each one serves many, so each dies at a later point."""
    chance = random.Random(seed)  # noqa: S311  faults, not secrets
    points = []
    for _ in range(min(16, (len(operations) + 5) // 6)):
        if chance.random() < 0.2:
            points.append(f"at {chance.randint(1, 1500)} ms")
        else:
            what, most = chance.choice((("write", 6), ("send", 5), ("look", 2)))
            points.append(f"{chance.choice(('before', 'after'))} {what} {chance.randint(1, most)}")
    return points


async def _nothing(_: object) -> None:
    """Warm nothing up."""


async def serve(told: Told) -> None:
    """Be a worker until SIGTERM."""
    from bench.chaos_clients import DoomedDatabase, operations_in
    from bench.chaos_connectors import Doom, connectors

    from perdure import storage, telemetry
    from perdure.connection import connect
    from perdure.plugin import PerdurePlugin
    from perdure.routing.router import Router
    from perdure.settings import load_settings

    settings = load_settings()
    telemetry.configure(settings)
    logging.disable(logging.CRITICAL)  # what goes wrong here is meant to
    # No model is asked here, and each worker that follows a killed one would import LiteLLM for seconds.
    Router.warm_up = _nothing  # type: ignore[assignment, method-assign]
    doom = Doom(os.environ["CHAOS_DIES"])
    DoomedDatabase.doom = doom
    storage.__dict__["Database"] = DoomedDatabase
    operations = [each for each in operations_in(told.operations) if each.lane == "temporal"]
    through = connectors(told.addresses, told.pace, doom=doom, operations=operations)
    plugin = PerdurePlugin(settings, connectors=list(through.values()), pass_through=("bench",))
    client = await connect(plugin, role="worker", patience=timedelta(seconds=20))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    doom.live()
    async with Worker(client, task_queue=QUEUE, workflows=[Once, Nothing]):
        await stop.wait()


if __name__ == "__main__":
    from bench.chaos_clients import Told as ToldOnce

    asyncio.run(serve(ToldOnce.model_validate_json(sys.argv[1])))
    sys.stdout.flush()
    os._exit(0)

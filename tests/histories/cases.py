"""Which histories are stored, and how each comes about."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from kits import toy_workflows as toys
from kits.box_workflows import Packing, Packs, Puts
from kits.chain_workflows import WritesOnce
from kits.plain_workflows import Ferry, Fleet
from kits.reserving_workflows import ReservesPlainly
from kits.returns import CASES, Desk, Handle, decide, open_desk, open_request, open_shop, plain_request
from kits.workflows import parked
from pydantic import JsonValue
from stand_ins.box import Box
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import RetryPolicy
from temporalio.contrib.pydantic import pydantic_data_converter

import perdure
from perdure.commands.dev.server import DevServer
from perdure.connectors.drift.contracts import CheckContractCall
from perdure.connectors.ledger import Ledger
from perdure.connectors.ledger.contracts import RESOLVED, Resolution
from perdure.connectors.null import NullConnector
from perdure.connectors.reconciliation import Findings
from perdure.connectors.reconciliation.contracts import (
    How,
    ReconcileCall,
    RepairCall,
    SettleOrphans,
)
from perdure.examples.returns_desk.desk import ReturnsTriage
from perdure.governance.contracts import DECIDE, DecisionCall, Verdict
from perdure.lineage import Lineage, StepRef
from perdure.memory.records.requests import EnforceRetention, MemoryRequest, VerifyCall
from perdure.routing import GenerateCall, OutputRef
from perdure.routing.contracts import BatchCall, CollectorState
from perdure.settings import KiB
from perdure.storage import open_database
from perdure.workflows import Plan, PlanRun
from perdure.workflows.batches import ADD

TOYS = [
    toys.Asks,
    toys.AsksTwoAtOnce,
    toys.ActsAndTells,
    toys.Converses,
    toys.Keeps,
    toys.Remembers,
    toys.SaysWhatWasRight,
    ReservesPlainly,
    toys.Unwinds,
    toys.WritesTwice,
    WritesOnce,
    Packs,
    Puts,
    Ferry,
    Fleet,
]
WORKFLOWS = [ReturnsTriage, *TOYS]
"""The workflows of the stored histories, besides those that come with the plugin."""

HERE = Path(__file__).parent
LARGEST = 64 * KiB
"""No stored history is larger."""


@dataclass
class Scene:
    """What the cases are played on."""

    desk: Desk
    null: NullConnector
    box: Box

    async def start(self, workflow: Any, given: object) -> Handle:
        """Start a toy workflow."""
        queue = self.desk.settings.task_queue
        return await self.desk.client.start_workflow(workflow, given, id=f"toy-{uuid.uuid4()}", task_queue=queue)


async def record(names: Sequence[str]) -> None:
    """Record the cases called NAMES, all if there are none."""
    async with open_scene() as scene:
        for name in names or RECORDED:
            handle = await RECORDED[name](scene)
            history = json.dumps(_without_traces((await handle.fetch_history()).to_json_dict()))
            assert len(history) < LARGEST, f"{name} has {len(history):,} bytes"
            (HERE / f"{name}@{perdure.__version__}.json").write_text(history + "\n")
            sys.stderr.write(f"{name}: {len(history):,} bytes\n")


@asynccontextmanager
async def open_scene() -> AsyncIterator[Scene]:
    """Start a server, the shop and a worker."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = await stack.enter_async_context(DevServer(folder, port=0, headless=True, in_memory=True))
        shop = stack.enter_context(open_shop(folder, "R-1"))
        null, box = NullConnector(), Box()
        desk = await stack.enter_async_context(
            open_desk(server.address, folder, shop, identity="recorder", more=TOYS, connectors=[null, box])
        )
        yield Scene(desk, null, box)


def _without_traces(value: Any) -> Any:
    """Return VALUE without stack traces, which name the folders of the machine that recorded it."""
    if isinstance(value, dict):
        return {key: _without_traces(each) for key, each in value.items() if key != "stackTrace"}
    return [_without_traces(each) for each in value] if isinstance(value, list) else value


# The returns desk


def _desk(case: str, *, plan: bool) -> Callable[[Scene], Awaitable[Handle]]:
    async def play(scene: Scene) -> Handle:
        handle = await scene.desk.start(CASES[case].request, plan=plan)
        await scene.desk.end(CASES[case], handle)
        return handle

    return play


def _faults(*, plan: bool) -> Callable[[Scene], Awaitable[Handle]]:
    async def play(scene: Scene) -> Handle:
        await scene.desk.shop.faults(next=["lose request", "lose response"])
        handle = await scene.desk.start(plain_request("R-1"), plan=plan)
        await handle.result()
        return handle

    return play


def _refused(*, plan: bool) -> Callable[[Scene], Awaitable[Handle]]:
    async def play(scene: Scene) -> Handle:
        case = CASES["edge-case"]
        scene.desk.shop.change_amount(case.order_number, 4990)
        handle = await scene.desk.start(case.request, plan=plan)
        request = await open_request(handle)
        scene.desk.shop.change_amount(case.order_number, 100)
        await decide(handle, request, "approve")
        await _failure(handle)
        return handle

    return play


# The toys


async def _approved(scene: Scene) -> Handle:
    handle = await scene.start(toys.Asks.run, 1)
    await decide(handle, await open_request(handle), "approve")
    await handle.result()
    return handle


async def _approved_by_signal(scene: Scene) -> Handle:
    handle = await scene.start(toys.Asks.run, 1)
    request = await open_request(handle)
    call = DecisionCall(approval=request.approval, digest=request.digest, verdict="approve", by="ole")
    await handle.signal(DECIDE, {"approval": "nonsense"})
    await handle.signal(DECIDE, call)
    await handle.result()
    return handle


async def _expired(scene: Scene) -> Handle:
    handle = await scene.start(toys.Asks.run, 0)
    await _failure(handle)
    return handle


async def _judged(scene: Scene) -> Handle:
    handle = await scene.start(toys.SaysWhatWasRight.run, "my cup came broken")
    await decide(handle, await open_request(handle), "approve")
    await handle.result()
    return handle


async def _two_approvals(scene: Scene) -> Handle:
    handle = await scene.start(toys.AsksTwoAtOnce.run, 1)
    for _ in range(2):
        await decide(handle, await open_request(handle), "approve")
    await handle.result()
    return handle


async def _withdrawn(scene: Scene) -> Handle:
    handle = await scene.start(toys.Asks.run, 1)
    await open_request(handle)
    await handle.cancel()
    await _failure(handle)
    return handle


async def _saga_fails(scene: Scene) -> Handle:
    handle = await scene.start(toys.Unwinds.run, "fail")
    await _failure(handle)
    return handle


async def _saga_cancelled(scene: Scene) -> Handle:
    before = len(scene.null.effects)
    handle = await scene.start(toys.Unwinds.run, "wait")
    while len(scene.null.effects) < before + 2:  # noqa: ASYNC110  the connector only counts
        await asyncio.sleep(0.02)
    await handle.cancel()
    await _failure(handle)
    return handle


async def _act_cancelled(scene: Scene) -> Handle:
    await scene.desk.shop.faults(next=["lose response"])
    handle = await scene.start(ReservesPlainly.run, "R-1")
    while not (await scene.desk.shop.ask("GET", "/reservations"))[1]:  # noqa: ASYNC110  the shop only counts
        await asyncio.sleep(0.02)
    await handle.cancel()
    await _failure(handle)
    return handle


async def _retried(scene: Scene) -> Handle:
    """Return the second run of a workflow that is retried as a whole."""
    queue, quickly = scene.desk.settings.task_queue, RetryPolicy(initial_interval=timedelta(milliseconds=10))
    handle = await scene.desk.client.start_workflow(
        WritesOnce.run, 1, id=f"toy-{uuid.uuid4()}", task_queue=queue, retry_policy=quickly
    )
    await handle.result()
    return scene.desk.client.get_workflow_handle(handle.id)


async def _continued(scene: Scene) -> Handle:
    """Return the run before the continuation."""
    handle = await scene.start(toys.WritesTwice.run, 0)
    await handle.result()
    return scene.desk.client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id)


async def _continuation(scene: Scene) -> Handle:
    handle = await scene.start(toys.WritesTwice.run, 0)
    await handle.result()
    return scene.desk.client.get_workflow_handle(handle.id)


async def _converses(scene: Scene) -> Handle:
    """Return the run before the continuation."""
    handle = await scene.start(toys.Converses.run, 0)
    await handle.result()
    return scene.desk.client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id)


async def _acts_and_tells(scene: Scene) -> Handle:
    handle = await scene.start(toys.ActsAndTells.run, 0)
    await handle.result()
    return handle


async def _converses_on(scene: Scene) -> Handle:
    handle = await scene.start(toys.Converses.run, 0)
    await handle.result()
    return scene.desk.client.get_workflow_handle(handle.id)


async def _converses_by_plan(scene: Scene) -> Handle:
    handle = await scene.start("perdure.plan", PlanRun(plan=Plan.model_validate(_PLAN), input={"message": "it is broken"}))
    await handle.result()
    return handle


async def _evaluates(scene: Scene) -> Handle:
    given: JsonValue = {"name": "M\u00fcller", "list": [1, True, None], "id": 123456789012345678901}
    handle = await scene.start("perdure.plan", PlanRun(plan=Plan.model_validate(_EVALUATES), input=given))
    await handle.result()
    return handle


# `evaluates-by-0-1-0` is the same plan, with one `${` more that has no end, when `size` counted bytes.
_EVALUATES = {
    "name": "evaluates",
    "steps": [
        {"id": "short", "act": "null.write", "when": "size(input.name) <= 6", "with": {"text": "short: ${input.name}"}},
        {"id": "items", "act": "null.write", "with": {"text": "items: ${input.list} ${input.id}"}},
        {
            "id": "matched",
            "act": "null.write",
            "when": "input.name.matches('^M') && timestamp('2026-11-23T23:00:00Z').getDate('Europe/Berlin') == 24",
            "with": {"text": "${ {'name': {'is': input.name}}.name.is }"},
        },
    ],
    "outcome": {
        "short": "${short != null}",
        "items": "${items.value.text}",
        "id": "${input.id}",
        "same": "${matched.value}",
    },
}

_PLAN = {
    "name": "talks",
    "steps": [
        {"id": "past", "recall": "cups", "scope": {"user": "c-1"}},
        {
            "id": "first",
            "generate": "triage",
            "inputs": {"request": "${input}"},
            "conversation": "desk",
            "message": "${input.message}",
            "context": {"tokens": 600, "records": ["past"]},
            "output": {"type": "object"},
        },
        {"id": "second", "generate": "triage", "conversation": "desk", "message": "and now?", "output": {"type": "object"}},
    ],
}


async def _remembers(scene: Scene) -> Handle:
    handle = await scene.start(toys.Remembers.run, "the parcel of c-1 was lost")
    await handle.result()
    return handle


async def _keeps(scene: Scene) -> Handle:
    handle = await scene.start(toys.Keeps.run, "c-2")
    await handle.result()
    return handle


async def _memory_swept(scene: Scene) -> Handle:
    handle = await scene.start("perdure.sweep_memory", EnforceRetention())
    await handle.result()
    return handle


async def _requested(scene: Scene) -> Handle:
    handle = await scene.start("perdure.memory_request", MemoryRequest(verify=VerifyCall()))
    await handle.result()
    return handle


# What others start


async def _started_elsewhere(scene: Scene) -> Handle:
    """Return a run of a plain workflow that a client without the plugin has started."""
    address = scene.desk.client.service_client.config.target_host
    bare = await Client.connect(address, data_converter=pydantic_data_converter)
    handle = await bare.start_workflow(
        Ferry.run, 0.001, id=f"toy-{uuid.uuid4()}", task_queue=scene.desk.settings.task_queue
    )
    await handle.signal(Ferry.call, "ada")
    await handle.result()
    return handle


async def _child(scene: Scene) -> Handle:
    """Return the run of a plain workflow that another has started."""
    handle = await scene.start(Fleet.run, 0.001)
    await handle.result()
    async for run in scene.desk.client.list_workflows("WorkflowType = 'Ferry'"):
        if run.parent_id == handle.id:
            return scene.desk.client.get_workflow_handle(run.id, run_id=run.run_id)
    raise AssertionError("the fleet has had a ferry cross")


async def _handlers(scene: Scene) -> Handle:
    """Return a run that ends while a signal's handler waits."""
    handle = await scene.start(Ferry.run, 0.001)
    await handle.signal(Ferry.board, 0.06)
    await handle.signal(Ferry.call, "ada")
    await handle.result()
    return handle


# What people resolve


async def _parked(scene: Scene) -> Handle:
    """Return a run whose answer was lost, and that a person has told what happened."""
    scene.box.wrong, scene.box.blind = {"put": ["silent"]}, True
    handle = await scene.start(Puts.run, 300)
    await _resolve(scene, handle, "happened", remote_ref="1")
    scene.box.blind = False
    await handle.result()
    return handle


async def _partially_compensated(scene: Scene) -> Handle:
    """Return a run of which one effect stands: the target refused its undo, and a person let it be."""
    scene.box.wrong = {"take": ["refused"]}
    handle = await scene.start(Packs.run, Packing(steps=("put a", "put b", "put c"), end="fail"))
    await _resolve(scene, handle, "did not happen")
    await _failure(handle)
    return handle


async def _resolve(scene: Scene, handle: Handle, verdict: str, *, remote_ref: str = "") -> None:
    waiting = await parked(handle)
    said = {"effect": waiting.key, "verdict": verdict, "by": "mara", "comment": "I looked", "remote_ref": remote_ref}
    async with open_database(scene.desk.settings.database) as database:
        await Ledger(database, {"box": scene.box}).resolve(Resolution.model_validate(said))
    await handle.signal(RESOLVED, {"key": waiting.key})


# What runs on schedules


async def _compared(scene: Scene) -> Handle:
    await scene.desk.shop.ask("POST", "/reservations", {"order": "R-1", "reference": f"by hand {uuid.uuid4()}"})
    handle = await scene.start("perdure.reconcile", ReconcileCall(connector="inventory"))
    await handle.result()
    return handle


async def _swept(scene: Scene) -> Handle:
    handle = await scene.start("perdure.sweep", SettleOrphans(connector="inventory"))
    await handle.result()
    return handle


async def _checked(scene: Scene) -> Handle:
    handle = await scene.start("perdure.check_contract", CheckContractCall(connector="payments"))
    await handle.result()
    return handle


def _repaired(verdict: Verdict, how: How) -> Callable[[Scene], Awaitable[Handle]]:
    async def play(scene: Scene) -> Handle:
        await _compared(scene)
        async with open_database(scene.desk.settings.database) as database:
            finding = (await Findings(database).findings("inventory"))[0]
        handle = await scene.start("perdure.repair", RepairCall(finding=finding.id, how=how))
        await decide(handle, await open_request(handle), verdict)
        if verdict == "approve":
            await handle.result()
        else:
            await _failure(handle)
        return handle

    return play


# Batches


def _calls() -> tuple[GenerateCall, ...]:
    """A call of a run that is not there."""
    lineage = Lineage(namespace="default", workflow_id=f"nobody-{uuid.uuid4()}", first_execution_run_id="none")
    output = OutputRef(name="verdict", json_schema={"type": "object"})
    return (GenerateCall(step=StepRef(lineage=lineage, name="ask"), task="triage", output=output),)


async def _batch(scene: Scene) -> Handle:
    poll = timedelta(milliseconds=200)
    call = BatchCall(batch="recorded", deployment="local-small", poll=poll, at_provider="lost", calls=_calls())
    handle = await scene.start("perdure.batch", call)
    await handle.result()
    return handle


async def _batch_collector(scene: Scene) -> Handle:
    span = timedelta(milliseconds=200)
    state = CollectorState(deployment="local-small", size=2, wait=span, poll=span, calls=_calls())
    handle = await scene.start("perdure.batch_collector", state)
    await handle.signal(ADD, _calls()[0])
    started = EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED
    while not any(event.event_type == started for event in (await handle.fetch_history()).events):  # noqa: ASYNC110  as above
        await asyncio.sleep(0.05)
    await handle.terminate()
    return handle


async def _failure(handle: Handle) -> None:
    try:
        await handle.result()
    except WorkflowFailureError:
        return
    raise AssertionError(f"{handle.id} was to fail")


_ENDS = ("by-model", "by-person", "rejected-by-person", "rejected-by-model", "no-order", "unknown-order")

RECORDED: dict[str, Callable[[Scene], Awaitable[Handle]]] = {
    **{f"returns-{case}": _desk(case, plan=False) for case in _ENDS},
    "returns-faults": _faults(plan=False),
    "returns-refused": _refused(plan=False),
    **{f"returns-plan-{case}": _desk(case, plan=True) for case in _ENDS},
    "returns-plan-faults": _faults(plan=True),
    "returns-plan-refused": _refused(plan=True),
    "approved": _approved,
    "approved-by-signal": _approved_by_signal,
    "expired": _expired,
    "judged": _judged,
    "two-approvals": _two_approvals,
    "withdrawn": _withdrawn,
    "saga-fails": _saga_fails,
    "saga-cancelled": _saga_cancelled,
    "act-cancelled": _act_cancelled,
    "continued": _continued,
    "continuation": _continuation,
    "retried": _retried,
    "acts-and-tells": _acts_and_tells,
    "converses": _converses,
    "converses-on": _converses_on,
    "converses-by-plan": _converses_by_plan,
    "evaluates": _evaluates,
    "remembers": _remembers,
    "keeps": _keeps,
    "memory-swept": _memory_swept,
    "memory-requested": _requested,
    "batch": _batch,
    "batch-collector": _batch_collector,
    "started-elsewhere": _started_elsewhere,
    "child": _child,
    "handlers": _handlers,
    "parked": _parked,
    "partially-compensated": _partially_compensated,
    "compared": _compared,
    "swept": _swept,
    "checked": _checked,
    "repaired": _repaired("approve", "remove"),
    "accepted": _repaired("approve", "accept"),
    "repair-rejected": _repaired("reject", "remove"),
}
"""How each stored history comes about."""

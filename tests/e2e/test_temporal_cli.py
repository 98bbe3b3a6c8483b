"""Tests that the official `temporal` command sees, asks, signals and starts our runs."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kits.e2e import Ended, call
from kits.toy_workflows import Asks, Echo
from temporalio.client import Client
from temporalio.worker import Worker

from perdure.commands.dev.server import temporal_program
from perdure.connectors.null import NullConnector
from perdure.plugin import PerdurePlugin
from perdure.settings import Settings


@dataclass
class Temporal:
    """The `temporal` command, and a task queue that a worker of ours polls."""

    address: str
    queue: str

    async def __call__(self, *arguments: str) -> Ended:
        """Run a command."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("TEMPORAL_")}
        command = [temporal_program(), *arguments, "--address", self.address, "--output", "json"]
        return await call(command, env | {"TEMPORAL_CONFIG_FILE": os.devnull}, cwd=Path.cwd())

    async def start(self, workflow: str, *inputs: object) -> str:
        """Start WORKFLOW and return its id."""
        id = f"{workflow}-{uuid.uuid4()}"
        given = [part for each in inputs for part in ("--input", json.dumps(each))]
        started = await self("workflow", "start", "--type", workflow, "-w", id, "-t", self.queue, *given)
        assert 0 == started.code, started.err
        return id

    async def question(self, id: str) -> dict[str, Any]:
        """Return the open approval of a run as soon as there is one."""
        for _ in range(100):
            asked = await self("workflow", "query", "-w", id, "--type", "perdure.approvals")
            if question := asked.json["queryResult"][0]:
                return dict(question[0])
        raise AssertionError(f"{id} asked nobody")


@pytest.fixture
async def temporal_cli(temporal_address: str, tmp_path: Path) -> AsyncIterator[Temporal]:
    """The command, with a worker of ours in this process."""
    settings = Settings(home=tmp_path, task_queue=str(uuid.uuid4()))
    plugin = PerdurePlugin(settings, connectors=[NullConnector()])
    client = await Client.connect(temporal_address, plugins=[plugin])
    async with Worker(client, task_queue=settings.task_queue, workflows=[Asks, Echo]):
        yield Temporal(temporal_address, settings.task_queue)


async def test_a_signal_decides(temporal_cli: Temporal) -> None:
    """A run that `temporal` started waits for a person; `temporal` shows the question and decides it by signal."""
    id = await temporal_cli.start("Asks", 1)
    question = await temporal_cli.question(id)
    call = {"approval": question["approval"], "digest": question["digest"], "verdict": "approve", "by": "ops"}
    signalled = await temporal_cli("workflow", "signal", "-w", id, "--name", "perdure.decide", "--input", json.dumps(call))
    result = await temporal_cli("workflow", "result", "-w", id)

    assert "Write it?" == question["question"]
    assert 0 == signalled.code, signalled.err
    assert ("COMPLETED", "ops") == (result.json["status"], result.json["result"])


async def test_an_update_decides_or_is_refused(temporal_cli: Temporal) -> None:
    """An update with another digest is refused with the reason; the right one gives the decision."""
    id = await temporal_cli.start("Asks", 1)
    question = await temporal_cli.question(id)
    call = {"approval": question["approval"], "digest": question["digest"], "verdict": "approve", "by": "ops"}
    update = ("workflow", "update", "execute", "-w", id, "--name", "perdure.decide", "--input")
    refused = await temporal_cli(*update, json.dumps(call | {"digest": "sha256:0"}))
    decided = await temporal_cli(*update, json.dumps(call))
    result = await temporal_cli("workflow", "result", "-w", id)

    assert 0 != refused.code
    assert "digest does not fit" in refused.err
    assert 0 == decided.code, decided.err
    assert "ops" == decided.json["result"]["by"]
    assert "ops" == result.json["result"]


async def test_runs_are_found_by_what_they_are_about(temporal_cli: Temporal) -> None:
    """`temporal workflow list` filters by our search attributes, also for runs that it started itself."""
    id = await temporal_cli.start("Asks", 1)
    await temporal_cli.question(id)
    waiting = f"PerdureState='waiting_approval' AND PerdureApprovalOwner='editor' AND WorkflowId='{id}'"
    found = await listed(temporal_cli, waiting)
    described = await temporal_cli("workflow", "describe", "-w", id)
    await temporal_cli("workflow", "cancel", "-w", id)
    cancelled = await listed(temporal_cli, f"PerdureState='cancelled' AND WorkflowId='{id}'")

    assert [id] == found
    attributes = described.json["workflowExecutionInfo"]["searchAttributes"]["indexedFields"]
    assert {"PerdureState", "PerdurePlan", "PerdureRisk", "PerdureApprovalOwner", "PerdureApprovalDeadline"} <= set(
        attributes
    )
    assert [id] == cancelled


@pytest.mark.parametrize(
    "inputs",
    [
        [],
        ["approve"],
        [{"approval": 1}],
        [{"approval": "approval", "digest": "sha256:0", "verdict": "approve", "by": "ops"}] * 2,
    ],
    ids=["none", "text", "fields-missing", "two"],
)
async def test_a_wrong_signal_changes_nothing(temporal_cli: Temporal, inputs: list[object]) -> None:
    """A signal that makes no sense is told in the run's details, and the run can be decided after it as before."""
    id = await temporal_cli.start("Asks", 1)
    question = await temporal_cli.question(id)
    given = [part for each in inputs for part in ("--input", json.dumps(each))]
    signalled = await temporal_cli("workflow", "signal", "-w", id, "--name", "perdure.decide", *given)
    details = await temporal_cli("workflow", "metadata", "-w", id)
    call = {"approval": question["approval"], "digest": question["digest"], "verdict": "approve", "by": "ops"}
    await temporal_cli("workflow", "signal", "-w", id, "--name", "perdure.decide", "--input", json.dumps(call))
    result = await temporal_cli("workflow", "result", "-w", id)

    assert 0 == signalled.code, signalled.err
    assert "did not count" in details.out
    assert "ops" == result.json["result"]


@pytest.mark.parametrize("inputs", [[], ["approve"], [{"approval": 1}]], ids=["none", "text", "fields-missing"])
async def test_a_wrong_update_is_refused(temporal_cli: Temporal, inputs: list[object]) -> None:
    """An update that makes no sense is refused, and the run waits as before."""
    id = await temporal_cli.start("Asks", 1)
    question = await temporal_cli.question(id)
    given = [part for each in inputs for part in ("--input", json.dumps(each))]
    refused = await temporal_cli("workflow", "update", "execute", "-w", id, "--name", "perdure.decide", *given)

    assert 0 != refused.code
    assert "unable to update workflow" in refused.err
    assert question == await temporal_cli.question(id)


@pytest.mark.parametrize(
    ("workflow", "inputs", "said"),
    [
        (
            "Echo",
            ["many"],
            "int does not fit: the value: Input should be a valid integer, unable to parse string as an integer",
        ),
        ("Echo", [None], "int does not fit: the value: Input should be a valid integer"),
        ("Echo", [], "Echo was started with 0 inputs; it takes length"),
        ("Echo", [1, 2], "Echo was started with 2 inputs; it takes length"),
        ("perdure.plan", [{"plan": {"name": "x"}}], "PlanRun does not fit: plan.steps: Field required"),
        ("perdure.plan", [], "perdure.plan was started with 0 inputs; it takes call"),
    ],
)
async def test_a_wrong_input_fails_readably(temporal_cli: Temporal, workflow: str, inputs: list[object], said: str) -> None:
    """A run with an input that doesn't fit fails at once and names the field, instead of retrying for ever."""
    id = await temporal_cli.start(workflow, *inputs)
    result = await temporal_cli("workflow", "result", "-w", id)

    assert 0 != result.code
    assert "FAILED" == result.json["status"]
    assert said == result.json["closeEvent"]["workflowExecutionFailedEventAttributes"]["failure"]["message"]


async def listed(temporal_cli: Temporal, query: str) -> list[str]:
    """Return the ids of the runs that QUERY finds, which takes the server a moment."""
    for _ in range(50):
        found = await temporal_cli("workflow", "list", "--query", query)
        assert 0 == found.code, found.err
        if found.json:
            return [run["execution"]["workflowId"] for run in found.json]
    return []

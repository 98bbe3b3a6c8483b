"""Tests of `generate` in workflows: attempts, prices and reasons are in the history, and are what the provider saw."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from kits.model_workflows import Ask, Judged, Judges
from kits.returns import decide, open_request
from kits.workflows import OpenWorker
from stand_ins.provider import Answers, Fails, Hangs, Stub, stub_provider
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowHistory
from temporalio.runtime import MetricBuffer, Runtime, TelemetryConfig
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from perdure.plugin import PerdurePlugin
from perdure.settings import Settings
from perdure.workflows.attributes import COST

GOOD = Answers('{"verdict": "refund"}')


@pytest.fixture
async def stub() -> AsyncIterator[Stub]:
    """A provider on loopback."""
    async with stub_provider() as provider:
        yield provider


def routes(folder: Path, stub: Stub, *deployments: str, task: str = "", more: str = "") -> Path:
    """Write a routing file whose DEPLOYMENTS are all the stub."""
    text = f'[tasks.triage]\ntier = "small"\n{task}\n'
    for name in deployments:
        text += (
            f'[deployments.{name}]\ntier = "small"\nmodel = "openai/stub-{name}"\napi_base = "{stub.url}"\n'
            "input_usd_per_mtok = 0.15\noutput_usd_per_mtok = 0.6\n"
        )
    (folder / "models.toml").write_text(text + more)
    return folder / "models.toml"


def started(history: WorkflowHistory, attempt: int) -> HistoryEvent:
    """The event of the activity's start at ATTEMPT."""
    [event] = [
        event
        for event in history.events
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED
        and event.activity_task_started_event_attributes.attempt == attempt
    ]
    return event


async def test_one_call_an_attempt(governed: OpenWorker, stub: Stub, tmp_path: Path) -> None:
    """Attempts, their errors and their prices are in the history, and there are as many as calls at the provider."""
    stub.will(Fails(503, "busy"), Answers("no JSON"), GOOD)
    async with governed(Judges, settings={"models": routes(tmp_path, stub, "first", "second")}) as desk:
        handle = await desk.start(Judges.run, Ask())
        judged = Judged.model_validate(await handle.result())
        history = await handle.fetch_history()
        attributes = (await handle.describe()).typed_search_attributes

        assert ("refund",) == judged.verdicts
        assert 3 == stub.calls
        assert (
            "first: 503 busy",
            "second: the answer is cut off, or there is no JSON in it",
            "second: after second: the answer is cut off, or there is no JSON in it",
        ) == judged.attempts
        failure = started(history, 3).activity_task_started_event_attributes.last_failure
        assert "asks deployment 'second' again" in failure.message
        assert b'"error":"503 busy"' in failure.application_failure_info.details.payloads[0].data
        assert 2 * 21_000 / 1e9 == attributes[COST]
        assert await desk.replays(handle, [Judges])


async def test_waits_as_long_as_it_is_told(governed: OpenWorker, stub: Stub, tmp_path: Path) -> None:
    """The provider's Retry-After is the delay of Temporal's next attempt."""
    stub.will(Fails(429, headers={"retry-after": "2"}), GOOD)
    async with governed(Judges, settings={"models": routes(tmp_path, stub, "first")}) as desk:
        handle = await desk.start(Judges.run, Ask())
        await handle.result()
        history = await handle.fetch_history()

    scheduled = next(e for e in history.events if e.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED)
    event = started(history, 2)
    assert 2.0 <= event.event_time.ToDatetime().timestamp() - scheduled.event_time.ToDatetime().timestamp()


async def test_failed_attempts_are_paid(governed: OpenWorker, stub: Stub, tmp_path: Path) -> None:
    """What invalid answers have cost is on the run's account, also when the step fails."""
    stub.will(Answers("no JSON"))
    async with governed(Judges, settings={"models": routes(tmp_path, stub, "first")}) as desk:
        handle = await desk.start(Judges.run, Ask())
        judged = Judged.model_validate(await handle.result())
        attributes = (await handle.describe()).typed_search_attributes

    assert ("InvalidAnswer", 2) == (judged.error, stub.calls)
    assert 2 * 21_000 / 1e9 == attributes[COST]


async def test_slow_provider(governed: OpenWorker, stub: Stub, tmp_path: Path) -> None:
    """A provider that is slower than the task allows is left for the next one, and the history says so."""
    stub.will(Hangs(), GOOD)
    models = routes(tmp_path, stub, "first", "second", task="slow_after = 0.3")
    async with governed(Judges, settings={"models": models}) as desk:
        handle = await desk.start(Judges.run, Ask())
        judged = Judged.model_validate(await handle.result())

    assert (("refund",), ["stub-first", "stub-second"]) == (judged.verdicts, stub.models)
    assert "second: after first: time-out" == judged.attempts[-1]


BUDGET = '[budgets.cap]\nper = "run"\nusd = 0.0001\nraise_usd = 1\nask = "finance"\n'


async def test_a_person_raises_the_budget(governed: OpenWorker, stub: Stub, tmp_path: Path) -> None:
    """A run whose budget is used up asks the person that the file names, and goes on once that one has agreed."""
    stub.will(GOOD)
    async with governed(Judges, settings={"models": routes(tmp_path, stub, "first", more=BUDGET)}) as desk:
        handle = await desk.start(Judges.run, Ask(times=2))
        request = await open_request(handle)
        calls = stub.calls
        await decide(handle, request, "approve")
        judged = Judged.model_validate(await handle.result())

        assert (0, "finance", "Raise budget cap by $1.00 to $1.00?") == (calls, request.of, request.question)
        assert (("refund", "refund"), 2) == (judged.verdicts, stub.calls)
        assert await desk.replays(handle, [Judges])


async def test_a_person_does_not_raise_the_budget(governed: OpenWorker, stub: Stub, tmp_path: Path) -> None:
    """If that person says no, the step fails with the budget's name."""
    async with governed(Judges, settings={"models": routes(tmp_path, stub, "first", more=BUDGET)}) as desk:
        handle = await desk.start(Judges.run, Ask())
        await decide(handle, await open_request(handle), "reject")
        judged = Judged.model_validate(await handle.result())

    assert ("BudgetSpent", 0) == (judged.error, stub.calls)
    assert "budget 'cap' of run" in judged.message


async def test_a_person_answers(governed: OpenWorker, stub: Stub, tmp_path: Path) -> None:
    """When no model gives a valid answer a person is asked for it, until what that one says is valid."""
    stub.will(Answers("no JSON"))
    async with governed(Judges, settings={"models": routes(tmp_path, stub, "first")}) as desk:
        handle = await desk.start(Judges.run, Ask(or_ask="support-lead"))
        await decide(handle, await open_request(handle), "approve", comment="refund it")
        await decide(handle, await open_request(handle), "approve", comment='{"verdict": "refund"}')
        judged = Judged.model_validate(await handle.result())

        assert (("refund",), ("person: ",)) == (judged.verdicts, judged.attempts)
        assert await desk.replays(handle, [Judges])


async def test_calls_are_counted(temporal: WorkflowEnvironment, stub: Stub, tmp_path: Path) -> None:
    """The worker's metrics have every call by deployment and outcome, with its time and cost."""
    stub.will(Fails(503), GOOD)
    buffer = MetricBuffer(10_000)
    settings = Settings(home=tmp_path, task_queue=str(uuid.uuid4()), models=routes(tmp_path, stub, "first", "second"))
    client = await Client.connect(
        temporal.client.service_client.config.target_host,
        plugins=[PerdurePlugin(settings)],
        runtime=Runtime(telemetry=TelemetryConfig(metrics=buffer)),
    )
    async with Worker(client, task_queue=settings.task_queue, workflows=[Judges]):
        await client.execute_workflow(Judges.run, Ask(), id=str(uuid.uuid4()), task_queue=settings.task_queue)

    updates = [each for each in buffer.retrieve_updates() if each.metric.name.startswith(("perdure_model", "gen_ai"))]
    seen = {
        (update.metric.name, update.attributes["deployment"], update.attributes["outcome"]): update.value
        for update in updates
    }
    versions = {update.attributes["version"] for update in updates if update.attributes.get("outcome") == "answered"}
    assert 1 == seen["perdure_model_calls", "first", "unavailable"] == seen["perdure_model_calls", "second", "answered"]
    assert 0.000021 == seen["perdure_model_call_cost", "second", "answered"]
    assert 0 < seen["gen_ai_client_operation_duration", "second", "answered"]
    assert {"stub-2026-11-01"} == versions


CANARY = '[canaries.newer]\ntask = "triage"\ndeployment = "next"\nper = "agent"\nof = "new"\n'


async def test_canary(governed: OpenWorker, stub: Stub, tmp_path: Path) -> None:
    """A run whose canary fails for good goes on by the others; who is asked is no part of the workflow, so it replays."""
    stub.choose = lambda model: Fails(400) if model == "stub-next" else GOOD
    models = routes(tmp_path, stub, "first", "next", more=CANARY)
    async with governed(Judges, settings={"models": models}) as desk:
        handle = await desk.start(Judges.run, Ask(agent="new"))
        judged = Judged.model_validate(await handle.result())
        history = await handle.fetch_history()
        models.write_text(models.read_text().replace(CANARY, ""))

        assert (("refund",), ["stub-next", "stub-first"]) == (judged.verdicts, stub.models)
        assert ("canary", "newer") == (judged.arms[0].partition(" ")[0], judged.arms[0].partition(" ")[2].partition("@")[0])
        assert ("next: 400 stub_error", "first: after next: 400 stub_error") == judged.attempts
        failure = started(history, 2).activity_task_started_event_attributes.last_failure
        assert "The next attempt goes to deployment 'first'." in failure.message
        assert await desk.replays(handle, [Judges])


async def test_canary_is_rolled_back(temporal: WorkflowEnvironment, stub: Stub, tmp_path: Path) -> None:
    """A bad canary is rolled back while runs go on; the metrics count its calls by arm, and the rollback."""
    stub.choose = lambda model: Answers("no JSON") if model == "stub-next" else GOOD
    buffer = MetricBuffer(10_000)
    models = routes(tmp_path, stub, "first", "next", more=CANARY)
    settings = Settings(home=tmp_path, task_queue=str(uuid.uuid4()), models=models)
    client = await Client.connect(
        temporal.client.service_client.config.target_host,
        plugins=[PerdurePlugin(settings)],
        runtime=Runtime(telemetry=TelemetryConfig(metrics=buffer)),
    )
    async with Worker(client, task_queue=settings.task_queue, workflows=[Judges]):
        for agent in ("", "new"):
            ask = Ask(agent=agent, times=12)
            found = await client.execute_workflow(Judges.run, ask, id=str(uuid.uuid4()), task_queue=settings.task_queue)
            assert ("refund",) * 12 == Judged.model_validate(found).verdicts

    updates = list(buffer.retrieve_updates())
    counted = [update.attributes for update in updates if update.metric.name == "perdure_model_calls"]
    tried = stub.models.count("stub-next")
    assert 0 < tried < 12
    assert tried == sum((each["deployment"], each["arm"]) == ("next", "canary") for each in counted)
    assert 1 == sum(update.metric.name == "perdure_canary_rollbacks" for update in updates)

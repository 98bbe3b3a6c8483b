"""Turns of conversations and steps of plans are paid like other steps: budgets, cache, and a person who answers."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from kits.conversation_workflows import Chats, Talk
from kits.returns import decide, open_request
from kits.workflows import OpenWorker
from stand_ins.provider import Answers, Stub, stub_provider
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError

from perdure.routing.calls import budget_states, costs
from perdure.storage import open_database
from perdure.workflows import Plan, PlanRun, PlanWorkflow
from perdure.workflows.attributes import COST

GOOD = Answers('{"say": "yes"}')
COST_OF_ONE = 21_000
SCHEMA = {"type": "object", "properties": {"say": {"type": "string"}}, "required": ["say"]}


@pytest.fixture
async def stub() -> AsyncIterator[Stub]:
    """A provider on loopback."""
    async with stub_provider() as provider:
        yield provider


def routes(folder: Path, stub: Stub, *, task: str = "", more: str = "") -> Path:
    """Write a routing file for the stub."""
    (folder / "models.toml").write_text(
        f'[tasks.reply]\ntier = "small"\n{task}\n[deployments.stub]\ntier = "small"\nmodel = "openai/stub"\n'
        f'api_base = "{stub.url}"\ninput_usd_per_mtok = 0.15\noutput_usd_per_mtok = 0.6\n{more}'
    )
    return folder / "models.toml"


def cap(per: str, usd: str, *, ask: str = "") -> str:
    """A budget."""
    return f'\n[budgets.cap]\nper = "{per}"\nusd = {usd}\nraise_usd = 1\n' + (f'ask = "{ask}"\n' if ask else "")


def plan(**keys: object) -> PlanRun:
    """A plan with one step that asks."""
    step = {"id": "reply", "generate": "reply", "output": SCHEMA, "inputs": {"q": "${input.q}"}, **keys}
    return PlanRun(
        plan=Plan.model_validate({"name": "asks", "steps": [step], "outcome": "${reply}"}), input={"q": "?", "who": "acme"}
    )


async def test_a_turn_draws_on_its_budgets(governed: OpenWorker, stub: Stub, tmp_path: Path) -> None:
    """A turn is paid by its tenant and agent, and one that a budget denies is made once a person has raised that."""
    stub.will(GOOD)
    more = cap("tenant", "0.0001", ask="finance") + '[budgets.agents]\nper = "agent"\nusd = 1\n'
    async with governed(Chats, settings={"models": routes(tmp_path, stub, more=more)}) as desk:
        handle = await desk.start(Chats.run, Talk(says=("one", "two"), tenant="acme", agent="clerk"))
        request = await open_request(handle)
        calls = stub.calls
        await decide(handle, request, "approve")
        answers = await handle.result()
        replays = await desk.replays(handle, [Chats])
    async with open_database(desk.settings.database) as database:
        states = {(each.budget, each.subject): (each.spent, each.reserved) for each in await budget_states(database)}

    assert (0, ["yes", "yes"], 2, True) == (calls, answers, stub.calls, replays)
    assert {("cap", "acme"): (2 * COST_OF_ONE, 0), ("agents", "clerk"): (2 * COST_OF_ONE, 0)} == states


async def test_a_turn_that_fails_is_paid(governed: OpenWorker, stub: Stub, tmp_path: Path) -> None:
    """What the invalid answers of a turn have cost is on the run's account, and it fails by the name of its error."""
    stub.will(Answers("no JSON"))
    async with governed(Chats, settings={"models": routes(tmp_path, stub)}) as desk:
        handle = await desk.start(Chats.run, Talk(says=("one",)))
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
        attributes = (await handle.describe()).typed_search_attributes

    assert isinstance(failed.value.cause, ApplicationError)
    assert ("InvalidAnswer", 2) == (failed.value.cause.type, stub.calls)
    assert 2 * COST_OF_ONE / 1e9 == attributes[COST]


async def test_a_person_takes_a_turn(governed: OpenWorker, stub: Stub, tmp_path: Path) -> None:
    """When no model gives a valid answer a person does, and the next turn is shown it."""
    stub.will(Answers("no JSON"), Answers("no JSON"), GOOD)
    async with governed(Chats, settings={"models": routes(tmp_path, stub)}) as desk:
        handle = await desk.start(Chats.run, Talk(says=("one", "two"), or_ask="support-lead"))
        await decide(handle, await open_request(handle), "approve", comment='{"say": "by hand"}')

        assert ["by hand", "yes"] == await handle.result()
        assert "by hand" in stub.messages[-1][1]["content"]
        assert await desk.replays(handle, [Chats])


async def test_turns_share_no_answers_with_another_tenant(governed: OpenWorker, stub: Stub, tmp_path: Path) -> None:
    """The same turn of another tenant is asked anew, and that of the same one is not."""
    stub.will(GOOD)
    async with governed(Chats, settings={"models": routes(tmp_path, stub, task='cache = "1d"')}) as desk:
        calls = []
        for tenant in ("acme", "acme", "umbrella", "acm\u0435", ""):
            await (await desk.start(Chats.run, Talk(says=("one",), tenant=tenant))).result()
            calls.append(stub.calls)

    assert [1, 1, 2, 3, 4] == calls


async def test_a_step_of_a_plan_says_for_whom(governed: OpenWorker, stub: Stub, tmp_path: Path) -> None:
    """A plan's step names tenant and agent, by expressions too: their budgets pay, and its answers are kept for them."""
    stub.will(GOOD)
    models = routes(tmp_path, stub, task='cache = "1d"', more=cap("tenant", "1"))
    async with governed(settings={"models": models}) as desk:
        for tenant in ("${input.who}", "acme", "umbrella"):
            await (await desk.start(PlanWorkflow.run, plan(tenant=tenant, agent="clerk"))).result()
    async with open_database(desk.settings.database) as database:
        states = {each.subject: each.spent for each in await budget_states(database)}
        by_agent = {each.group: each.hits for each in await costs(database, "agent")}

    assert (2, {"acme": COST_OF_ONE, "umbrella": COST_OF_ONE}) == (stub.calls, states)
    assert {"clerk": 1} == by_agent


async def test_a_person_answers_for_a_plan(governed: OpenWorker, stub: Stub, tmp_path: Path) -> None:
    """A plan's step may name who answers when no model can; what that one says has to fit the schema."""
    stub.will(Answers("no JSON"))
    async with governed(settings={"models": routes(tmp_path, stub)}) as desk:
        handle = await desk.start(PlanWorkflow.run, plan(or_ask="support-lead"), id=str(uuid.uuid4()))
        await decide(handle, await open_request(handle), "approve", comment='{"say": 7}')
        again = await open_request(handle)
        await decide(handle, again, "approve", comment='{"say": "by hand"}')
        outcome = await handle.result()

        assert {"say": "by hand"} == outcome["value"]
        assert "$.say: 7 is not of type 'string'" in str(again.about)
        assert await desk.replays(handle, [])


def test_a_person_needs_a_schema() -> None:
    """`or_ask` goes with a JSON schema: a class is known to the worker only."""
    with pytest.raises(ValueError, match="checked against a JSON schema"):
        plan(output="kits.runs:Answer", or_ask="support-lead")

"""What a batch sends and brings: the requests that would go out alone, and answers that are read line by line."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from kits.routing import Triage, rows
from pydantic import JsonValue
from stand_ins.provider import Answers, Stub

from perdure.lineage import Lineage, StepRef
from perdure.routing import GenerateCall, OutputRef, Router
from perdure.routing.batches import Batches
from perdure.routing.batches._batch_api import read_answers
from perdure.routing.calls import budget_states
from perdure.routing.contracts import BatchCall
from perdure.storage import Database

Routed = Callable[..., Router]
GOOD = '{"verdict": "refund"}'
BATCHED = {"batch_price": "0.5", "batch_poll": '"1s"'}
COST = 10_500
BUDGET = '\n[budgets.all]\nper = "all"\nusd = 1\n'


def line(key: str, text: str = GOOD, **changed: JsonValue) -> str:
    """A line of an output file."""
    choice: JsonValue = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    usage: JsonValue = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    body: JsonValue = {"model": "stub-1", "choices": [choice], "usage": usage}
    return json.dumps({"custom_id": key, "response": {"status_code": 200, "body": body} | changed}, ensure_ascii=False)


@pytest.mark.parametrize("end", ["\u2028", "\u2029", "\x85"])
def test_a_line_ends_at_its_end(end: str) -> None:
    """A character that some take for the end of a line, raw inside a string, is none (case 40: U+2028)."""
    text = json.dumps({"verdict": f"a{end}b"}, ensure_ascii=False)

    found = read_answers(f"{line('one', text)}\n{line('two')}\n".encode())

    assert {"one", "two"} == found.replies.keys()
    assert end in json.loads(found.replies["one"].text)["verdict"]


def test_unreadable_lines() -> None:
    """A line at 200 that cannot be read, or that another one contradicts, has no answer, and why is said."""
    lines = [
        line("fine"),
        line("none", status_code=500),
        line("odd", body="text"),
        line("twice"),
        line("twice", '{"verdict": "reject"}'),
        line("same"),
        line("same"),
        json.dumps({"custom_id": "failed", "response": None, "error": {"code": "x"}}),
        "no JSON",
        json.dumps({"custom_id": 7}),
    ]

    found = read_answers("\n".join(lines).encode())

    assert {"fine", "same"} == found.replies.keys()
    assert {"odd", "twice"} == found.unreadable.keys()
    assert 2 == found.strays


def calls(*numbers: int) -> tuple[GenerateCall, ...]:
    """So many calls of other runs."""
    return tuple(
        GenerateCall(
            step=StepRef(lineage=Lineage(namespace="n", workflow_id=f"run-{n}", first_execution_run_id="f"), name="s"),
            task="triage",
            inputs={"message": "hello"},
            output=OutputRef(name="kits.routing:Triage"),
        )
        for n in numbers
    )


async def fetched(router: Router, database: Database, stub: Stub, *lines: Callable[[list[str]], str]) -> list[bool]:
    """Have three calls answered by LINES, which are made of the ids, and return which are."""
    room = Batches(database, router)
    batch = BatchCall(
        batch="b", deployment="first", poll=router.routes.deployments["first"].batch_poll, calls=calls(1, 2, 3)
    )
    sent = await room.submit(batch, attempt=1)
    ids = [json.loads(each)["custom_id"] for each in stub.files["file-0"].decode().split("\n")]
    stub.files["file-1"] = "\n".join(each(ids) for each in lines).encode()
    stub.batches[sent.at_provider] |= {"status": "completed", "output_file_id": "file-1"}
    answers = await room.fetch(batch.model_copy(update={"at_provider": sent.at_provider}))
    return [each.generation is not None for each in answers]


async def test_what_cannot_be_read_is_booked(routed: Routed, stub: Stub, sqlite_database: Database) -> None:
    """A line that cannot be read may have been charged: it is booked at the most it can cost, and so are two for one id.

    (case 40: booked 0 with 0 at risk; the last wins)
    """
    router = routed(more=BUDGET, **BATCHED)

    answered = await fetched(
        router,
        sqlite_database,
        stub,
        lambda ids: line(ids[0], body="text"),
        lambda ids: line(ids[1]),
        lambda ids: line(ids[2]),
        lambda ids: line(ids[2], '{"verdict": "reject"}'),
    )

    found = {row["outcome"]: row for row in await rows(sqlite_database)}
    [budget] = await budget_states(sqlite_database)
    assert [False, True, False] == answered
    assert (COST + 2 * found["ambiguous"]["reserved_nano_usd"], 0) == (budget.spent, budget.reserved)


async def test_a_line_without_an_id(routed: Routed, stub: Stub, sqlite_database: Database) -> None:
    """A line of which nobody knows whose it is may be the answer of any call that has none."""
    answered = await fetched(
        routed(more=BUDGET, **BATCHED), sqlite_database, stub, lambda ids: line(ids[0]), lambda _: "no JSON"
    )

    outcomes = sorted(row["outcome"] for row in await rows(sqlite_database))
    assert ([True, False, False], ["ambiguous", "ambiguous", "answered"]) == (answered, outcomes)


@pytest.mark.parametrize("model", ["openai/gpt-5-mini", "openai/o3-mini", "openai/gpt-4o-mini"])
async def test_the_body_of_a_single_call(routed: Routed, stub: Stub, sqlite_database: Database, model: str) -> None:
    """A batch's file holds the request that goes out when the call is made by itself, whatever the model takes.

    (case 40: `max_tokens` and `temperature` for a model that takes neither)
    """
    stub.will(Answers(GOOD))
    router = routed(model=f'"{model}"', **BATCHED)
    batch = BatchCall(batch="b", deployment="first", poll=router.routes.deployments["first"].batch_poll, calls=calls(1))

    await Batches(sqlite_database, router).submit(batch, attempt=1)
    await router.generate(calls(2)[0], attempt=1, output=Triage)

    [alone] = stub.received
    assert json.loads(alone) == json.loads(stub.files["file-0"])["body"]

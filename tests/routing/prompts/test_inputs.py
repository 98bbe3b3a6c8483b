"""What may go into a prompt."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kits.routing import Triage, asking, rows
from pydantic import JsonValue
from stand_ins.provider import Answers, Stub

from perdure.errors import InvalidInput
from perdure.routing import Router
from perdure.storage import Database

Routed = Callable[..., Router]
TYPED = 'inputs = { message = "text", amount = "integer", "note?" = "object" }'


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"message": "m"}, "needs the input 'amount', an integer"),
        ({"message": "m", "amount": 1.5}, "input 'amount' of task 'triage' has to be an integer"),
        ({"message": "m", "amount": True}, "has to be an integer"),
        ({"message": "m", "amount": 1, "more": 1}, "takes no input 'more'; it takes message, amount, note"),
        ({"message": "m", "amount": 1, "note": []}, "has to be an object"),
    ],
)
async def test_wrong_inputs(routed: Routed, stub: Stub, inputs: dict[str, JsonValue], said: str) -> None:
    """A task that declares its inputs takes no others, and asks nobody before they fit."""
    with pytest.raises(InvalidInput, match=said):
        await routed(task=TYPED).generate(asking().model_copy(update={"inputs": inputs}), attempt=1, output=Triage)

    assert 0 == stub.calls


async def test_right_inputs(routed: Routed, stub: Stub) -> None:
    """Inputs of their kind are sent; those that may be missing may be."""
    stub.will(Answers('{"verdict": "refund"}'))

    await routed(task=TYPED).generate(asking(message="m", amount=1), attempt=1, output=Triage)

    assert 1 == stub.calls


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-" + "a1B2" * 8,
        "AKIA" + "ABCD1234" * 2,
        "ghp_" + "a" * 36,
        "-----BEGIN RSA PRIVATE KEY-----",
        "sk_live_" + "a1" * 12,
    ],
)
async def test_no_secrets(routed: Routed, stub: Stub, secret: str) -> None:
    """What looks like a key does not go into a prompt, and the error does not repeat it."""
    with pytest.raises(InvalidInput, match="the inputs of task 'triage' hold what looks like a key") as caught:
        await routed().generate(asking(message=f"use {secret} please"), attempt=1, output=Triage)

    assert 0 == stub.calls and secret not in str(caught.value)


async def test_version_of_the_prompt(routed: Routed, stub: Stub, sqlite_database: Database) -> None:
    """Which version of the instructions was asked is in the record and in SQL."""
    stub.will(Answers('{"verdict": "refund"}'))
    router = routed()

    generation = await router.generate(asking(), attempt=1, output=Triage)

    [row] = await rows(sqlite_database)
    assert row["prompt_version"] == generation.record.prompt_version == router.routes.task("triage").prompt_version != ""

"""From what a provider sends to an answer that fits and makes sense, or an error."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import pytest
from kits.routing import Triage, asking, rows
from pydantic import JsonValue
from stand_ins.provider import Answers, Stub

from perdure.errors import (
    AskAgain,
    InvalidAnswer,
    InvalidSettings,
    ModelRefused,
    ModelUnavailable,
)
from perdure.routing import Router
from perdure.storage import Database

Routed = Callable[..., Router]
GOOD = '{"verdict": "refund", "why": ""}'


def is_known(answer: Triage) -> str | None:
    """A validator."""
    return None if answer.verdict in ("refund", "reject") else "verdict is refund or reject"


def is_said(answer: Triage, inputs: Mapping[str, JsonValue]) -> str | None:
    """A validator that reads the inputs."""
    if answer.why and answer.why not in str(inputs["message"]):
        raise ValueError("why quotes the message")
    return None


def breaks(answer: Triage) -> None:
    """A validator with a mistake."""
    raise KeyError(answer.verdict)


def takes_none() -> None:
    """No validator."""


async def test_schema_goes_along(routed: Routed, stub: Stub) -> None:
    """A deployment that has schemas is told the answer's."""
    stub.will(Answers(GOOD))

    await routed().generate(asking(), attempt=1, output=Triage)

    told = json.loads(stub.received[0])["response_format"]
    assert ("json_schema", "Triage") == (told["type"], told["json_schema"]["name"])


async def test_tool(routed: Routed, stub: Stub) -> None:
    """A deployment that has tools instead answers through one whose arguments are the answer."""
    stub.will(Answers("", tools=(GOOD,)))

    generation = await routed(structured='"tool"').generate(asking(), attempt=1, output=Triage)

    request = json.loads(stub.received[0])
    assert "answer" == request["tool_choice"]["function"]["name"]
    assert "verdict" in request["tools"][0]["function"]["parameters"]["properties"]
    assert {"verdict": "refund", "why": ""} == generation.value


async def test_several_tool_calls(routed: Routed, stub: Stub) -> None:
    """Two answers at once are none: which was meant would be a guess."""
    stub.will(Answers("", tools=(GOOD, GOOD)))

    with pytest.raises(AskAgain, match="several JSON values"):
        await routed(structured='"tool"').generate(asking(), attempt=1, output=Triage)


@pytest.mark.parametrize(("structured", "told"), [('"json"', {"type": "json_object"}), ('"none"', None)])
async def test_prompt_only(routed: Routed, stub: Stub, structured: str, told: object) -> None:
    """A deployment that has neither is told the schema in the prompt."""
    stub.will(Answers(GOOD))

    await routed(structured=structured).generate(asking(), attempt=1, output=Triage)

    assert told == json.loads(stub.received[0]).get("response_format")
    assert '"verdict"' in stub.messages[0][0]["content"]


async def test_refusal(routed: Routed, stub: Stub) -> None:
    """A model that refuses is not asked again; where there is another deployment, that one is."""
    stub.will(Answers("", refusal="I cannot help with that"))
    with pytest.raises(ModelRefused, match="refused to answer"):
        await routed().generate(asking(), attempt=1, output=Triage)

    with pytest.raises(ModelUnavailable, match="The next attempt goes to deployment 'second'"):
        await routed(deployments=["first", "second"]).generate(asking(), attempt=1, output=Triage)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ('{"verdict": "maybe"}', "is_known: verdict is refund or reject"),
        ('{"verdict": "refund", "why": "made up"}', "is_said: why quotes the message"),
    ],
)
async def test_validators(routed: Routed, stub: Stub, sqlite_database: Database, answer: str, problem: str) -> None:
    """What a task's validators object to is asked again with what they say, and recorded."""
    stub.will(Answers(answer), Answers(GOOD))
    router = routed(task=f'validators = ["{__name__}:is_known", "{__name__}:is_said"]')

    with pytest.raises(AskAgain):
        await router.generate(asking(), attempt=1, output=Triage)
    await router.generate(asking(), attempt=2, output=Triage)

    assert problem in stub.messages[1][-1]["content"]
    assert [problem, ""] == [row["error"] for row in await rows(sqlite_database)]


async def test_validator_that_fails(routed: Routed, stub: Stub) -> None:
    """A validator with a mistake lets no answer through, and the error says which it is."""
    stub.will(Answers(GOOD))
    router = routed(task=f'validators = "{__name__}:breaks"')
    with pytest.raises(AskAgain):
        await router.generate(asking(), attempt=1, output=Triage)

    with pytest.raises(InvalidAnswer, match="breaks: the validator failed with KeyError"):
        await router.generate(asking(), attempt=2, output=Triage)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module:check", r"\[tasks.triage\] validators: 'no_such_module:check' cannot be imported"),
        (f"{__name__}:nothing", "the module has no such function"),
        (f"{__name__}:takes_none", "takes 0 arguments"),
    ],
)
def test_no_validator(routed: Routed, name: str, said: str) -> None:
    """A validator that is not there is told when the worker starts, not when the first answer comes."""
    with pytest.raises(InvalidSettings, match=said):
        routed(task=f'validators = "{name}"')


async def test_repairs_are_recorded(routed: Routed, stub: Stub, sqlite_database: Database) -> None:
    """What was mended is in the answer's record and in SQL."""
    stub.will(Answers(f"Sure: {GOOD}"))

    generation = await routed().generate(asking(), attempt=1, output=Triage)

    [row] = await rows(sqlite_database)
    assert "taken out of other text" == row["repairs"] == generation.record.repairs

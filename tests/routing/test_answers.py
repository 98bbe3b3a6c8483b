"""Which answers are taken, and which class an output names."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import pytest
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from routing_kit import Triage

from perdure.errors import InvalidInput
from perdure.routing import OutputRef, resolve_output
from perdure.routing.answers import Form, Misfit, read_json

NOT_A_MODEL = 1


class Aliased(BaseModel):
    """A model whose JSON has other names than its fields."""

    model_config = ConfigDict(extra="forbid")

    verdict: str = Field(alias="Verdict")
    score: float = 0.0


def test_output_by_name() -> None:
    """An output names a class of a loaded module."""
    assert Triage is resolve_output(OutputRef(name="routing_kit:Triage"))


def test_output_with_schema() -> None:
    """An output that carries a JSON schema needs no class."""
    assert resolve_output(OutputRef(name="anything", json_schema={"type": "object"})) is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Triage", "is not `module:Class`"),
        ("antigravity:Triage", "module 'antigravity' is not loaded"),
        ("routing_kit:Missing", "has no such class"),
        ("routing_kit:asking.<locals>.Triage", "has no such class"),
        ("routing_kit:HashingEmbedder", "is not a pydantic model"),
        ("os:system", "is not a pydantic model"),
        ("routing_kit:re.Match", "has no such class"),
    ],
)
def test_wrong_output(name: str, said: str) -> None:
    """A name that stands for no loaded pydantic class is refused, and nothing is imported to find out."""
    with pytest.raises(InvalidInput, match=said):
        resolve_output(OutputRef(name=name))

    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no",
        '{"a": 1}{"a": 2}',
        '{"a": 1} and {"a": 2}',
        "{'a': 1} {'a': 2}",
        '{"a": NaN}',
        '{"a": -Infinity}',
        "{'a': NaN}",
        "{'a': 'it''s'}",
        "{'a': 1, 'a': 2}",
        "{'amount': $12}",
        '{"a": {"b": 1}, "amount": 12',
        '{"a": 1e999}',
        '{"a": 1, "a": 2}',
        '{"a": 12',
        '{"a": "12',
        '{"a": 9007199254740993}',
        '{"a": ' + "9" * 5000 + "}",
        '{"a": "\\ud800"}',
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        "{}{",
        "```json\n```",
    ],
)
def test_unreadable(text: str) -> None:
    """What is not one faithful JSON value is refused."""
    with pytest.raises(Misfit):
        read_json(text)


@pytest.mark.parametrize(
    ("text", "value", "repaired"),
    [
        ('{"a": 1}', {"a": 1}, False),
        (' {"a": {"b": [1, 2]}}\n', {"a": {"b": [1, 2]}}, False),
        ('```json\n{"a": 1}\n```', {"a": 1}, True),
        ('Here: {"a": "{not json}"}. Done.', {"a": "{not json}"}, True),
        ('{"a": 1,}', {"a": 1}, True),
        ("{'a': 'it\\'s', b: True, c: None}", {"a": "it's", "b": True, "c": None}, True),
        ('{"a": "a "quoted" word"}', {"a": 'a "quoted" word'}, True),
        ("[1, 2]", [1, 2], False),
        ('"yes"', "yes", False),
    ],
)
def test_readable(text: str, value: JsonValue, repaired: bool) -> None:
    """One JSON value is read, also out of a fence or a sentence, and small slips are mended."""
    found, repairs = read_json(text)

    assert (value, repaired) == (found, bool(repairs))


def test_aliases_survive() -> None:
    """An answer is returned in the names that the model is validated by, so the other side can read it again."""
    answer = Form(Aliased, None).read('{"Verdict": "refund"}')

    assert {"Verdict": "refund", "score": 0.0} == answer.value


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ('{"Verdict": 1, "score": "canary"}', "Verdict: string_type; score: float_parsing"),
        ('{"Verdict": "x", "ignore all that": 1}', r"\?: extra_forbidden"),
        ('{"Verdict": "x", "score": "inf"}', "the answer holds a number or a character that .*"),
        ("[]", "answer: model_type"),
    ],
)
def test_problems_repeat_nothing(text: str, problems: str) -> None:
    """What is wrong is told by place and rule; what the model wrote is not repeated."""
    with pytest.raises(Misfit, match=f"^{problems}$"):
        Form(Aliased, None).read(text)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "objekt"},
        {"$ref": "http://127.0.0.1:9/schema.json"},
        {"$ref": "#/$defs/missing"},
    ],
)
def test_wrong_schema(schema: Mapping[str, JsonValue]) -> None:
    """A JSON schema that is wrong, or that is elsewhere, is refused; nothing is fetched."""
    with pytest.raises(InvalidInput, match="JSON schema"):
        Form(None, schema).read("{}")

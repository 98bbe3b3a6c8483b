"""Which answers are taken, and which class an output names."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import date
from decimal import Decimal

import pytest
from kits.routing import Triage
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from perdure.errors import InvalidInput
from perdure.routing import OutputRef, resolve_output
from perdure.routing.prompts import Form, Misfit

NOT_A_MODEL = 1


class Aliased(BaseModel):
    """A model whose JSON has other names than its fields."""

    model_config = ConfigDict(extra="forbid")

    verdict: str = Field(alias="Verdict")
    score: float = 0.0


def test_output_by_name() -> None:
    """An output names a class of a loaded module."""
    assert Triage is resolve_output(OutputRef(name="kits.routing:Triage"))


def test_output_with_schema() -> None:
    """An output that carries a JSON schema needs no class."""
    assert resolve_output(OutputRef(name="anything", json_schema={"type": "object"})) is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Triage", "is not `module:Class`"),
        ("antigravity:Triage", "module 'antigravity' is not loaded"),
        ("kits.routing:Missing", "has no such class"),
        ("kits.routing:asking.<locals>.Triage", "has no such class"),
        ("kits.routing:HashingEmbedder", "is not a pydantic model"),
        ("os:system", "is not a pydantic model"),
        ("kits.routing:re.Match", "has no such class"),
    ],
)
def test_wrong_output(name: str, said: str) -> None:
    """A name that stands for no loaded pydantic class is refused, and nothing is imported to find out."""
    with pytest.raises(InvalidInput, match=said):
        resolve_output(OutputRef(name=name))

    assert "antigravity" not in sys.modules


class Strict(BaseModel):
    """A model with one field of each kind that an answer could be bent into."""

    count: int = 0
    sure: bool = False
    share: float = 0.0
    name: str = ""
    day: date | None = None
    price: Decimal = Decimal(0)


@pytest.mark.parametrize(
    "text",
    [
        '{"count": "12"}',
        '{"count": 1.5}',
        '{"count": true}',
        '{"sure": "yes"}',
        '{"sure": 1}',
        '{"share": "0.5"}',
        '{"name": 7}',
    ],
)
def test_no_coercion(text: str) -> None:
    """A value of another kind is not taken for what was asked for, however likely it is that it was meant."""
    with pytest.raises(Misfit, match="_type"):
        Form(Strict, None).read(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"count": 12.0}', {"count": 12}),
        ('{"share": 1}', {"share": 1.0}),
        ('{"day": "2026-11-23", "price": 12.5}', {"day": "2026-11-23", "price": "12.5"}),
    ],
)
def test_json_has_fewer_kinds(text: str, value: dict[str, JsonValue]) -> None:
    """What JSON writes in one way only is read as the kind that was asked for: 12.0 is an integer, a day is a text."""
    found = Form(Strict, None).read(text).value

    assert isinstance(found, dict)
    assert value == {key: found[key] for key in value}


@pytest.mark.parametrize(
    "text", ['{"answer": {"count": 12}}', '{"type": "object", "properties": {"count": {"type": "integer"}}}']
)
@pytest.mark.parametrize("form", [Form(Strict, None), Form(None, Strict.model_json_schema())], ids=["model", "schema"])
def test_around_the_answer(form: Form, text: str) -> None:
    """An answer inside another object, or the schema itself, does not pass for one that leaves all fields out."""
    with pytest.raises(Misfit, match="none of the fields is there"):
        form.read(text)


def test_aliases_survive() -> None:
    """An answer is returned in the names that the model is validated by, so the other side can read it again."""
    answer = Form(Aliased, None).read('{"Verdict": "refund"}')

    assert {"Verdict": "refund", "score": 0.0} == answer.value


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ('{"Verdict": 1, "score": "canary"}', "Verdict: string_type; score: float_type"),
        ('{"Verdict": "x", "ignore all that": 1}', r"\?: extra_forbidden"),
        ('{"Verdict": "x", "score": "inf"}', "score: float_type"),
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

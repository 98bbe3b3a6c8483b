"""Tests of workflows/plan_model.py: what a plan may say, and what is said about one that may not."""

from __future__ import annotations

import pytest
from pydantic import JsonValue, ValidationError

from perdure.activities.plan_check import check_texts
from perdure.errors import PlanError
from perdure.workflows import PlanRun
from perdure.workflows.plan_model import ActStep, Plan, evaluate, render


def plan(*steps: dict[str, JsonValue], **more: JsonValue) -> Plan:
    """Return the plan of STEPS."""
    return Plan.model_validate({"name": "p", "steps": list(steps), **more})


WRITE: dict[str, JsonValue] = {"id": "write", "act": "null.write"}
NESTED: list[JsonValue] = ["a", {"b": "x ${input.a"}]
ASK: dict[str, JsonValue] = {"id": "ask", "generate": "triage", "output": {}}


def test_what_an_expression_mentions_is_needed() -> None:
    """A step waits for the steps that it names and for those that its expressions mention."""
    found = plan(
        WRITE,
        {"id": "note", "remember": "${write.receipt.key}", "scope": {"user": "${input.user}"}},
        {"id": "last", "act": "null.read", "needs": ["note"], "when": "write != null"},
    )

    assert {"write": set(), "note": {"write"}, "last": {"note", "write"}} == found.graph()


def test_a_name_bound_by_a_macro_is_no_step() -> None:
    """`x` in `list.exists(x, ...)` is the expression's own."""
    found = plan({**WRITE, "when": "input.lines.exists(x, x > 1)"})

    assert {"write": set()} == found.graph()


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([], "at least 1 item"),
        ([WRITE, WRITE], "step id 'write' stands twice"),
        ([{**WRITE, "needs": ["nobody"]}], "step 'write' needs 'nobody', and there is no such step; steps: write"),
        ([{**WRITE, "when": "nobody == 1"}], "step 'write', when: 'nobody == 1' mentions 'nobody'; known: input, write"),
        ([{**WRITE, "when": "1 +"}], "step 'write', when: '1 +' is not a CEL expression (column 4): it ends too early"),
        (
            [{**WRITE, "when": "now() > 1"}],
            "step 'write', when: 'now() > 1' is not a CEL expression (column 1): there is no",
        ),
        ([{**WRITE, "when": "${input.a}"}], "a condition is an expression as it stands, without `${}`"),
        ([{**WRITE, "with": {"text": "${1 +}"}}], "step 'write', with.text: '1 +' is not a CEL expression"),
        (
            [{**WRITE, "with": {"text": NESTED}}],
            "with.text.1.b: '${input.a' (column 3): `${` without an",
        ),
        (
            [{**WRITE, "with": {"text": "${}"}}],
            "step 'write', with.text: '' is not a CEL expression (column 1): it is empty",
        ),
        ([{**WRITE, "with": {"a": {"${input}": 1}}}], "step 'write', with.a: `${` stands in the key '${input}'"),
        ([{**WRITE, "act": "null.${input}"}], "step 'write', act: `${` stands where nothing is evaluated"),
        ([{**WRITE, "needs": ["${input}"]}], "step 'write', needs.0: `${` stands where nothing is evaluated"),
        ([{**ASK, "output": {"enum": ["${input.a}"]}}], "step 'ask', output.enum.0: `${` stands in a JSON schema"),
        ([{**ASK, "output": "a:${input}"}], "step 'ask', output: `${` stands where nothing is evaluated"),
        ([{**ASK, "context": {"summary": "${input}"}}], "step 'ask', context.summary: `${` stands where"),
        ([{**WRITE, "when": "x"}, {**WRITE, "id": "b", "when": "y"}], "step 'b', when: 'y' mentions 'y'"),
        ([{"id": "x", "do": "it"}], "a step says one of: generate, recall, remember, act, approval"),
        ([{**WRITE, "wit": {}}], "Extra inputs are not permitted"),
        ([{"id": "input", "act": "null.write"}], "step id 'input' is reserved"),
        ([{"id": "null", "act": "null.write"}], "step id 'null' is a value in CEL"),
        (
            [{"id": "a", "act": "null.write", "needs": ["b"]}, {"id": "b", "act": "null.write", "needs": ["a"]}],
            "steps wait for each other",
        ),
    ],
)
def test_a_plan_that_cannot_run_is_refused_with_the_reason(steps: list[dict[str, JsonValue]], said: str) -> None:
    """What is wrong with a plan is said before it runs, with the step's id and the field (case 11)."""
    with pytest.raises(ValidationError) as refused:
        plan(*steps)

    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"description": "of ${input.id}"}, "description: `${` stands where nothing is evaluated"),
        ({"input": {"const": "${x}"}}, "input.const: `${` stands in a JSON schema"),
        ({"outcome": {"a": ["${write.value", "${nobody}"]}}, "outcome.a.1: 'nobody' mentions 'nobody'"),
    ],
)
def test_a_text_is_evaluated_or_refused(more: dict[str, JsonValue], said: str) -> None:
    """No `${` gets past the reading of a plan as it stands, wherever it is (case 11)."""
    with pytest.raises(ValidationError) as refused:
        plan(WRITE, **more)

    assert said in str(refused.value)


def test_patterns_and_prose_of_schemas_may_have_dollars() -> None:
    """In a schema a pattern, an example or a description may hold `${`; a property may have the name of one of these."""
    schema: JsonValue = {"properties": {"pattern": {"pattern": "^\\${", "examples": ["${x}"], "description": "like ${x}"}}}

    assert schema == plan(WRITE, input=schema).input


def test_names_are_found_wherever_an_expression_may_stand() -> None:
    """A step is waited for if a map in a map, a string with a brace or many lines mention it; a bound name hides one."""
    assert {"write"} == plan(WRITE, {"id": "b", "act": "n.w", "with": {"a": "${ {'x': {'y': write.value}} }"}}).graph()["b"]
    assert {"write"} == plan(WRITE, {"id": "b", "act": "n.w", "with": {"a": "${'}' + '{'}\n${\n write \n}"}}).graph()["b"]
    assert {"list"} == plan({**WRITE, "id": "list"}, {"id": "b", "act": "n.w", "when": "size(list) > 0"}).graph()["b"]
    assert set() == plan(WRITE, {"id": "b", "act": "n.w", "when": "input.all(write, write.ok)"}).graph()["b"]
    assert {"write"} == plan(WRITE, {"id": "b", "act": "n.w", "when": "write.all(write, write.ok)"}).graph()["b"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${input.amount}", 5),
        ("${input.amount} EUR", "5 EUR"),
        ("x${input.none}", "x"),
        ("${input.yes}!", "true!"),
        ("${input.list} and ${input.map}", '[1, true, null, "\u00fc"] and {"ok": 1.5}'),
        ("${ {'order': {'id': input.amount}} }", {"order": {"id": 5}}),
        ("${{'a': '}'}.a} ${'{'}", "} {"),
        ("${'}'}", "}"),
        ("${r'\\'}|${\"it's }\"}|${'''}\n'''}", "\\|it's }|}\n"),
        ("${'${'}input.amount}", "${input.amount}"),
        ("$${input.amount} \\${input.amount} $ {} $", "$5 \\5 $ {} $"),
        ("${ // a comment with }\n input.amount }", 5),
        ("  ${input.amount}", "  5"),
        ("${input.amount}${input.amount}", "55"),
        ("${input.id}", 123456789012345678901),
        ("id ${input.id}, ${input.wei}", "id 123456789012345678901, 20000000000000000000"),
        ("${[input.low, 0.1]}", [-9223372036854775809, 0.1]),
        ("${timestamp('2026-11-23T10:00:00+02:00')}", "2026-11-23T08:00:00Z"),
        ("${duration('90m')}", "5400s"),
        ("${b'hi'} ${1u}", "aGk= 1"),
        ("${{1: 'a', true: 'b'}}", {"1": "a", "true": "b"}),
    ],
)
def test_values_keep_their_types(text: str, value: JsonValue) -> None:
    """A text that is one expression gives its value; around other words it becomes text, or JSON (11, 17, 18)."""
    names: dict[str, JsonValue] = {
        "input": {
            "amount": 5,
            "none": None,
            "yes": True,
            "list": [1, True, None, "\u00fc"],
            "map": {"ok": 1.5},
            "id": 123456789012345678901,
            "wei": 20000000000000000000,
            "low": -9223372036854775809,
        }
    }

    found = render({"in": [text]}, names, "p")

    assert {"in": [value]} == found
    assert isinstance(found, dict)
    assert isinstance(found["in"], list)
    assert type(value) is type(found["in"][0])


def test_an_expression_that_cannot_be_evaluated_says_where() -> None:
    """The error names the place and the expression."""
    with pytest.raises(PlanError, match=r"step 'write': 'input.amount \+ 1' cannot be evaluated"):
        evaluate("input.amount + 1", {"input": {"amount": "five"}}, "step 'write'")


def test_days_can_be_compared() -> None:
    """`day` makes the start of a day out of an ISO date or time."""
    assert evaluate("day('2026-11-23T10:00:00') - day('2026-11-20') == duration('72h')", {}, "p") is True


def test_a_plan_from_before_is_taken_as_it_began() -> None:
    """What 0.1.0 took is in histories; a run that begins today with it is refused by its check."""
    began = {"name": "p", "steps": [{**WRITE, "when": "1 == 1", "with": {"text": "raw ${input.a"}}]}

    stored = PlanRun.model_validate({"plan": began, "input": None}).plan

    assert ActStep(id="write", act="null.write", when="1 == 1", args={"text": "raw ${input.a"}) == stored.steps[0]
    with pytest.raises(PlanError, match=r"plan p: step 'write', with\.text: "):
        check_texts(stored)
    with pytest.raises(ValidationError, match="without an end"):
        Plan.model_validate(began)
    with pytest.raises(ValidationError, match="mentions 'x'"):
        PlanRun.model_validate({"plan": {"name": "p", "steps": [{**WRITE, "when": "x == 1"}]}})

"""Tests of workflows/plan_model.py: what a plan may say, and what is said about one that may not."""

from __future__ import annotations

import pytest
from pydantic import JsonValue, ValidationError

from perdure.errors import PlanError
from perdure.workflows.plan_model import Plan, evaluate, render


def plan(*steps: dict[str, JsonValue], **more: JsonValue) -> Plan:
    """Return the plan of STEPS."""
    return Plan.model_validate({"name": "p", "steps": list(steps), **more})


WRITE: dict[str, JsonValue] = {"id": "write", "act": "null.write"}


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
        ([{**WRITE, "when": "nobody == 1"}], "step 'write': 'nobody == 1' mentions 'nobody'; known: input, write"),
        ([{**WRITE, "when": "1 +"}], "step 'write': '1 +' is not a CEL expression"),
        ([{**WRITE, "with": {"text": "${1 +}"}}], "is not a CEL expression"),
        ([{"id": "x", "do": "it"}], "a step says one of: generate, recall, remember, act, approval"),
        ([{**WRITE, "wit": {}}], "Extra inputs are not permitted"),
        ([{"id": "input", "act": "null.write"}], "step id 'input' is reserved"),
        (
            [{"id": "a", "act": "null.write", "needs": ["b"]}, {"id": "b", "act": "null.write", "needs": ["a"]}],
            "steps wait for each other",
        ),
    ],
)
def test_a_plan_that_cannot_run_is_refused_with_the_reason(steps: list[dict[str, JsonValue]], said: str) -> None:
    """What is wrong with a plan is said before it runs, with the step's id."""
    with pytest.raises(ValidationError) as refused:
        plan(*steps)

    assert said in str(refused.value)


def test_values_keep_their_types() -> None:
    """A string that is one expression gives its value, and one around an expression gives text."""
    names: dict[str, JsonValue] = {"input": {"amount": 5, "none": None, "yes": True}}
    rendered = render(
        {"a": "${input.amount}", "b": "${input.amount} EUR", "c": ["${input}"], "d": "x${input.none}"}, names, "p"
    )

    assert {"a": 5, "b": "5 EUR", "c": [names["input"]], "d": "x"} == rendered


def test_an_expression_that_cannot_be_evaluated_says_where() -> None:
    """The error names the place and the expression."""
    with pytest.raises(PlanError, match=r"step 'write': 'input.amount \+ 1' cannot be evaluated"):
        evaluate("input.amount + 1", {"input": {"amount": "five"}}, "step 'write'")


def test_days_can_be_compared() -> None:
    """`day` makes the start of a day out of an ISO date or time."""
    assert evaluate("day('2026-11-23T10:00:00') - day('2026-11-20') == duration('72h')", {}, "p") is True

"""An expression in CEL, the Common Expression Language: parsed once, evaluated over the names of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, cast

from pydantic import JsonValue

from perdure.workflows.expressions._evaluation import Evaluate, Scope, build, free_names, leads_on
from perdure.workflows.expressions._functions import TYPES
from perdure.workflows.expressions._syntax import SyntaxProblem, describe_place, parse
from perdure.workflows.expressions._values import MAX_VALUES, EvaluationProblem, Type, Work, to_json

__all__ = ["TYPE_NAMES", "Expression", "InvalidExpression", "parse_expression"]

TYPE_NAMES: Final = frozenset(TYPES)
"""Names that stand for types, where nothing else is called so."""


class InvalidExpression(ValueError):
    """A text is no expression, or has no value over these names; the message says which and why."""


@dataclass(frozen=True)
class Expression:
    """What SOURCE says. NAMES are those that it takes from outside, among them those of types (`TYPE_NAMES`)."""

    source: str
    names: frozenset[str]
    _evaluate: Evaluate = field(repr=False, compare=False)
    _hands_on: bool = field(default=False, repr=False, compare=False)
    """Whether it only leads to a part of what it is given, which is JSON and may be as large as it is."""

    def evaluate(self, names: Mapping[str, JsonValue]) -> JsonValue:
        """Return its value over NAMES, as JSON. Raises `InvalidExpression`."""
        try:
            value = self._evaluate(Scope(names, Work()))
            if self._hands_on and not isinstance(value, Type):
                return cast(JsonValue, value)
            return to_json(value, Work(MAX_VALUES))
        except EvaluationProblem as problem:
            raise InvalidExpression(f"{self.source!r} cannot be evaluated: {problem}") from None
        except RecursionError:
            raise InvalidExpression(f"{self.source!r} cannot be evaluated: a value is nested too deeply") from None


@lru_cache(maxsize=1024)
def parse_expression(source: str) -> Expression:
    """Return the expression that SOURCE is. Raises `InvalidExpression` with the place of what is wrong."""
    try:
        tree = parse(source)
        return Expression(source, free_names(tree), build(tree), leads_on(tree))
    except SyntaxProblem as problem:
        place = describe_place(source, problem.at)
        raise InvalidExpression(f"{source!r} is not a CEL expression ({place}): {problem.problem}") from None

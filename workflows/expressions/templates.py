"""Texts with `${expression}` in them: what is an expression and what is text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from pydantic import JsonValue

from perdure.workflows.expressions._syntax import SyntaxProblem, describe_place, tokens
from perdure.workflows.expressions.expression import Expression, InvalidExpression, parse_expression

__all__ = ["Template", "as_text", "parse_template"]

_OPENS = {"{": "}", "(": ")", "[": "]"}


@dataclass(frozen=True)
class Template:
    """A text in PARTS: texts that stand for themselves, and expressions."""

    parts: tuple[str | Expression, ...]

    @property
    def expressions(self) -> Iterator[Expression]:
        """Its expressions in their order."""
        return (part for part in self.parts if isinstance(part, Expression))

    def render(self, names: Mapping[str, JsonValue]) -> JsonValue:
        """Return it over NAMES: the value of its one expression, or a text. Raises `InvalidExpression`."""
        match self.parts:
            case (Expression() as whole,):
                return whole.evaluate(names)
        return "".join(part if isinstance(part, str) else as_text(part.evaluate(names)) for part in self.parts)


@lru_cache(maxsize=1024)
def parse_template(text: str) -> Template:
    """Return the template that TEXT is. Raises `InvalidExpression` where a `${` has no end or holds no expression."""
    parts: list[str | Expression] = []
    position = 0
    while (begin := text.find("${", position)) >= 0:
        if begin > position:
            parts.append(text[position:begin])
        end = _end(text, begin)
        parts.append(parse_expression(text[begin + 2 : end]))
        position = end + 1
    return Template((*parts, text[position:]) if position < len(text) or not parts else tuple(parts))


def _end(text: str, begin: int) -> int:
    """Return where the brace stands that closes the one at BEGIN, which isn't one in a string or of a map."""
    expected: list[str] = []
    try:
        for token in tokens(text, begin + 2):
            if token.kind == "sign" and token.text in _OPENS:
                expected.append(_OPENS[token.text])
            elif token.kind == "sign" and token.text in ("}", ")", "]"):
                if not expected and token.text == "}":
                    return token.start
                if not expected or expected.pop() != token.text:
                    raise SyntaxProblem(f"{token.text!r} closes nothing", token.start)
    except SyntaxProblem as problem:
        place = describe_place(text, problem.at)
        raise InvalidExpression(f"{_shown(text, begin)} is not a CEL expression ({place}): {problem.problem}") from None
    raise InvalidExpression(f"{_shown(text, begin)} ({describe_place(text, begin)}): `${{` without an end")


def _shown(text: str, begin: int) -> str:
    return repr(text[begin : begin + 60] + ("..." if len(text) > begin + 60 else ""))


def as_text(value: JsonValue) -> str:
    """Return VALUE as it stands inside a text: nothing for null, JSON for what is not a text itself."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)

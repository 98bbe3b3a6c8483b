"""What a GraphQL document asks for: its one operation, the field at its root, and its variables (GraphQL, October 2021).

Safe to import in workflow code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

__all__ = ["Document", "Variable", "parse_document"]

_TOKEN: Final = re.compile(
    r"""[\s,\ufeff]+|\#[^\n\r]*
    |(?P<string>\"\"\"(?:\\\"\"\"|.)*?\"\"\"|"(?:[^"\\\n]|\\.)*")
    |(?P<name>[A-Za-z_]\w*)|(?P<number>-?\d[\w.+-]*)|(?P<mark>\.\.\.|[!$&()\[\]{}:=@|])""",
    re.DOTALL | re.VERBOSE,
)
_CLOSING: Final = {"(": ")", "{": "}", "[": "]"}


class Variable(NamedTuple):
    """A variable of an operation: whether a value has to be given."""

    name: str
    required: bool


class Document(NamedTuple):
    """A document with one operation, of KIND, with the field ROOT, of the schema, at its root."""

    kind: str
    root: str
    variables: tuple[Variable, ...]


def parse_document(text: str) -> Document:
    """Return what the document TEXT asks for. Raises `ValueError` saying why that is not one field of one operation."""
    reader = _Reader(_tokenize(text))
    operations, fragments = reader.read()
    if len(operations) != 1:
        raise ValueError("is not a query or a mutation" if not operations else f"holds {len(operations)} operations")
    kind, variables, (start, end) = operations[0]
    if kind == "subscription":
        raise ValueError("is not a query or a mutation")
    roots = _find_fields(reader.tokens, (start, end), fragments, frozenset())
    if len(roots) != 1:
        raise ValueError(f"has {len(roots)} fields at its root ({', '.join(roots)}): it should have one")
    declared = {variable.name for variable in variables}
    used = {name for mark, name in zip(reader.tokens[start:], reader.tokens[start + 1 : end], strict=False) if mark == "$"}
    if unknown := sorted(used - declared):
        raise ValueError(f"uses ${unknown[0]} and does not declare it")
    return Document(kind, roots[0], variables)


_Span = tuple[int, int]


def _tokenize(text: str) -> list[str]:
    tokens: list[str] = []
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise ValueError(f"cannot be read at {text[at : at + 20]!r}")
        if found.lastgroup is not None:
            tokens.append('""' if found.lastgroup == "string" else found[0])
        at = found.end()
    return tokens


class _Reader:
    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self._at = 0

    def read(self) -> tuple[list[tuple[str, tuple[Variable, ...], _Span]], dict[str, _Span]]:
        """Return the operations, and the spans of the fragments by name."""
        operations: list[tuple[str, tuple[Variable, ...], _Span]] = []
        fragments: dict[str, _Span] = {}
        while self._at < len(self.tokens):
            word = self.tokens[self._at]
            if word == "fragment":
                name = self._peek(1)
                fragments[name] = self._skip_to_selection()
            elif word in ("query", "mutation", "subscription", "{"):
                operations.append(self._read_operation("query" if word == "{" else word))
            else:
                raise ValueError("is not a query or a mutation")
        return operations, fragments

    def _read_operation(self, kind: str) -> tuple[str, tuple[Variable, ...], _Span]:
        variables: tuple[Variable, ...] = ()
        ahead = 0 if self.tokens[self._at] == "{" else 1
        if self._peek(ahead) not in ("(", "{", "@"):
            ahead += 1
        if self._peek(ahead) == "(":
            self._at += ahead
            variables = self._read_variables()
        return kind, variables, self._skip_to_selection()

    def _read_variables(self) -> tuple[Variable, ...]:
        start, end = self._skip_group()
        found: list[Variable] = []
        at = start
        while at < end:
            if self.tokens[at] != "$":
                raise ValueError("declares its variables in a way that nobody understands")
            name = self.tokens[at + 1]
            following = _find_next(self.tokens, at + 1, end, "$")
            described = self.tokens[at + 3 : following]
            has_default = "=" in described
            kind = described[: described.index("=")] if has_default else described
            kind = kind[: kind.index("@")] if "@" in kind else kind
            found.append(Variable(name, required=bool(kind) and kind[-1] == "!" and not has_default))
            at = following
        return tuple(found)

    def _skip_to_selection(self) -> _Span:
        while self._peek(0) != "{":
            if self._peek(0) == "(":
                self._skip_group()
            elif not self._peek(0):
                raise ValueError("has no selection")
            else:
                self._at += 1
        return self._skip_group()

    def _skip_group(self) -> _Span:
        """Go past the brackets that begin here, and return the span of what is in them."""
        start = self._at + 1
        self._at = _find_end(self.tokens, self._at)
        return start, self._at - 1

    def _peek(self, ahead: int) -> str:
        at = self._at + ahead
        return self.tokens[at] if at < len(self.tokens) else ""


def _find_end(tokens: list[str], at: int) -> int:
    """Return the place after the bracket that closes the one AT."""
    waiting: list[str] = []
    for number in range(at, len(tokens)):
        token = tokens[number]
        if token in _CLOSING:
            waiting.append(_CLOSING[token])
        elif token in _CLOSING.values():
            if not waiting or waiting.pop() != token:
                break
            if not waiting:
                return number + 1
    raise ValueError("has brackets that do not fit")


def _find_next(tokens: list[str], start: int, end: int, mark: str) -> int:
    at = start
    while at < end:
        if tokens[at] in _CLOSING:
            at = _find_end(tokens, at)
        elif tokens[at] == mark:
            return at
        else:
            at += 1
    return end


def _find_fields(tokens: list[str], span: _Span, fragments: Mapping[str, _Span], within: frozenset[str]) -> list[str]:
    """Return the fields in SPAN, those of fragments too, by their names in the schema."""
    found: list[str] = []
    at, end = span
    while at < end:
        if tokens[at] == "...":
            at += 1
            name = tokens[at]
            if name in ("on", "@", "{"):
                while tokens[at] != "{":
                    at = _find_end(tokens, at) if tokens[at] == "(" else at + 1
                after = _find_end(tokens, at)
                found += _find_fields(tokens, (at + 1, after - 1), fragments, within)
                at = after
                continue
            if name not in fragments:
                raise ValueError(f"has no fragment {name}")
            if name not in within:
                found += _find_fields(tokens, fragments[name], fragments, within | {name})
            at += 1
        elif re.match(r"[A-Za-z_]", tokens[at]):
            aliased = at + 2 < end and tokens[at + 1] == ":"
            found.append(tokens[at + 2] if aliased else tokens[at])
            at += 3 if aliased else 1
            if at < end and tokens[at] == "(":
                at = _find_end(tokens, at)
        elif tokens[at] == "@":
            at += 2
            if at < end and tokens[at] == "(":
                at = _find_end(tokens, at)
            continue
        elif tokens[at] == "{":
            at = _find_end(tokens, at)
        else:
            raise ValueError(f"cannot be read at {tokens[at]!r}")
    return list(dict.fromkeys(found))

"""How an expression is written: the grammar of CEL, from a text to a tree."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from perdure.workflows.expressions._values import MAX_INT, UInt

__all__ = [
    "Binary",
    "Call",
    "Conditional",
    "Constant",
    "Index",
    "ListOf",
    "Logical",
    "Macro",
    "MapOf",
    "Name",
    "Node",
    "Select",
    "SyntaxProblem",
    "Token",
    "Unary",
    "children",
    "count_nodes",
    "describe_place",
    "parse",
    "tokens",
]

_MAX_NESTING: Final = 64
"""Levels of brackets; the specification asks for 12 at least."""
_MAX_DEPTH: Final = 200
"""Levels of the tree, which `a + b + c` has two of. Each is a call or two in Python, whose stack has 1,000."""
_MAX_LENGTH: Final = 20_000


class SyntaxProblem(ValueError):
    """A text is not an expression; AT is where."""

    def __init__(self, problem: str, at: int) -> None:
        super().__init__(problem)
        self.problem = problem
        self.at = at


@dataclass(frozen=True)
class Constant:
    """A literal."""

    at: int
    value: object


@dataclass(frozen=True)
class Name:
    """A name. ABSOLUTE (`.x`) passes by what macros bind."""

    at: int
    name: str
    absolute: bool = False


@dataclass(frozen=True)
class Select:
    """`operand.field`, or the question whether it is there."""

    at: int
    operand: Node
    field: str
    test: bool = False


@dataclass(frozen=True)
class Index:
    """`operand[index]`."""

    at: int
    operand: Node
    index: Node


@dataclass(frozen=True)
class Call:
    """`function(args)`, or `target.function(args)`."""

    at: int
    function: str
    args: tuple[Node, ...]
    target: Node | None = None


@dataclass(frozen=True)
class ListOf:
    """`[items]`."""

    at: int
    items: tuple[Node, ...]


@dataclass(frozen=True)
class MapOf:
    """`{key: value}`."""

    at: int
    entries: tuple[tuple[Node, Node], ...]


@dataclass(frozen=True)
class Logical:
    """`a || b || c` or the same with `&&`."""

    at: int
    operator: str
    terms: tuple[Node, ...]


@dataclass(frozen=True)
class Unary:
    """`!x` or `-x`."""

    at: int
    operator: str
    operand: Node


@dataclass(frozen=True)
class Binary:
    """`a + b`, `a < b`, `a in b` and the like."""

    at: int
    operator: str
    left: Node
    right: Node


@dataclass(frozen=True)
class Conditional:
    """`condition ? yes : no`."""

    at: int
    condition: Node
    yes: Node
    no: Node


@dataclass(frozen=True)
class Macro:
    """`range.all(variable, body)` and the like; FILTER is the middle one of `map`'s three."""

    at: int
    macro: str
    range: Node
    variable: str
    body: Node
    filter: Node | None = None


Node = Constant | Name | Select | Index | Call | ListOf | MapOf | Logical | Unary | Binary | Conditional | Macro


class Token(NamedTuple):
    """A word of an expression, from START to END in its text."""

    kind: str
    text: str
    start: int
    end: int


_STRING = r"""(?:[bB]?[rR]?)(?:'''|\"""|'|")"""
_LEXEMES: Final = re.compile(
    rf"""
      (?P<space>[ \t\n\f\r]+|//[^\n]*)
    | (?P<string>{_STRING})
    | (?P<double>(?:[0-9]*\.[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+))
    | (?P<uint>(?:0x[0-9a-fA-F]+|[0-9]+)[uU])
    | (?P<int>0x[0-9a-fA-F]+|[0-9]+)
    | (?P<word>[_a-zA-Z][_a-zA-Z0-9]*)
    | (?P<quoted>`[a-zA-Z0-9_.\-/\ ]+`)
    | (?P<sign>&&|\|\||[<>=!]=|[-+*/%<>!?:.,()\[\]{{}}])
    """,
    re.VERBOSE,
)
_BODIES: Final = {
    "'": re.compile(r"(?:[^'\\\n\r]|\\.)*'"),
    '"': re.compile(r'(?:[^"\\\n\r]|\\.)*"'),
    "'''": re.compile(r"(?:[^\\]|\\.)*?'''", re.DOTALL),
    '"""': re.compile(r'(?:[^\\]|\\.)*?"""', re.DOTALL),
}
_RAW_BODIES: Final = {
    "'": re.compile(r"[^'\n\r]*'"),
    '"': re.compile(r'[^"\n\r]*"'),
    "'''": re.compile(r".*?'''", re.DOTALL),
    '"""': re.compile(r'.*?"""', re.DOTALL),
}


def tokens(text: str, start: int = 0) -> Iterator[Token]:
    """Yield the tokens of TEXT from START on, and one of kind `end`. Raises `SyntaxProblem`."""
    while start < len(text):
        match = _LEXEMES.match(text, start)
        if match is None:
            raise SyntaxProblem(f"{text[start]!r} has no meaning here", start)
        kind, end = str(match.lastgroup), match.end()
        if kind == "string":
            prefix = match[0].rstrip("'\"")
            quotes = match[0][len(prefix) :]
            body = (_RAW_BODIES if prefix[-1:] in ("r", "R") else _BODIES)[quotes].match(text, end)
            if body is None:
                raise SyntaxProblem(f"the string has no end ({quotes})", start)
            end = body.end()
        if kind in ("int", "uint", "double") and re.match(r"[_a-zA-Z0-9]", text[end : end + 1]):
            raise SyntaxProblem(f"{text[start : end + 1]!r} is no number", start)
        if kind != "space":
            yield Token(kind, text[start:end], start, end)
        start = end
    yield Token("end", "", len(text), len(text))


def describe_place(text: str, at: int) -> str:
    """Return in words where in TEXT position AT is."""
    line = text.count("\n", 0, at) + 1
    column = at - text.rfind("\n", 0, at)
    return f"line {line}, column {column}" if "\n" in text else f"column {column}"


def parse(text: str) -> Node:
    """Return the tree of the expression TEXT. Raises `SyntaxProblem`."""
    if len(text) > _MAX_LENGTH:
        raise SyntaxProblem(f"it has more than {_MAX_LENGTH} characters", 0)
    return _Parser(text).parse()


_KEYWORDS: Final = {"in", "true", "false", "null"}
_RESERVED: Final = {
    *("as", "break", "const", "continue", "else", "for", "function", "if", "import", "let", "loop", "package"),
    *("namespace", "return", "var", "void", "while"),
}
_LEVELS: Final = {
    operator: level
    for level, operators in enumerate(
        (("||",), ("&&",), ("<", "<=", ">=", ">", "==", "!=", "in"), ("+", "-"), ("*", "/", "%"))
    )
    for operator in operators
}
_MACROS: Final = {"all": (2,), "exists": (2,), "exists_one": (2,), "existsOne": (2,), "filter": (2,), "map": (2, 3)}


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = tokens(text)
        self._token = next(self._tokens)
        self._depth = 0

    def parse(self) -> Node:
        if self._token.kind == "end":
            raise SyntaxProblem("it is empty", 0)
        node = self._expression()
        if self._token.kind != "end":
            raise self._unexpected()
        _check_depth(node)
        return node

    def _expression(self) -> Node:
        self._depth += 1
        if self._depth > _MAX_NESTING:
            raise SyntaxProblem("it is nested too deeply", self._token.start)
        node = self._operators(0)
        if at := self._take("?"):
            yes = self._operators(0)
            self._expect(":")
            node = Conditional(at.start, node, yes, self._expression())
        self._depth -= 1
        return node

    def _operators(self, lowest: int) -> Node:
        node = self._unary()
        while (token := self._token).kind in ("sign", "word") and (level := _LEVELS.get(token.text, -1)) >= lowest:
            self._advance()
            right = self._operators(level + 1)
            if token.text not in ("||", "&&"):
                node = Binary(token.start, token.text, node, right)
            elif isinstance(node, Logical) and node.operator == token.text:
                node = Logical(node.at, node.operator, (*node.terms, right))
            else:
                node = Logical(token.start, token.text, (node, right))
        return node

    def _unary(self) -> Node:
        signs: list[Token] = []
        while (sign := self._take("!", "-")) and (not signs or signs[0].text == sign.text):
            signs.append(sign)
        if sign:
            raise SyntaxProblem(f"{sign.text!r} is unexpected after {signs[-1].text!r}", sign.start)
        if signs and signs[0].text == "-" and self._token.kind in ("int", "double"):
            # A sign before a number is a part of it: the smallest integer has no positive counterpart.
            number = self._number(self._advance(), negative=True)
            return self._negated(self._member(number), signs[:-1])
        return self._negated(self._member(self._primary()), signs)

    def _negated(self, node: Node, signs: list[Token]) -> Node:
        # Pairs cancel out, but what they stand before still has to be of the right type.
        kept = signs if len(signs) <= 2 else signs[: 2 - len(signs) % 2]
        for sign in reversed(kept):
            node = Unary(sign.start, sign.text, node)
        return node

    def _member(self, node: Node) -> Node:
        while at := self._take(".", "["):
            if at.text == "[":
                node = Index(at.start, node, self._expression())
                self._expect("]")
                continue
            field = self._advance()
            if field.kind == "quoted":
                node = Select(field.start, node, field.text[1:-1])
            elif field.kind != "word" or field.text in _KEYWORDS:
                raise self._unexpected(field)
            elif self._take("("):
                node = self._method(field, node)
            else:
                node = Select(field.start, node, field.text)
        if self._token.text == "{" and isinstance(node, Name | Select):
            raise SyntaxProblem("messages cannot be made here; write a map", self._token.start)
        return node

    def _method(self, name: Token, target: Node) -> Node:
        args = self._items(")")
        if name.text not in _MACROS:
            return Call(name.start, name.text, args, target)
        if len(args) not in _MACROS[name.text]:
            wanted = " or ".join(map(str, _MACROS[name.text]))
            raise SyntaxProblem(f"{name.text} takes {wanted} arguments, as in `list.{name.text}(x, x > 0)`", name.start)
        variable = args[0]
        if not isinstance(variable, Name) or variable.absolute:
            raise SyntaxProblem(f"the first argument of {name.text} is the name that it binds", args[0].at)
        condition = args[1] if len(args) == 3 else None
        return Macro(name.start, name.text, target, variable.name, args[-1], condition)

    def _primary(self) -> Node:
        token = self._advance()
        match token.kind, token.text:
            case "sign", "(":
                node = self._expression()
                self._expect(")")
                return node
            case "sign", "[":
                return ListOf(token.start, self._items("]"))
            case "sign", "{":
                return self._map(token)
            case "sign", ".":
                word = self._advance()
                if word.kind == "word":
                    return self._word(word, absolute=True)
                raise self._unexpected(word)
            case "word", "true" | "false":
                return Constant(token.start, token.text == "true")
            case "word", "null":
                return Constant(token.start, None)
            case "word", _:
                return self._word(token)
            case "int" | "uint" | "double", _:
                return self._number(token)
            case "string", _:
                return Constant(token.start, _unquote(token))
        raise self._unexpected(token)

    def _word(self, token: Token, *, absolute: bool = False) -> Node:
        if token.text in _KEYWORDS:
            raise self._unexpected(token)
        if token.text in _RESERVED:
            raise SyntaxProblem(f"{token.text!r} is reserved and names nothing", token.start)
        if self._take("("):
            args = self._items(")")
            return self._has(token, args) if token.text == "has" else Call(token.start, token.text, args)
        return Name(token.start, token.text, absolute)

    def _has(self, token: Token, args: tuple[Node, ...]) -> Node:
        match args:
            case (Select(at=at, operand=operand, field=field, test=False),):
                return Select(at, operand, field, test=True)
        raise SyntaxProblem("has() asks for a field, as in `has(input.note)`", token.start)

    def _map(self, begin: Token) -> Node:
        entries: list[tuple[Node, Node]] = []
        while not self._take("}"):
            if entries or self._token.text == ",":
                self._expect(",")
                if self._take("}"):
                    break
            key = self._expression()
            self._expect(":")
            entries.append((key, self._expression()))
        return MapOf(begin.start, tuple(entries))

    def _items(self, end: str) -> tuple[Node, ...]:
        items: list[Node] = []
        while not self._take(end):
            if items or (self._token.text == "," and end == "]"):
                self._expect(",")
                if end == "]" and self._take(end):
                    break
            items.append(self._expression())
        return tuple(items)

    def _number(self, token: Token, *, negative: bool = False) -> Constant:
        text = f"-{token.text}" if negative else token.text
        if token.kind == "double":
            return Constant(token.start, float(text))
        value = int(text.rstrip("uU"), 16 if "x" in text else 10) if len(text) < 100 else 1 << 99
        if token.kind == "uint":
            if value > 2 * MAX_INT + 1:
                raise SyntaxProblem(f"{text} has more than 64 bits", token.start)
            return Constant(token.start, UInt(value))
        if not -MAX_INT - 1 <= value <= MAX_INT:
            raise SyntaxProblem(f"{text} has more than 64 bits", token.start)
        return Constant(token.start, value)

    def _take(self, *texts: str) -> Token | None:
        token = self._token
        if token.text in texts and token.kind in ("sign", "word"):
            return self._advance()
        return None

    def _expect(self, text: str) -> None:
        if not self._take(text):
            raise self._unexpected(wanted=text)

    def _advance(self) -> Token:
        token = self._token
        if token.kind != "end":
            self._token = next(self._tokens)
        return token

    def _unexpected(self, token: Token | None = None, *, wanted: str = "") -> SyntaxProblem:
        found = token or self._token
        instead = f", {wanted!r} was expected" if wanted else ""
        if found.kind == "end":
            return SyntaxProblem(f"it ends too early{instead}", found.start)
        return SyntaxProblem(f"{found.text!r} is unexpected{instead}", found.start)


def children(node: Node) -> tuple[Node, ...]:
    """Return the parts of NODE."""
    match node:
        case Select(operand=operand) | Unary(operand=operand):
            return (operand,)
        case Index():
            return (node.operand, node.index)
        case Call():
            return node.args if node.target is None else (node.target, *node.args)
        case ListOf():
            return node.items
        case MapOf():
            return tuple(each for entry in node.entries for each in entry)
        case Logical():
            return node.terms
        case Binary():
            return (node.left, node.right)
        case Conditional():
            return (node.condition, node.yes, node.no)
        case Macro():
            return (node.range, node.body) if node.filter is None else (node.range, node.filter, node.body)
    return ()


def count_nodes(node: Node) -> int:
    """Return how many nodes NODE has, itself included."""
    count = 0
    waiting = [node]
    while waiting:
        count += 1
        waiting += children(waiting.pop())
    return count


def _check_depth(node: Node) -> None:
    waiting = [(node, 1)]
    while waiting:
        each, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            raise SyntaxProblem("it is nested too deeply, or too many operators stand in a row", each.at)
        waiting += [(one, depth + 1) for one in children(each)]


_ESCAPE = re.compile(
    r"""\\(?:([abfnrtv\\?"'`])|[xX]([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-3][0-7]{2})|(.?))""", re.DOTALL
)
_SIMPLE: Final = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def _unquote(token: Token) -> str | bytes:
    text = token.text
    prefix = text[: re.search("['\"]", text).start()]  # type: ignore[union-attr]  # the lexer found it
    length = 3 if text[len(prefix) :].startswith(("'''", '"""')) and len(text) - len(prefix) >= 6 else 1
    body = text[len(prefix) + length : -length]
    binary = "b" in prefix.lower()
    if "r" in prefix.lower():
        return body.encode() if binary else body
    if not binary:
        return _ESCAPE.sub(lambda match: _character(match, token), body)
    # Octets that no text has go round UTF-8.
    parts: list[bytes] = []
    start = 0
    for match in _ESCAPE.finditer(body):
        parts += [body[start : match.start()].encode(), _octet(match, token)]
        start = match.end()
    return b"".join([*parts, body[start:].encode()])


def _character(match: re.Match[str], token: Token) -> str:
    simple, short, middle, long, octal, other = match.groups()
    if simple:
        return _SIMPLE.get(simple, simple)
    if other is not None:
        raise SyntaxProblem(f"there is no escape {match[0]!r}", token.start)
    code = int(octal, 8) if octal else int(short or middle or long, 16)
    if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
        raise SyntaxProblem(f"{match[0]!r} is no character", token.start)
    return chr(code)


def _octet(match: re.Match[str], token: Token) -> bytes:
    simple, short, middle, long, octal, other = match.groups()
    if other is not None or middle or long:
        raise SyntaxProblem(f"bytes have no escape {match[0]!r}", token.start)
    if simple:
        return _SIMPLE.get(simple, simple).encode()
    return bytes([int(octal, 8) if octal else int(short, 16)])

"""What a SQL statement says: where its parameters are, and what cannot be one step of a transaction."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

__all__ = ["escape_colons", "find_fault", "find_json_parameters", "find_parameters"]

# Strings (also with PostgreSQL's escapes and dollar quotes), names in quotes, comments, `::type`, and parameters.
_TOKEN: Final = re.compile(
    r"""(?P<text>(?<!\w)[eE]'(?:[^'\\]|\\.|'')*'
    |'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`
    |(?<![\w$])\$(?P<tag>(?:[A-Za-z_]\w*)?)\$.*?\$(?P=tag)\$)
    |(?P<comment>--[^\n]*|/\*)
    |(?P<cast>::)
    |(?<![:\w]):(?P<parameter>[A-Za-z_]\w*)
    |(?P<end>;)""",
    re.DOTALL | re.VERBOSE,
)
_JSON_CAST: Final = re.compile(r"\s*::\s*jsonb?\b", re.IGNORECASE)
_TRANSACTIONS: Final = ("begin", "start", "commit", "end", "rollback", "abort", "savepoint", "release")


class _Token(NamedTuple):
    kind: str
    text: str
    start: int
    end: int


def escape_colons(statement: str) -> str:
    """Return STATEMENT so that SQLAlchemy finds its parameters and leaves every other colon alone."""
    written: list[str] = []
    at = 0
    for token in _scan(statement):
        written.append(statement[at : token.start].replace(":", "\\:"))
        written.append(f":{token.text}" if token.kind == "parameter" else token.text.replace(":", "\\:"))
        at = token.end
    return "".join(written) + statement[at:].replace(":", "\\:")


def find_parameters(statement: str) -> set[str]:
    """Return the names of the parameters of STATEMENT."""
    return {token.text for token in _scan(statement) if token.kind == "parameter"}


def find_json_parameters(statement: str) -> set[str]:
    """Return those that STATEMENT casts to JSON, `:name::jsonb`."""
    return {
        token.text for token in _scan(statement) if token.kind == "parameter" and _JSON_CAST.match(statement, token.end)
    }


def find_fault(statement: str) -> str:
    """Return why STATEMENT cannot be one step of a transaction; empty if it can."""
    bare: list[str] = [""]
    at = 0
    for token in _scan(statement):
        bare[-1] += statement[at : token.start] + (" " if token.kind == "comment" else token.text)
        at = token.end
        if token.kind == "end":
            bare.append("")
    bare[-1] += statement[at:]
    parts = [part for each in bare if (part := each.strip(" \t\r\n;"))]
    if not parts:
        return "is empty"
    if len(parts) > 1:
        return "holds several statements: make each an entry of its own"
    first = re.match(r"\w*", parts[0])
    word = first[0].lower() if first else ""
    return f"begins with {word.upper()}: the connector begins and ends the transaction" if word in _TRANSACTIONS else ""


def _scan(statement: str) -> Iterator[_Token]:
    at = 0
    while (found := _TOKEN.search(statement, at)) is not None:
        kind = found.lastgroup if found.lastgroup != "tag" else "text"
        assert kind is not None
        end = found.end()
        if found[0] == "/*":
            end = _find_comment_end(statement, found.start())
        text = found["parameter"] if kind == "parameter" else statement[found.start() : end]
        yield _Token(kind, text, found.start(), end)
        at = end


def _find_comment_end(statement: str, start: int) -> int:
    """Return where the comment that begins at START ends: PostgreSQL has comments in comments, SQLite has none."""
    depth = 0
    for mark in re.finditer(r"/\*|\*/", statement[start:]):
        depth += 1 if mark[0] == "/*" else -1
        if depth == 0:
            return start + mark.end()
    first = statement.find("*/", start)
    return first + 2 if first >= 0 else len(statement)

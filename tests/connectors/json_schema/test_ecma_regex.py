"""Tests of patterns as ECMAScript has them."""

from __future__ import annotations

import re

import pytest

from perdure.connectors.json_schema._ecma_regex import UnreadableError, is_found, require_readable


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"^[\p{L} ]+$", "Grüße aus Köln"),
        (r"^\p{Script=Greek}+$", "αβγ"),
        (r"^[^\P{Lu}]+$", "ABC"),
        (r"^[\w.-]+@[\w-]+\.\w+$", "a.b-c@x-y.de"),
        (r"^[\s\S]*$", "two\nlines"),
        (r"^(?<year>\d{4})-\k<year>$", "2020-2020"),
        (r"^\{\{.*\}\}$", "{{name}}"),
        (r"^{[a-z]+}$", "{abc}"),
        (r"^a{,2}$", "a{,2}"),
        (r"^\u{1F600}\uD83D\uDE00$", "😀😀"),
        (r"^\/api\/[^/]+$", "/api/orders"),
        (r"^[^]$", "\n"),
        (r"^[\w-.]+$", "a-b.c"),
        (r"^[a&&b-]+$", "a&b-"),
        (r"\bfoo\b", "a foo b"),
        (r"^(\d)\1$", "11"),
        (r"^\cJ\0\x41$", "\n\0A"),
    ],
)
def test_found(pattern: str, text: str) -> None:
    """What ECMAScript finds is found, also where Python would not take the pattern or read it otherwise (case 13)."""
    assert is_found(pattern, text)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"^a$", "a\n"),
        (r"^\d$", "१"),
        (r"^\w$", "é"),
        (r"^\S+$", "a\u00a0b"),
        (r"^.$", "\u2028"),
        (r"[]", "a"),
        (r"^[^\W_]+$", "a_1"),
    ],
)
def test_not_found(pattern: str, text: str) -> None:
    """What Python finds and ECMAScript does not is not found: `$` is the end, digits and words are ASCII (case 13)."""
    assert not is_found(pattern, text)


@pytest.mark.parametrize(
    "pattern",
    [
        *(r"\A", r"a\Z", r"(?P<a>b)", r"(?i)a", r"a++", r"*a", r"(?>a)", r"[z-a]", r"(", r"[a", r"\p{Foo}", r"\pL"),
        *(r"[[:alpha:]]", r"a**", r"\u12", r"(?#c)", "\\", r"(?<1>a)", r"\u{110000}", ")"),
    ],
)
def test_unreadable(pattern: str) -> None:
    """A pattern of another dialect is told apart instead of being read as something else."""
    with pytest.raises(UnreadableError, match=re.escape(repr(pattern))):
        require_readable(pattern)


def test_pattern_without_end() -> None:
    """A search that would not end is ended: a foreign pattern must not stop a worker."""
    with pytest.raises(TimeoutError):
        is_found(r"^(a|aa)+$", "a" * 80 + "b")

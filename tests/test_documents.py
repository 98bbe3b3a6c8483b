"""Tests of documents.py: what is written down is what is read, or it is refused with its place."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from perdure.documents import read_foreign, read_json, read_yaml
from perdure.errors import Malformed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "a": 2}', "line 1, column 10: `a` stands twice (first in line 1)"),
        ('[{"x": {"a": 1,\n  "\\u0061": 2}}]', "line 2, column 3: `a` stands twice (first in line 1)"),
        ("[1,\n NaN]", "line 2, column 2: NaN is not a JSON value"),
        ("[-Infinity]", "line 1, column 2: -Infinity is not a JSON value"),
        ('{"n": 1e999}', "line 1, column 7: 1e999 is larger than a number can be"),
        ("12345678901234567890.5", "line 1, column 1: 12345678901234567890.5 has more digits than a number keeps"),
        ("1e-999", "line 1, column 1: 1e-999 has more digits than a number keeps, it would be 0.0"),
        ('["\\ud83d\\ude00", "\\ud83d"]', "line 1, column 18: half a surrogate pair"),
        ('{"\\udc00": 1}', "line 1, column 2: half a surrogate pair"),
        ("1" * 5000, "Exceeds the limit (4300 digits)"),
        ("[" * 101 + "]" * 101, "it is nested more than 100 levels deep"),
        ("[" * 100_000, "it is nested too deeply"),
        ('{"a": 1} {}', "Extra data at line 1, column 10"),
    ],
)
def test_json_with_two_readings_is_refused(text: str, said: str) -> None:
    """What JSON's readers don't agree on is refused at its line and column (cases 04, 16)."""
    with pytest.raises(Malformed) as refused:
        read_json(text)

    assert refused.value.message.startswith(said)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("\ufeff[1]", [1]),
        ("123456789012345678901234567890", 123456789012345678901234567890),
        ("[0.1, 1.10, 1e3, 5e-324, 1.7976931348623157e308]", [0.1, 1.1, 1000.0, 5e-324, 1.7976931348623157e308]),
        ('"\\ud83d\\ude00"', "\U0001f600"),
    ],
)
def test_json_that_is_clear_is_read(text: str, value: JsonValue) -> None:
    """A byte order mark says nothing; integers keep all their digits (case 17)."""
    assert value == read_json(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_json_comes_back(value: JsonValue) -> None:
    """Whatever Python writes as JSON is read as the same value."""
    assert value == read_json(json.dumps(value))
    assert value == read_json(json.dumps(value, ensure_ascii=False))


@pytest.mark.parametrize(
    ("written", "value"),
    [
        *((word, word) for word in ("NO", "no", "yes", "on", "off", "y", "n", "nULL", "tRUE")),
        *((word, True) for word in ("true", "True", "TRUE")),
        *((word, False) for word in ("false", "False", "FALSE")),
        *((word, None) for word in ("", "~", "null", "Null", "NULL")),
        *((word, word) for word in ("1:30", "12:30:45", "190:20:30.15", "2026-11-23", "2026-11-23T10:00:00Z")),
        *((word, word) for word in ("1_000", "0b11", "+0x1", "=", "0o8", "1e", ".", "--1")),
        *(("010", 10), ("0o10", 8), ("0x1F", 31), ("-0", 0), ("+12", 12), ("18446744073709551617", 2**64 + 1)),
        *(("1e3", 1000.0), ("1.", 1.0), (".5", 0.5), ("-1.5E-2", -0.015), ("!!float 3", 3.0), ("!!int '3'", 3)),
        *(("'3'", "3"), ("! 3", "3"), ("!!str 3", "3"), ('"no"', "no"), ('"\\U0001F600"', "\U0001f600")),
        ("[a, {b: c}]", ["a", {"b": "c"}]),
    ],
)
def test_yaml_is_read_by_the_core_schema_of_1_2(written: str, value: JsonValue) -> None:
    """`NO` is Norway, `12:30` is a time in words and `2026-11-23` a date in words (case 19)."""
    found = read_yaml(f"a: {written}")

    assert {"a": value} == found
    assert isinstance(found, dict)
    assert type(value) is type(found["a"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3", "line 3, column 1: `a` stands twice (first in line 1)"),
        ("x:\n- {a: 1, 'a': 2}", "line 2, column 10: `a` stands twice (first in line 2)"),
        ("k: &k a\n*k : 1\na: 2", "line 3, column 1: `a` stands twice (first in line 2)"),
        ("a: .inf", "line 1, column 4: .inf is not a JSON value"),
        ("a: .NaN", "line 1, column 4: .NaN is not a JSON value"),
        ("a: 0.1000000000000000000001", "line 1, column 4: 0.1000000000000000000001 has more digits"),
        ("a: 1e400", "line 1, column 4: 1e400 is larger than a number can be"),
        ("x: &x {a: 1}\ny:\n  <<: *x", "line 3, column 3: `<<` merges in YAML 1.1 only"),
        ("1: a", "line 1, column 1: the key `1` is not a text"),
        ("true: a", "line 1, column 1: the key `true` is not a text"),
        ("? [a]\n: b", "line 1, column 3: the key is not a text"),
        ("a: &x [*x]", "line 1, column 8: `*x` stands inside of what it stands for"),
        ("a: *x", "line 1, column 4: there is no `&x` before `*x`"),
        ("a: !!set {x}", "line 1, column 4: JSON has no value for the tag !!set"),
        ("a: !!timestamp 2026-11-23", "line 1, column 4: JSON has no value for the tag !!timestamp"),
        ("a: !mine b", "line 1, column 4: JSON has no value for the tag !mine"),
        ("a: !!int true", "line 1, column 4: `true` is not what its tag !!int says"),
        ("a: 1\n---\nb: 2", "line 2, column 1: a second document begins"),
        ("%YAML 1.1\n---\na: 1", "line 1, column 1: it says that it is YAML 1.1"),
        ("a: 'x\u2028y'", "line 1, column 6: write U+2028 as an escape"),
        ("a: 1\nb: \x07", "U+0007 is not allowed at line 2, column 4"),
        ('a: "\\ud83d"', "found invalid Unicode character escape code at line 1, column 7"),
        ("a: 1\n\tb: 2", "found a tab character that violates indentation at line 2, column 1"),
        ("[" * 100_000, "line 1, column 202: it is nested too deeply"),
        ("a: " + "1" * 5000, "line 1, column 4: the number has too many digits"),
    ],
)
def test_yaml_with_two_readings_is_refused(text: str, said: str) -> None:
    """What readers of YAML 1.1 and 1.2 take for different things, or JSON has no value for, is refused with its place."""
    with pytest.raises(Malformed) as refused:
        read_yaml(text)

    assert refused.value.message.startswith(said)


def test_aliases_stand_for_what_they_name_and_not_for_too_much() -> None:
    """An alias repeats a value; a few lines that stand for a hundred million values are refused at once."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 10)}]" for n in range(7)]

    assert {"a": [1], "b": {"c": [1]}} == read_yaml("a: &a [1]\nb: {c: *a}")
    with pytest.raises(Malformed, match="it stands for more than 200000 values"):
        read_yaml("\n".join(lines))


def test_documents_of_others_are_read_as_they_are() -> None:
    """In what others wrote keys become text, `<<` merges and numbers are rounded; a key twice is refused there as well."""
    found = read_foreign(b"x: &x {200: a, b: 1}\ny:\n  <<: [*x, {b: 2, c: 0.10000000000000000001}]\n  200: z\nno: off")

    assert {"x": {"200": "a", "b": 1}, "y": {"200": "z", "b": 1, "c": 0.1}, "no": "off"} == found
    assert {"a": "\ud83d", "b": math.inf} == read_foreign(b'{"a": "\\ud83d", "b": 1e999}')
    with pytest.raises(Malformed, match="line 2, column 1: `a` stands twice"):
        read_foreign(b"a: 1\na: 2")


def test_text_in_utf_16_is_read() -> None:
    """A document of others may be in any of JSON's encodings, with a byte order mark or without."""
    assert {"a": "\u00e9"} == read_foreign('{"a": "\u00e9"}'.encode("utf-16"))
    assert {"a": "\u00e9"} == read_foreign('\ufeff{"a": "\u00e9"}'.encode())
    with pytest.raises(Malformed, match="no text in utf-8"):
        read_foreign(b"a: \xff")

"""Tests of workflows/expressions/: CEL as its specification says it (case 18), section by section, and what plans add."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Mapping

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import JsonValue

from perdure.workflows.expressions import InvalidExpression, parse_expression, parse_template

NAMES: Mapping[str, JsonValue] = {
    "text": "M\u00fcller",
    "emoji": "\U0001f44d",
    "number": 7,
    "decimal": 1.5,
    "yes": True,
    "none": None,
    "list": [1, 2, 3],
    "mixed": [1, True, None, "a", 1.5],
    "map": {"a": 1, "b": {"c": None}, "if": 2, "a-b": 3},
    "large": 123456789012345678901,
    "list_of_maps": [{"n": 1}, {"n": 2}],
}


def value_of(expression: str) -> JsonValue:
    """Return what EXPRESSION gives over NAMES."""
    return parse_expression(expression).evaluate(NAMES)


def check(expression: str, value: JsonValue) -> None:
    """Check that EXPRESSION gives VALUE, of the same type."""
    found = value_of(expression)

    assert value == found
    assert type(value) is type(found)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("9223372036854775807", 9223372036854775807),
        ("-9223372036854775808", -9223372036854775808),
        ("0x1F", 31),
        ("-0xff", -255),
        ("42u", 42),
        ("0xFFFFFFFFFFFFFFFFu", 18446744073709551615),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("-2.5E-1", -0.25),
        ("true", True),
        ("null", None),
        ("[1, 'a', [2.0,],]", [1, "a", [2.0]]),
        ("{'a': 1, 'b': {'c': []},}", {"a": 1, "b": {"c": []}}),
        ("[]", []),
        ("{}", {}),
        ("1 // one\n + 2 // and two", 3),
        ("'it\\'s'", "it's"),
        ('"say \\"x\\""', 'say "x"'),
        ("'\\a\\b\\f\\n\\r\\t\\v\\\\\\?\\`'", "\a\b\f\n\r\t\v\\?`"),
        ("'\\u00fc\\U0001F44D\\x41\\101'", "\u00fc\U0001f44dAA"),
        ("'\\xff'", "\u00ff"),
        ("r'\\n'", "\\n"),
        ('R"\\"', "\\"),
        ("'''a\n'b''c'''", "a\n'b''c"),
        ('"""a"b"""', 'a"b'),
        ("string(b'\\xc3\\xbc')", "\u00fc"),
        ("b'\u00fc' == b'\\303\\274'", True),
        ("size(br'\\n')", 2),
    ],
)
def test_literals(expression: str, value: JsonValue) -> None:
    """Literals of every type, with all their escapes."""
    check(expression, value)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("", "(column 1): it is empty"),
        ("1 +", "(column 4): it ends too early"),
        ("1 2", "(column 3): '2' is unexpected"),
        ("(1", "(column 3): it ends too early, ')' was expected"),
        ("[1 2]", "(column 4): '2' is unexpected, ',' was expected"),
        ("{'a' 1}", "(column 6): '1' is unexpected, ':' was expected"),
        ("a ? 1", "it ends too early, ':' was expected"),
        ("1\n+ #", "(line 2, column 3): '#' has no meaning here"),
        ("$x", "'$' has no meaning here"),
        ("'abc", "the string has no end"),
        ("'a\nb'", "the string has no end"),
        ("'\\q'", "there is no escape '\\\\q'"),
        ("'\\ud83d'", "is no character"),
        ("'\\U00110000'", "is no character"),
        ("'\\x4'", "there is no escape"),
        ("b'\\u0041'", "bytes have no escape"),
        ("9223372036854775808", "has more than 64 bits"),
        ("-9223372036854775809", "has more than 64 bits"),
        ("18446744073709551616u", "has more than 64 bits"),
        ("1x", "'1x' is no number"),
        ("if", "'if' is reserved"),
        ("in", "'in' is unexpected"),
        ("map.true", "'true' is unexpected"),
        ("has(map)", "has() asks for a field"),
        ("has(map['a'])", "has() asks for a field"),
        ("list.all(1, true)", "the first argument of all is the name that it binds"),
        ("list.map(x.y, true)", "the first argument of map is the name that it binds"),
        ("list.exists(x)", "exists takes 2 arguments"),
        ("now()", "there is no function 'now'"),
        ("text.lower()", "there is no method 'lower'"),
        ("size()", "size() takes 1 arguments, not 0"),
        ("text.contains('a', 'b')", "contains() takes 1 arguments, not 2"),
        ("google.protobuf.Int32Value{value: 1}", "messages cannot be made here"),
        ("!-1", "'-' is unexpected after '!'"),
        ("(" * 65 + "1" + ")" * 65, "it is nested too deeply"),
        ("+".join(["1"] * 250), "too many operators stand in a row"),
        ("'" + "x" * 20_000 + "'", "it has more than 20000 characters"),
    ],
)
def test_what_is_no_expression_is_refused_when_it_is_read(expression: str, said: str) -> None:
    """Syntax, unknown functions and wrong macros are told with the place, before anything is evaluated."""
    with pytest.raises(InvalidExpression) as refused:
        parse_expression(expression)

    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2 * 3 - 4 / 2 % 3", 5),
        ("-7 / 2", -3),
        ("-7 % 2", -1),
        ("7 % -2", 1),
        ("7u / 2u + 1u", 4),
        ("5.0 / 2.0", 2.5),
        ("1.0 / 0.0 > 1.0", True),
        ("string(-1.0 / 0.0)", "-inf"),
        ("0.0 / 0.0 == 0.0 / 0.0", False),
        ("--1", 1),
        ("- 9223372036854775808", -9223372036854775808),
        ("'a' + 'b' + text", "abM\u00fcller"),
        ("[1] + list", [1, 1, 2, 3]),
        ("string(b'a' + b'b')", "ab"),
        ("1 + 2 == 3 && 2 < 3 || false", True),
        ("true ? 1 : 'a'", 1),
        ("false ? 1 : true ? 2 : 3", 2),
        ("!true || !!true", True),
    ],
)
def test_operators(expression: str, value: JsonValue) -> None:
    """Arithmetic of one type, precedence, and the branches of a condition in different types."""
    check(expression, value)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("9223372036854775807 + 1", "more than 64 bits"),
        ("-9223372036854775808 - 1", "more than 64 bits"),
        ("9223372036854775807 * 2", "more than 64 bits"),
        ("-9223372036854775808 / -1", "more than 64 bits"),
        ("-9223372036854775808 % -1", "more than 64 bits"),
        ("-(-9223372036854775808)", "more than 64 bits"),
        ("18446744073709551615u + 1u", "no unsigned integer of 64 bits"),
        ("0u - 1u", "no unsigned integer of 64 bits"),
        ("1 / 0", "divided by zero"),
        ("1u % 0u", "divided by zero"),
        ("1 + 1.0", "+ does not take int and double; convert one of them"),
        ("1 + 1u", "+ does not take int and uint; convert one of them"),
        ("1.5 % 1.0", "% does not take double and double"),
        ("'a' + 1", "+ does not take string and int"),
        ("'a' * 2", "* does not take string and int"),
        ("true + true", "+ does not take bool and bool"),
        ("-true", "- does not take bool"),
        ("-1u", "- does not take uint"),
        ("!1", "! does not take int"),
        ("1 ? 2 : 3", "? : does not take int"),
        ("none + 1", "+ does not take null_type and int"),
    ],
)
def test_what_operators_do_not_take(expression: str, said: str) -> None:
    """Integers never wrap around or become doubles, and nothing is converted by itself."""
    with pytest.raises(InvalidExpression) as refused:
        value_of(expression)

    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        *(
            ("1 == 1.0", True),
            ("1 == 1u", True),
            ("1u != 1.5", True),
            ("1 < 1.5", True),
            ("2u >= 1", True),
            ("-1 < 0u", True),
        ),
        *(("1 == '1'", False), ("1 == true", False), ("null == false", False), ("null == null", True), ("none != 1", True)),
        *(("[1, 2.0] == [1.0, 2]", True), ("[1] == [true]", False), ("[1] == [1, 1]", False), ("[] == {}", False)),
        *(("{'a': 1} == {'a': 1.0}", True), ("{'a': 1} == {'b': 1}", False), ("{1: 'x'} == {1u: 'x'}", True)),
        *(("'a' < 'b'", True), ("'Z' < 'a'", True), ("'\u00e9' > 'z'", True), ("'\uffff' < '\U00010000'", True)),
        *(("b'a' < b'aa'", True), ("false < true", True), ("'a' == b'a'", False)),
        *(("'\u00e9' == 'e\\u0301'", False), ("0.0 == -0.0", True), ("9223372036854775807 > 9223372036854775806", True)),
        *(("large == large", True), ("large > 9223372036854775807", True), ("large in [1, large]", True)),
        *(("duration('60s') == duration('1m')", True), ("duration('1ns') < duration('1us')", True)),
        *(("timestamp('2026-11-23T10:00:00+02:00') == timestamp('2026-11-23T08:00:00Z')", True),),
    ],
)
def test_comparisons(expression: str, value: JsonValue) -> None:
    """Numbers compare by value whatever their types; other types differ; text goes by code points."""
    check(expression, value)


@pytest.mark.parametrize(
    "expression", ["1 < '1'", "true < 1", "null < null", "[] < []", "{} > {}", "'a' <= b'a'", "none < 1"]
)
def test_what_has_no_order(expression: str) -> None:
    """What has no order is an error and never false."""
    with pytest.raises(InvalidExpression, match="does not take"):
        value_of(expression)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        *(
            ("true || 1 / 0 > 0", True),
            ("1 / 0 > 0 || true", True),
            ("false && map.nope", False),
            ("map.nope && false", False),
        ),
        *(("1 || true", True), ("false && 'a'", False), ("map.nope == 1 || none.x || true", True)),
        *(("true ? 1 : map.nope", 1), ("list.exists(x, 1 / (x - 1) > 0 || x == 2)", True)),
        *(("list.all(x, 6 / (2 - x) == 6)", False), ("[1, 2, 0].exists(x, 4 / x == 2)", True)),
    ],
)
def test_what_decides_makes_up_for_errors(expression: str, value: JsonValue) -> None:
    """`||` and `&&` take an error on either side if the other side decides; so do `exists` and `all`."""
    check(expression, value)


@pytest.mark.parametrize(
    "expression",
    [
        *("false || 1 / 0 > 0", "1 / 0 > 0 && true", "1 && true", "true && 1", "false || 'a'", "map.nope || false"),
        *("list.exists(x, x / 0 == 1)", "list.all(x, x > 0 || x / 0 == 1) && 1", "list.exists_one(x, 1 / (x - 1) == 1)"),
        *("list.map(x, 1 / (x - 1))", "list.filter(x, x)", "list.exists(x, x)", "(1 / 0 > 0) ? true : true"),
    ],
)
def test_errors_that_nothing_makes_up_for(expression: str) -> None:
    """Where nothing else decides, the error does."""
    with pytest.raises(InvalidExpression, match="cannot be evaluated"):
        value_of(expression)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        *(("map.a", 1), ("map['a']", 1), ("map.b.c", None), ("map.if", 2), ("map.`a-b`", 3), ("{'a.b': 1}.`a.b`", 1)),
        *(("has(map.a)", True), ("has(map.b.c)", True), ("has(map.nope)", False), ("has({}.a)", False)),
        *(("'a' in map", True), ("'z' in map", False), ("1 in map", False), ("2 in list", True), ("2.0 in list", True)),
        *(("none in mixed", True), ("'1' in list", False), ("{'n': 1.0} in list_of_maps", True)),
        *(("list[0]", 1), ("list[2u]", 3), ("list[1.0]", 2), ("mixed[1]", True), ("[[1, 2], [3]][0][1]", 2)),
        *(("{1: 'a', true: 'b', 2u: 'c'}[1.0]", "a"), ("{1: 'a', true: 'b'}[true]", "b"), ("{2u: 'c'}[2]", "c")),
        *(("1 in {1u: 0}", True), ("true in {1: 0}", False), ("1.5 in {1: 0}", False)),
    ],
)
def test_fields_keys_and_items(expression: str, value: JsonValue) -> None:
    """Fields may have the names of reserved words; a number finds its key whatever its type; true is no number."""
    check(expression, value)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("map.nope", "there is no 'nope'; there is a, b, if, a-b"),
        ("map['nope']", "there is no such key; there is a, b, if, a-b"),
        ("map[1]", "there is no such key"),
        ("map[[1]]", "a key of a map does not take list"),
        ("none.a", "there is no 'a' in a value of type null_type"),
        ("has(none.a)", "has() looks for 'a' in a map, not in a value of type null_type"),
        ("text.a", "there is no 'a' in a value of type string"),
        ("list[3]", "the list has 3 items, and no number 3"),
        ("list[-1]", "the list has 3 items"),
        ("list[1.5]", "an index of a list does not take double"),
        ("list[true]", "an index of a list does not take bool"),
        ("text[0]", "[] does not take string"),
        ("{'a': 1, 'a': 2}", "the map has the key a twice"),
        ("{1: 1, 1u: 2}", "the map has the key 1 twice"),
        ("{1.5: 1}", "a key of a map does not take double"),
        ("{none: 1}", "a key of a map does not take null_type"),
        ("'a' in text", "in does not take string and string"),
        ("{1: 'a', '1': 'b'}", "two keys of the map it gives are the same text in JSON"),
        ("nobody", "there is no 'nobody'"),
    ],
)
def test_what_is_not_there_is_an_error(expression: str, said: str) -> None:
    """A missing field or key, an index out of range and a key that stands twice are errors that name no value."""
    with pytest.raises(InvalidExpression) as refused:
        value_of(expression)

    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        *(("list.map(x, x * 2)", [2, 4, 6]), ("list.map(x, x > 1, x * 2)", [4, 6]), ("list.filter(x, x > 1)", [2, 3])),
        *(("list.all(x, x > 0)", True), ("[].all(x, 1 / 0 > 0)", True), ("[].exists(x, true)", False)),
        *(("list.exists_one(x, x > 2)", True), ("list.exists_one(x, x > 1)", False)),
        *(("map.map(k, k)", ["a", "b", "if", "a-b"]), ("{'z': 1, 'a': 2}.filter(k, true)", ["z", "a"])),
        *(("map.exists(k, map[k] == 2)", True), ("list.map(x, list.filter(y, y < x))", [[], [1], [1, 2]])),
        *(("[[1], [2]].map(x, x.map(x, x + 1))", [[2], [3]]), ("list.map(list, list)", [1, 2, 3])),
        *((".list.map(list, .list[0] + list)", [2, 3, 4]), ("list.map(x, list.size())", [3, 3, 3])),
    ],
)
def test_macros(expression: str, value: JsonValue) -> None:
    """Macros go through lists, and through the keys of maps in the order in which they stand."""
    check(expression, value)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        *(("size(text)", 6), ("text.size()", 6), ("size(emoji)", 1), ("size('e\\u0301')", 2), ("size(b'\u00fc')", 2)),
        *(("size(list)", 3), ("size(map)", 4), ("size('')", 0)),
        *(("text.contains('\u00fcl')", True), ("text.startsWith('M')", True), ("text.endsWith('LER')", False)),
        *(("text.matches('^M.l+er$')", True), ("matches(text, 'll')", True), ("'ABC'.matches('(?i)b')", True)),
        *(("'a\\nb'.matches('a.b')", False), ("'\u0663'.matches('\\\\d')", False), ("emoji.matches('^.$')", True)),
        *(("int('42')", 42), ("int(-1.9)", -1), ("int(42u)", 42), ("int(timestamp('1970-01-01T00:01:00Z'))", 60)),
        *(("uint('42')", 42), ("uint(1.9)", 1), ("double('1.5e1')", 15.0), ("double(3)", 3.0)),
        *(("string(1)", "1"), ("string(1u)", "1"), ("string(true)", "true"), ("string(large)", "123456789012345678901")),
        *(
            ("string(1.0)", "1"),
            ("string(-4.5e-3)", "-0.0045"),
            ("string(1e6)", "1e+06"),
            ("string(0.1 + 0.2)", "0.30000000000000004"),
        ),
        *(("bool('true')", True), ("bool('0')", False), ("dyn([1])", [1])),
    ],
)
def test_functions(expression: str, value: JsonValue) -> None:
    """The standard functions: `size` counts characters, `matches` is RE2, conversions keep what they can."""
    check(expression, value)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        *(("1", "int"), ("1u", "uint"), ("1.0", "double"), ("''", "string"), ("b''", "bytes"), ("[]", "list")),
        ("{}", "map"),
        *(("null", "null_type"), ("true", "bool"), ("type(1)", "type"), ("int", "type")),
        *(("timestamp(0)", "google.protobuf.Timestamp"), ("duration('0s')", "google.protobuf.Duration")),
    ],
)
def test_types(value: str, name: str) -> None:
    """Every value has a type, whose name is a value as well; what is given under the name of a type hides it."""
    assert parse_expression(f"type({value}) == {name}").evaluate({}) is True
    assert parse_expression(f"type({value}) == type({name})").evaluate({}) is (name == "type")
    assert 5 == parse_expression("int").evaluate({"int": 5})


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("size(1)", "size() does not take int"),
        ("text.contains(1)", "contains() does not take string and int"),
        ("text.matches('(a')", "it is no regular expression of RE2"),
        ("text.matches('(a)\\\\1')", "it is no regular expression of RE2"),
        ("text.matches('a(?=b)')", "it is no regular expression of RE2"),
        ("int('1.5')", "int() takes a text of digits only"),
        ("int('')", "int() takes a text of digits only"),
        ("int('9223372036854775808')", "more than 64 bits"),
        ("int(1e19)", "the double has no integer of 64 bits"),
        ("int(0.0 / 0.0)", "the double has no integer of 64 bits"),
        ("int(true)", "int() does not take bool"),
        ("uint(-1)", "negative or has more than 64 bits"),
        ("double('x')", "double() takes a text that is a number"),
        ("bool('yes')", "bool() takes the texts true and false"),
        ("bool(1)", "bool() does not take int"),
        ("string([1])", "string() does not take list"),
        ("string(none)", "string() does not take null_type"),
        ("string(b'\\xff')", "the bytes are no UTF-8"),
        ("large + 1", "more than 64 bits, which CEL does not calculate with"),
        ("double(large)", "more than 64 bits, which CEL does not calculate with"),
        ("type(1)", "JSON has no value for a type"),
        ("0.0 / 0.0", "JSON has no value for nan"),
        ("[1.0 / 0.0]", "JSON has no value for inf"),
    ],
)
def test_what_functions_do_not_take(expression: str, said: str) -> None:
    """A function that has no answer says why; digits that would be lost are an error."""
    with pytest.raises(InvalidExpression) as refused:
        value_of(expression)

    assert said in str(refused.value)


AT = "timestamp('2026-11-23T23:31:30.120Z')"


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        *((f"string({AT})", "2026-11-23T23:31:30.120Z"), (AT, "2026-11-23T23:31:30.120Z")),
        *(("timestamp('0001-01-01T00:00:00Z')", "0001-01-01T00:00:00Z"), ("timestamp(0)", "1970-01-01T00:00:00Z")),
        ("timestamp('9999-12-31T23:59:59.999999999Z')", "9999-12-31T23:59:59.999999999Z"),
        *((f"{AT}.getFullYear()", 2026), (f"{AT}.getMonth()", 10), (f"{AT}.getDate()", 23), (f"{AT}.getDayOfMonth()", 22)),
        *((f"{AT}.getDayOfWeek()", 1), (f"{AT}.getDayOfYear()", 326), (f"{AT}.getHours()", 23), (f"{AT}.getMinutes()", 31)),
        *((f"{AT}.getSeconds()", 30), (f"{AT}.getMilliseconds()", 120)),
        *((f"{AT}.getHours('Europe/Berlin')", 0), (f"{AT}.getDate('Europe/Berlin')", 24), (f"{AT}.getHours('-02:30')", 21)),
        *((f"{AT}.getMinutes('Asia/Kathmandu')", 16), (f"{AT}.getHours('02:00')", 1), (f"{AT}.getHours('UTC')", 23)),
        *(("duration('1h30m1.5s')", "5401.500s"), ("duration('-1.5s')", "-1.500s"), ("duration('1us')", "0.000001s")),
        *(
            ("duration('3661.5s').getHours()", 1),
            ("duration('3661.5s').getMinutes()", 61),
            ("duration('-61s').getSeconds()", -61),
        ),
        ("duration('1.25s').getMilliseconds()", 250),
        (f"{AT} + duration('24h') - {AT} == duration('1h') + duration('23h')", True),
        (f"duration('1m') + {AT} > {AT} - duration('1ns')", True),
        ("day('2026-11-23T23:59:00+05:00') == timestamp('2026-11-23T00:00:00Z')", True),
        ("day('2026-11-23') - day('2026-11-20') == duration('72h')", True),
    ],
)
def test_times(expression: str, value: JsonValue) -> None:
    """Timestamps and durations go by nanoseconds, in UTC or any zone, and are text in JSON."""
    check(expression, value)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("timestamp('2026-11-23')", "(RFC 3339)"),
        ("timestamp('2026-11-23T10:00:00')", "(RFC 3339)"),
        ("timestamp('2026-02-30T10:00:00Z')", "there is no such time"),
        ("timestamp('2026-11-23T10:00:00+25:00')", "there is no such offset"),
        ("timestamp('9999-12-31T23:59:59Z') + duration('1s')", "not in the years 1 to 9999"),
        ("timestamp('0001-01-01T00:00:00+01:00')", "not in the years 1 to 9999"),
        ("timestamp(1.5)", "timestamp() does not take double"),
        ("duration('1')", "a duration is a text such as"),
        ("duration('1d')", "a duration is a text such as"),
        ("duration('')", "a duration is a text such as"),
        ("duration('320000000000s')", "longer than 10,000 years"),
        ("duration('200000000000s') + duration('200000000000s')", "longer than 10,000 years"),
        (f"{AT} + {AT}", "+ does not take google.protobuf.Timestamp and google.protobuf.Timestamp"),
        (f"{AT}.getHours('Europe/Nowhere')", "there is no such time zone"),
        (f"{AT}.getHours('../../etc/passwd')", "there is no such time zone"),
        (f"{AT}.getHours(1)", "does not take google.protobuf.Timestamp and int"),
        ("duration('1s').getFullYear()", "getFullYear() does not take google.protobuf.Duration"),
        ("day('23.11.2026')", "day() takes a text that begins with a date"),
        ("day(1)", "day() does not take int"),
    ],
)
def test_times_that_are_none(expression: str, said: str) -> None:
    """What is no time, or none between the years 1 and 9999, is an error."""
    with pytest.raises(InvalidExpression) as refused:
        value_of(expression)

    assert said in str(refused.value)


@pytest.mark.parametrize(
    "expression",
    [
        "many.map(x, many.map(y, x + y)).size()",
        "many.all(x, many.all(y, y >= 0))",
        "[many, many, many] == [many, many, many] && many.all(x, many == many)",
        "many.map(x, many + many).size()",
        "[1]" + ".map(x, [x, x, x, x, x, x, x, x, x, x])" * 9,
        "many.map(x, text + text + text + text).size()",
        "many.map(x, text.matches('y') || text.contains('z') || bytes(text) == b'').size()",
        "text.matches('x{1000}y')",
        "many.all(x, [" + "0, " * 2000 + "0] != [])",
        "many.exists(x, many.map(y, index[string(y)]) == 1)",
    ],
)
def test_nothing_goes_on_for_long(expression: str) -> None:
    """A workflow that computes for seconds is taken for a stuck one: an expression gives up long before."""
    names: dict[str, JsonValue] = {"many": list(range(1000)), "text": "x" * 100_000, "index": {"a": 1}}

    with pytest.raises(InvalidExpression, match=r"it takes too many steps|there is no such key"):
        parse_expression(expression).evaluate(names)


def test_a_large_value_is_handed_on() -> None:
    """What is only handed on may be as large as a payload."""
    ten: JsonValue = list(range(10))
    many: list[JsonValue] = [ten] * 30_000

    assert many == parse_expression("of.many").evaluate({"of": {"many": many}})
    with pytest.raises(InvalidExpression, match="it takes too many steps"):
        parse_expression("[many]").evaluate({"many": many})


def test_a_regular_expression_takes_no_time() -> None:
    """What keeps other engines busy for ever is answered by RE2."""
    assert parse_expression("text.matches('^(a+)+$')").evaluate({"text": "a" * 5000 + "b"}) is False


def test_names_are_those_that_no_macro_binds() -> None:
    """A name counts where a macro does not bind it: in its range, after it, and with a dot before it."""
    assert {"a", "b"} == parse_expression("a.map(x, x + b)").names
    assert {"x", "a"} == parse_expression("a.map(x, x) == x").names
    assert {"x"} == parse_expression("x.map(x, x)").names
    assert {"a", "x"} == parse_expression("a.map(x, .x)").names
    assert {"map", "int"} == parse_expression("map.if.x == int && type(map) == google.protobuf.Timestamp").names


def test_the_order_of_a_map_is_its_own() -> None:
    """Maps keep their order in every process, whatever its hashes: a replay finds the same."""
    code = (
        "from perdure.workflows.expressions import parse_expression as p;"
        "print(p('m.map(k, k)').evaluate({'m': {c: 1 for c in 'qwertzuiop'}}));"
        'print(p(\'{"b": 1, "a": 2, 3: 4}\').evaluate({}))'
    )

    printed = {
        subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout
        for seed in ("1", "2", "3")
    }

    assert {b"['q', 'w', 'e', 'r', 't', 'z', 'u', 'i', 'o', 'p']\n{'b': 1, 'a': 2, '3': 4}\n"} == printed


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_what_goes_through_comes_out(value: JsonValue) -> None:
    """A value that only goes through an expression is the same at the other end, digits and all (case 17)."""
    assert value == parse_template("${input}").render({"input": value})
    assert [value] == parse_template("${[input].map(x, x)}").render({"input": value})
    assert parse_expression("input == input && input in [input]").evaluate({"input": value}) is True


@given(st.integers(-(2**64), 2**64), st.integers(-(2**64), 2**64))
def test_integers_are_exact_or_refused(left: int, right: int) -> None:
    """A sum is the sum, or an error if it or a part of it has more than 64 bits."""
    if all(-(2**63) <= each < 2**63 for each in (left, right, left + right)):
        assert left + right == parse_expression("a + b").evaluate({"a": left, "b": right})
    else:
        with pytest.raises(InvalidExpression, match="more than 64 bits"):
            parse_expression("a + b").evaluate({"a": left, "b": right})
    assert (left < right) is parse_expression("a < b").evaluate({"a": left, "b": right})


@example(1e-06)
@given(st.floats(allow_nan=False))
def test_doubles_come_back_from_text(value: float) -> None:
    """`string` writes as many digits as a double has."""
    written = parse_expression("string(x)").evaluate({"x": value})

    assert isinstance(written, str)
    assert value == float(written)
    assert math.copysign(1, value) == math.copysign(1, float(written))


@given(st.text())
def test_no_text_breaks_the_reader(text: str) -> None:
    """Whatever is written, it is an expression or it is refused: nothing else happens."""
    for parse in (parse_expression, lambda each: parse_template(f"${{{each}}}")):
        try:
            parse(text)
        except InvalidExpression:
            continue

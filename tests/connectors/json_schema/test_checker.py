"""Tests of how values are checked against schemas that others wrote."""

from __future__ import annotations

import math
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from perdure.connectors.json_schema import Checker, Schema, find_misfit

DRAFT_7 = "http://json-schema.org/draft-07/schema#"
MONEY: Schema = {"type": "number", "multipleOf": 0.01}


@given(st.integers(min_value=-(10**9), max_value=10**9))
def test_cents_are_multiples_of_a_cent(cents: int) -> None:
    """Every amount with two decimals is a multiple of 0.01, whatever binary floats make of it (case 03)."""
    assert not find_misfit(MONEY, cents / 100)


@pytest.mark.parametrize(
    ("value", "step", "right"),
    [
        *((19.99, 0.01, True), (19.999, 0.01, False), (0.3, 0.1, True), (1e22, 0.01, True), (1e308, 1e-308, True)),
        *((7, 0.7, True), (10**30, 10**15, True), (10**30 + 1, 10**15, False), (0.075, 0.025, True), (0, 0.01, True)),
        *((1.1, 1, False), (4.5, 1.5, True), (True, 2, True), ("19.999", 0.01, True), (1e-7, 1e-8, True)),
    ],
)
def test_multiples(value: JsonValue, step: float, right: bool) -> None:
    """Multiples are counted in decimals, as the JSON text says both numbers (case 03)."""
    assert right is not bool(find_misfit({"multipleOf": step}, value))


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "array", "items": [{"type": "number"}, {"type": "string"}]}, [1, "a", None]),
        ({"type": "array", "items": [{"type": "number"}], "additionalItems": {"type": "string"}}, [1, "a"]),
        ({"type": "array", "items": []}, [1, "a"]),
        ({"type": "integer", "minimum": 0, "exclusiveMinimum": True}, 1),
        ({"type": "integer", "maximum": 9, "exclusiveMaximum": False}, 9),
        ({"type": "string", "pattern": "^[\\p{L} ]+$"}, "Ångström"),
        ({"type": "string", "pattern": "(?i)^abc"}, "xyz"),
        ({"type": "object", "required": True, "properties": {}}, {"a": 1}),
        ({"type": "object", "properties": {"a": "string", "b": None, "c": {"required": True}}}, {"a": 1, "b": 2}),
        ({"type": "object", "properties": [], "required": None, "additionalProperties": []}, {"a": 1}),
        ({"type": "string", "nullable": True}, None),
        ({"type": "string", "enum": ["a"], "nullable": True}, None),
        ({"$ref": "#/$defs/a", "nullable": True, "$defs": {"a": {"type": "string"}}}, None),
        ({"type": "any"}, 1),
        ({"type": "OBJECT"}, {"a": 1}),
        ({"type": ["string", {"type": "number"}]}, 1),
        ({"minimum": "3", "maxLength": "2", "multipleOf": 0, "uniqueItems": "yes", "anyOf": []}, 1),
        ({"$schema": DRAFT_7, "$ref": "#/definitions/a", "type": "string", "definitions": {"a": {}}}, 1),
        ({"$ref": "#/definitions/A%3CB%3E", "definitions": {"A<B>": {"type": "integer"}}}, 1),
        ({"properties": {"a": {"type": "integer"}, "b": {"$ref": "#/properties/a"}}}, {"b": 1}),
        ({"properties": {"p": {"items": [{"type": "integer"}]}, "q": {"$ref": "#/properties/p/items/0"}}}, {"q": 1}),
        ({"properties": {"next": {"$ref": "#"}}, "additionalProperties": False}, {"next": {"next": {}}}),
        ({"$ref": "#"}, 1),
        ({"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}}, 1),
        ({"properties": {"a": {"$ref": "#/$defs/gone"}}, "unevaluatedProperties": False}, {"a": 1}),
        ({"not": {"pattern": "(?i)a"}}, "b"),
        ({"oneOf": [{"pattern": "(?i)^a"}, {"pattern": "^b"}]}, "b"),
        ({"if": {"pattern": "(?i)a"}, "then": False}, "b"),
        ({"patternProperties": {"(?i)^x": {}}, "additionalProperties": False}, {"x-1": 1}),
        ({"dependencies": {"a": ["b"], "b": {"required": ["a"]}}}, {"a": 1, "b": 1}),
        ({"$id": "urn:example:x", "$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}}, 1),
        ({"properties": {"id": {"$id": "x.json", "$ref": "#/$defs/a"}}, "$defs": {"a": {}}}, {"id": 1}),
        ({"const": None}, None),
        ({"maximum": 18446744073709551615}, 18446744073709551615),
    ],
)
def test_what_real_schemas_have(schema: Schema, value: JsonValue) -> None:
    """Schemas of older drafts and of other dialects, and broken ones, refuse nothing that fits them (case 13)."""
    assert not find_misfit(schema, value)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "array", "items": [{"type": "number"}, {"type": "string"}]}, [1, 2]),
        ({"type": "array", "items": [{"type": "number"}], "additionalItems": False}, [1, 2]),
        ({"type": "array", "prefixItems": [{"type": "number"}], "items": False}, [1, 2]),
        ({"type": "integer", "minimum": 0, "exclusiveMinimum": True}, 0),
        ({"type": "string", "pattern": "^[\\p{L} ]+$"}, "1"),
        ({"type": "string", "enum": ["a"], "nullable": True}, "b"),
        ({"properties": {"a": False}}, {"a": 1}),
        ({"$ref": "#/$defs/a", "minimum": 3, "$defs": {"a": {"type": "integer"}}}, 2),
        ({"properties": {"next": {"$ref": "#"}}, "additionalProperties": False}, {"next": {"other": 1}}),
        ({"dependentRequired": {"a": ["b"]}}, {"a": 1}),
        ({"dependencies": {"a": ["b"]}}, {"a": 1}),
        ({"oneOf": [{"type": "integer"}, {"minimum": 2}]}, 3),
        ({"const": 1}, True),
        ({"enum": [0]}, False),
        ({"type": "integer"}, True),
        ({"type": "number"}, math.nan),
        ({}, {"a": [math.inf]}),
    ],
)
def test_what_does_not_fit(schema: Schema, value: JsonValue) -> None:
    """What does not fit is refused, also by what an older draft says."""
    assert find_misfit(schema, value).startswith("$")


def test_misfit_quotes_no_value() -> None:
    """Only where and which keyword is said, since values may be secrets."""
    schema: Schema = {"properties": {"a": {"pattern": "^x$"}, "b": {"multipleOf": 0.5}}}

    assert "$.a: does not fit 'pattern'; $.b: does not fit 'multipleOf'" == find_misfit(schema, {"a": "secret", "b": 0.3})


def test_left_out_is_told() -> None:
    """What cannot be checked here is named with its place (case 13)."""
    schema: Schema = {
        "properties": {"a": {"pattern": "(?i)x"}, "b": {"$ref": "http://127.0.0.1:1/x"}, "c/d": {"type": "file"}},
        "required": "a",
    }

    assert [
        "/properties/a/pattern: is not a pattern that ECMAScript has",
        "/properties/b/$ref: 'http://127.0.0.1:1/x' leads out of the schema or nowhere",
        "/properties/c~1d/type: is not a type of JSON Schema",
        "/required: is not a list of names",
    ] == sorted(Checker(schema).unchecked)


def test_nesting_without_end() -> None:
    """A value that is nested too deeply to be checked is refused, not an error."""
    value: JsonValue = 1
    for _ in range(2_000):
        value = [value]

    assert "$: is nested too deeply to be checked" == find_misfit({"items": {"$ref": "#"}}, value)


_KEYWORDS = (
    *("type", "enum", "const", "properties", "patternProperties", "additionalProperties", "items", "prefixItems"),
    *("additionalItems", "required", "minimum", "exclusiveMinimum", "multipleOf", "maxLength", "pattern", "allOf", "anyOf"),
    *("oneOf", "not", "if", "then", "$ref", "$dynamicRef", "$defs", "$id", "$schema", "dependencies", "contains"),
    *("maxContains", "uniqueItems", "propertyNames", "unevaluatedProperties", "unevaluatedItems", "nullable", "$anchor"),
)
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False)
    | st.sampled_from(
        [0, 1, 10**30, "", "a", "#", "#/$defs/a", "#a", "^a+$", "(", "object", "http://x/y", "urn:x", DRAFT_7]
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from([*_KEYWORDS, "a", "b"]), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(_KEYWORDS), _VALUES, max_size=6), _VALUES)
def test_nothing_raises(schema: dict[str, object], value: object) -> None:
    """Whatever stands where a schema should, a value is checked or it is not; nothing raises (case 13)."""
    checker = Checker(cast("Schema", schema))

    assert isinstance(checker.find_misfit(cast("JsonValue", value)), str)
    assert checker.takes_null("a") in (True, False)

"""What becomes of a schema of which a part was left out, so that more fits it than should, and nothing less."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast

from pydantic import JsonValue

__all__ = ["LEFT_OUT", "find_in_place", "mend"]

LEFT_OUT: Final = "x-left-out"
"""Marks a schema of which a part was left out."""

_IN_PLACE: Final = ("not", "if", "then", "else", "allOf", "anyOf", "oneOf")
_OTHERS: Final = (
    *("additionalProperties", "unevaluatedProperties", "propertyNames", "unevaluatedItems", "contains", "items"),
    *("prefixItems", "properties", "patternProperties"),
)


def mend(node: JsonValue, definitions: Mapping[str, JsonValue]) -> None:
    """Take out of NODE and all that is in it what refuses the more, the more fits its parts."""
    if not isinstance(node, dict):
        return
    for each in _find_parts(node):
        mend(each, definitions)
    if _is_loose(node.get("not"), definitions):
        del node["not"]
    if _is_loose(node.get("if"), definitions):
        for name in ("if", "then", "else"):
            node.pop(name, None)
    if isinstance(parts := node.get("oneOf"), list) and any(_is_loose(part, definitions) for part in parts):
        del node["oneOf"]
        node["allOf"] = [*cast(list[JsonValue], node.get("allOf", [])), {"anyOf": parts}]
    if _is_loose(node.get("contains"), definitions):
        node.pop("maxContains", None)
    if node.keys() & {"unevaluatedProperties", "unevaluatedItems"} and _is_loose(node, definitions):
        node.pop("unevaluatedProperties", None)
        node.pop("unevaluatedItems", None)


def find_in_place(node: Mapping[str, JsonValue]) -> list[JsonValue]:
    """Return the schemas in NODE that look at the same value as NODE does, without those that it refers to."""
    return _find_values(node, _IN_PLACE) + _find_values(node, ("dependentSchemas",))


def _find_parts(node: Mapping[str, JsonValue]) -> list[JsonValue]:
    return find_in_place(node) + _find_values(node, _OTHERS)


def _find_values(node: Mapping[str, JsonValue], names: tuple[str, ...]) -> list[JsonValue]:
    found: list[JsonValue] = []
    for name in names:
        value = node.get(name)
        if isinstance(value, list):
            found += value
        elif isinstance(value, dict) and name in ("properties", "patternProperties", "dependentSchemas"):
            found += value.values()
        else:
            found.append(value)
    return found


def _is_loose(node: JsonValue, definitions: Mapping[str, JsonValue]) -> bool:
    seen: set[int] = set()
    waiting = [node]
    while waiting:
        each = waiting.pop()
        if not isinstance(each, dict) or id(each) in seen:
            continue
        seen.add(id(each))
        if LEFT_OUT in each:
            return True
        waiting += _find_parts(each)
        if isinstance(reference := each.get("$ref"), str):
            waiting.append(definitions[reference.removeprefix("#/$defs/")])
    return False

"""Which changes of a contract break those who rely on it, told apart for what is sent and what comes back.

What we send has to be taken by the new contract: the old request has to be a subtype of the new one. What comes back has to
be understood by who relies on the old one: the new response has to be a subtype of the old one. Objects and lists are
compared part by part, so that a change has an address; the unions and bounds within them by jsonsubschema.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, cast

from pydantic import JsonValue

from perdure.connectors.drift.contracts import Change, Contract, Operation, Verdict
from perdure.lineage import digest

Side = Literal["request", "response"]
Schema = dict[str, JsonValue]

_ORDER: tuple[Verdict, ...] = ("same", "compatible", "wording", "breaking")


def compare(relied: Contract, live: Contract) -> list[Change]:
    """Return what is different in LIVE from the contract that is RELIED on, the worst first."""
    found: list[Change] = []
    for name, old in relied.operations.items():
        new = live.operations.get(name)
        if new is None:
            found.append(Change(operation=name, side="operation", what="is gone", verdict="breaking", actions=old.actions))
        else:
            found += _compare_operation(name, old, new)
    return sorted(found, key=lambda change: -_ORDER.index(change.verdict))


def worst(changes: Sequence[Change]) -> Verdict:
    """Return the worst verdict of CHANGES."""
    return max(changes, key=lambda change: _ORDER.index(change.verdict)).verdict if changes else "same"


def _compare_operation(name: str, old: Operation, new: Operation) -> Iterator[Change]:
    sides: tuple[tuple[Side, Schema | None, Schema | None], ...] = (
        ("request", old.request, new.request),
        ("response", old.response, new.response),
    )
    for side, before, after in sides:
        # Where one of the two says nothing there is nothing to hold the other against.
        if before is not None and after is not None:
            for path, what, breaks in _Comparison(side).compare(_normalize(before), _normalize(after), ""):
                verdict: Verdict = "breaking" if breaks else "compatible"
                yield Change(operation=name, side=side, path=path, what=what, verdict=verdict, actions=old.actions)
        elif before is not None:
            yield Change(operation=name, side=side, what="is no longer described", verdict="breaking", actions=old.actions)
    if old.description != new.description:
        what = f"{_shorten(old.description)} -> {_shorten(new.description)}"
        yield Change(operation=name, side="description", what=what, verdict="wording", actions=old.actions)
    for claim in sorted(old.annotations.keys() | new.annotations.keys()):
        before_claim, after_claim = old.annotations.get(claim), new.annotations.get(claim)
        if before_claim != after_claim:
            what = f"{_show(before_claim)} -> {_show(after_claim)}"
            yield Change(
                operation=name, side="annotations", path=f"/{claim}", what=what, verdict="wording", actions=old.actions
            )


class _Comparison:
    """The comparison of two schemas on one SIDE of an operation. A change is where, what, and whether it breaks."""

    def __init__(self, side: Side) -> None:
        self._request = side == "request"

    def compare(self, old: Schema, new: Schema, path: str) -> Iterator[tuple[str, str, bool]]:
        """Yield the changes from OLD to NEW at PATH."""
        if old == new:
            return
        (old, null_before), (new, null_now) = _split_null(old), _split_null(new)
        if old and new and null_before != null_now:
            if null_now:
                yield path, "may be null now", not self._request
            else:
                yield path, "must not be null any more" if self._request else "is never null any more", self._request
        if old == new:
            return
        if _is_object(old) and _is_object(new):
            yield from self._compare_objects(old, new, path)
        elif _is_list(old) and _is_list(new):
            yield from self.compare(_part(old, "items"), _part(new, "items"), f"{path}/*")
            old, new = {**old, "items": {}}, {**new, "items": {}}
            if old != new:
                yield from self._compare_leaf(old, new, path)
        else:
            yield from self._compare_leaf(old, new, path)

    def _compare_objects(self, old: Schema, new: Schema, path: str) -> Iterator[tuple[str, str, bool]]:
        before, after = _part(old, "properties"), _part(new, "properties")
        needed_before, needed = set(_names(old.get("required"))), set(_names(new.get("required")))
        for name in sorted(before.keys() | after.keys()):
            here = f"{path}/{name}"
            if name not in after:
                # A request's field that is taken no longer may be our own reference: nothing would be found again.
                open_to_it = self._request and isinstance(new.get("additionalProperties"), dict | bool)
                if open_to_it and new["additionalProperties"] is not False:
                    yield here, "is no longer described", False
                else:
                    yield here, "is no longer taken" if self._request else "is no longer there", True
            elif name not in before:
                breaks = self._request and name in needed
                yield here, "is new and needed" if breaks else "is new", breaks
            else:
                yield from self._compare_need(name in needed_before, name in needed, here)
                yield from self.compare(_schema(before[name]), _schema(after[name]), here)
        # Whatever else is said of the object as a whole. Of undescribed fields nobody relies on any.
        rest_old, rest_new = _rest(old), _rest(new)
        if rest_old != rest_new:
            yield from self._compare_leaf(rest_old, rest_new, path)

    def _compare_need(self, before: bool, after: bool, path: str) -> Iterator[tuple[str, str, bool]]:
        if after and not before:
            yield path, "is needed now" if self._request else "is always there now", self._request
        elif before and not after:
            yield path, "is no longer needed" if self._request else "may be missing now", not self._request

    def _compare_leaf(self, old: Schema, new: Schema, path: str) -> Iterator[tuple[str, str, bool]]:
        fits = _fits(old, new) if self._request else _fits(new, old)
        what = f"{_show(old)} -> {_show(new)}"
        if fits is None:
            yield path, f"{what} (cannot be compared, so it counts as breaking)", True
        else:
            yield path, what, not fits


def _fits(narrow: Schema, wide: Schema) -> bool | None:
    """Say whether every value of NARROW is one of WIDE; None if nobody can tell."""
    for rule in _RULES:
        decided = rule(narrow, wide)
        if decided is not None:
            return decided
    # These it either ignores or works on for minutes. The rules have dealt with them on this level; deeper ones stay open.
    narrow, wide = _drop_shapes(narrow), _drop_shapes(wide)
    if narrow == wide or not wide:
        return True
    if _mentions(narrow, _SHAPES) or _mentions(wide, _SHAPES) or len(json.dumps([narrow, wide])) > _LARGEST:
        return None
    with warnings.catch_warnings():
        # An escape in its docstring warns when it is compiled.
        warnings.simplefilter("ignore")
        from jsonsubschema import isSubschema  # type: ignore[import-untyped]  # ships no types
    try:
        return bool(isSubschema(narrow, wide))
    except Exception:  # noqa: BLE001  it raises all kinds of errors for what it does not support
        return None


def _by_values(narrow: Schema, wide: Schema) -> bool | None:
    # jsonsubschema takes every boolean for one of `enum: [true]`.
    if "enum" not in wide:
        return None
    allowed = cast(list[JsonValue], wide["enum"])
    values = narrow.get("enum", [True, False] if narrow.get("type") == "boolean" else None)
    return isinstance(values, list) and all(any(_same(value, one) for one in allowed) for value in values)


def _by_parts(narrow: Schema, wide: Schema) -> bool | None:
    # The usual change of a union is a part more or less, and needs no theory.
    for union in ("anyOf", "oneOf"):
        if wide.keys() == {union}:
            parts = narrow[union] if narrow.keys() == {union} else [narrow]
            known = {digest(part) for part in cast(list[JsonValue], wide[union])}
            if {digest(part) for part in cast(list[JsonValue], parts)} <= known:
                return True
    return None


def _by_shape(name: str) -> Callable[[Schema, Schema], bool | None]:
    def rule(narrow: Schema, wide: Schema) -> bool | None:
        return False if name in wide and narrow.get(name) != wide[name] else None

    return rule


# Two patterns are only compared for being the same: whether one takes in the other can take longer than anybody waits.
_SHAPES = ("pattern", "format", "prefixItems", "contains", "if", "then", "else", "patternProperties", "dependentSchemas")
_LARGEST = 8_000
"""How many characters of two leaves are compared: a union of this size takes seconds."""
_RULES = (_by_values, _by_parts, *map(_by_shape, _SHAPES))


def _normalize(schema: Schema) -> Schema:
    """Return SCHEMA without what only people read, and with one way of saying what there are several for."""
    plain: Schema = {}
    for name, value in schema.items():
        if name in ("properties", "patternProperties") and isinstance(value, dict):
            plain[name] = {inner: _normalize(_schema(each)) for inner, each in value.items()}
        elif name in ("items", "additionalProperties", "not") and isinstance(value, dict):
            plain[name] = _normalize(value)
        elif name in ("allOf", "anyOf", "oneOf", "prefixItems") and isinstance(value, list):
            plain[name] = [_normalize(_schema(each)) for each in value]
        elif name in ("required", "enum") and isinstance(value, list):
            plain[name] = sorted(value, key=lambda each: json.dumps(each, sort_keys=True))
        elif name not in _ANNOTATIONS and not name.startswith("x-"):
            plain[name] = value
    return _unify_notation(plain)


def _unify_notation(plain: Schema) -> Schema:
    for bound in ("minimum", "maximum"):
        # JSON Schema draft 4, which jsonsubschema speaks, has a bound and a flag; later ones have two bounds.
        exclusive = f"exclusive{bound.capitalize()}"
        if isinstance(plain.get(exclusive), int | float) and not isinstance(plain[exclusive], bool):
            plain[bound], plain[exclusive] = plain[exclusive], True
    if not plain.get("required", True):
        del plain["required"]
    if "const" in plain:
        plain["enum"] = [plain.pop("const")]
    if plain.get("type") in ("integer", "number"):
        plain.pop("format", None)  # how wide a number is stored at the target
    kinds = plain.get("type")
    if plain.pop("nullable", False) and isinstance(kinds, str):  # OpenAPI 3.0
        kinds = [kinds, "null"]
    if isinstance(kinds, list):
        plain["type"] = kinds[0] if len(kinds) == 1 else sorted(kinds, key=str)
    for union in ("anyOf", "oneOf", "allOf"):
        if isinstance(parts := plain.get(union), list) and len(parts) == 1 and len(plain) == 1:
            return _schema(parts[0])
    if "properties" in plain and "type" not in plain:
        plain["type"] = "object"
    return plain


def _split_null(schema: Schema) -> tuple[Schema, bool]:
    """Return SCHEMA without null, and whether it takes null."""
    kinds = schema.get("type")
    if isinstance(kinds, list) and "null" in kinds and "enum" not in schema:
        rest = [kind for kind in kinds if kind != "null"]
        return {**schema, "type": rest[0] if len(rest) == 1 else rest}, True
    for union in ("anyOf", "oneOf"):
        parts = schema.get(union)
        if isinstance(parts, list) and {"type": "null"} in parts and len(schema) == 1 and len(parts) > 1:
            rest = [part for part in parts if part != {"type": "null"}]
            return _schema(rest[0]) if len(rest) == 1 else {union: rest}, True
    return schema, False


_ANNOTATIONS = (
    "title",
    "description",
    "default",
    "example",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "externalDocs",
    "xml",
    "$schema",
    "$id",
    "id",
    "$comment",
    "discriminator",
)


def _is_object(schema: Schema) -> bool:
    return schema.get("type") == "object" and not schema.keys() & {"anyOf", "oneOf", "allOf", "not", "enum"}


def _is_list(schema: Schema) -> bool:
    return schema.get("type") == "array" and not schema.keys() & {"anyOf", "oneOf", "allOf", "not", "enum", "prefixItems"}


def _rest(schema: Schema) -> Schema:
    open_to_others = schema.get("additionalProperties")
    others = {"additionalProperties": open_to_others} if isinstance(open_to_others, dict) else {}
    known = {"properties", "required", "additionalProperties"}
    return {name: value for name, value in schema.items() if name not in known} | others


def _drop_shapes(schema: Schema) -> Schema:
    return {name: value for name, value in schema.items() if name not in _SHAPES}


def _mentions(schema: JsonValue, names: Sequence[str]) -> bool:
    if isinstance(schema, dict):
        return any(name in names or _mentions(value, names) for name, value in schema.items())
    return isinstance(schema, list) and any(_mentions(each, names) for each in schema)


def _same(one: JsonValue, other: JsonValue) -> bool:
    return digest(one) == digest(other)


def _part(schema: Schema, name: str) -> Schema:
    return _schema(schema.get(name, {}))


def _schema(value: JsonValue) -> Schema:
    # `false` takes nothing; `true` is the empty schema.
    return value if isinstance(value, dict) else {"not": {}} if value is False else {}


def _names(value: JsonValue) -> list[str]:
    return [str(name) for name in value] if isinstance(value, list) else []


def _show(value: JsonValue, limit: int = 120) -> str:
    if isinstance(value, dict) and value.keys() == {"type"}:
        kinds = value["type"]
        return " or ".join(map(str, kinds)) if isinstance(kinds, list) else str(kinds)
    if value == {}:
        return "anything"
    return _shorten(json.dumps(value, ensure_ascii=False, sort_keys=True), limit)


def _shorten(text: str, limit: int = 120) -> str:
    line = " ".join(text.split())
    return repr(line) if not line else line if len(line) <= limit else line[: limit - 1] + "…"

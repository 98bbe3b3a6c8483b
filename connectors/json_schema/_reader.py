"""How a JSON Schema of any draft, with what real documents get wrong, becomes one of 2020-12 that holds together."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, cast
from urllib.parse import unquote, urldefrag, urljoin

from pydantic import JsonValue

from perdure.connectors.json_schema._ecma_regex import UnreadableError, require_readable
from perdure.connectors.json_schema._loose import LEFT_OUT, find_in_place, mend

__all__ = ["Schema", "as_mapping", "read_schema"]

Schema = Mapping[str, JsonValue]

_TYPES: Final = {"string", "number", "integer", "boolean", "array", "object", "null"}
_MAPS: Final = ("properties", "patternProperties", "dependentSchemas")
_ONES: Final = (
    *("additionalProperties", "unevaluatedProperties", "propertyNames", "unevaluatedItems", "contains"),
    *("not", "if", "then", "else"),
)
_LISTS: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
# Before draft 2019-09 nothing counts that stands beside a reference, and before draft 6 `$id` was `id`.
_REFERENCE_ALONE: Final = ("draft-03", "draft-04", "draft-06", "draft-07")
_PLAIN_ID: Final = ("draft-03", "draft-04")
_MAX_DEPTH: Final = 200


def read_schema(schema: Schema) -> tuple[JsonValue, tuple[str, ...]]:
    """Return SCHEMA as 2020-12 has it, its references all into its `$defs`, and the places of what had to be left out."""
    reader = _Reader(schema)
    return reader.read(), tuple(reader.unchecked)


def as_mapping(value: JsonValue) -> Schema:
    """Return VALUE if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


class _Spot(NamedTuple):
    """Where in the document a schema is, what its references are relative to, and how deep it lies."""

    place: str = ""
    base: str = ""
    depth: int = 0

    def down(self, *parts: str) -> _Spot:
        path = "/".join(part.replace("~", "~0").replace("/", "~1") for part in parts)
        return _Spot(f"{self.place}/{path}", self.base, self.depth + 1)


class _Reader:
    def __init__(self, document: Schema) -> None:
        self.unchecked: list[str] = []
        self._document: dict[str, JsonValue] = dict(document)
        dialect = str(document.get("$schema", ""))
        self._reference_alone = any(draft in dialect for draft in _REFERENCE_ALONE)
        self._id = "id" if any(draft in dialect for draft in _PLAIN_ID) else "$id"
        self._definitions: dict[str, JsonValue] = {}
        self._names: dict[int, str] = {}
        self._addresses: dict[str, tuple[JsonValue, str]] = {}
        self._anchors: Counter[str] = Counter()
        self._waiting: list[tuple[str, JsonValue, _Spot]] = []

    def read(self) -> JsonValue:
        self._index(self._document, "", 0)
        self._addresses.setdefault("", (self._document, ""))
        made = self._translate(self._document, _Spot())
        while self._waiting:
            name, node, spot = self._waiting.pop()
            self._definitions[name] = self._translate(node, spot)
        for name in self._definitions:
            self._cut_loops(name)
        for each in (made, *self._definitions.values()):
            mend(each, self._definitions)
        return {**made, "$defs": self._definitions} if isinstance(made, dict) and self._definitions else made

    # Addresses

    def _index(self, node: JsonValue, base: str, depth: int) -> None:
        """Remember the addresses that schemas of the document have given themselves."""
        if depth > _MAX_DEPTH:
            return
        if isinstance(node, list):
            for each in node:
                self._index(each, base, depth + 1)
        if not isinstance(node, dict):
            return
        base = self._base_of(node, base)
        self._addresses.setdefault(base, (node, base))
        for keyword in (self._id, "$anchor", "$dynamicAnchor"):
            if isinstance(given := node.get(keyword), str) and (keyword != self._id or given.startswith("#")):
                self._addresses.setdefault(f"{base}#{given.removeprefix('#')}", (node, base))
        for keyword in ("$dynamicAnchor", "$recursiveAnchor"):
            self._anchors[f"{keyword} {node.get(keyword)}"] += keyword in node
        for name in (*_ONES, *_LISTS, "items", "additionalItems"):
            self._index(node.get(name), base, depth + 1)
        for name in (*_MAPS, "$defs", "definitions", "dependencies"):
            for each in as_mapping(node.get(name)).values():
                self._index(each, base, depth + 1)

    def _base_of(self, node: Schema, base: str) -> str:
        given = node.get(self._id)
        if self._reference_alone and "$ref" in node:
            return base
        return base if not isinstance(given, str) or given.startswith("#") else urldefrag(_join(base, given))[0]

    def _find(self, reference: str, base: str) -> tuple[JsonValue, str] | None:
        address, fragment = urldefrag(_join(base, reference))
        fragment = unquote(fragment)
        if fragment and not fragment.startswith("/"):
            return self._addresses.get(f"{address}#{fragment}")
        starts = [self._addresses[address]] if address in self._addresses else []
        if reference.startswith("#"):
            # Who puts a schema with an `$id` into another often means the whole by `#`.
            starts.append((self._document, self._base_of(self._document, "")))
        for node, within in starts:
            if (found := self._walk(node, within, fragment.split("/")[1:])) is not None:
                return found
        return None

    def _walk(self, node: JsonValue, base: str, path: Sequence[str]) -> tuple[JsonValue, str] | None:
        for part in path:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(node, dict) and name in node:
                node = node[name]
            elif isinstance(node, list) and name.isdecimal() and int(name) < len(node):
                node = node[int(name)]
            else:
                return None
            base = self._base_of(node, base) if isinstance(node, dict) else base
        return (node, base) if isinstance(node, dict | bool) else None

    # Keywords

    def _translate(self, node: JsonValue, spot: _Spot) -> JsonValue:
        if isinstance(node, bool):
            return node
        made: dict[str, JsonValue] = {}
        if not isinstance(node, dict) or spot.depth > _MAX_DEPTH:
            if node != []:  # what PHP makes of an empty object
                why = "is nested too deeply" if isinstance(node, dict) else "is no schema"
                self._leave_out(spot.place, why, made)
            return made
        spot = spot._replace(base=self._base_of(node, spot.base))
        self._take_reference(made, node, spot)
        if not ("$ref" in node and self._reference_alone):
            self._take_values(made, node, spot)
            self._take_schemas(made, node, spot)
            self._take_items(made, node, spot)
            self._take_dependencies(made, node, spot)
        return _allow_null(made, node)

    def _take_reference(self, made: dict[str, JsonValue], node: Schema, spot: _Spot) -> None:
        reference = node.get("$ref", node.get("$dynamicRef", node.get("$recursiveRef")))
        if reference is None:
            return
        found = self._find(reference, spot.base) if isinstance(reference, str) else None
        if "$ref" not in node:
            # Where several have the anchor, it depends on the way here which of them is meant.
            anchor = (
                f"$dynamicAnchor {str(reference).partition('#')[2]}" if "$dynamicRef" in node else "$recursiveAnchor True"
            )
            found = found if self._anchors[anchor] < 2 else None
        if found is None:
            self._leave_out(f"{spot.place}/$ref", f"{reference!r} leads out of the schema or nowhere", made)
            return
        target, base = found
        if id(target) not in self._names:
            name = self._names[id(target)] = str(len(self._names))
            self._waiting.append((name, target, _Spot(spot.place, base)))
        made["$ref"] = f"#/$defs/{self._names[id(target)]}"

    def _take_values(self, made: dict[str, JsonValue], node: Schema, spot: _Spot) -> None:
        """Take the keywords that are no schemas, as far as they are what the specification says."""
        for name, (what, is_right) in _VALUES.items():
            value = node.get(name)
            if name not in node or value == [] or (value is None and name != "const"):
                if value == [] and name == "enum":
                    made[name] = value
            elif is_right(value):
                made[name] = value
            elif not (name.startswith("exclusive") and isinstance(value, bool)):
                self._leave_out(f"{spot.place}/{name}", f"is not {what}", made)
        for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
            # As draft 4 has it, a flag beside the bound.
            if node.get(exclusive) is True and bound in made:
                made[exclusive] = made.pop(bound)
        if made.get("type") == "any":
            del made["type"]

    def _take_schemas(self, made: dict[str, JsonValue], node: Schema, spot: _Spot) -> None:
        for name in _MAPS:
            self._take_map(made, name, node.get(name), spot)
        for name in _ONES:
            if node.get(name) is not None:
                made[name] = self._translate(node[name], spot.down(name))
        for name in _LISTS:
            parts = node.get(name)
            if isinstance(parts, list) and parts:
                made[name] = self._translate_all(parts, spot.down(name))
            elif parts:
                self._leave_out(f"{spot.place}/{name}", "is no list of schemas", made)
                if name == "prefixItems":
                    made[_NO_REST] = True

    def _translate_all(self, parts: Sequence[JsonValue], spot: _Spot) -> list[JsonValue]:
        return [self._translate(each, spot.down(str(number))) for number, each in enumerate(parts)]

    def _take_map(self, made: dict[str, JsonValue], name: str, value: JsonValue, spot: _Spot) -> None:
        if not isinstance(value, dict):
            if value:
                self._leave_out(f"{spot.place}/{name}", "is no object", made)
                made[_NO_REST] = True
            return
        taken: dict[str, JsonValue] = {}
        for key, each in value.items():
            here = spot.down(name, key)
            if name == "patternProperties" and (why := _find_unreadable(key)):
                self._leave_out(here.place, why, made)
                made[_NO_REST] = True
            else:
                taken[key] = True if each is None else self._translate(each, here)
        made[name] = taken

    def _take_items(self, made: dict[str, JsonValue], node: Schema, spot: _Spot) -> None:
        items, here = node.get("items"), spot.down("items")
        if isinstance(items, list):
            # A tuple, as all drafts before 2020-12 have it.
            if items and "prefixItems" not in made:
                made["prefixItems"] = self._translate_all(items, here)
            items, here = node.get("additionalItems"), spot.down("additionalItems")
        if items is not None:
            made["items"] = self._translate(items, here)
        if made.pop(_NO_REST, False):
            # What "all others" are cannot be told.
            made.pop("additionalProperties", None)
            made.pop("items", None)

    def _take_dependencies(self, made: dict[str, JsonValue], node: Schema, spot: _Spot) -> None:
        required: dict[str, JsonValue] = {}
        schemas: dict[str, JsonValue] = dict(as_mapping(made.get("dependentSchemas")))
        for keyword in ("dependencies", "dependentRequired"):
            for name, each in as_mapping(node.get(keyword)).items():
                names: JsonValue = [each] if isinstance(each, str) else each
                if _is_names(names):
                    required[name] = names
                elif isinstance(each, dict | bool) and keyword == "dependencies":
                    schemas[name] = self._translate(each, spot.down(keyword, name))
                else:
                    self._leave_out(spot.down(keyword, name).place, "is no list of names", made)
        made |= {"dependentRequired": required} if required else {}
        made |= {"dependentSchemas": schemas} if schemas else {}

    # What is left out

    def _cut_loops(self, start: str) -> None:
        """Leave out references by which the definition START would be defined by nothing but itself."""
        finished: set[int] = set()

        def walk(node: JsonValue, within: frozenset[str]) -> None:
            if not isinstance(node, dict) or id(node) in finished:
                return
            finished.add(id(node))
            if isinstance(reference := node.get("$ref"), str):
                name = reference.removeprefix("#/$defs/")
                if name in within:
                    del node["$ref"]
                    self._leave_out("$ref", "leads in a circle", node)
                else:
                    walk(self._definitions[name], within | {name})
            for part in find_in_place(node):
                walk(part, within)

        walk(self._definitions[start], frozenset({start}))

    def _leave_out(self, place: str, why: str, made: dict[str, JsonValue]) -> None:
        self.unchecked.append(f"{place or '/'}: {why}")
        made[LEFT_OUT] = True


_NO_REST: Final = "x-no-rest"
"""Marks a schema while it is read: which properties or items are the others cannot be told."""


def _allow_null(made: dict[str, JsonValue], node: Schema) -> JsonValue:
    """Return MADE so that null fits too, where NODE says `nullable` as OpenAPI 3.0 does."""
    if node.get("nullable") is not True:
        return made
    kind = made.get("type")
    if isinstance(kind, str) and not made.keys() & {"enum", "const", "$ref", "not", "if", "allOf", "anyOf", "oneOf"}:
        return {**made, "type": [kind, "null"]}
    return {"anyOf": [made, {"type": "null"}]}


def _join(base: str, reference: str) -> str:
    if reference.startswith("#"):
        return base + reference  # urljoin knows no `urn:`
    try:
        return urljoin(base, reference)
    except ValueError:
        return reference


def _find_unreadable(pattern: str) -> str:
    try:
        require_readable(pattern)
    except UnreadableError as error:
        return str(error)
    return ""


def _is_number(value: JsonValue) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: JsonValue) -> bool:
    return _is_number(value) and cast(float, value) >= 0 and cast(float, value) == int(cast(float, value))


def _is_names(value: JsonValue) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _is_type(value: JsonValue) -> bool:
    kinds = value if isinstance(value, list) else [value]
    return value == "any" or all(isinstance(kind, str) and kind in _TYPES for kind in kinds)


def _is_pattern(value: JsonValue) -> bool:
    return isinstance(value, str) and not _find_unreadable(value)


_VALUES: Final[Mapping[str, tuple[str, Callable[[JsonValue], bool]]]] = {
    "type": ("a type of JSON Schema", _is_type),
    "enum": ("a list", lambda value: isinstance(value, list)),
    "const": ("a value", lambda _: True),
    "pattern": ("a pattern that ECMAScript has", _is_pattern),
    "required": ("a list of names", _is_names),
    "uniqueItems": ("true or false", lambda value: isinstance(value, bool)),
    "multipleOf": ("a number above 0", lambda value: _is_number(value) and cast(float, value) > 0),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), ("a number", _is_number)),
    **{
        f"{end}{what}": ("a count", _is_count)
        for end in ("min", "max")
        for what in ("Length", "Items", "Properties", "Contains")
    },
}

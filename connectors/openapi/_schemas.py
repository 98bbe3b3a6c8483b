"""How a schema of an OpenAPI document becomes JSON Schema that values can be checked against."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, cast

from pydantic import JsonValue

from perdure.connectors.openapi._document import Part
from perdure.connectors.openapi._styles import Style

__all__ = ["Schema", "SchemaTranslator", "Side"]

Schema = dict[str, JsonValue]
Side = Literal["request", "response"]

ALL_KINDS: Final = frozenset({"string", "number", "integer", "boolean", "array", "object", "null"})
_DEEPEST: Final = 50
_WITH_SCHEMA: Final = ("items", "contains", "additionalProperties", "propertyNames", "not", "if", "then", "else")
_WITH_NAMED_SCHEMAS: Final = ("properties", "patternProperties", "dependentSchemas")
_WITH_SCHEMA_LIST: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
_KEPT_KEYWORDS: Final = {
    *("type", "enum", "const", "format", "default", "title", "description", "required", "dependentRequired"),
    *("multipleOf", "maximum", "minimum", "exclusiveMaximum", "exclusiveMinimum"),
    *("maxLength", "minLength", "pattern", "maxItems", "minItems", "uniqueItems", "maxContains", "minContains"),
    *("maxProperties", "minProperties", "contentEncoding", "contentMediaType"),
}
# They say nothing of which values fit, or it is dealt with elsewhere.
_IGNORED_KEYWORDS: Final = {
    *("example", "examples", "xml", "externalDocs", "discriminator", "deprecated", "readOnly", "writeOnly", "nullable"),
    *("$comment", "$schema", "$defs", "definitions", "$ref"),
}


class SchemaTranslator:
    """Schemas of one SIDE of an operation, and under `definitions` what they refer to by `#/$defs/NAME`.

    What only the target writes is left out of a request, and what only we write out of a response. A response may have
    more than its schema says: targets grow.
    """

    def __init__(self, side: Side) -> None:
        self.definitions: Schema = {}
        self._side = side
        self._names: dict[str, str] = {}

    def translate(self, part: Part) -> Schema:
        """Return the JSON Schema that PART is. Raises `InvalidSettings` where it says what nobody here understands."""
        value = part.value
        reference = value.get("$ref")
        if isinstance(reference, str):
            referred: Schema = {"$ref": f"#/$defs/{self._define(part, reference)}"}
            # In OpenAPI 3.0 what stands beside a reference counts for nothing.
            rest = {} if part.document.is_3_0 else {name: each for name, each in value.items() if name != "$ref"}
            return referred | self._translate_keywords(Part(part.document, rest, part.where)) if rest else referred
        return self._translate_keywords(part)

    def with_definitions(self, schema: Schema) -> Schema:
        """Return SCHEMA with the definitions that it needs."""
        needed: Schema = {}
        waiting = _list_references(schema)
        while waiting:
            name = waiting.pop()
            if name in self.definitions and name not in needed:
                needed[name] = self.definitions[name]
                waiting += _list_references(needed[name])
        return {**schema, "$defs": dict(sorted(needed.items()))} if needed else schema

    def dereference(self, schema: Schema) -> Schema:
        """Return SCHEMA, or what it refers to if it says nothing else."""
        seen = set()
        while schema.keys() == {"$ref"} and (name := str(schema["$ref"]).removeprefix("#/$defs/")) not in seen:
            seen.add(name)
            schema = cast(Schema, self.definitions[name])
        return schema

    def kinds(self, schema: Schema, trail: tuple[str, ...] = ()) -> frozenset[str]:
        """Return the JSON types that a value of SCHEMA can have, as far as it says: all of them if it says nothing."""
        found = _said_types(schema)
        reference = str(schema.get("$ref", "")).removeprefix("#/$defs/")
        if reference in trail:
            return found
        if reference:
            trail = (*trail, reference)
            found &= self.kinds(cast(Schema, self.definitions[reference]), trail)
        for union in ("anyOf", "oneOf"):
            if isinstance(parts := schema.get(union), list) and parts:
                found &= frozenset().union(*(self.kinds(each, trail) for each in parts if isinstance(each, dict)))
        for part in cast(list[JsonValue], schema.get("allOf") or []):
            found &= self.kinds(part, trail) if isinstance(part, dict) else found
        return found

    def is_open(self, schema: Schema) -> bool:
        """Say whether a value of SCHEMA may be anything: then it is looked at when it is written."""
        return self.kinds(schema) == ALL_KINDS

    def items_of(self, schema: Schema) -> list[Schema]:
        """Return the schemas that SCHEMA and its parts have for the items of a list."""
        return self._inside(schema, ("items",), ("prefixItems",), ())

    def members_of(self, schema: Schema) -> list[Schema]:
        """Return the schemas that SCHEMA and its parts have for the members of an object."""
        return self._inside(schema, ("additionalProperties",), (), ("properties", "patternProperties"))

    def why_unwritable(self, schema: Schema, style: Style) -> str:
        """Return what a value of SCHEMA can be that cannot be written in STYLE; empty if all can."""
        if style.name == "deepObject" or self.is_open(schema):
            return ""
        kinds = self.kinds(schema)
        if "array" in kinds and any(self._has_parts(item) for item in self.items_of(schema)):
            return "a list of objects or lists cannot be written"
        if "object" in kinds and style.explode and style.name in ("spaceDelimited", "pipeDelimited"):
            return f"an object cannot be written in the style {style.name} with `explode`"
        if "object" in kinds and any(self._has_parts(member) for member in self.members_of(schema)):
            return "an object with objects or lists in it cannot be written"
        return ""

    def _has_parts(self, schema: Schema) -> bool:
        return not self.is_open(schema) and bool(self.kinds(schema) & {"array", "object"})

    def _inside(
        self, schema: Schema, one: Sequence[str], several: Sequence[str], named: Sequence[str], trail: tuple[str, ...] = ()
    ) -> list[Schema]:
        reference = str(schema.get("$ref", "")).removeprefix("#/$defs/")
        found: list[JsonValue] = [schema[name] for name in one if name in schema]
        found += [each for name in several for each in cast(list[JsonValue], schema.get(name) or [])]
        found += [each for name in named for each in cast(Schema, schema.get(name) or {}).values()]
        inner: list[JsonValue] = [self.definitions[reference]] if reference and reference not in trail else []
        for union in ("anyOf", "oneOf", "allOf"):
            inner += cast(list[JsonValue], schema.get(union) or [])
        deeper = (*trail, reference) if reference else trail
        return [each for each in found if isinstance(each, dict)] + [
            each for part in inner if isinstance(part, dict) for each in self._inside(part, one, several, named, deeper)
        ]

    def as_plain_object(self, schema: Schema, depth: int = 0) -> Schema | None:
        """Return SCHEMA as one object with its properties, the parts of an `allOf` put together; None if it is no such."""
        schema = self.dereference(schema)
        if depth > _DEEPEST or schema.keys() - _ANNOTATIONS - {
            "type",
            "properties",
            "required",
            "additionalProperties",
            "allOf",
        }:
            return None
        parts = schema.get("allOf", [])
        if schema.get("type", "object") != "object" or not isinstance(parts, list):
            return None
        if not parts:
            return schema if "properties" in schema or schema.get("type") == "object" else None
        together: list[Schema] = [{name: value for name, value in schema.items() if name != "allOf"}]
        for part in parts:
            found = self.as_plain_object(cast(Schema, part), depth + 1)
            if found is None:
                return None
            together.append(found)
        # Each part that refuses others would refuse those of its siblings: nothing fits such a schema.
        if any(each.get("additionalProperties") is False for each in together):
            return None
        return _merge_objects(together)

    def _define(self, part: Part, reference: str) -> str:
        if reference not in self._names:
            found = part.resolve_reference(reference)
            name = re.sub(r"\W+", "_", reference.rpartition("/")[2]).strip("_") or "Schema"
            while name in self._names.values():
                name += "_"
            self._names[reference] = name
            self.definitions[name] = {}  # so that a schema within itself ends here
            self.definitions[name] = self.translate(found)
        return self._names[reference]

    def _translate_keywords(self, part: Part) -> Schema:
        value = part.value
        for name in value:
            if name not in _KNOWN_KEYWORDS and not name.startswith("x-"):
                part.refuse(f"the keyword {name!r} of a schema is not supported")
        _check_keywords(part)
        made: Schema = {name: each for name, each in value.items() if name in _KEPT_KEYWORDS}
        for name in _WITH_SCHEMA:
            if name in value:
                made[name] = self._translate_inner(part, name, value[name])
        for name in _WITH_NAMED_SCHEMAS:
            if name in value:
                made[name] = self._translate_properties(part, name)
        for name in _WITH_SCHEMA_LIST:
            if isinstance(parts := value.get(name), list):
                made[name] = [self._translate_inner(part, f"{name}/{number}", each) for number, each in enumerate(parts)]
        self._fit_side(part, made)
        return _translate_nullable(_translate_bounds(made), value) if part.document.is_3_0 else made

    def _translate_inner(self, part: Part, name: str, value: JsonValue) -> JsonValue:
        if isinstance(value, bool):
            return value
        if not isinstance(value, dict):
            Part(part.document, {}, f"{part.where}/{name}").refuse("expected a schema here")
        return self.translate(Part(part.document, value, f"{part.where}/{name}"))

    def _translate_properties(self, part: Part, name: str) -> Schema:
        given = part.value[name]
        if not isinstance(given, dict):
            part.refuse(f"{name} is not an object")
        return {
            each: self._translate_inner(part, f"{name}/{each.replace('~', '~0').replace('/', '~1')}", value)
            for each, value in given.items()
            if not (name == "properties" and self._is_other_sides(part, each))
        }

    def _is_other_sides(self, part: Part, name: str) -> bool:
        """Say whether the property NAME belongs to the other side."""
        holder = part.get("properties")
        value = holder.value.get(name) if holder else None
        found = holder.get(name) if holder and isinstance(value, dict) else None
        flag = "readOnly" if self._side == "request" else "writeOnly"
        return (isinstance(value, dict) and value.get(flag) is True) or bool(found and found.value.get(flag) is True)

    def _fit_side(self, part: Part, made: Schema) -> None:
        if isinstance(required := made.get("required"), list):
            made["required"] = [name for name in required if not self._is_other_sides(part, str(name))]
        if self._side == "response" and made.get("additionalProperties") is False:
            del made["additionalProperties"]
        # A discriminator picks one of those that fit; and of an answer that may have more than it says, several may.
        if "oneOf" in made and "anyOf" not in made and ("discriminator" in part.value or self._side == "response"):
            made["anyOf"] = made.pop("oneOf")
        if isinstance(pattern := made.get("pattern"), str):
            try:
                re.compile(pattern)
            except re.error:
                del made["pattern"]  # another dialect: the target itself checks it


def _said_types(schema: Schema) -> frozenset[str]:
    given = schema.get("type")
    found = ALL_KINDS
    if isinstance(given, str | list):
        found = frozenset([given] if isinstance(given, str) else cast(list[str], given))
    elif schema.keys() & {"properties", "additionalProperties", "patternProperties"}:
        found = frozenset({"object"})
    elif schema.keys() & {"items", "prefixItems"}:
        found = frozenset({"array"})
    for values in (schema.get("enum"), [schema["const"]] if "const" in schema else None):
        if isinstance(values, list):
            found &= frozenset(kind for value in values for kind in _kinds_of(value))
    return found


def _kinds_of(value: JsonValue) -> tuple[str, ...]:
    if value is None:
        return ("null",)
    if isinstance(value, bool):
        return ("boolean",)
    if isinstance(value, int | float):
        return ("integer", "number")
    return ("string",) if isinstance(value, str) else ("array",) if isinstance(value, list) else ("object",)


def _check_keywords(part: Part) -> None:
    kinds = part.value.get("type", [])
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if kind not in ALL_KINDS or (kind == "null" and part.document.is_3_0):
            part.refuse(f"the type {kind!r} is not supported")
    if part.value.get("format") == "binary":
        part.refuse("bytes (`format: binary`) cannot be an argument or an answer")
    for name, what, fits in _KEYWORD_VALUES:
        value = part.value.get(name)
        flag = part.document.is_3_0 and name.startswith("exclusive") and isinstance(value, bool)
        if name in part.value and not flag and not fits(value):
            part.refuse(f"{name} is not {what}")


def _is_number(value: JsonValue) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: JsonValue) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_names(value: JsonValue) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


_KEYWORD_VALUES: Final[tuple[tuple[str, str, Callable[[JsonValue], bool]], ...]] = (
    *((name, "a number", _is_number) for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")),
    ("multipleOf", "a number above 0", lambda value: _is_number(value) and cast(float, value) > 0),
    *(
        (f"{end}{what}", "a count", _is_count)
        for end in ("min", "max")
        for what in ("Length", "Items", "Properties", "Contains")
    ),
    *((name, "a text", lambda value: isinstance(value, str)) for name in ("pattern", "format", "title", "description")),
    ("uniqueItems", "true or false", lambda value: isinstance(value, bool)),
    ("enum", "a list", lambda value: isinstance(value, list)),
    ("required", "a list of names", _is_names),
    ("dependentRequired", "lists of names", lambda value: isinstance(value, dict) and all(map(_is_names, value.values()))),
)


_ANNOTATIONS: Final = {"title", "description", "default"}
_KNOWN_KEYWORDS: Final = _KEPT_KEYWORDS | _IGNORED_KEYWORDS | {*_WITH_SCHEMA, *_WITH_NAMED_SCHEMAS, *_WITH_SCHEMA_LIST}


def _list_references(value: JsonValue) -> list[str]:
    if isinstance(value, list):
        return [name for each in value for name in _list_references(each)]
    if not isinstance(value, dict):
        return []
    reference = value.get("$ref")
    own = [reference.removeprefix("#/$defs/")] if isinstance(reference, str) else []
    return own + [name for each in value.values() for name in _list_references(each)]


def _merge_objects(parts: list[Schema]) -> Schema:
    properties: Schema = {}
    required: list[JsonValue] = []
    said: Schema = {}
    for part in parts:
        said |= {name: value for name, value in part.items() if name in _ANNOTATIONS or name == "additionalProperties"}
        for name, value in cast(Schema, part.get("properties") or {}).items():
            both = name in properties and properties[name] != value
            properties[name] = {"allOf": [properties[name], value]} if both else value
        required += [name for name in cast(list[JsonValue], part.get("required") or []) if name not in required]
    return {"type": "object", **said, "properties": properties, "required": required}


def _translate_bounds(made: Schema) -> Schema:
    # OpenAPI 3.0 has a bound and a flag; JSON Schema has two bounds.
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(flag := made.get(exclusive), bool):
            del made[exclusive]
            if flag and bound in made:
                made[exclusive] = made.pop(bound)
    return made


def _translate_nullable(made: Schema, value: Mapping[str, JsonValue]) -> Schema:
    if value.get("nullable") is not True:
        return made
    if isinstance(values := made.get("enum"), list) and None not in values:
        made["enum"] = [*values, None]
    if isinstance(kind := made.get("type"), str):
        return {**made, "type": [kind, "null"]}
    return {"anyOf": [made, {"type": "null"}]} if made.keys() & {"allOf", "anyOf", "oneOf"} else made

"""How what a target says of itself becomes a contract: OpenAPI, GraphQL introspection, MCP tools, or only samples.

Every function takes the document as it came and the operations that are relied on, and opens no connection.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote

from pydantic import JsonValue

from perdure.connectors.drift.contracts import Contract, Operation
from perdure.lazy import lazy

Schema = dict[str, JsonValue]

_MAX_DEPTH = 4
"""How many types within types are looked into; deeper ones may be anything."""
_MAX_SCHEMAS = 20_000
"""How many schemas one may hold once its references are replaced."""


class Unreadable(ValueError):
    """The document is not what it should be; the message says where."""


def from_openapi(
    document: Mapping[str, JsonValue],
    operations: Mapping[str, Sequence[str]],
    *,
    reads: Mapping[str, Collection[str]] | None = None,
) -> Contract:
    """Return the contract of OPERATIONS, e.g. `{"POST /refunds": ["payments.refund"]}`, from an OpenAPI 3.x document.

    READS names per operation the fields of the answer that somebody reads; the others may change. What the document does
    not have is left out, which a comparison finds to be gone.
    """
    paths = document.get("paths")
    if not isinstance(paths, dict):
        raise Unreadable("the OpenAPI document has no paths")
    by_shape = {normalize_path(path): item for path, item in paths.items() if isinstance(item, dict)}
    found: dict[str, Operation] = {}
    for name, actions in operations.items():
        method, _, path = name.partition(" ")
        item = by_shape.get(normalize_path(path.partition("?")[0]))
        described = item.get(method.lower()) if item else None
        if isinstance(item, dict) and isinstance(described, dict):
            found[name] = Operation(
                request=_openapi_request(document, item, described),
                response=_openapi_response(document, described, (reads or {}).get(name)),
                actions=tuple(actions),
            )
    return Contract(source="openapi", operations=found)


def from_graphql(introspection: Mapping[str, JsonValue], operations: Mapping[str, Sequence[str]]) -> Contract:
    """Return the contract of OPERATIONS, e.g. `{"mutation refundOrder": ["shop.refund"]}`, from an introspection result."""
    root = introspection.get("data", introspection)
    schema = root.get("__schema") if isinstance(root, dict) else None
    if not isinstance(schema, dict) or not isinstance(schema.get("types"), list):
        raise Unreadable("the answer is not the result of a GraphQL introspection")
    types = {str(each["name"]): each for each in cast(list[dict[str, JsonValue]], schema["types"])}
    found: dict[str, Operation] = {}
    for name, actions in operations.items():
        kind, _, field_name = name.partition(" ")
        root_type = schema.get(f"{kind}Type")
        fields = types.get(str(root_type.get("name")) if isinstance(root_type, dict) else "", {}).get("fields")
        field = next((each for each in _only_objects(fields) if each.get("name") == field_name), None)
        if field is not None:
            found[name] = Operation(
                request=_graphql_object(types, _only_objects(field.get("args")), ()),
                response=_graphql_type(types, field.get("type"), ()),
                actions=tuple(actions),
            )
    return Contract(source="graphql", operations=found)


def from_mcp(tools: Iterable[Mapping[str, JsonValue]], operations: Mapping[str, Sequence[str]]) -> Contract:
    """Return the contract of OPERATIONS, e.g. `{"send_mail": ["mail.send_mail"]}`, from the tools of MCP's `tools/list`.

    A tool's words are part of it: a model acts on them, so who changes them changes what an agent does.
    """
    by_name = {str(tool.get("name")): tool for tool in tools}
    return Contract(
        source="mcp",
        operations={
            name: Operation(
                request=_inline_leniently(tool.get("inputSchema")),
                response=_inline_leniently(tool.get("outputSchema")),
                description="\n".join(str(tool[part]) for part in ("title", "description") if tool.get(part)),
                annotations=dict(cast(Schema, tool.get("annotations") or {})),
                actions=tuple(actions),
            )
            for name, actions in operations.items()
            if (tool := by_name.get(name)) is not None
        },
    )


def from_samples(samples: Mapping[str, Sequence[JsonValue]], operations: Mapping[str, Sequence[str]]) -> Contract:
    """Return a contract whose responses are inferred from SAMPLES by operation. No sample says nothing of its operation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from genson import SchemaBuilder  # type: ignore[import-untyped]  # ships no types

    found: dict[str, Operation] = {}
    for name, actions in operations.items():
        response = None
        if samples.get(name):
            builder = SchemaBuilder()
            for sample in samples[name]:
                builder.add_object(sample)
            response = cast(Schema, builder.to_schema())
            response.pop("$schema", None)
        found[name] = Operation(response=response, actions=tuple(actions))
    return Contract(source="samples", operations=found)


def keep_properties(schema: JsonValue, names: Collection[str], document: Mapping[str, JsonValue] | None = None) -> Schema:
    """Return SCHEMA of an object, or of a list of them, with the properties NAMES only. References lead into DOCUMENT."""
    resolved = _resolve_reference(document or {}, schema)
    if "items" in resolved:
        resolved = {**resolved, "items": keep_properties(resolved["items"], names, document)}
    for union in ("allOf", "anyOf", "oneOf"):
        if isinstance(parts := resolved.get(union), list):
            resolved = {**resolved, union: [keep_properties(part, names, document) for part in parts]}
    properties, required = resolved.get("properties"), resolved.get("required")
    if isinstance(properties, dict):
        resolved = {**resolved, "properties": {name: value for name, value in properties.items() if name in names}}
    if isinstance(required, list):
        resolved = {**resolved, "required": [name for name in required if name in names]}
    return resolved


def normalize_path(path: str) -> str:
    """Return PATH without the names of its parts, which do not matter."""
    return re.sub(r"{[^}]*}", "{}", path.rstrip("/"))


def inline_references(schema: Schema, *, lenient: bool = False) -> Schema:
    """Return SCHEMA with its references replaced by what they lead to, as deep as there is room for.

    LENIENT lets a reference that leads nowhere stand for anything; else it raises `Unreadable`.
    """
    for max_depth in range(_MAX_DEPTH, 0, -1):
        with suppress(_TooLargeError):
            return _Inliner(schema, max_depth=max_depth, room=_MAX_SCHEMAS, lenient=lenient).inline(schema) or {}
    return {}


class _TooLargeError(Exception):
    pass


# OpenAPI


def _openapi_request(document: Mapping[str, JsonValue], item: Schema, described: Schema) -> Schema:
    properties: Schema = {}
    required: list[JsonValue] = []
    for given in [*_only_objects(item.get("parameters")), *_only_objects(described.get("parameters"))]:
        parameter = _resolve_reference(document, given)
        # What a header or a cookie holds is the connector's affair; what the path holds has its place there.
        if parameter.get("in") == "query":
            properties[str(parameter["name"])] = _inline(document, parameter.get("schema")) or {}
            if parameter.get("required"):
                required.append(str(parameter["name"]))
    body = described.get("requestBody")
    content = _json_content(_resolve_reference(document, body)) if isinstance(body, dict) else None
    schema = _inline(document, content.get("schema")) if content else None
    if schema is None:
        return {"type": "object", "properties": properties, "required": required}
    if isinstance(schema.get("properties"), dict):
        properties |= cast(Schema, schema["properties"])
        required += cast(list[JsonValue], schema.get("required") or [])
        return {**schema, "properties": properties, "required": required}
    return schema


def _openapi_response(document: Mapping[str, JsonValue], described: Schema, names: Collection[str] | None) -> Schema | None:
    responses = described.get("responses")
    if not isinstance(responses, dict):
        return None
    good = sorted(status for status in responses if str(status).startswith("2")) or ["default"]
    for status in good:
        answer = responses.get(status)
        content = _json_content(_resolve_reference(document, answer)) if isinstance(answer, dict) else None
        if content:
            schema = content.get("schema")
            # First what is read, then what it refers to: some documents refer to nearly all of themselves.
            return _inline(document, schema if names is None else keep_properties(schema, names, document))
    return None


def _json_content(thing: Schema) -> Schema | None:
    content = thing.get("content")
    if not isinstance(content, dict):
        return None
    kinds = [kind for kind in content if re.fullmatch(r"application/(?:[\w.+-]+\+)?json(?:;.*)?|\*/\*", kind)]
    found = content[kinds[0]] if kinds else None
    return found if isinstance(found, dict) else None


def _resolve_reference(document: Mapping[str, JsonValue], thing: JsonValue) -> Schema:
    seen: set[str] = set()
    while isinstance(thing, dict) and isinstance(reference := thing.get("$ref"), str):
        if reference in seen or not (reference == "#" or reference.startswith("#/")):
            raise Unreadable(f"the reference {reference!r} cannot be followed")
        seen.add(reference)
        found: JsonValue = dict(document)
        for part in unquote(reference).split("/")[1:]:
            found = _look_into(found, part.replace("~1", "/").replace("~0", "~"))
        if found is None:
            raise Unreadable(f"the reference {reference!r} leads nowhere")
        thing = found
    return thing if isinstance(thing, dict) else {}


def _look_into(value: JsonValue, name: str) -> JsonValue:
    if isinstance(value, list):
        return value[int(name)] if name.isdecimal() and int(name) < len(value) else None
    return value.get(name) if isinstance(value, dict) else None


def _inline_leniently(schema: JsonValue) -> Schema | None:
    return inline_references(schema, lenient=True) if isinstance(schema, dict) else None


def _inline(document: Mapping[str, JsonValue], schema: JsonValue) -> Schema | None:
    return _Inliner(document or (schema if isinstance(schema, dict) else {})).inline(schema)


class _Inliner:
    """Replaces references into DOCUMENT by what they lead to; a type within itself ends there, open to all."""

    def __init__(
        self,
        document: Mapping[str, JsonValue],
        *,
        max_depth: int = _MAX_DEPTH,
        room: int | None = None,
        lenient: bool = False,
    ) -> None:
        self._document = document
        self._max_depth = max_depth
        self._room = room
        self._lenient = lenient

    def inline(self, schema: JsonValue, trail: tuple[str, ...] = ()) -> Schema | None:
        """Return SCHEMA without references, or None if it is no object. Raises `Unreadable`, and `_TooLargeError`."""
        if not isinstance(schema, dict):
            return None
        if self._room is not None:
            self._room -= 1
            if self._room < 0:
                raise _TooLargeError
        if isinstance(reference := schema.get("$ref"), str):
            return self._inline_reference(reference, schema, trail)
        made: Schema = {}
        for name, value in schema.items():
            if self._lenient and not isinstance(value, _KINDS.get(name, object)):
                continue  # what is no schema says nothing
            if name in _MAPS_OF_SCHEMAS and isinstance(value, dict):
                made[name] = {key: self._inner(each, trail) for key, each in value.items()}
            elif name in _SCHEMAS and isinstance(value, dict):
                made[name] = self._inner(value, trail)
            elif name in (*_LISTS_OF_SCHEMAS, "items") and isinstance(value, list):
                made[name] = [self._inner(each, trail) for each in value]
            elif name not in ("$defs", "definitions", "components"):
                made[name] = value
        return made

    def _inline_reference(self, reference: str, schema: Schema, trail: tuple[str, ...]) -> Schema | None:
        if reference in trail or len(trail) >= self._max_depth:
            return {}
        rest = {name: value for name, value in schema.items() if name != "$ref"}
        try:
            referred = _resolve_reference(self._document, {"$ref": reference})
        except Unreadable:
            if not self._lenient:
                raise
            referred = {}
        return self.inline({**referred, **rest}, (*trail, reference))

    def _inner(self, schema: JsonValue, trail: tuple[str, ...]) -> JsonValue:
        return schema if isinstance(schema, bool) else self.inline(schema, trail) or {}


_MAPS_OF_SCHEMAS = ("properties", "patternProperties", "dependentSchemas")
_SCHEMAS = (
    *("items", "additionalProperties", "not", "contains", "propertyNames", "if", "then", "else"),
    *("additionalItems", "unevaluatedItems", "unevaluatedProperties"),
)
_LISTS_OF_SCHEMAS = ("allOf", "anyOf", "oneOf", "prefixItems")
_KINDS: dict[str, type] = {
    **dict.fromkeys(_MAPS_OF_SCHEMAS, dict),
    **dict.fromkeys((*_LISTS_OF_SCHEMAS, "required", "enum"), list),
}


# GraphQL


_SCALARS: dict[str, JsonValue] = {
    "Int": "integer",
    "Float": "number",
    "String": "string",
    "ID": "string",
    "Boolean": "boolean",
}


def _graphql_object(types: Mapping[str, Schema], fields: Sequence[Schema], trail: tuple[str, ...]) -> Schema:
    needed = [
        str(field["name"])
        for field in fields
        if isinstance(kind := field.get("type"), dict)
        and kind.get("kind") == "NON_NULL"
        and field.get("defaultValue") is None
    ]
    return {
        "type": "object",
        "properties": {str(field["name"]): _graphql_type(types, field.get("type"), trail) for field in fields},
        "required": cast(list[JsonValue], needed),
    }


def _graphql_type(types: Mapping[str, Schema], given: JsonValue, trail: tuple[str, ...], *, null: bool = True) -> Schema:
    if not isinstance(given, dict):
        return {}
    kind, name = given.get("kind"), str(given.get("name"))
    if kind == "NON_NULL":
        return _graphql_type(types, given.get("ofType"), trail, null=False)
    if kind == "LIST":
        schema: Schema = {"type": "array", "items": _graphql_type(types, given.get("ofType"), trail)}
    elif kind == "SCALAR":
        schema = {"type": _SCALARS[name]} if name in _SCALARS else {}
    elif kind == "ENUM":
        values = [each["name"] for each in _only_objects(types.get(name, {}).get("enumValues"))]
        schema = {"type": "string", "enum": values}
    elif name in trail or len(trail) == _MAX_DEPTH:
        schema = {}
    elif kind in ("INTERFACE", "UNION"):
        parts = _only_objects(types.get(name, {}).get("possibleTypes"))
        schema = {"anyOf": [_graphql_type(types, each, (*trail, name), null=False) for each in parts]}
    else:
        described = types.get(name, {})
        fields = [
            # A field that wants arguments of its own is another question; this asks for the plain ones.
            field
            for field in [*_only_objects(described.get("fields")), *_only_objects(described.get("inputFields"))]
            if not any(argument.get("defaultValue") is None for argument in _only_objects(field.get("args")))
        ]
        schema = _graphql_object(types, fields, (*trail, name))
    return {"anyOf": [schema, {"type": "null"}]} if null and schema else schema


def _only_objects(value: JsonValue) -> list[Schema]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


if not TYPE_CHECKING:
    # Names of 0.1.0; `perdure.moved` has them. Remove after 2027-06.
    __getattr__ = lazy(__name__, {})

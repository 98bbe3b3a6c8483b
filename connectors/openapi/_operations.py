"""What an operation of an OpenAPI document takes and answers, and how that is written into a request."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, cast
from urllib.parse import quote, urlencode

from pydantic import JsonValue

from perdure.connectors.http import Request, quote_segment
from perdure.connectors.openapi._document import Document, Part
from perdure.connectors.openapi._schemas import Schema, SchemaTranslator
from perdure.errors import EffectRejected

__all__ = ["BODY", "RESULT", "Operation", "read_operation"]

BODY: Final = "body"
"""The field of the input that has the whole body, where its own fields cannot be fields of the input."""
RESULT: Final = "result"
"""The field of the output that has the answer, where that is no object."""

Place = Literal["path", "query", "header"]

_STYLES: Final[Mapping[str, tuple[str, ...]]] = {
    "path": ("simple",),
    "header": ("simple",),
    "query": ("form", "spaceDelimited", "pipeDelimited", "deepObject"),
}
# OpenAPI says that parameters with these names count for nothing.
_NO_PARAMETERS: Final = {"accept", "content-type", "authorization"}
_JSON: Final = re.compile(r"application/(?:[\w.+-]+\+)?json(?:;.*)?|\*/\*")
_FORM: Final = "application/x-www-form-urlencoded"


@dataclass(frozen=True)
class Parameter:
    """A parameter and how its value is written."""

    name: str
    place: Place
    style: str
    explode: bool

    def pairs(self, value: JsonValue) -> list[tuple[str, str]]:
        """Return the names and texts that VALUE is written as."""
        if self.style == "deepObject" and isinstance(value, dict):
            return [(f"{self.name}[{inner}]", _to_text(each)) for inner, each in value.items()]
        if not isinstance(value, list):
            return [(self.name, _to_text(value))]
        if self.explode and self.place == "query":
            return [(self.name, _to_text(each)) for each in value]
        between = {"spaceDelimited": " ", "pipeDelimited": "|"}.get(self.style, ",")
        return [(self.name, between.join(map(_to_text, value)))]


@dataclass(frozen=True)
class Operation:
    """An operation: INPUT is the schema of what it takes, all in one object, and OUTPUT that of what it answers."""

    request: str
    """`METHOD /path`."""
    where: str
    parameters: tuple[Parameter, ...]
    input: Schema
    output: Schema
    body: Literal["none", "fields", "whole"]
    form: bool
    answer: Literal["nothing", "object", "other"]

    def build_request(self, given: Mapping[str, JsonValue], also: Mapping[str, JsonValue]) -> Request:
        """Return the request with what is GIVEN, by the names of the input, and with ALSO in the body."""
        method, _, path = self.request.partition(" ")
        rest = dict(given)
        query: list[tuple[str, str]] = []
        headers: dict[str, str] = {}
        for parameter in self.parameters:
            if parameter.name in rest:
                pairs = parameter.pairs(rest.pop(parameter.name))
                if parameter.place == "path":
                    path = path.replace(f"{{{parameter.name}}}", quote_segment(pairs[0][1], parameter.name))
                elif parameter.place == "query":
                    query += pairs
                else:
                    headers |= {name: _check_header(name, text) for name, text in pairs}
        body = self._body(rest, also)
        # Spaces as %20: not every target takes a plus for one.
        address = f"{path}?{urlencode(query, quote_via=quote)}" if query else path
        return Request(method, address, body, headers=headers)

    def _body(self, rest: Mapping[str, JsonValue], also: Mapping[str, JsonValue]) -> JsonValue:
        if self.body == "none":
            return None
        if self.body == "fields":
            return {**rest, **also}
        whole = rest.get(BODY)
        return {**whole, **also} if isinstance(whole, dict) else whole

    @property
    def fields(self) -> Mapping[str, JsonValue]:
        """The schemas of everything that it takes, by name."""
        return cast(Schema, self.input["properties"])

    @property
    def body_fields(self) -> Mapping[str, JsonValue]:
        """The schemas of the fields of the body, by name."""
        names = {parameter.name for parameter in self.parameters}
        return {name: schema for name, schema in self.fields.items() if self.body == "fields" and name not in names}


def read_operation(document: Document, request: str, part: Part, *, ours: Collection[str] = ()) -> Operation:
    """Return the operation that PART of DOCUMENT is, at REQUEST.

    OURS are headers that the connector fills in itself. Raises `InvalidSettings` where the document says what is not
    understood.
    """
    method, _, path = request.partition(" ")
    if method not in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        part.refuse(f"{method} cannot be an action; GET, POST, PUT, PATCH and DELETE can")
    schemas = SchemaTranslator("request")
    parameters: list[Parameter] = []
    properties: Schema = {}
    required: list[JsonValue] = []
    for described in _list_parameters(document, path, part):
        parameter = _read_parameter(described)
        if parameter.place == "header" and parameter.name.lower() in _NO_PARAMETERS | {name.lower() for name in ours}:
            continue
        if parameter.name in properties:
            described.refuse(f"there are two parameters called {parameter.name!r}")
        parameters.append(parameter)
        properties[parameter.name] = _read_parameter_schema(described, parameter, schemas)
        if described.value.get("required") is True or parameter.place == "path":
            required.append(parameter.name)
    for name in re.findall(r"{([^{}]+)}", path):
        if not any(parameter.name == name and parameter.place == "path" for parameter in parameters):
            if name in properties:
                part.refuse(f"{name!r} in the path has no parameter of its own")
            parameters.append(Parameter(name, "path", "simple", explode=False))
            properties[name] = {"type": "string"}
            required.append(name)
    body, form = _read_body(part, schemas, properties, required)
    others: JsonValue = body.pop("additionalProperties", None) if body else None
    described_input: Schema = {"type": "object", "properties": properties, "required": required}
    if others is not None or not properties:
        described_input["additionalProperties"] = others if others is not None else False
    answer, output = _read_answer(part)
    return Operation(
        request=request,
        where=part.where,
        parameters=tuple(parameters),
        input=schemas.with_definitions(described_input),
        output=output,
        body="none" if body is None else "whole" if BODY in body else "fields",
        form=form,
        answer=answer,
    )


def _list_parameters(document: Document, path: str, part: Part) -> Iterable[Part]:
    paths = Part(document, dict(document.root), "#").get("paths")
    item = paths.get(path) if paths else None
    own = part.each("parameters")
    names = {(each.text("name"), each.text("in")) for each in own}
    inherited = item.each("parameters") if item else []
    return [*(each for each in inherited if (each.text("name"), each.text("in")) not in names), *own]


def _read_parameter(part: Part) -> Parameter:
    place, name = part.text("in"), part.text("name")
    if place not in _STYLES or not name:
        part.refuse(f"a parameter in {place!r} is not supported; one in path, query or header is")
    style = part.text("style") or _STYLES[place][0]
    if style not in _STYLES[place]:
        part.refuse(f"the style {style!r} of a parameter in {place} is not supported")
    explode = part.value.get("explode", style == "form")
    return Parameter(name, cast(Place, place), style, explode=explode is True)


def _read_parameter_schema(part: Part, parameter: Parameter, schemas: SchemaTranslator) -> Schema:
    if "content" in part.value:
        part.refuse("a parameter with `content` is not supported; one with `schema` is")
    given = part.value.get("schema", {})
    if not isinstance(given, dict):
        part.refuse("its schema is not an object")
    schema = schemas.translate(Part(part.document, given, f"{part.where}/schema"))
    meant = schemas.dereference(schema)
    is_object = meant.get("type") == "object" or "properties" in meant
    if is_object and parameter.style != "deepObject":
        part.refuse(f"an object in {parameter.place} needs `style: deepObject`")
    said = part.text("description")
    return {**schema, "description": said} if said and "description" not in schema else schema


def _read_body(
    part: Part, schemas: SchemaTranslator, properties: Schema, required: list[JsonValue]
) -> tuple[dict[str, JsonValue] | None, bool]:
    """Add the fields of the body to PROPERTIES and REQUIRED. Return what is said of the body; None if there is none."""
    described = part.get("requestBody")
    content = described.get("content") if described else None
    if described is None or content is None:
        return None, False
    kinds = [kind for kind in content.value if _JSON.fullmatch(kind)]
    form = not kinds and _FORM in content.value
    if not kinds and not form:
        content.refuse(f"a body of {', '.join(content.value)} is not supported; application/json and {_FORM} are")
    media = content.get(_FORM if form else kinds[0])
    schema = _read_schema(media, schemas)
    plain = schemas.as_plain_object(schema)
    if form:
        _check_form(cast(Part, media), plain, schemas)
    fields = cast(Schema, plain.get("properties") or {}) if plain else {}
    if plain is None or not fields or fields.keys() & properties.keys():
        if form:
            content.refuse("the fields of this form have the names of parameters")
        if BODY in properties:
            part.refuse(f"there is a parameter called {BODY!r}, and the body needs that name")
        properties[BODY] = schema
        if described.value.get("required") is True:
            required.append(BODY)
        return {BODY: True}, form
    properties |= fields
    required += cast(list[JsonValue], plain.get("required") or [])
    return ({"additionalProperties": plain["additionalProperties"]} if "additionalProperties" in plain else {}), form


def _read_schema(media: Part | None, schemas: SchemaTranslator) -> Schema:
    given = media.value.get("schema", {}) if media else {}
    if media is None or not isinstance(given, dict):
        return {}
    return schemas.translate(Part(media.document, given, f"{media.where}/schema"))


def _check_form(media: Part, plain: Schema | None, schemas: SchemaTranslator) -> None:
    if plain is None:
        media.refuse("the schema of a form has to be a plain object")
    encoding = media.get("encoding")
    for name, schema in cast(Schema, plain.get("properties") or {}).items():
        meant = schemas.dereference(cast(Schema, schema))
        rule = encoding.get(name) if encoding and name in encoding.value else None
        deep = rule is not None and rule.text("style") == "deepObject"
        if not deep and (meant.get("type") == "object" or "properties" in meant):
            media.refuse(f"the field {name!r} of a form is an object, so it needs an encoding with `style: deepObject`")


def _read_answer(part: Part) -> tuple[Literal["nothing", "object", "other"], Schema]:
    schemas = SchemaTranslator("response")
    responses = part.get("responses")
    said = list(responses.value) if responses else []
    good = [name for name in said if re.fullmatch(r"2\d\d|2XX", name)] or [name for name in said if name == "default"]
    found: list[Schema] = []
    nothing = not good
    for answer in filter(None, (responses.get(name) if responses else None for name in good)):
        content = answer.get("content")
        if content is None or not content.value:
            nothing = True
            continue
        kinds = [kind for kind in content.value if _JSON.fullmatch(kind)]
        if not kinds:
            content.refuse(f"an answer of {', '.join(content.value)} is not supported; application/json is")
        schema = _read_schema(content.get(kinds[0]), schemas)
        if schema not in found:
            found.append(schema)
    if not found:
        return "nothing", {"type": "object", "properties": {}, "additionalProperties": False}
    if nothing:
        found.append({"type": "object", "maxProperties": 0})
    if len(found) == 1:
        plain = schemas.as_plain_object(found[0])
        if plain is not None:
            return "object", schemas.with_definitions(plain)
    union: Schema = found[0] if len(found) == 1 else {"anyOf": cast(list[JsonValue], found)}
    if all(_is_object(schema, schemas, ()) for schema in found):
        return "object", schemas.with_definitions(union)
    return "other", schemas.with_definitions({"type": "object", "properties": {RESULT: union}, "required": [RESULT]})


def _is_object(schema: Schema, schemas: SchemaTranslator, trail: tuple[str, ...]) -> bool:
    """Say whether only objects fit SCHEMA."""
    reference = str(schema.get("$ref", ""))
    if reference in trail:
        return False
    schema = schemas.dereference(schema)
    if schema.get("type") == "object":
        return True
    inner = (*trail, reference) if reference else trail
    for union, enough in (("anyOf", all), ("oneOf", all), ("allOf", any)):
        parts = schema.get(union)
        if isinstance(parts, list) and parts and enough(_is_object(cast(Schema, part), schemas, inner) for part in parts):
            return True
    return "properties" in schema and "type" not in schema


def _check_header(name: str, text: str) -> str:
    if not re.fullmatch(r"[\x20-\x7e]*", text):
        raise EffectRejected(f"the header {name} cannot have these characters, so nothing was sent")
    return text


def _to_text(value: JsonValue) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

"""What an operation of an OpenAPI document answers, and in which media types."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, cast

from pydantic import JsonValue

from perdure.connectors.http import JSON_TYPE
from perdure.connectors.openapi._document import Part
from perdure.connectors.openapi._schemas import Schema, SchemaTranslator

__all__ = ["RESULT", "Answer", "read_answer"]

RESULT: Final = "result"
"""The field of the output that has the answer, where that is no object."""
_RANGES: Final = ("*/*", "application/*", "application/*+json")


@dataclass(frozen=True)
class Answer:
    """What is answered: KIND says how its content becomes the output, whose schema is SCHEMA."""

    kind: Literal["nothing", "object", "other", "text"]
    schema: Schema
    accept: str
    """What a request says it takes."""


def read_answer(part: Part) -> Answer:
    """Return what the operation PART answers when all is well. Raises `InvalidSettings` where that cannot be read."""
    schemas = SchemaTranslator("response")
    responses = part.get("responses")
    said = list(responses.value) if responses else []
    good = [name for name in said if re.fullmatch(r"2\d\d|2XX", name)] or [name for name in said if name == "default"]
    found: list[Schema] = []
    media: list[str] = []
    texts = 0
    nothing = not good
    for answer in filter(None, (responses.get(name) if responses else None for name in good)):
        content = answer.get("content")
        if content is None or not content.value:
            nothing = True
            continue
        chosen, is_text = _choose(content)
        media.append(chosen)
        texts += is_text
        schema: Schema = {"type": "string"} if is_text else _read_schema(content.get(chosen), schemas)
        if schema not in found:
            found.append(schema)
    if not found:
        return Answer("nothing", {"type": "object", "properties": {}, "additionalProperties": False}, "*/*")
    accept = _accept(media)
    if texts:
        if texts < len(media):
            part.refuse("its answer is JSON at one time and a text at another, which is not supported")
        # An answer without content is an empty text.
        return Answer("text", _result(schemas, found[0]), accept)
    if nothing:
        found.append({"type": "object", "maxProperties": 0})
    if len(found) == 1:
        plain = schemas.as_plain_object(found[0])
        if plain is not None:
            return Answer("object", schemas.with_definitions(plain), accept)
    union: Schema = found[0] if len(found) == 1 else {"anyOf": cast(list[JsonValue], found)}
    if all(_is_object(schema, schemas, ()) for schema in found):
        return Answer("object", schemas.with_definitions(union), accept)
    return Answer("other", _result(schemas, union), accept)


def _choose(content: Part) -> tuple[str, bool]:
    """Return which media type of CONTENT is asked for, and whether it is a text."""
    offered = list(content.value)
    for fits in (_is_json, lambda media: bool(JSON_TYPE.fullmatch(media)), lambda media: _essence(media) in _RANGES):
        if found := [each for each in offered if fits(each)]:
            return found[0], False
    if found := [each for each in offered if _essence(each).startswith("text/")]:
        return found[0], True
    return content.refuse(f"an answer of {', '.join(offered)} is not supported; JSON and texts are")


def _accept(media: list[str]) -> str:
    asked = dict.fromkeys("application/json" if _essence(each) in _RANGES else each for each in media)
    # Whoever has only another type answers with that, rather than 406: what it is shows when it is read.
    return ", ".join([*asked, "*/*;q=0.1"])


def _essence(media: str) -> str:
    return media.partition(";")[0].strip().lower()


def _is_json(media: str) -> bool:
    return _essence(media) == "application/json"


def _read_schema(media: Part | None, schemas: SchemaTranslator) -> Schema:
    given = media.value.get("schema", {}) if media else {}
    if media is None or not isinstance(given, dict):
        return {}
    return schemas.translate(Part(media.document, given, f"{media.where}/schema"))


def _result(schemas: SchemaTranslator, schema: Schema) -> Schema:
    return schemas.with_definitions({"type": "object", "properties": {RESULT: schema}, "required": [RESULT]})


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

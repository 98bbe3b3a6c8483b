"""Which parameters an operation of an OpenAPI document has, and how each of them is written."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, cast

from pydantic import JsonValue

from perdure.connectors.http import JSON_TYPE, encode_json, quote_value
from perdure.connectors.openapi._document import Document, Part
from perdure.connectors.openapi._schemas import Schema, SchemaTranslator
from perdure.connectors.openapi._styles import (
    RESERVED,
    STYLES,
    Style,
    write_header,
    write_pairs,
    write_segment,
)
from perdure.errors import EffectRejected

__all__ = ["Parameter", "Target", "read_parameters", "read_path"]

Place = Literal["path", "query", "header"]

# OpenAPI says that parameters with these names count for nothing, and the last ones are HTTP's own affair.
_NO_PARAMETERS: Final = {
    *("accept", "content-type", "authorization"),
    *(
        "content-length",
        "transfer-encoding",
        "connection",
        "host",
        "expect",
        "te",
        "trailer",
        "upgrade",
        "content-encoding",
    ),
}


@dataclass(frozen=True)
class Parameter:
    """A parameter and how its value is written."""

    name: str
    place: Place
    style: Style
    media: str = ""
    """The media type that the value is written in first, where the document says `content`."""
    argument: str = ""
    """What it is called among the arguments: its name, unless another parameter has that."""

    def write_query(self, value: JsonValue) -> list[str]:
        """Return the pairs of the query that say VALUE."""
        # A `$` is part of many names, and no reader needs it encoded.
        return write_pairs(
            self.name, self._in_media(value), self.style, lambda text: quote_value(text, self.style.keep or "$")
        )

    def write_path(self, value: JsonValue) -> str:
        """Return VALUE as a part of the path."""
        return write_segment(self.name, self._in_media(value), self.style)

    def write_header(self, value: JsonValue) -> str:
        """Return VALUE as the text of the header."""
        text = write_header(self.name, self._in_media(value), self.style)
        if not re.fullmatch(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?|", text):
            raise EffectRejected(f"the header {self.name} cannot have these characters, so nothing was sent")
        return text

    def _in_media(self, value: JsonValue) -> JsonValue:
        if not JSON_TYPE.fullmatch(self.media):
            return value
        return json.dumps(value, separators=(",", ":")) if self.place == "header" else encode_json(value).decode()


@dataclass(frozen=True)
class Target:
    """Where a request goes: a path with `{placeholders}`, and the query that the document has written into the path."""

    path: str
    query: tuple[str, ...] = ()

    @property
    def in_path(self) -> list[str]:
        """The names that stand in braces before the query."""
        return _PLACEHOLDER.findall(self.path)

    @property
    def in_query(self) -> list[str]:
        """The names that stand in braces in the query."""
        return _PLACEHOLDER.findall("&".join(self.query))

    def fill(self, texts: Mapping[str, str], pairs: Iterable[str]) -> str:
        """Return the address with TEXTS, which are encoded, in place of the placeholders, and with PAIRS in its query."""
        path = _PLACEHOLDER.sub(lambda found: texts[found[1]], self.path)
        if any(segment in (".", "..") for segment in path.split("/")):
            raise EffectRejected(f"the path {path!r} would change the address; nothing was sent")
        # A parameter that is not given takes its pair along.
        own = [pair for pair in self.query if texts.keys() >= set(_PLACEHOLDER.findall(pair))]
        query = "&".join([*(_PLACEHOLDER.sub(lambda found: texts[found[1]], pair) for pair in own), *pairs])
        return f"{path}?{query}" if query else path


_PLACEHOLDER: Final = re.compile(r"{([^{}]+)}")


def read_path(path: str) -> Target:
    """Return where a request to PATH of a document goes.

    A path may be there several times, told apart by what stands after a `#`, which is no part of an address; and some
    documents write a query into it.
    """
    address, _, query = path.partition("#")[0].partition("?")
    return Target(address, tuple(pair for pair in query.split("&") if pair))


def read_parameters(
    document: Document, path: str, part: Part, schemas: SchemaTranslator, *, ours: Collection[str]
) -> tuple[tuple[Parameter, ...], Schema, list[JsonValue]]:
    """Return the parameters of the operation PART at PATH, their schemas by argument, and which of them are needed.

    OURS are headers that the connector fills in itself. Raises `InvalidSettings` where a value could not be written.
    """
    target = read_path(path)
    left_out = _NO_PARAMETERS | {name.lower() for name in ours}
    found: list[tuple[Parameter, Schema, bool]] = []
    for described in _list_parameters(document, path, part):
        parameter = _read_parameter(described, target)
        if parameter.place == "header" and parameter.name.lower() in left_out:
            continue
        if any((each.name, each.place) == (parameter.name, parameter.place) for each, _, _ in found):
            described.refuse(f"there are two parameters {parameter.name!r} in {parameter.place}")
        needed = described.value.get("required") is True or parameter.place == "path"
        found.append((parameter, _read_schema(described, parameter, schemas), needed))
    for name in dict.fromkeys([*target.in_path, *target.in_query]):
        places = [each.place for each, _, _ in found if each.name == name]
        if "path" not in places and (name in target.in_path or not places):
            if places:
                part.refuse(f"{name!r} in the path has no parameter of its own")
            found.append((Parameter(name, "path", Style("simple", explode=False)), {"type": "string"}, True))
    return _name_arguments(found)


def _name_arguments(
    found: list[tuple[Parameter, Schema, bool]],
) -> tuple[tuple[Parameter, ...], Schema, list[JsonValue]]:
    parameters: list[Parameter] = []
    properties: Schema = {}
    required: list[JsonValue] = []
    # What is in the path keeps its name, then the query: a second one says its place as well.
    first = {
        name: min((each.place for each, _, _ in found if each.name == name), key=_ORDER.index)
        for name in {each.name for each, _, _ in found}
    }
    for parameter, schema, needed in found:
        argument = parameter.name if first[parameter.name] == parameter.place else f"{parameter.place}_{parameter.name}"
        while argument in properties or (argument != parameter.name and argument in first):
            argument += "_"
        parameters.append(replace(parameter, argument=argument))
        properties[argument] = schema
        if needed:
            required.append(argument)
    return tuple(parameters), properties, required


_ORDER: Final = ("path", "query", "header")


def _list_parameters(document: Document, path: str, part: Part) -> Iterable[Part]:
    own = part.each("parameters")
    names = {(each.text("name"), each.text("in")) for each in own}
    item = document.path_item(path)
    inherited = item.each("parameters") if item else []
    return [*(each for each in inherited if (each.text("name"), each.text("in")) not in names), *own]


def _read_parameter(part: Part, target: Target) -> Parameter:
    place, name = part.text("in"), part.text("name")
    if place not in STYLES or not name:
        part.refuse(f"a parameter in {place!r} is not supported; one in path, query or header is")
    if place == "path" and name not in [*target.in_path, *target.in_query]:
        part.refuse(f"the path has no {{{name}}}")
    if place == "query" and any(pair.partition("=")[0] == name and f"{{{name}}}" not in pair for pair in target.query):
        part.refuse(f"the path has the query parameter {name!r} already")
    if place == "header" and not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
        part.refuse(f"{name!r} cannot be the name of a header")
    style = part.text("style") or STYLES[place][0]
    if style not in STYLES[place]:
        part.refuse(f"the style {style!r} of a parameter in {place} is not supported")
    explode = part.value.get("explode", style == "form")
    keep = RESERVED if place == "query" and part.value.get("allowReserved") is True else ""
    written = Style(style, explode is True, keep, empty=place == "query" and part.value.get("allowEmptyValue") is True)
    return Parameter(name, cast(Place, place), written, media=_read_media(part))


def _read_media(part: Part) -> str:
    content = part.get("content")
    if content is None:
        return ""
    if len(content.value) != 1:
        content.refuse("the content of a parameter has exactly one media type")
    (media,) = content.value
    if not JSON_TYPE.fullmatch(media) and not media.lower().startswith("text/plain"):
        content.refuse(f"a parameter of {media} is not supported; application/json and text/plain are")
    return media


def _read_schema(part: Part, parameter: Parameter, schemas: SchemaTranslator) -> Schema:
    holder = part
    if parameter.media:
        content = cast(Part, part.get("content"))
        holder = content.get(parameter.media) or content
    given = holder.value.get("schema", {})
    if not isinstance(given, dict):
        holder.refuse("its schema is not an object")
    schema = schemas.translate(Part(part.document, given, f"{holder.where}/schema"))
    if not JSON_TYPE.fullmatch(parameter.media) and (wrong := schemas.why_unwritable(schema, parameter.style)):
        part.refuse(f"{wrong} in {parameter.place}" + ("; `style: deepObject` can" if parameter.place == "query" else ""))
    said = part.text("description")
    return {**schema, "description": said} if said and "description" not in schema else schema

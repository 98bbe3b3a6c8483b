"""What a request of an OpenAPI document carries: in which media type, and how each of its fields is written in that."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal, cast
from urllib.parse import quote_plus

from pydantic import JsonValue

from perdure.connectors.http import FORM, JSON_TYPE, encode_json, to_text
from perdure.connectors.openapi._document import Part
from perdure.connectors.openapi._schemas import Schema, SchemaTranslator
from perdure.connectors.openapi._styles import RESERVED, STYLES, Style, write_pairs
from perdure.errors import EffectRejected

__all__ = ["BODY", "Body", "read_body"]

BODY: Final = "body"
"""The argument that has the whole body, where its own fields cannot be arguments."""
_MULTIPART: Final = "multipart/form-data"
_ANY_JSON: Final = ("*/*", "application/*")
_CHARSET: Final = re.compile(r";\s*charset=\"?([^\s;\"]+)", re.IGNORECASE)

Kind = Literal["json", "form", "multipart", "text"]
_PREFERRED: Final[tuple[Kind, ...]] = ("json", "form", "multipart", "text")


@dataclass(frozen=True)
class Encoding:
    """How one field of a form is written: by a style, or as content of a media type."""

    style: Style = Style("form", explode=True)  # noqa: RUF009  it is frozen
    media: str = ""
    styled: bool = False
    """Whether the document says the style."""


@dataclass(frozen=True)
class Body:
    """A body of KIND that is sent as CONTENT_TYPE."""

    kind: Kind
    content_type: str
    argument: str = ""
    """The argument that has all of it. Empty: its fields are arguments."""
    plain: Schema | None = None
    """Its schema, if that is a plain object."""
    encodings: Mapping[str, Encoding] = field(default_factory=dict)

    @property
    def fields(self) -> Schema:
        """The schemas of its fields by name, as far as it is a plain object."""
        return cast(Schema, self.plain.get("properties") or {}) if self.plain else {}

    def encode(self, value: JsonValue) -> tuple[bytes, str]:
        """Return VALUE as it is sent, and the media type to say so. Raises `EffectRejected` if it cannot be written."""
        if self.kind == "json":
            return encode_json(value, charset=_charset_of(self.content_type)), self.content_type
        if self.kind == "text":
            return _encode_text(to_text(value, BODY), self.content_type)
        if not isinstance(value, dict):
            raise EffectRejected("a form is an object; nothing was sent")
        return self._encode_multipart(value) if self.kind == "multipart" else (self._encode_form(value), self.content_type)

    def _encode_form(self, values: Mapping[str, JsonValue]) -> bytes:
        pairs: list[str] = []
        for name, value in values.items():
            encoding = self.encodings.get(name, Encoding())
            written = encode_json(value).decode() if JSON_TYPE.fullmatch(encoding.media) else value
            pairs += write_pairs(name, written, encoding.style, partial(_quote_form, keep=encoding.style.keep))
        return "&".join(pairs).encode()

    def _encode_multipart(self, values: Mapping[str, JsonValue]) -> tuple[bytes, str]:
        parts: list[tuple[str, str, bytes]] = []
        for name, value in values.items():
            media = self.encodings.get(name, Encoding()).media
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, dict | list) or JSON_TYPE.fullmatch(media):
                    parts.append((name, media or "application/json", encode_json(item)))
                else:
                    content, said = _encode_text(to_text(item, name), media or "text/plain")
                    parts.append((name, said if media else "", content))
            if value == []:
                raise EffectRejected(f"{name} is an empty list, which cannot be written here; nothing was sent")
        # The same values make the same bytes, so that a repeat is one.
        boundary = "perdure-" + hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()
        content = b"".join(_part(boundary, *each) for each in parts) + f"--{boundary}--\r\n".encode()
        return content, f"{self.content_type}; boundary={boundary}"


def read_body(
    part: Part, schemas: SchemaTranslator, properties: Schema, required: list[JsonValue], *, content_type: str
) -> tuple[Body | None, Schema]:
    """Add what the body of the operation PART takes to PROPERTIES and REQUIRED.

    Return the body, or None if there is none, and what else its schema says of the arguments. CONTENT_TYPE is the media
    type that somebody has chosen. Raises `InvalidSettings` where a value could not be written.
    """
    described = part.get("requestBody")
    content = described.get("content") if described else None
    if described is None or content is None or not content.value:
        return None, {}
    kind, sent, media = _choose(content, content_type)
    given = media.value.get("schema", {})
    schema = schemas.translate(Part(media.document, given, f"{media.where}/schema")) if isinstance(given, dict) else {}
    plain = None if kind == "text" else schemas.as_plain_object(schema)
    encodings: dict[str, Encoding] = {}
    if kind in ("form", "multipart"):
        if plain is None:
            media.refuse("the schema of a form has to be a plain object")
        encodings = _read_encodings(media, kind, plain, schemas)
    if kind == "text":
        schema = _check_text(media, schema or {"type": "string"}, schemas, sent)
    fields = cast(Schema, plain.get("properties") or {}) if plain else {}
    if plain is None or not fields or fields.keys() & properties.keys():
        argument = BODY
        while argument in properties:
            argument += "_"
        properties[argument] = schema
        if described.value.get("required") is True:
            required.append(argument)
        return Body(kind, sent, argument, plain, encodings), {}
    properties |= fields
    required += cast(list[JsonValue], plain.get("required") or [])
    rest: Schema = {"additionalProperties": plain["additionalProperties"]} if "additionalProperties" in plain else {}
    return Body(kind, sent, "", plain, encodings), rest


def _choose(content: Part, wanted: str) -> tuple[Kind, str, Part]:
    """Return which of the media types of CONTENT is sent: the one WANTED, else JSON, a form, or a text."""
    offered = list(content.value)

    def media(name: str) -> Part:
        return cast(Part, content.get(name))

    if wanted:
        match = next((each for each in offered if _essence(each) == _essence(wanted)), None)
        match = match or next((each for each in offered if _in_range(wanted, each)), None)
        if match is None:
            content.refuse(f"its body cannot be {wanted}; it can be {', '.join(offered)}")
        kind = _kind_of(wanted)
        if kind is None:
            content.refuse(f"a body of {wanted} is not supported")
        return kind, _checked(content, wanted if ";" in wanted or "*" in match else match), media(match)
    exact = [each for each in offered if _essence(each) == "application/json"]
    ranges = [each for each in offered if _essence(each) in _ANY_JSON]
    if exact or ranges:
        return "json", _checked(content, exact[0] if exact else "application/json"), media((exact or ranges)[0])
    kinds = {each: kind for each in offered if (kind := _kind_of(each)) is not None}
    for preferred in _PREFERRED:
        of_kind = [each for each, found in kinds.items() if found == preferred]
        if len({_essence(each) for each in of_kind}) > 1 or any("*" in each for each in of_kind):
            content.refuse(f"its body can be {', '.join(of_kind)}: say which as `content_type`")
        if of_kind:
            return preferred, _checked(content, of_kind[0]), media(of_kind[0])
    return content.refuse(
        f"a body of {', '.join(offered)} is not supported; JSON, {FORM}, {_MULTIPART} and texts (`type: string`) are"
    )


def _kind_of(media: str) -> Kind | None:
    essence = _essence(media)
    if JSON_TYPE.fullmatch(media) or essence == "application/*+json":
        return "json"
    if essence in (FORM, _MULTIPART):
        return "form" if essence == FORM else "multipart"
    return "text" if essence.startswith("text/") or essence in _TEXTS or essence.endswith(("+xml", "+yaml")) else None


_TEXTS: Final = ("application/xml", "application/yaml", "application/x-yaml", "application/graphql", "application/x-ndjson")


def _essence(media: str) -> str:
    return media.partition(";")[0].strip().lower()


def _in_range(wanted: str, offered: str) -> bool:
    pattern = re.escape(_essence(offered)).replace(r"\*", "[^/]+")
    return "*" in offered and re.fullmatch(pattern, _essence(wanted)) is not None


def _checked(content: Part, media: str) -> str:
    charset = _charset_of(media)
    try:
        known = "{".encode(charset) == b"{"
    except LookupError:
        known = False
    if not known:
        content.refuse(f"the charset {charset} is not supported")
    if not re.fullmatch(r"[\x21-\x7e][\x20-\x7e]*", media):
        content.refuse(f"{media!r} is no media type")
    return media


def _charset_of(media: str) -> str:
    found = _CHARSET.search(media)
    return found[1] if found else "utf-8"


def _encode_text(text: str, media: str) -> tuple[bytes, str]:
    charset = _charset_of(media)
    try:
        content = text.encode(charset)
    except UnicodeEncodeError:
        raise EffectRejected(f"a text cannot be written in {charset}; nothing was sent") from None
    # Without it, the reader of a text may take it for another one.
    said = media if _CHARSET.search(media) or content.isascii() else f"{media}; charset=utf-8"
    return content, said


def _check_text(media: Part, schema: Schema, schemas: SchemaTranslator, sent: str) -> Schema:
    plain_text = _essence(sent) == "text/plain" and not media.value.get("schema")
    if not plain_text and (not media.value.get("schema") or schemas.kinds(schema) - {"string"}):
        media.refuse(f"a body of {sent} is supported only as a text (`type: string`)")
    return schema


def _read_encodings(media: Part, kind: Kind, plain: Schema, schemas: SchemaTranslator) -> dict[str, Encoding]:
    holder = media.get("encoding")
    found: dict[str, Encoding] = {}
    fields = cast(Schema, plain.get("properties") or {})
    for name, schema in fields.items():
        rule = holder.get(name) if holder and name in holder.value else None
        found[name] = _read_encoding(rule, kind) if rule else Encoding()
        if kind == "multipart":
            _check_part(rule or media, name, cast(Schema, schema), found[name], schemas)
        elif not JSON_TYPE.fullmatch(found[name].media):
            _check_field(media, name, cast(Schema, schema), found[name], schemas)
    others = plain.get("additionalProperties")
    if kind == "form" and isinstance(others, dict) and (wrong := schemas.why_unwritable(others, Encoding().style)):
        media.refuse(f"the fields of a form that are not named: {wrong}")
    return found


def _check_field(media: Part, name: str, schema: Schema, encoding: Encoding, schemas: SchemaTranslator) -> None:
    wrong = schemas.why_unwritable(schema, encoding.style)
    # OpenAPI has a style for it, and hardly a target that does not say so means that one.
    unsaid = not encoding.styled and "object" in schemas.kinds(schema) and not schemas.is_open(schema)
    if wrong or unsaid:
        media.refuse(
            f"the field {name!r} of a form: {wrong or 'an object can be written in several ways'}; it needs an encoding "
            "with `style: deepObject`"
        )


def _read_encoding(rule: Part, kind: Kind) -> Encoding:
    given = rule.text("contentType")
    media = given.partition(",")[0].strip() if kind == "multipart" else given
    styled = rule.value.keys() & {"style", "explode", "allowReserved"}
    if kind == "multipart":
        if styled and not rule.document.is_3_0:
            rule.refuse("a style of a part of multipart/form-data is not supported")
        headers = rule.get("headers")
        if headers and any(each.value.get("required") is True for _, each in headers.items()):
            rule.refuse("a part of multipart/form-data with a header that is needed is not supported")
    elif media and not styled and not JSON_TYPE.fullmatch(media) and not media.lower().startswith("text/"):
        rule.refuse(f"a field of {media} in a form is not supported; JSON and texts are")
    style = rule.text("style") or "form"
    if style not in STYLES["query"]:
        rule.refuse(f"the style {style!r} of a field of a form is not supported")
    explode = rule.value.get("explode", style == "form") is True
    keep = RESERVED if rule.value.get("allowReserved") is True else ""
    # Where a style is given, the media type counts for nothing.
    return Encoding(Style(style, explode, keep), "" if styled and kind == "form" else media, bool(styled))


def _check_part(where: Part, name: str, schema: Schema, encoding: Encoding, schemas: SchemaTranslator) -> None:
    media = encoding.media
    if media and not JSON_TYPE.fullmatch(media) and not media.lower().startswith("text/"):
        where.refuse(f"a part of {media} is not supported; JSON and texts are")
    structured = schemas.kinds(schema) & {"object"} or any(
        schemas.kinds(item) & {"object", "array"} for item in schemas.items_of(schema) if not schemas.is_open(item)
    )
    if structured and media and not JSON_TYPE.fullmatch(media) and not schemas.is_open(schema):
        where.refuse(f"the part {name!r} can be an object, which {media} cannot hold")


def _quote_form(text: str, keep: str) -> str:
    # `+` says a space there, so a plus has to be encoded whatever else is kept.
    try:
        return quote_plus(text, safe=keep.replace("+", ""))
    except UnicodeEncodeError:
        raise EffectRejected("a text has half a character in it, which cannot be written; nothing was sent") from None


def _part(boundary: str, name: str, media: str, content: bytes) -> bytes:
    # As browsers escape the name (WHATWG, multipart/form-data).
    said = name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
    head = [
        f"--{boundary}",
        f'Content-Disposition: form-data; name="{said}"',
        *([f"Content-Type: {media}"] if media else []),
    ]
    return "\r\n".join([*head, "", ""]).encode("utf-8", "replace") + content + b"\r\n"

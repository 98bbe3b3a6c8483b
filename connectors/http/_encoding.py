"""How a value is written into an address, a header, a form or JSON. What cannot be written is refused before it is sent."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, quote_plus

from pydantic import JsonValue

from perdure.errors import EffectRejected

__all__ = ["FORM", "JSON_TYPE", "encode_form", "encode_json", "list_pairs", "quote_segment", "quote_value", "to_text"]

FORM: Final = "application/x-www-form-urlencoded"
JSON_TYPE: Final = re.compile(
    r"(?:application/(?:json|x-json)|text/json|[\w!#$&^.-]+/[\w!#$&^.+-]+\+json)(?:\s*;.*)?", re.IGNORECASE | re.ASCII
)
"""The media types whose content is JSON (RFC 6839, section 3.1), with their parameters."""


def to_text(value: JsonValue, name: str) -> str:
    """Return VALUE of the field NAME as text. Raises `EffectRejected` if it is null, a list or an object."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, list | dict):
        what = "null" if value is None else "a list" if isinstance(value, list) else "an object"
        raise EffectRejected(f"{name} is {what}, which cannot be written here; nothing was sent")
    return json.dumps(value)


def quote_value(value: str, keep: str = "") -> str:
    """Return VALUE percent-encoded, but for the characters KEEP. Raises `EffectRejected` for half a character."""
    try:
        return quote(value, safe=keep)
    except UnicodeEncodeError:
        raise EffectRejected(_HALF) from None


def quote_segment(value: str, name: str) -> str:
    """Return VALUE of the field NAME as a part of an address. Raises `EffectRejected` if it would lead to another place."""
    if value in ("", ".", ".."):
        raise EffectRejected(f"{name} is {value!r}, which would change the address; nothing was sent")
    return quote_value(value)


def list_pairs(values: Mapping[str, JsonValue]) -> list[tuple[str, str]]:
    """Return the names and texts of VALUES, a list as one pair for each item; what is None is left out.

    Raises `EffectRejected` where nobody has said how it is written: an empty list, a list in a list, an object.
    """
    pairs: list[tuple[str, str]] = []
    for name, value in values.items():
        if value == []:
            raise EffectRejected(f"{name} is an empty list, which a query or a form cannot say; nothing was sent")
        items = value if isinstance(value, list) else [value] if value is not None else []
        pairs += [(name, to_text(item, name)) for item in items]
    return pairs


def encode_form(pairs: list[tuple[str, str]]) -> bytes:
    """Return PAIRS as a form. Raises `EffectRejected` for half a character."""
    try:
        return "&".join(f"{quote_plus(name)}={quote_plus(text)}" for name, text in pairs).encode()
    except UnicodeEncodeError:
        raise EffectRejected(_HALF) from None


def encode_json(value: JsonValue, *, charset: str = "utf-8") -> bytes:
    """Return VALUE as compact JSON in CHARSET. Raises `EffectRejected` for half a character, NaN and infinity."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        text.encode()  # half a character has no place in JSON, also where it could be escaped
        if charset.lower() in ("utf-8", "utf8"):
            return text.encode()
        return json.dumps(value, separators=(",", ":")).encode("ascii")
    except UnicodeEncodeError:
        raise EffectRejected(_HALF) from None
    except ValueError:
        raise EffectRejected("a number is infinite or none at all, which JSON cannot say; nothing was sent") from None


_HALF: Final = "a text has half a character in it (a lone surrogate), which cannot be written; nothing was sent"

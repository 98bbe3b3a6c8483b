"""How a value is written as the pairs of a query or form, as a part of a path, or as a header: by OpenAPI's styles.

OpenAPI 3.1.1, section 4.8.12 and appendix C; they stand on RFC 6570. What they leave undefined is refused, as is what would
be read as something else: an empty list, null, an item with the delimiter in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NoReturn

from pydantic import JsonValue

from perdure.connectors.http import quote_segment, quote_value, to_text
from perdure.errors import EffectRejected

__all__ = ["RESERVED", "STYLES", "Style", "write_header", "write_pairs", "write_segment"]

STYLES: Final = {
    "path": ("simple", "label", "matrix"),
    "header": ("simple",),
    "query": ("form", "spaceDelimited", "pipeDelimited", "deepObject"),
}
"""The styles of each place; the first is meant where none is said."""
RESERVED: Final = ":/?@!$'()*,;="
"""What `allowReserved` leaves as it is. The rest of RFC 3986's reserved characters would end the value."""
_DELIMITERS: Final = {"form": ",", "spaceDelimited": " ", "pipeDelimited": "|"}

Quote = Callable[[str], str]


@dataclass(frozen=True)
class Style:
    """How the values of one parameter, or of one field of a form, are written."""

    name: str
    explode: bool
    keep: str = ""
    """The characters that are not percent-encoded."""
    empty: bool = False
    """Whether the name without a value says that a list is empty."""


def write_pairs(name: str, value: JsonValue, style: Style, quote: Quote) -> list[str]:
    """Return the `name=value` pairs of a query or form that say VALUE. QUOTE encodes what stands in them."""
    if style.name == "deepObject":
        return [f"{quote(inner)}={quote(text)}" for inner, text in _flatten(name, value)]
    if isinstance(value, list | dict) and not value:
        if style.empty:
            return [f"{quote(name)}="]
        _refuse_empty(name, value)
    if isinstance(value, list):
        texts = [to_text(item, f"an item of {name}") for item in value]
        if style.explode:
            return [f"{quote(name)}={quote(text)}" for text in texts]
        return [f"{quote(name)}={_join(name, texts, style, quote)}"]
    if isinstance(value, dict):
        members = [(inner, to_text(each, f"{name}.{inner}")) for inner, each in value.items()]
        if style.explode:
            return [f"{quote(inner)}={quote(text)}" for inner, text in members]
        return [f"{quote(name)}={_join(name, [text for member in members for text in member], style, quote)}"]
    return [f"{quote(name)}={quote(to_text(value, name))}"]


def write_segment(name: str, value: JsonValue, style: Style) -> str:
    """Return VALUE as a part of a path."""
    if isinstance(value, list | dict) and not value:
        _refuse_empty(name, value)
    if isinstance(value, dict):
        members = [
            (quote_segment(inner, name), quote_segment(to_text(each, f"{name}.{inner}"), name))
            for inner, each in value.items()
        ]
        parts = (
            ["=".join(member) for member in members] if style.explode else [text for member in members for text in member]
        )
    else:
        items = value if isinstance(value, list) else [value]
        parts = [quote_segment(to_text(item, name), name) for item in items]
    if style.name == "label":
        return "." + (".".join(parts) if style.explode else ",".join(parts))
    if style.name == "matrix":
        label = quote_value(name)
        if isinstance(value, dict) and style.explode:
            return "".join(f";{part}" for part in parts)
        return "".join(f";{label}={part}" for part in parts) if style.explode else f";{label}={','.join(parts)}"
    return ",".join(parts)


def write_header(name: str, value: JsonValue, style: Style) -> str:
    """Return VALUE as the text of a header."""
    if isinstance(value, list | dict) and not value:
        _refuse_empty(name, value)
    if isinstance(value, dict):
        members = [(inner, to_text(each, f"{name}.{inner}")) for inner, each in value.items()]
        texts = (
            [f"{inner}={text}" for inner, text in members] if style.explode else [text for each in members for text in each]
        )
    elif isinstance(value, list):
        texts = [to_text(item, f"an item of {name}") for item in value]
    else:
        return to_text(value, name)
    if any("," in text for text in texts):
        raise EffectRejected(f"an item of the header {name} has a comma, which would make two of it; nothing was sent")
    return ",".join(texts)


def _join(name: str, texts: list[str], style: Style, quote: Quote) -> str:
    delimiter = _DELIMITERS[style.name]
    # A comma between items stands as it is, one within an item is encoded (RFC 6570). The others are always encoded.
    if delimiter != "," and any(delimiter in text for text in texts):
        raise EffectRejected(f"an item of {name} has the delimiter {delimiter!r} in it; nothing was sent")
    between = "," if delimiter == "," else quote(delimiter)
    return between.join(quote(text).replace(",", "%2C") for text in texts)


def _flatten(name: str, value: JsonValue) -> Iterator[tuple[str, str]]:
    # OpenAPI defines `name[inner]` only. How deeper values and lists go on is what its users mean by it.
    if isinstance(value, list | dict):
        if not value:
            _refuse_empty(name, value)
        members = value.items() if isinstance(value, dict) else enumerate(value)
        for inner, each in members:
            yield from _flatten(f"{name}[{inner}]", each)
    else:
        yield name, to_text(value, name)


def _refuse_empty(name: str, value: JsonValue) -> NoReturn:
    what = "list" if isinstance(value, list) else "object"
    raise EffectRejected(f"{name} is an empty {what}, which cannot be written here; nothing was sent")

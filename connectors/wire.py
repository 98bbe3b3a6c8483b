"""How arguments and answers are written down: canonically, so that equal ones have equal digests."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Final

import rfc8785
from pydantic import BaseModel, JsonValue, ValidationError

from perdure.connectors import json_models
from perdure.connectors.contracts import AnyAction
from perdure.connectors.json_models import DUMPED, JsonModel
from perdure.errors import InvalidInput


def parse_args(action: AnyAction, args: dict[str, JsonValue]) -> BaseModel:
    """Return ARGS, as ACTION's input model has dumped them, as that. Raises `InvalidInput` naming fields, not values."""
    try:
        dumped = {DUMPED: True} if issubclass(action.input, JsonModel) else None
        return action.input.model_validate(args, context=dumped)
    except ValidationError as error:
        raise _explain(action, error) from None


def with_nulls_marked(action: AnyAction, args: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Return ARGS, in which null is what somebody wrote down, as `parse_args` takes them. Raises `InvalidInput`."""
    if None not in args.values():
        return args
    try:
        return json_models.with_nulls_marked(action.input, args)
    except ValidationError as error:
        raise _explain(action, error) from None


def _explain(action: AnyAction, error: ValidationError) -> InvalidInput:
    wrong = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'input'}: {item['msg']}" for item in error.errors())
    return InvalidInput(f"{action.name} does not take these arguments: {wrong}")


def canonical_json(value: JsonValue) -> bytes:
    """Return VALUE's canonical JSON (RFC 8785), or sorted JSON where whole numbers beyond 2**53 have no canonical form.

    Raises `InvalidInput` for half a character, which no UTF-8 can hold.
    """
    try:
        try:
            return rfc8785.dumps(value)
        except rfc8785.CanonicalizationError:
            return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InvalidInput(
            "a text holds half a character (a lone surrogate), which cannot be written down or sent"
        ) from None


def with_whole_characters(value: JsonValue) -> JsonValue:
    """Return VALUE with U+FFFD in place of each half of a character, which no database and no UTF-8 can hold."""
    if isinstance(value, str):
        return whole_text(value)
    if isinstance(value, list):
        return [with_whole_characters(each) for each in value]
    if isinstance(value, dict):
        return {whole_text(name): with_whole_characters(each) for name, each in value.items()}
    return value


def whole_text(text: str) -> str:
    """Return TEXT with U+FFFD in place of each half of a character."""
    return text if text.isascii() else _HALF.sub("\ufffd", text)


def storable_text(text: str) -> str:
    """Return TEXT, which others may have written, as both databases take it: without NUL and halves of characters."""
    return whole_text(text).replace("\0", "")


_HALF: Final = re.compile("[\ud800-\udfff]")


def sha256(content: bytes) -> str:
    """Return the digest of CONTENT as `lineage.digest` writes it."""
    return "sha256:" + hashlib.sha256(content).hexdigest()

"""How arguments and answers are written down: canonically, so that equal ones have equal digests."""

from __future__ import annotations

import hashlib
import json

import rfc8785
from pydantic import BaseModel, JsonValue, ValidationError

from perdure.connectors.contracts import AnyAction
from perdure.errors import InvalidInput


def parse_args(action: AnyAction, args: dict[str, JsonValue]) -> BaseModel:
    """Return ARGS as the input model of ACTION. Raises `InvalidInput` naming the fields, without their values."""
    try:
        return action.input.model_validate(args)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'input'}: {item['msg']}" for item in error.errors())
        raise InvalidInput(f"{action.name} does not take these arguments: {wrong}") from None


def canonical_json(value: JsonValue) -> bytes:
    """Return VALUE's canonical JSON (RFC 8785), or sorted JSON where whole numbers beyond 2**53 have no canonical form."""
    try:
        return rfc8785.dumps(value)
    except rfc8785.CanonicalizationError:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sha256(content: bytes) -> str:
    """Return the digest of CONTENT as `lineage.digest` writes it."""
    return "sha256:" + hashlib.sha256(content).hexdigest()

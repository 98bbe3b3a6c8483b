"""How arguments and answers are written down: canonically, so that equal ones have equal digests."""

from __future__ import annotations

import hashlib
import json

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
    """Return VALUE's canonical JSON (RFC 8785), or sorted JSON where whole numbers beyond 2**53 have no canonical form."""
    try:
        return rfc8785.dumps(value)
    except rfc8785.CanonicalizationError:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sha256(content: bytes) -> str:
    """Return the digest of CONTENT as `lineage.digest` writes it."""
    return "sha256:" + hashlib.sha256(content).hexdigest()

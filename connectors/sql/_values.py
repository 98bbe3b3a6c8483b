"""How the values of a model become what a database's driver takes."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import re
import uuid
from collections.abc import Mapping, Set
from typing import Final

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_jsonable_python

__all__ = ["UnbindableError", "bind", "explain"]

_MAX_INTEGER: Final = 2**63
_NATIVE: Final = (
    *(bool, int, float, bytes, decimal.Decimal, uuid.UUID),
    *(datetime.datetime, datetime.date, datetime.time, datetime.timedelta),
)


class UnbindableError(ValueError):
    """A value that no statement can hold; the message says why, without it."""


def bind(value: object, *, sqlite: bool, as_json: bool = False) -> object:
    """Return VALUE as the driver of SQLite, or else of PostgreSQL, takes it. AS_JSON: as the text of a JSON value.

    Raises `UnbindableError`.
    """
    if value is None:
        return None
    if as_json:
        return json.dumps(_to_json(value), ensure_ascii=False, allow_nan=False)
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, str):
        return _check_text(value, sqlite=sqlite)
    if isinstance(value, _NATIVE):
        return _bind_for_sqlite(value) if sqlite else value
    if isinstance(value, list | tuple | set | frozenset) and not sqlite and not any(map(_is_structure, value)):
        return [bind(each, sqlite=sqlite) for each in value]  # an array
    plain = _to_json(value)
    if isinstance(plain, dict | list):
        return _check_text(json.dumps(plain, ensure_ascii=False), sqlite=sqlite)
    return _check_text(plain, sqlite=sqlite) if isinstance(plain, str) else plain


def explain(said: str, value: object) -> str:
    """Return what is wrong with VALUE by what the driver SAID of it, without quoting it."""
    kind = "a value" if value is None else f"a value of type {type(value).__name__}"
    if "offset-naive and offset-aware" in said:
        aware = getattr(value, "tzinfo", None) is not None
        have, want = ("a time zone", "none") if aware else ("no time zone", "one")
        return f"it has {have} and the column wants {want}: cast it, e.g. `:field::timestamptz`, or change the model"
    if found := re.search(r"value out of (int16|int32|int64) range", said):
        return f"it is out of the range of {found[1]}"
    if found := re.search(r"expected (str|\w+), got (\w+)", said):
        return (
            f"it is {kind}, and the statement wants {found[1]}: cast it, e.g. `:field::{_CASTS.get(type(value), 'text')}`"
        )
    return f"the statement takes no {kind.removeprefix('a ')} there"


_CASTS: Final[Mapping[type, str]] = {
    bool: "boolean",
    int: "bigint",
    float: "double precision",
    decimal.Decimal: "numeric",
    uuid.UUID: "uuid",
    datetime.datetime: "timestamptz",
    datetime.date: "date",
    datetime.timedelta: "interval",
    dict: "jsonb",
    list: "jsonb",
}


def _bind_for_sqlite(value: object) -> object:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int) and not -_MAX_INTEGER <= value < _MAX_INTEGER:
        raise UnbindableError("it is a whole number of more than 64 bits")
    if isinstance(value, decimal.Decimal):
        # A float where that says the same: SQLite counts with those, and orders texts behind all numbers.
        same = value.is_finite() and decimal.Decimal(repr(float(value))) == value
        return float(value) if same else str(value)
    if isinstance(value, datetime.datetime):
        return value.isoformat(" ")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return to_jsonable_python(value)
    return str(value) if isinstance(value, uuid.UUID) else value


def _check_text(value: str, *, sqlite: bool) -> str:
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise UnbindableError("it has half of a character")
    if "\0" in value and not sqlite:
        raise UnbindableError("it has a zero byte, which PostgreSQL's texts cannot have")
    return value


def _is_structure(value: object) -> bool:
    return isinstance(value, Mapping | BaseModel | list | tuple | Set)


def _to_json(value: object) -> object:
    try:
        return to_jsonable_python(value)
    except PydanticSerializationError:
        raise UnbindableError(f"a {type(value).__name__} is no value of a database") from None

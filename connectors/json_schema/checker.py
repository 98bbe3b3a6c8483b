"""How a value is checked against a JSON Schema: in decimals, by ECMAScript's patterns, and without raising."""

from __future__ import annotations

import math
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Final, cast

from pydantic import JsonValue

from perdure.connectors.json_schema._ecma_regex import is_found
from perdure.connectors.json_schema._reader import Schema, as_mapping, read_schema

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator as Validator
    from jsonschema.exceptions import ValidationError

__all__ = ["Checker", "Schema", "find_misfit"]

_MAX_ERRORS: Final = 5


def find_misfit(schema: Schema, value: JsonValue) -> str:
    """Return why VALUE does not fit SCHEMA, without quoting it; empty if it does. Raises nothing, whatever they are."""
    return Checker(schema).find_misfit(value)


class Checker:
    """Checks values against SCHEMA. Many values of one schema are best checked by one of these."""

    def __init__(self, schema: Schema) -> None:
        self.schema, self.unchecked = read_schema(schema)
        """SCHEMA as JSON Schema 2020-12 has it, and the places of what is left out of it."""

    def find_misfit(self, value: JsonValue) -> str:
        """Return why VALUE does not fit, without quoting it; empty if it does."""
        if place := _find_non_json(value):
            return f"{place}: is no number that JSON has"
        try:
            wrong = sorted(self._validator.iter_errors(value), key=lambda error: error.json_path)
        except RecursionError:
            return "$: is nested too deeply to be checked"
        except TimeoutError:
            return "$: takes too long to be checked against a 'pattern'"
        return "; ".join(f"{error.json_path}: does not fit {error.validator or 'false'!r}" for error in wrong[:_MAX_ERRORS])

    def takes_null(self, name: str) -> bool:
        """Say whether the property NAME may be null by what the schema says of it."""
        described = as_mapping(as_mapping(self.schema).get("properties")).get(name, True)
        if not isinstance(described, dict):
            return described is True
        kinds = described.get("type")
        if kinds is not None and "null" not in (kinds if isinstance(kinds, list) else [kinds]):
            return False
        try:
            return self._validator.evolve(schema=described).is_valid(None)
        except (RecursionError, TimeoutError):
            return False

    @cached_property
    def _validator(self) -> Validator:
        from referencing import Registry

        # With a registry of its own nothing is fetched; the references that are left lead into `$defs`.
        return _extend_validator()(cast("dict[str, JsonValue]", self.schema), registry=Registry())


@lru_cache(maxsize=1)
def _extend_validator() -> type[Validator]:
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    keywords = {
        "multipleOf": _check_multiple,
        "pattern": _check_pattern,
        "patternProperties": _check_pattern_properties,
        "additionalProperties": _check_additional_properties,
    }
    return cast("type[Validator]", extend(Draft202012Validator, keywords))  # type: ignore[no-untyped-call]


def _check_multiple(_: Validator, step: float, value: JsonValue, __: object) -> Iterator[ValidationError]:
    # In decimals, as the JSON text has them: for binary floats 0.29 is no multiple of 0.01.
    if isinstance(value, int | float) and not isinstance(value, bool) and _exact(value) % _exact(step):
        yield _misfit("is not a multiple")


def _check_pattern(_: Validator, pattern: str, value: JsonValue, __: object) -> Iterator[ValidationError]:
    if isinstance(value, str) and not is_found(pattern, value):
        yield _misfit("does not match")


def _check_pattern_properties(
    validator: Validator, patterns: Schema, value: JsonValue, _: object
) -> Iterator[ValidationError]:
    for pattern, schema in patterns.items():
        for name, each in as_mapping(value).items():
            if is_found(pattern, name):
                yield from validator.descend(each, cast("Schema", schema), path=name, schema_path=pattern)


def _check_additional_properties(
    validator: Validator, additional: JsonValue, value: JsonValue, schema: Schema
) -> Iterator[ValidationError]:
    named, patterns = as_mapping(schema.get("properties")), as_mapping(schema.get("patternProperties"))
    for name, each in as_mapping(value).items():
        if name not in named and not any(is_found(pattern, name) for pattern in patterns):
            yield from validator.descend(each, cast("Schema", additional), path=name)


def _misfit(message: str) -> ValidationError:
    from jsonschema.exceptions import ValidationError

    return ValidationError(message)


def _exact(number: float) -> Fraction:
    return Fraction(number) if isinstance(number, int) else Fraction(Decimal(repr(number)))


def _find_non_json(value: JsonValue) -> str:
    """Return where in VALUE there is a float that JSON cannot say."""
    waiting: list[tuple[str, JsonValue]] = [("$", value)]
    while waiting:
        here, each = waiting.pop()
        if isinstance(each, float) and not math.isfinite(each):
            return here
        if isinstance(each, dict):
            waiting += [(f"{here}.{name}", inner) for name, inner in each.items()]
        elif isinstance(each, list):
            waiting += [(f"{here}[{number}]", inner) for number, inner in enumerate(each)]
    return ""

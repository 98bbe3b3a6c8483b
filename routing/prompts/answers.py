"""What a model's answer says, and whether it fits the output it was asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from pydantic import BaseModel, JsonValue, ValidationError

from perdure.errors import InvalidInput
from perdure.routing.contracts import OutputRef
from perdure.routing.prompts.prompts import Messages, canonical_json, size_in_bytes
from perdure.routing.prompts.reading import Misfit, digest_faithfully, read_json


@dataclass(frozen=True)
class Answer:
    """An answer that fits, as JSON."""

    value: JsonValue
    digest: str
    repairs: str
    """How it had to be picked out of other text or mended before it could be read; empty if it was not."""


def resolve_output(ref: OutputRef) -> type[BaseModel] | None:
    """Return the class that REF names, or None if REF carries a JSON schema of its own.

    The class is looked up among the modules that are loaded; nothing is imported, so a name from outside cannot run code.
    Raises `InvalidInput` if it is not there or is no pydantic model.
    """
    if ref.json_schema is not None:
        return None
    module_name, _, qualified = ref.name.partition(":")
    found: object = sys.modules.get(module_name)
    if not qualified:
        raise InvalidInput(f"output {ref.name!r} is not `module:Class`.")
    if found is None:
        raise InvalidInput(
            f"output {ref.name!r}: module {module_name!r} is not loaded here. Add it to `modules` in perdure.toml."
        )
    for name in qualified.split("."):
        # vars and not getattr: a module's or a class's own __getattr__ could run code.
        found = vars(found).get(name) if isinstance(found, type) or found is sys.modules.get(module_name) else None
    if found is None:
        raise InvalidInput(f"output {ref.name!r}: the module has no such class. Define it at the top level of the module.")
    if not isinstance(found, type) or not issubclass(found, BaseModel):
        raise InvalidInput(f"output {ref.name!r} is not a pydantic model. Derive the class from pydantic.BaseModel.")
    return found


_SCHEMAS: WeakKeyDictionary[type[BaseModel], tuple[Mapping[str, JsonValue], str]] = WeakKeyDictionary()


class Form:
    """The form that an answer must have: a pydantic model, a JSON schema, or any JSON if there is neither."""

    def __init__(
        self,
        output: type[BaseModel] | None,
        schema: Mapping[str, JsonValue] | None,
        *,
        problems: Callable[[object], Sequence[str]] = lambda _: (),
    ) -> None:
        """PROBLEMS returns what else is wrong with an answer that fits: an instance of OUTPUT, or JSON if that is None."""
        self._problems = problems
        self._output = output
        if output is not None:
            if output not in _SCHEMAS:
                schema = output.model_json_schema(by_alias=True)
                _SCHEMAS[output] = schema, canonical_json(schema)
            self.schema: Mapping[str, JsonValue]
            self.schema, self.text = _SCHEMAS[output]
        else:
            self.schema = dict(schema or {})
            _check_schema(self.schema)
            self.text = canonical_json(self.schema) if self.schema else ""

    @property
    def size(self) -> int:
        """How many bytes its schema has."""
        return len(self.text.encode())

    @property
    def name(self) -> str:
        """A short name for providers, which want one."""
        return self._output.__name__ if self._output is not None else "answer"

    def read(self, text: str) -> Answer:
        """Return the answer in TEXT. Raises `Misfit`."""
        found, repairs = read_json(text)
        meant: object = found
        if self._output is not None:
            found, meant = _fit_model(found, self._output)
        else:
            _fit_schema(found, self.schema)
        if problems := self._problems(meant):
            raise Misfit("; ".join(problems))
        return Answer(found, digest_faithfully(found), repairs)


def _fit_model(value: JsonValue, output: type[BaseModel]) -> tuple[JsonValue, BaseModel]:
    try:
        # Strictly: "12" is no number and "no" no truth value. What a person would read into them is a guess.
        fitted = output.model_validate_json(json.dumps(value), strict=True)
        if isinstance(value, dict) and value and not fitted.model_fields_set and not fitted.model_extra:
            raise Misfit(_STRANGE)
        dumped: JsonValue = fitted.model_dump(mode="json", by_alias=True, round_trip=True)
        # What goes over the wire is read again on the other side; pydantic writes infinity as null, for one.
        output.model_validate_json(json.dumps(dumped))
    except ValidationError as error:
        raise Misfit(
            "; ".join(_problem(item["loc"], item["type"], item.get("ctx")) for item in error.errors()[:8])
        ) from None
    return dumped, fitted


_STRANGE = "none of the fields is there: leave out what stands around them, and do not repeat the schema"
"""Said of an answer that would count as empty because all fields have defaults."""


def _problem(place: tuple[int | str, ...], kind: str, context: Mapping[str, object] | None) -> str:
    # Not pydantic's message: it can repeat what the model wrote.
    expected = (context or {}).get("expected")
    return f"{_path(place)}: {kind}" + (f" (expected {expected})" if kind in {"literal_error", "enum"} and expected else "")


def _path(place: tuple[int | str, ...]) -> str:
    shown = [str(part) if isinstance(part, int) or (part.isidentifier() and len(part) <= 40) else "?" for part in place]
    return ".".join(shown) or "answer"


def _check_schema(schema: Mapping[str, JsonValue]) -> None:
    import jsonschema  # comes with litellm, and loads slowly

    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise InvalidInput(
            f"the output's JSON schema is not valid at {error.json_path}: rule {error.validator!r}."
        ) from None


def _fit_schema(value: JsonValue, schema: Mapping[str, JsonValue]) -> None:
    import jsonschema
    import referencing
    import referencing.exceptions

    # An empty registry: a $ref to an address is an error and not a download.
    validator = jsonschema.Draft202012Validator(schema, registry=referencing.Registry())
    try:
        errors = sorted(validator.iter_errors(value), key=lambda error: error.json_path)
    except referencing.exceptions.Unresolvable:
        raise InvalidInput("the output's JSON schema refers to another one that it does not hold.") from None
    if errors:
        raise Misfit(
            "; ".join(
                f"{_path(tuple(error.absolute_path))}: {_rule(error.validator, error.validator_value)}"
                for error in errors[:8]
            )
        )
    known = schema.get("properties")
    if isinstance(value, dict) and isinstance(known, dict) and value and known and not value.keys() & known.keys():
        raise Misfit(_STRANGE)


def _rule(name: object, value: object) -> str:
    return f"{name} (expected {value})" if name in {"enum", "const", "required", "type"} else str(name)


def most_prompt_tokens(messages: Messages, form: Form) -> int:
    """Return the most tokens that a provider can count for MESSAGES and FORM."""
    # A token has one byte at least. Providers put a few of their own around each message and into the schema.
    return size_in_bytes(messages) + form.size + 32 * (len(messages) + 1)

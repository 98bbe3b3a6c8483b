"""What a model's answer says, and whether it fits the output it was asked for."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from pydantic import BaseModel, JsonValue, ValidationError

from perdure.errors import InvalidInput
from perdure.lineage import digest
from perdure.routing.contracts import OutputRef
from perdure.routing.prompts import canonical


class Misfit(Exception):
    """An answer cannot be read or does not fit. PROBLEMS name places and rules, and repeat nothing of the answer."""

    def __init__(self, problems: str) -> None:
        super().__init__(problems)
        self.problems = problems


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
                _SCHEMAS[output] = schema, canonical(schema)
            self.schema: Mapping[str, JsonValue]
            self.schema, self.text = _SCHEMAS[output]
        else:
            self.schema = dict(schema or {})
            _check_schema(self.schema)
            self.text = canonical(self.schema) if self.schema else ""

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
        return Answer(found, _digest(found), repairs)


def read_json(text: str) -> tuple[JsonValue, str]:
    """Return the one JSON value in TEXT, and how it had to be repaired, if it had.

    Prose and code fences around it are dropped and small slips mended. Several values, NaN, infinity and a key that comes
    twice are refused: which of them was meant is a guess. Raises `Misfit`.
    """
    text = text.strip()
    if not text:
        raise Misfit("the answer is empty")
    try:
        value, repairs = _load(text)
    except RecursionError:
        raise Misfit("the answer is nested too deeply") from None
    _digest(value)
    return value, repairs


def _load(text: str) -> tuple[JsonValue, str]:
    try:
        return _DECODER.decode(text), ""
    except json.JSONDecodeError:
        found = _inside(text)
    except ValueError:  # an integer with thousands of digits
        raise Misfit("a number is too large") from None
    if len(found) > 1:
        raise Misfit("there are several JSON values where one is wanted")
    return (found[0], "taken out of other text") if found else (_mend(text), "punctuation mended")


def _digest(value: JsonValue) -> str:
    try:
        return digest(value)
    except (ValueError, UnicodeEncodeError):  # infinity, integers past 2**53, half a surrogate pair
        raise Misfit("the answer holds a number or a character that JSON cannot carry faithfully") from None


def _unique(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    if len(found := dict(pairs)) != len(pairs):
        raise Misfit("an object has the same key twice")
    return found


def _no_constant(name: str) -> JsonValue:
    raise Misfit(f"{name} is not a JSON value")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def _inside(text: str) -> list[JsonValue]:
    """Return the complete objects that stand in TEXT, outermost only."""
    found: list[JsonValue] = []
    at = text.find("{")
    while at >= 0:
        try:
            value, end = _DECODER.raw_decode(text, at)
        except json.JSONDecodeError:
            # A broken object: what stands inside it is not the answer. Leave it whole to the mending.
            return [] if not found else [*found, None]
        found.append(value)
        at = text.find("{", end)
    return found


def _mend(text: str) -> JsonValue:
    """Return what TEXT says if only its punctuation is wrong: quotes, commas, a fence. No word or number is changed."""
    start = min((at for at in (text.find("{"), text.find("[")) if at >= 0), default=-1)
    broken = text[start:].rstrip("` \n")
    if start < 0 or not broken.endswith(("}", "]")):
        # Closing it would make up an answer: {"amount": 12 may have been going to be 1200.
        raise Misfit("the answer is cut off, or there is no JSON in it")
    if re.search(r"[:,\[]\s*[-+]?(nan|inf(inity)?)\b", broken, re.IGNORECASE):
        raise Misfit("NaN and infinity are not JSON values")
    import json_repair  # only here: most answers need none

    try:
        mended = json_repair.loads(broken, skip_json_loads=True, strict=True)
        value: JsonValue = _DECODER.decode(json.dumps(mended))
    except (ValueError, TypeError):
        raise Misfit("the answer cannot be read as one JSON value") from None
    if _words(json.dumps(mended, ensure_ascii=False)) != _words(broken):
        raise Misfit("the answer cannot be read as one JSON value without guessing")
    return value


def _words(text: str) -> str:
    return re.sub(r"[\s{}\[\]\"',:\\]+", "", text).replace("None", "null").casefold()


def _fit_model(value: JsonValue, output: type[BaseModel]) -> tuple[JsonValue, BaseModel]:
    try:
        fitted = output.model_validate_json(json.dumps(value))
        dumped: JsonValue = fitted.model_dump(mode="json", by_alias=True, round_trip=True)
        # What goes over the wire is read again on the other side; pydantic writes infinity as null, for one.
        output.model_validate_json(json.dumps(dumped))
    except ValidationError as error:
        raise Misfit(
            "; ".join(_problem(item["loc"], item["type"], item.get("ctx")) for item in error.errors()[:8])
        ) from None
    return dumped, fitted


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


def _rule(name: object, value: object) -> str:
    return f"{name} (expected {value})" if name in {"enum", "const", "required", "type"} else str(name)

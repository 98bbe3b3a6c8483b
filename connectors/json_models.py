"""How JSON that a foreign schema describes becomes a pydantic model. Safe to import in workflow code."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue, create_model, model_validator

from perdure.lazy import lazy

Schema = Mapping[str, JsonValue]


class JsonModel(BaseModel):
    """An object that is checked against `schema_`, its JSON schema, and otherwise taken as it is."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_: ClassVar[Schema] = {}
    """The schema of the object as the target has it."""
    nullable_: ClassVar[frozenset[str]] = frozenset()
    """The properties that have to be there and may be null."""

    @model_validator(mode="before")
    @classmethod
    def _check(cls, value: object) -> object:
        if isinstance(value, dict):
            _refuse_misfit(cls.schema_, cls._by_target_names(value))
        return value

    def outward(self) -> dict[str, JsonValue]:
        """Return it as the target takes it: by the target's names, and without what was not given."""
        return self._by_target_names(self.model_dump(mode="json"))

    @classmethod
    def _by_target_names(cls, values: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        named = {
            (cls.model_fields[name].alias or name if name in cls.model_fields else name): values[name] for name in values
        }
        # A run passes on every field. None stands for "not given", except where the schema has it as a value.
        return {name: value for name, value in named.items() if value is not None or name in cls.nullable_}

    @classmethod
    def model_json_schema(cls, *args: object, **kwargs: object) -> dict[str, JsonValue]:
        """Return the schema of the object as the target has it, whatever else is asked for."""
        return dict(cls.schema_)


class OpenJsonModel(JsonModel):
    """One that may have properties that its schema does not name."""

    model_config = ConfigDict(extra="allow")


def build_model(name: str, schema: Schema) -> type[JsonModel]:
    """Return a model called NAME of objects that fit SCHEMA, with a field for each of its properties.

    A property whose name Python or pydantic has another use for gets an underscore at its end, and its own name as alias.
    """
    properties = _as_mapping(schema.get("properties"))
    needed = set(cast("list[str]", schema.get("required") or []))
    fields = {}
    for given, described in properties.items():
        said = _as_mapping(described).get("description")
        kwargs = {"alias": given, "description": said if isinstance(said, str) else None}
        field = Field(**kwargs) if given in needed else Field(default=None, **kwargs)  # type: ignore[call-overload]
        name_here = _python_name(given)
        # Each field is known by its own name as well as by the property's, so none may have the name of another property.
        while name_here in fields or (name_here != given and name_here in properties):
            name_here += "_"
        fields[name_here] = (JsonValue, field)
    # A property that the schema does not name is a mistake, unless it names none or says what others are like.
    others = schema.get("additionalProperties", not properties)
    base = OpenJsonModel if others else JsonModel
    made = create_model(_class_name(name), __base__=base, **fields)  # type: ignore[call-overload]
    model = cast("type[JsonModel]", made)
    model.schema_ = schema
    model.nullable_ = frozenset(_find_nullable(schema))
    return model


def find_misfit(schema: Schema, value: JsonValue) -> str:
    """Return why VALUE does not fit SCHEMA, without quoting it; empty if it does."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import UnknownType
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    # With a registry of its own nothing is fetched, wherever a foreign schema's references may point.
    validator = Draft202012Validator(schema, registry=Registry())
    try:
        wrong = sorted(validator.iter_errors(value), key=lambda error: error.json_path)
    except Unresolvable:
        return "its schema has a reference that leads out of it"
    except (UnknownType, re.error):
        return "its schema is not one"
    return "; ".join(f"{error.json_path}: does not fit {error.validator!r}" for error in wrong[:5])


def _refuse_misfit(schema: Schema, value: dict[str, JsonValue]) -> None:
    if misfit := find_misfit(schema, value):
        raise ValueError(misfit)


def _find_nullable(schema: Schema) -> set[str]:
    definitions = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    return {
        name
        for name, described in _as_mapping(schema.get("properties")).items()
        if name in cast("list[str]", schema.get("required") or [])
        and not find_misfit({**definitions, **_as_mapping(described)}, None)
    }


def _as_mapping(value: JsonValue) -> dict[str, JsonValue]:
    return value if isinstance(value, dict) else {}


def _python_name(name: str) -> str:
    plain = re.sub(r"\W", "_", name).lstrip("_") or "field"
    if plain[0].isdigit():
        plain = f"n{plain}"
    taken = keyword.iskeyword(plain) or hasattr(JsonModel, plain) or plain.startswith("model_")
    return f"{plain}_" if taken else plain


def _class_name(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in re.split(r"\W|_", name)) or "Object"


if not TYPE_CHECKING:
    # Names of 0.1.0; `perdure.moved` has them. Remove after 2027-06.
    __getattr__ = lazy(__name__, {})

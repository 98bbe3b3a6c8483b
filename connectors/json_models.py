"""How JSON that a foreign schema describes becomes a pydantic model. Safe to import in workflow code."""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Final, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    create_model,
    model_serializer,
    model_validator,
)

from perdure.connectors.json_schema import Checker, Schema, find_misfit
from perdure.lazy import lazy

__all__ = ["DUMPED", "JsonModel", "OpenJsonModel", "Schema", "build_model", "find_misfit", "with_nulls_marked"]

DUMPED: Final = "perdure.dumped"
"""Says in the context of a validation that the values were dumped by a model: None may stand for what was not given."""


class JsonModel(BaseModel):
    """An object that is checked against `schema_`, its JSON schema, and otherwise taken as it is."""

    # What has one of pydantic's own names gets an underscore, so none of them has to be kept free.
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, protected_namespaces=())

    schema_: ClassVar[Schema] = {}
    """The schema of the object as the target has it."""
    checker_: ClassVar[Checker] = Checker({})
    """What checks values against it."""
    nullable_: ClassVar[frozenset[str]] = frozenset()
    """The properties that have to be there and may be null."""
    marker_: ClassVar[str] = "$null"
    """Where a dump names the properties that were given as null. Those that were not given are None in it as well."""
    answers_: ClassVar[bool] = False
    """Whether it is what a target answers: then null and absent are the same."""

    @model_validator(mode="before")
    @classmethod
    def _check(cls, value: object, info: ValidationInfo) -> object:
        if not isinstance(value, dict):
            return value
        given = cls._read(value, dumped=bool((info.context or {}).get(DUMPED)))
        if misfit := cls.checker_.find_misfit({cls._target_name(name): each for name, each in given.items()}):
            raise ValueError(misfit)
        return given

    @classmethod
    def _read(cls, value: Mapping[str, JsonValue], *, dumped: bool) -> dict[str, JsonValue]:
        """Return what VALUE gives: a null only where it was given as one, and the schema takes it."""
        given = dict(value)
        marked = given.pop(cls.marker_, None)
        named = set(cast("list[str]", marked)) if isinstance(marked, list) else set()

        def is_null(name: str) -> bool:
            if name in cls.nullable_ or cls.answers_:
                return name in cls.nullable_
            # A run passes on every field, so what it dumped has to say which were given.
            return name in named if dumped or marked is not None else cls.checker_.takes_null(name)

        return {name: each for name, each in given.items() if each is not None or is_null(cls._target_name(name))}

    @model_serializer(mode="wrap")
    def _dump(self, dump: SerializerFunctionWrapHandler) -> dict[str, JsonValue]:
        dumped: dict[str, JsonValue] = dump(self)
        nulls = [
            self._target_name(name)
            for name, value in dumped.items()
            if value is None and name in self.model_fields_set and self._target_name(name) not in self.nullable_
        ]
        return {**dumped, self.marker_: cast(JsonValue, nulls)} if nulls and not self.answers_ else dumped

    def outward(self) -> dict[str, JsonValue]:
        """Return it as the target takes it: by the target's names, and without what was not given."""
        dumped: dict[str, JsonValue] = self.model_dump(mode="json")
        given = {name: value for name, value in dumped.items() if name in self.model_fields_set}
        # In an answer, fields that are not there are None.
        return {
            self._target_name(name): value
            for name, value in given.items()
            if not self.answers_ or value is not None or self._target_name(name) in self.nullable_
        }

    @classmethod
    def _target_name(cls, name: str) -> str:
        field = cls.model_fields.get(name)
        return name if field is None or field.alias is None else field.alias

    @classmethod
    def model_json_schema(cls, *args: object, **kwargs: object) -> dict[str, JsonValue]:
        """Return the schema of the object as the target has it, whatever else is asked for."""
        return dict(cls.schema_)


class OpenJsonModel(JsonModel):
    """One that may have properties that its schema does not name."""

    model_config = ConfigDict(extra="allow")


def build_model(name: str, schema: Schema, *, answers: bool = False) -> type[JsonModel]:
    """Return a model called NAME of objects that fit SCHEMA, with a field for each of its properties.

    A property whose name Python or pydantic has another use for gets an underscore at its end, and its own name as alias.
    ANSWERS says that they are what a target answers, and not what it is given.
    """
    return _build_model(name, json.dumps(schema), answers)


def with_nulls_marked(model: type[BaseModel], values: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Return VALUES, in which null is what somebody wrote down, as MODEL dumps them: with the nulls named."""
    if not issubclass(model, JsonModel):
        return dict(values)
    dumped: dict[str, JsonValue] = model.model_validate(dict(values)).model_dump(mode="json")
    marked = {model.marker_: dumped[model.marker_]} if model.marker_ in dumped else {}
    return {**values, **marked}


# Workflow code imports the modules that it uses anew with each run, and models take milliseconds each.
@lru_cache(maxsize=4096)
def _build_model(name: str, text: str, answers: bool) -> type[JsonModel]:
    schema: Schema = json.loads(text)
    checker = Checker(schema)
    read = _as_mapping(checker.schema)
    described = _as_mapping(schema.get("properties"))
    needed = cast("list[str]", read.get("required") or [])
    properties = list(dict.fromkeys([*_as_mapping(read.get("properties")), *needed]))
    fields = {}
    for given in properties:
        said = _as_mapping(described.get(given)).get("description")
        kwargs = {"alias": given, "description": said if isinstance(said, str) else None}
        field = Field(**kwargs) if given in needed else Field(default=None, **kwargs)  # type: ignore[call-overload]
        name_here = _python_name(given)
        # Each field is known by its own name as well as by the property's, so none may have the name of another property.
        while name_here in fields or (name_here != given and name_here in properties):
            name_here += "_"
        fields[name_here] = (JsonValue, field)
    # A property that the schema does not name is a mistake, unless it names none, or has other places that name some.
    others = read.get("additionalProperties", not properties or bool(read.keys() & _NAMING_MORE))
    base = OpenJsonModel if others else JsonModel
    made = create_model(_class_name(name), __base__=base, **fields)  # type: ignore[call-overload]
    model = cast("type[JsonModel]", made)
    model.schema_ = schema
    model.checker_ = checker
    model.nullable_ = frozenset(each for each in needed if checker.takes_null(each))
    model.answers_ = answers
    while model.marker_ in properties:
        model.marker_ += "_"
    return model


_NAMING_MORE = {
    *("allOf", "anyOf", "oneOf", "$ref", "if", "then", "else", "not", "dependentSchemas", "patternProperties"),
    *("unevaluatedProperties", "propertyNames"),
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

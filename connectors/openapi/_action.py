"""How an operation of an OpenAPI document becomes an action: models from its schemas, and what somebody says of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, cast

from pydantic import BaseModel, JsonValue, ValidationError

from perdure.connectors.contracts import (
    Action,
    In,
    Out,
    Target,
    Undo,
    undo_by,
)
from perdure.connectors.http import PROBE_PAGES, HttpAction, Request, check_path, fill
from perdure.connectors.json_models import JsonModel, build_model, find_misfit
from perdure.connectors.openapi._document import Document, Part
from perdure.connectors.openapi._operations import (
    RESULT,
    Operation,
    read_operation,
)
from perdure.connectors.openapi._schemas import Schema
from perdure.connectors.openapi._use import (
    EXPRESSION,
    Undoing,
    Use,
    Value,
)
from perdure.connectors.schemas import keep_properties
from perdure.connectors.wire import parse_args, with_nulls_marked
from perdure.errors import InvalidSettings

__all__ = ["ActionBuilder", "OpenApiAction"]

_SAMPLE_KEY: Final = "pe-0123456789abcdef0123456789abcdef"
"""What an effect's key looks like."""


@dataclass(frozen=True)
class OpenApiAction(HttpAction[In, Out], Generic[In, Out]):
    """An action that is one operation of an OpenAPI document."""

    operation: Operation | None = None
    fixed: Mapping[str, JsonValue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        Action.__post_init__(self)  # a path's `{order-id}` is not a field's name

    def build_request(self, args: In, key: str) -> Request:
        """Return the request that does the action with ARGS under the effect's KEY."""
        assert self.operation is not None
        return self.operation.build_request(
            {**self.dump_args(args), **self.fixed}, {self.key: key} if self.target.mechanism == "natural-key" else {}
        )

    def build_probe_page(self, args: In, key: str, *, page: int, after: str) -> Request:
        """Return the request for one page of what may be the effect of KEY: PAGE, or what comes AFTER a reference."""
        values = {"page": page, "after": after or None, **self.dump_args(args), **self.fixed, "key": key}
        path = fill(self.probe.removeprefix("GET "), values)
        return Request("GET", path, headers={"Accept": "application/json, */*;q=0.1"}, template=self.probe)

    def dump_args(self, args: In) -> dict[str, JsonValue]:
        """Return ARGS by the names that the document has for them."""
        assert isinstance(args, JsonModel)
        return args.outward()


class ActionBuilder:
    """Makes the actions of CONNECTOR out of operations of DOCUMENT, as USES say. Raises `InvalidSettings` saying where."""

    def __init__(self, connector: str, document: Document, uses: Mapping[str, Use]) -> None:
        self._connector = connector
        self._document = document
        self._uses = uses
        self._made: dict[str, OpenApiAction[BaseModel, BaseModel]] = {}
        self._making: list[str] = []

    def build_all(self) -> list[OpenApiAction[BaseModel, BaseModel]]:
        """Return all of them."""
        return [self._action(name) for name in self._uses]

    def _action(self, name: str) -> OpenApiAction[BaseModel, BaseModel]:
        if name in self._making:
            raise InvalidSettings(
                f"{self._connector}: {' is undone by '.join([*self._making, name])}: leave one of these undos out"
            )
        if name not in self._made:
            self._making.append(name)
            self._made[name] = self._build(name, self._uses[name])
            self._making.pop()
        return self._made[name]

    def _build(self, name: str, use: Use) -> OpenApiAction[BaseModel, BaseModel]:
        request, part = self._document.operation(use.operation)
        reads = request.startswith("GET ") if use.reads is None else use.reads
        key = use.key or ("Idempotency-Key" if use.mechanism == "header" else "")
        ours = [key] if use.mechanism == "header" else []
        shape = read_operation(self._document, request, part, ours=ours, content_type=use.content_type)
        _check_use(shape, part, use, reads=reads)
        left_out = {*use.fixed, *([use.key] if use.mechanism == "natural-key" and not shape.body_argument else [])}
        full = f"{self._connector}.{name}"
        given = _drop_properties(shape.input, left_out)
        if use.mechanism == "natural-key" and shape.body and shape.body_argument:
            body = _drop_properties({"required": [], **cast(Schema, shape.body.plain)}, {use.key})
            given = {**given, "properties": {**cast(Schema, given["properties"]), shape.body_argument: body}}
        taken = _build_model(f"{full} input", given, part)
        output = keep_properties(shape.output, use.answer, shape.output) if use.answer else shape.output
        answered = _build_model(f"{full} output", output, part, answers=True)
        target = Target(
            mechanism=use.mechanism,
            key_lifetime=use.key_lifetime,
            replays_errors=use.replays_errors,
            settle=use.settle,
            deadline=use.deadline,
        )
        answers: Callable[[JsonValue], JsonValue] | None = None
        if shape.answer.kind != "object":
            answers = _drop_answer if shape.answer.kind == "nothing" else _wrap_answer
        undo, remove = (self._undo(shape, part, use, undoing) for undoing in (use.undo, use.remove))
        return OpenApiAction(
            full,
            cast("type[BaseModel]", taken),
            cast("type[BaseModel]", answered),
            risk=use.risk or ("low" if reads else "high"),
            reversibility=use.reversibility or ("compensatable" if undo else "irreversible"),
            reads=reads,
            target=target,
            undo=undo,
            remove=remove,
            describe=_describe_by(shape, part, use.describe),
            once_per=tuple(_python_field(taken, shape, part, each) for each in use.once_per),
            request=request,
            key=key,
            probe=use.probe,
            found=use.found,
            probe_next=use.probe_next,
            answer=answers,
            remote_ref=use.remote_ref,
            untouched=use.untouched,
            exists=use.exists,
            listing=use.listing,
            operation=shape,
            fixed=use.fixed,
        )

    def _undo(self, shape: Operation, part: Part, use: Use, undoing: Undoing | None) -> Undo[BaseModel, BaseModel] | None:
        if undoing is None:
            return None
        if undoing.action not in self._uses:
            part.refuse(f"its undo {undoing.action!r} is not an action of {self._connector}")
        undo = self._action(undoing.action)
        taken = cast("type[JsonModel]", undo.input)
        fields = cast(Schema, taken.schema_["properties"])
        needed = set(cast(list[str], taken.schema_.get("required") or []))
        if strange := [name for name in undoing.args if name not in fields]:
            part.refuse(f"{undoing.action} takes no {strange[0]!r}; it takes {', '.join(fields) or 'nothing'}")
        if lacking := sorted(needed - undoing.args.keys()):
            part.refuse(f"its undo {undoing.action} needs {', '.join(lacking)}")
        for name, value in undoing.args.items():
            _check_expression(shape, part, name, value)

        def argue(asked: BaseModel, answered: BaseModel) -> BaseModel:
            sent = {**cast(JsonModel, asked).outward(), **use.fixed}
            said = _Exchange(shape, sent, cast(JsonModel, answered).outward())
            values = {name: said.resolve(value) for name, value in undoing.args.items()}
            given = {name: found[0] for name, found in values.items() if found}
            return parse_args(undo, with_nulls_marked(undo, given))

        return undo_by(undo, argue)


@dataclass(frozen=True)
class _Exchange:
    """What was asked of an operation and what it answered, by the document's names."""

    shape: Operation
    request_values: Mapping[str, JsonValue]
    response_values: Mapping[str, JsonValue]

    def resolve(self, value: Value) -> list[JsonValue]:
        """Return what VALUE, a constant or an expression, stands for; an empty list if it leads nowhere."""
        match = EXPRESSION.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            return [value]
        source, name, pointer = match[1], match[2], match[3] or ""
        if name:
            argument = self.shape.argument_of(source.split(".")[1], name)
            return [self.request_values[argument]] if argument is not None and argument in self.request_values else []
        if source == "response.body":
            wrapped = self.shape.answer.kind in ("other", "text")
            return _point([self.response_values.get(RESULT)] if wrapped else [dict(self.response_values)], pointer)
        if self.shape.body_argument:
            body = self.shape.body_argument
            return _point([self.request_values[body]] if body in self.request_values else [], pointer)
        fields = {name: each for name, each in self.request_values.items() if name in self.shape.body_fields}
        return _point([fields], pointer)


def _point(whole: list[JsonValue], pointer: str) -> list[JsonValue]:
    """Return what WHOLE has at POINTER (RFC 6901), in a list that is empty if it has nothing there."""
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        holder = whole[0] if whole else None
        if isinstance(holder, dict):
            whole = [holder[name]] if name in holder else []
        elif isinstance(holder, list):
            whole = [holder[int(name)]] if name.isdecimal() and int(name) < len(holder) else []
        else:
            whole = []
    return whole


def _check_use(shape: Operation, part: Part, use: Use, *, reads: bool) -> None:
    if reads and use.mechanism != "none":
        part.refuse("it only reads, so `mechanism` has no meaning")
    if use.probe and not (use.probe.startswith("GET /") and "{key}" in use.probe):
        part.refuse(f"the probe {use.probe!r} is not like `GET /path?reference={{key}}`")
    needed = set(cast(list[str], shape.input["required"])) | use.fixed.keys()
    names = set(re.findall(r"{([^{}]+)}", use.probe)) - {"key"}
    names -= PROBE_PAGES - shape.fields.keys()
    if unknown := sorted(names - needed):
        part.refuse(
            f"the probe needs {unknown[0]!r}, which is not a required argument; those are: {', '.join(sorted(needed))}"
        )
    if unknown := sorted(use.fixed.keys() - shape.fields.keys()):
        part.refuse(f"it has no argument {unknown[0]!r} to fix; it has {', '.join(shape.fields)}")
    for name, value in use.fixed.items():
        if misfit := find_misfit(
            {**shape.input, **cast(Schema, shape.fields[name]), "required": [], "properties": {}}, value
        ):
            part.refuse(f"the fixed value of {name!r} does not fit: {misfit}")
    if wrong := check_path(use.probe.removeprefix("GET ")):
        part.refuse(f"the probe {use.probe!r} cannot be sent: {wrong}")
    if use.answer and shape.answer.kind != "object":
        part.refuse("its answer is not an object, so `answer` cannot choose fields of it")
    if use.mechanism != "natural-key":
        return
    if not use.key or not use.probe:
        part.refuse("a natural-key mechanism needs `key`, a field of the body, and `probe`, which finds it again")
    if use.key not in shape.body_fields:
        part.refuse(f"its body has no field {use.key!r} for the key; it has {', '.join(shape.body_fields) or 'none'}")
    definitions = {"$defs": shape.input["$defs"]} if "$defs" in shape.input else {}
    if misfit := find_misfit({**definitions, **cast(Schema, shape.body_fields[use.key])}, _SAMPLE_KEY):
        part.refuse(f"a key such as {_SAMPLE_KEY} does not fit the field {use.key!r}: {misfit}")


def _check_expression(shape: Operation, part: Part, name: str, value: Value) -> None:
    match = EXPRESSION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return
    first = (match[3] or "").split("/")[1:2]
    if match[2]:
        place = match[1].split(".")[1]
        if shape.argument_of(place, match[2]) is None:
            part.refuse(f"{name}: {value} does not resolve: there is no such parameter")
    elif match[1] == "response.body" and shape.answer.kind == "object":
        fields = cast(Schema, shape.output.get("properties") or {})
        if fields and first and first[0] not in fields:
            part.refuse(f"{name}: {value} does not resolve; the answer has {', '.join(fields)}")
    elif match[1] == "response.body" and shape.answer.kind == "nothing":
        part.refuse(f"{name}: {value} does not resolve: no answer is described")
    elif match[1] == "request.body" and shape.body_fields and first and first[0] not in shape.body_fields:
        part.refuse(f"{name}: {value} does not resolve; the body has {', '.join(shape.body_fields)}")


def _build_model(name: str, schema: Schema, part: Part, *, answers: bool = False) -> type[JsonModel]:
    try:
        return build_model(name, schema, answers=answers)
    except (ValidationError, TypeError, ValueError, NameError) as error:
        part.refuse(f"its schema cannot become a model: {error}")


def _drop_properties(schema: Schema, names: set[str]) -> Schema:
    properties = cast(Schema, schema["properties"])
    required = cast(list[JsonValue], schema["required"])
    left: Schema = {
        **schema,
        "properties": {name: value for name, value in properties.items() if name not in names},
        "required": [name for name in required if name not in names],
    }
    return left if left["properties"] or "additionalProperties" in left else {**left, "additionalProperties": False}


def _describe_by(shape: Operation, part: Part, template: str) -> Callable[[BaseModel], str] | None:
    names = re.findall(r"{([^{}]+)}", template)
    if unknown := [name for name in names if name not in shape.fields]:
        part.refuse(f"`describe` names {unknown[0]!r}, which is not an argument; those are {', '.join(shape.fields)}")
    if not template:
        return None

    def describe(args: BaseModel) -> str:
        given = cast(JsonModel, args).outward()
        return re.sub(r"{([^{}]+)}", lambda found: _to_words(given.get(found[1], "")), template)

    return describe


def _to_words(value: JsonValue) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _python_field(model: type[JsonModel], shape: Operation, part: Part, name: str) -> str:
    names = {info.alias or python_name: python_name for python_name, info in model.model_fields.items()}
    if name not in names:
        part.refuse(f"`once_per` names {name!r}, which is not an argument; those are {', '.join(shape.fields)}")
    return names[name]


def _drop_answer(_: JsonValue) -> JsonValue:
    return {}


def _wrap_answer(answer: JsonValue) -> JsonValue:
    return {RESULT: answer}

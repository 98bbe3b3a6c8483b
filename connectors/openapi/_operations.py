"""What an operation of an OpenAPI document takes and answers, all in one, and how that becomes a request."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import cast

from pydantic import JsonValue

from perdure.connectors.http import Request, quote_value, to_text
from perdure.connectors.openapi._answers import RESULT, Answer, read_answer
from perdure.connectors.openapi._bodies import Body, read_body
from perdure.connectors.openapi._document import Document, Part
from perdure.connectors.openapi._parameters import Parameter, read_parameters, read_path
from perdure.connectors.openapi._schemas import Schema, SchemaTranslator
from perdure.connectors.openapi._servers import own_server
from perdure.errors import EffectRejected

__all__ = ["RESULT", "Operation", "read_operation"]


@dataclass(frozen=True)
class Operation:
    """An operation: INPUT is the schema of what it takes, all in one object."""

    request: str
    """`METHOD /path`, as the document has it."""
    where: str
    parameters: tuple[Parameter, ...]
    input: Schema
    body: Body | None
    answer: Answer
    server: Part | None = None
    """The server that it has of its own."""

    def build_request(self, given: Mapping[str, JsonValue], also: Mapping[str, JsonValue]) -> Request:
        """Return the request with what is GIVEN, by argument, and with ALSO in the body. Raises `EffectRejected`."""
        method, _, path = self.request.partition(" ")
        target = read_path(path)
        rest = dict(given)
        texts: dict[str, str] = {}
        query: list[str] = []
        headers = {"Accept": self.answer.accept}
        for parameter in self.parameters:
            if parameter.argument not in rest:
                continue
            value = rest.pop(parameter.argument)
            if parameter.place == "header":
                headers[parameter.name] = parameter.write_header(value)
            elif parameter.name in target.in_path and parameter.place == "path":
                texts[parameter.name] = parameter.write_path(value)
            elif parameter.name in target.in_query and parameter.name not in target.in_path:
                texts[parameter.name] = quote_value(to_text(value, parameter.name))
            else:
                self._check_members(parameter, value)
                query += parameter.write_query(value)
        content, content_type = self._build_body(rest, also)
        return Request(method, target.fill(texts, query), content, headers, content_type, template=self.request)

    def _build_body(self, rest: Mapping[str, JsonValue], also: Mapping[str, JsonValue]) -> tuple[JsonValue, str]:
        body = self.body
        if body is None:
            return None, ""
        if not body.argument:
            if taken := sorted(also.keys() & rest.keys()):
                raise EffectRejected(f"{taken[0]} is where perdure puts its own key; nothing was sent")
            return {**rest, **also}, body.content_type
        if body.argument not in rest and not also:
            return None, ""
        whole = rest.get(body.argument, {} if also else None)
        if also and not isinstance(whole, dict):
            raise EffectRejected("the body is not an object that the key could go into; nothing was sent")
        if also and isinstance(whole, dict):
            if taken := sorted(also.keys() & whole.keys()):
                raise EffectRejected(f"{body.argument}.{taken[0]} is where perdure puts its own key; nothing was sent")
            return {**whole, **also}, body.content_type
        return whole, body.content_type

    def _check_members(self, parameter: Parameter, value: JsonValue) -> None:
        """Refuse an object whose members would be taken for other parameters."""
        if isinstance(value, dict) and parameter.style.explode and parameter.style.name == "form" and not parameter.media:
            others = {each.name for each in self.parameters if each.place == "query" and each != parameter}
            if taken := sorted(value.keys() & others):
                raise EffectRejected(
                    f"{parameter.name}.{taken[0]} is another parameter's name in the query; nothing was sent"
                )

    @property
    def body_argument(self) -> str:
        """The argument that has all of the body; empty if there is none."""
        return self.body.argument if self.body else ""

    def argument_of(self, place: str, name: str) -> str | None:
        """Return the argument that is the parameter NAME in PLACE."""
        return next((each.argument for each in self.parameters if (each.name, each.place) == (name, place)), None)

    @property
    def output(self) -> Schema:
        """The schema of what it answers."""
        return self.answer.schema

    @property
    def fields(self) -> Mapping[str, JsonValue]:
        """The schemas of everything that it takes, by argument."""
        return cast(Schema, self.input["properties"])

    @property
    def body_fields(self) -> Mapping[str, JsonValue]:
        """The schemas of the fields of the body, by name."""
        return self.body.fields if self.body else {}


def read_operation(
    document: Document, request: str, part: Part, *, ours: Collection[str] = (), content_type: str = ""
) -> Operation:
    """Return the operation that PART of DOCUMENT is, at REQUEST, with its body as CONTENT_TYPE.

    OURS are headers that the connector fills in itself. Raises `InvalidSettings` where the document says what is not
    supported.
    """
    method, _, path = request.partition(" ")
    if method not in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        part.refuse(f"{method} cannot be an action; GET, POST, PUT, PATCH and DELETE can")
    schemas = SchemaTranslator("request")
    parameters, properties, required = read_parameters(document, path, part, schemas, ours=ours)
    body, rest = read_body(part, schemas, properties, required, content_type=content_type)
    described: Schema = {"type": "object", "properties": properties, "required": required}
    others = rest.get("additionalProperties")
    if others is not None or not properties:
        described["additionalProperties"] = others if others is not None else False
    return Operation(
        request=request,
        where=part.where,
        parameters=parameters,
        input=schemas.with_definitions(described),
        body=body,
        answer=read_answer(part),
        server=own_server(document, path, part),
    )

"""How what WordPress says of itself by OPTIONS becomes a contract."""

from __future__ import annotations

from collections.abc import Collection

from pydantic import JsonValue

from perdure.connectors.drift.contracts import Operation
from perdure.connectors.schemas import keep_properties

_IGNORED = (
    *("required", "context", "readonly", "arg_options"),  # not JSON Schema, or not as it is now
    *("$schema", "title", "description", "links"),  # words and addresses
)


def read_operation(
    described: JsonValue, method: str, *, sends: Collection[str], reads: Collection[str], actions: tuple[str, ...]
) -> Operation:
    """Return the operation METHOD on the address that is DESCRIBED so.

    Of its arguments those that it SENDS are in it and those that are needed, of its answer those that it READS.

    WordPress writes the `required` of its arguments as JSON Schema's third draft had it: beside each, as yes or no.
    """
    endpoints = described.get("endpoints") if isinstance(described, dict) else None
    schema = described.get("schema") if isinstance(described, dict) else None
    for endpoint in endpoints if isinstance(endpoints, list) else ():
        if isinstance(endpoint, dict) and method in _strings(endpoint.get("methods")):
            args = endpoint.get("args")
            named = args if isinstance(args, dict) else {}
            needed: list[JsonValue] = [name for name, arg in named.items() if isinstance(arg, dict) and arg.get("required")]
            relied = {name: _to_json_schema(arg) for name, arg in named.items() if name in sends or name in needed}
            request: dict[str, JsonValue] = {"type": "object", "properties": relied, "required": needed}
            response = keep_properties(_to_json_schema(schema), reads) if isinstance(schema, dict) else None
            return Operation(request=request, response=response, actions=actions)
    return Operation(actions=actions)


def _strings(value: JsonValue) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _to_json_schema(schema: JsonValue) -> JsonValue:
    if isinstance(schema, list):
        return [_to_json_schema(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: _to_json_schema(each)
        for name, each in schema.items()
        if isinstance(each, dict) or not (name in _IGNORED or (name == "properties" and each == []))
    }

"""What the actions of an HTTP connector rely on, out of what its target says of itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pydantic import BaseModel, JsonValue

from perdure.connectors.drift.contracts import Contract
from perdure.connectors.http.action import HttpAction
from perdure.connectors.http.listing import Item
from perdure.connectors.schemas import Unreadable, from_openapi, from_samples
from perdure.documents import read_foreign
from perdure.errors import EffectRejected, Malformed

_Action = HttpAction[BaseModel, BaseModel]


def contract_from_openapi(content: bytes, actions: Iterable[_Action]) -> Contract:
    """Return the contract of ACTIONS from the OpenAPI document CONTENT, JSON or YAML.

    Of a response only those fields are in it that the action reads: a field that nobody reads may change.
    """
    relying: dict[str, list[_Action]] = {}
    for action in actions:
        relying.setdefault(action.request.partition("?")[0], []).append(action)
    operations = {request: [action.name for action in these] for request, these in relying.items()}
    try:
        return from_openapi(_parse_document(content), operations, reads=_fields_read(relying))
    except Unreadable as error:
        raise EffectRejected(f"the OpenAPI document at the connector's `openapi` address cannot be used: {error}") from None


def contract_from_items(items: Mapping[str, Sequence[Item]], actions: Mapping[str, _Action]) -> Contract:
    """Return the contract that the ITEMS listed for each action let infer."""
    reads = _fields_read({name: [actions[name]] for name in items})
    samples: dict[str, list[JsonValue]] = {
        name: [
            {field: value for field, value in item.items() if name not in reads or field in reads[name]} for item in found
        ]
        for name, found in items.items()
    }
    return from_samples(samples, {name: [name] for name in items})


def _fields_read(relying: Mapping[str, Sequence[_Action]]) -> dict[str, set[str]]:
    # Where a function makes the output, nobody but that function knows what is read.
    return {
        name: set().union(*(_fields_read_by(action) for action in actions))
        for name, actions in relying.items()
        if not any(action.answer for action in actions)
    }


def _fields_read_by(action: _Action) -> set[str]:
    names = {action.remote_ref, *action.output.model_fields}
    names |= {field.alias for field in action.output.model_fields.values() if field.alias}
    # In it the target gives our key back, by which everything is found again.
    return names | ({action.key} if action.target.mechanism == "natural-key" else set())


def _parse_document(content: bytes) -> Mapping[str, JsonValue]:
    try:
        document = read_foreign(content)
    except Malformed as error:
        raise Unreadable(f"the document {'is neither JSON nor YAML' if error.syntax else error.message}") from None
    if not isinstance(document, dict):
        raise Unreadable("the document is neither JSON nor YAML")
    return document

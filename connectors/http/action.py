"""How an action looks as an HTTP request, and how its answer is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic
from urllib.parse import quote, urlencode

from pydantic import BaseModel, JsonValue, ValidationError

from perdure.connectors.contracts import (
    Absent,
    Action,
    CannotTell,
    Executed,
    Found,
    In,
    Listed,
    Out,
    Probe,
)
from perdure.connectors.http.listing import Item, Listing, parse_time
from perdure.errors import EffectRejected


@dataclass(frozen=True)
class Request:
    """One HTTP request, apart from where it goes and who says so."""

    method: str
    path: str
    body: JsonValue = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class HttpAction(Action[In, Out], Generic[In, Out]):
    """An action that is one HTTP request. `{field}` in a path stands for that field of the input."""

    request: str = ""
    """Method and path, e.g. `POST /orders/{order}/refunds`. The input's other fields are the body, or a GET's query."""
    key: str = ""
    """Where the effect's key goes: the header of a `header` target (Idempotency-Key if empty), or the field of the body in
    which a `natural-key` target stores it."""
    probe: str = ""
    """The request that finds an effect by its `{key}`, e.g. `GET /refunds?reference={key}`."""
    found: str = ""
    """Where the probe's answer has its list of matches, e.g. `data`; empty if the answer is the list, or the one match."""
    body: Callable[[In], JsonValue] | None = None
    """Makes the body where it is not simply the input."""
    answer: Callable[[JsonValue], JsonValue] | None = None
    """Makes the output where the target's JSON does not have the output's fields."""
    remote_ref: str = "id"
    """The field of the target's JSON by which it calls what now exists."""
    untouched: tuple[int, ...] = (429,)
    """The statuses with which the target says that it has done nothing and may be asked again."""
    listing: Listing | None = None
    """Where the target lists what the action has made, so that the ledger can be compared with it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _REQUEST.fullmatch(self.request):
            raise ValueError(f"action {self.name}: request {self.request!r} is not like `POST /path`")
        if self.probe and not (self.probe.startswith("GET /") and "{key}" in self.probe):
            raise ValueError(f"action {self.name}: probe {self.probe!r} is not like `GET /path?reference={{key}}`")
        unknown = (_placeholders(self.request) | _placeholders(self.probe)) - set(self.input.model_fields) - {"key"}
        if unknown:
            raise ValueError(f"action {self.name}: {self.input.__name__} has no field {', '.join(sorted(unknown))}")
        if not self.reads and self.target.mechanism == "natural-key" and not (self.key and self.probe):
            raise ValueError(f"action {self.name}: a natural-key target needs `key`, a field of the body, and `probe`")

    def build_request(self, args: In, key: str) -> Request:
        """Return the request that does the action with ARGS under the effect's KEY."""
        method, _, template = self.request.partition(" ")
        given = self.dump_args(args)
        rest = {name: value for name, value in given.items() if name not in _placeholders(template)}
        path = _fill(template, given)
        if method in ("GET", "DELETE"):
            query = urlencode({name: value for name, value in rest.items() if value is not None})
            return Request(method, f"{path}?{query}" if query else path)
        body = self.body(args) if self.body else rest
        if self.target.mechanism == "natural-key" and isinstance(body, dict):
            body = {**body, self.key: key}
        return Request(method, path, body)

    def dump_args(self, args: In) -> dict[str, JsonValue]:
        """Return ARGS by the names that the request has for them."""
        return args.model_dump(mode="json")

    def key_headers(self, key: str) -> dict[str, str]:
        """Return the headers that carry the effect's KEY."""
        return {self.key or "Idempotency-Key": key} if self.target.mechanism == "header" and not self.reads else {}

    def build_probe(self, args: In, key: str) -> Request:
        """Return the request that finds the effect of KEY."""
        return Request("GET", _fill(self.probe.removeprefix("GET "), self.dump_args(args) | {"key": key}))

    @property
    def absent_is_404(self) -> bool:
        """Whether the probe asks for the one thing by its address. With the key in the query, 404 is a wrong address."""
        return "{key}" in self.probe.partition("?")[0]

    def parse_result(self, answer: JsonValue) -> Executed:
        """Read ANSWER, the target's JSON. Raises `ValueError` saying, without values, where it does not fit."""
        made = self.answer(answer) if self.answer else answer
        if isinstance(made, dict) and self.output.model_config.get("extra") == "forbid":
            # A target may add fields at any time; what it promises is those we know.
            made = {name: value for name, value in made.items() if name in _field_names(self.output)}
        try:
            output = self.output.model_validate(made)
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
            raise ValueError(f"it does not fit {self.output.__name__}: {wrong}") from None
        reference = answer.get(self.remote_ref) if isinstance(answer, dict) else None
        return Executed(output=output, remote_ref="" if reference is None else str(reference))

    def parse_probe(self, answer: JsonValue, key: str) -> Probe:
        """Read ANSWER, the JSON of the probe for KEY."""
        for part in filter(None, self.found.split(".")):
            answer = answer.get(part) if isinstance(answer, dict) else None
        matches = [answer] if isinstance(answer, dict) else answer
        if not isinstance(matches, list):
            return CannotTell("the probe's answer has no list of matches")
        if not matches:
            return Absent()
        if self.target.mechanism == "natural-key":
            matches = [match for match in matches if isinstance(match, dict) and match.get(self.key) == key]
        if len(matches) != 1:
            # None left: the target ignored the key, so that even an empty page would have proven nothing.
            return CannotTell(f"the probe's answer has {len(matches)} matches for this key; there should be one")
        try:
            return Found(self.parse_result(matches[0]))
        except ValueError as error:
            return CannotTell(f"the probe found it, but {error}")

    def parse_listing(self, items: Iterable[Item]) -> list[Listed]:
        """Read ITEMS of the target's list."""
        return [self._parse_item(item, self.listing) for item in items if self.listing is not None]

    def _parse_item(self, item: Item, listing: Listing) -> Listed:
        try:
            facts: dict[str, JsonValue] = self.parse_result(dict(item)).output.model_dump(mode="json")
        except ValueError:
            # It fits no longer, which is a finding in itself: as it is, then.
            facts = {name: value for name, value in item.items() if name in _field_names(self.output)}
        reference, key = item.get(self.remote_ref), item.get(listing.key or self.key)
        return Listed(
            action=self.name,
            remote_ref="" if reference is None else str(reference),
            key=key if isinstance(key, str) else "",
            facts={name: value for name, value in facts.items() if name not in listing.volatile},
            at=parse_time(item.get(listing.at)) if listing.at else None,
            stands=listing.stands(item) if listing.stands else None,
        )


_REQUEST = re.compile(r"(GET|POST|PUT|PATCH|DELETE) /\S*")
_FIELD = re.compile(r"{(\w+)}")


def _placeholders(template: str) -> set[str]:
    return set(_FIELD.findall(template))


def quote_segment(value: str, name: str) -> str:
    """Return VALUE of the field NAME as a part of an address. Raises `EffectRejected` if it would lead to another place."""
    if value in ("", ".", ".."):
        raise EffectRejected(f"{name} is {value!r}, which would change the address; nothing was sent")
    return quote(value, safe="")


def _fill(template: str, values: Mapping[str, JsonValue]) -> str:
    path, mark, query = template.partition("?")
    path = _FIELD.sub(lambda field: quote_segment(str(values[field[1]]), field[1]), path)
    return path + mark + _FIELD.sub(lambda field: quote(str(values[field[1]]), safe=""), query)


def _field_names(model: type[BaseModel]) -> set[str]:
    aliases = {field.alias for field in model.model_fields.values() if field.alias}
    return aliases | set(model.model_fields)

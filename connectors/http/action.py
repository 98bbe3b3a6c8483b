"""How an action looks as an HTTP request, and how its answer is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, get_origin

from pydantic import BaseModel, JsonValue, RootModel, ValidationError
from pydantic.errors import PydanticUserError

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
from perdure.connectors.http._address import check_path
from perdure.connectors.http._encoding import FORM, JSON_TYPE, list_pairs, quote_segment, quote_value, to_text
from perdure.connectors.http.listing import Item, Listing, parse_time, value_at
from perdure.errors import EffectRejected


@dataclass(frozen=True)
class Request:
    """One HTTP request, apart from where it goes and who says so."""

    method: str
    path: str
    """With its query. Empty: the connector's `url` itself."""
    body: JsonValue = None
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = ""
    """The media type that BODY is sent as. Empty: application/json, or no content at all if BODY is None."""
    template: str = ""
    """The operation of the target's description that it is, such as `POST /orders/{order}/refunds`, where one is known."""


@dataclass(frozen=True)
class HttpAction(Action[In, Out], Generic[In, Out]):
    """An action that is one HTTP request. `{field}` in a path stands for that field of the input."""

    request: str = ""
    """Method and path, e.g. `POST /orders/{order}/refunds`. The input's other fields are the body, or a GET's or DELETE's
    query. A method alone goes to the connector's `url` itself, to the letter."""
    key: str = ""
    """Where the effect's key goes: the header of a `header` target (Idempotency-Key if empty), or the field of the body in
    which a `natural-key` target stores it."""
    probe: str = ""
    """The request that finds an effect by its `{key}`, e.g. `GET /refunds?reference={key}`."""
    found: str = ""
    """Where the probe's answer has its list of matches, e.g. `data`; empty if the answer is the list, or the one match."""
    probe_next: str = ""
    """Where the probe's answer has the address of its next page, e.g. `links.next`; `Link` if that header has it. Otherwise
    `{page}` or `{after}` in the probe ask for pages until one has nothing new. Without either, an answer that has no match
    and says that there are more pages proves nothing."""
    body: Callable[[In], JsonValue] | None = None
    """Makes the body where it is not simply the input."""
    content_type: str = "application/json"
    """What the body is sent as: a JSON media type, or application/x-www-form-urlencoded."""
    answer: Callable[[JsonValue], JsonValue] | None = None
    """Makes the output where the target's JSON does not have the output's fields."""
    remote_ref: str = "id"
    """The field of the target's JSON by which it calls what now exists."""
    untouched: tuple[int, ...] = (429,)
    """The statuses with which the target says that it has done nothing and may be asked again."""
    exists: tuple[int, ...] = ()
    """The statuses, 409 say, with which the target refuses what it has already. Where nobody else makes a thing with our
    reference, an earlier attempt has made it: it is looked up again, and not taken for a refusal."""
    listing: Listing | None = None
    """Where the target lists what the action has made, so that the ledger can be compared with it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _REQUEST.fullmatch(self.request):
            raise ValueError(f"action {self.name}: request {self.request!r} is not like `POST /path`")
        if self.probe and not (self.probe.startswith("GET /") and "{key}" in self.probe):
            raise ValueError(f"action {self.name}: probe {self.probe!r} is not like `GET /path?reference={{key}}`")
        for what, template in (("request", self.request), ("probe", self.probe)):
            if wrong := check_path(template.partition(" ")[2]):
                raise ValueError(f"action {self.name}: {what} {template!r} cannot be sent: {wrong}")
        known = {*self.input.model_fields, "key"}
        unknown = (_placeholders(self.request) - known) | (_placeholders(self.probe) - known - PROBE_PAGES)
        if unknown:
            raise ValueError(f"action {self.name}: {self.input.__name__} has no field {', '.join(sorted(unknown))}")
        if self.content_type != FORM and not JSON_TYPE.fullmatch(self.content_type):
            raise ValueError(f"action {self.name}: content_type {self.content_type!r} is neither JSON nor {FORM}")
        if self.body and self.request.startswith("GET "):
            raise ValueError(f"action {self.name}: a GET has no body")
        if not self.reads and self.target.mechanism == "natural-key":
            self._check_natural_key()
        self._check_query()

    def _check_natural_key(self) -> None:
        if _makes_a_list(self.input if self.body is None else self.body):
            raise ValueError(f"action {self.name}: its body is a list, which has no field that the key could go into")
        if not (self.key and self.probe):
            raise ValueError(f"action {self.name}: a natural-key target needs `key`, a field of the body, and `probe`")
        if not self._has_body:
            raise ValueError(f"action {self.name}: a {self.request} has no body that the key could go into; declare `body`")

    def _check_query(self) -> None:
        """Refuse fields that an address cannot hold, as far as their types say so."""
        in_path = _placeholders(self.request)
        in_query = set() if self._has_body else set(self.input.model_fields) - in_path
        try:
            schema = self.input.model_json_schema() if in_path | in_query else {}
        except PydanticUserError:
            return  # what it is nobody can tell; the value is looked at when it is written
        for name, described in schema.get("properties", {}).items():
            kinds = _kinds(described, schema.get("$defs", {}))
            wrong = kinds & {"object", "array"} if name in in_path else kinds & {"object", "list in a list"}
            if name in in_path | in_query and wrong:
                raise ValueError(
                    f"action {self.name}: {self.input.__name__}.{name} can be {min(wrong)}, which an address cannot "
                    "hold: declare `body`, or make it text"
                )

    @property
    def _has_body(self) -> bool:
        return self.body is not None or not self.request.startswith(("GET", "DELETE"))

    def build_request(self, args: In, key: str) -> Request:
        """Return the request that does the action with ARGS under the effect's KEY. Raises `EffectRejected`."""
        method, _, template = self.request.partition(" ")
        given = self.dump_args(args)
        rest = {name: value for name, value in given.items() if name not in _placeholders(template)}
        path = fill(template, given)
        if not self._has_body:
            query = "&".join(f"{quote_value(name)}={quote_value(text)}" for name, text in list_pairs(rest))
            return Request(method, f"{path}{'&' if '?' in path else '?'}{query}" if query else path, template=self.request)
        body = self.body(args) if self.body else rest
        if self.target.mechanism == "natural-key":
            if not isinstance(body, dict):
                raise EffectRejected(f"{self.name}: the body is not an object that the key could go into; nothing was sent")
            body = {**body, self.key: key}
        content_type = "" if self.content_type == "application/json" else self.content_type
        return Request(method, path, body, content_type=content_type, template=self.request)

    def dump_args(self, args: In) -> dict[str, JsonValue]:
        """Return ARGS by the names that the request has for them."""
        return args.model_dump(mode="json")

    def key_headers(self, key: str) -> dict[str, str]:
        """Return the headers that carry the effect's KEY."""
        return {self.key or "Idempotency-Key": key} if self.target.mechanism == "header" and not self.reads else {}

    def build_probe(self, args: In, key: str) -> Request:
        """Return the request that finds the effect of KEY."""
        return self.build_probe_page(args, key, page=1, after="")

    def build_probe_page(self, args: In, key: str, *, page: int, after: str) -> Request:
        """Return the request for one page of what may be the effect of KEY: PAGE, or what comes AFTER a reference."""
        values = {"page": page, "after": after or None, **self.dump_args(args), "key": key}
        return Request("GET", fill(self.probe.removeprefix("GET "), values), template=self.probe)

    @property
    def probe_has_pages(self) -> bool:
        """Whether the look-up is read page by page to the end."""
        paged = _placeholders(self.probe) & PROBE_PAGES - set(self.input.model_fields)
        return bool(self.probe_next or paged)

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

    def parse_probe_pages(self, pages: Iterable[JsonValue], key: str) -> Probe:
        """Read all PAGES of the probe for KEY."""
        items: list[JsonValue] = []
        for page in pages:
            found = value_at(page, self.found)
            if not isinstance(found, list):
                return CannotTell("a page of the probe's answer has no list of matches")
            items += found
        if self.target.mechanism == "natural-key":
            items = [item for item in items if isinstance(item, dict) and item.get(self.key) == key]
        # Every page was read, so what is in none of them is not there, also where the target does not filter.
        whole: JsonValue = items
        for part in reversed([*filter(None, self.found.split("."))]):
            whole = {part: whole}
        return self.parse_probe(whole, key)

    def list_references(self, pages: Iterable[JsonValue]) -> set[str]:
        """Return how the target calls what is on PAGES of the probe's answer."""
        lists = [value_at(page, self.found) for page in pages]
        items = [item for found in lists if isinstance(found, list) for item in found if isinstance(item, dict)]
        return {str(item.get(self.remote_ref)) for item in items}

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


_REQUEST = re.compile(r"(GET|POST|PUT|PATCH|DELETE)( /\S*)?")
_FIELD = re.compile(r"{([^{}]+)}")
PROBE_PAGES: Final = frozenset({"page", "after"})
"""What stands in a probe for the page that is asked for, unless the input has a field of that name."""


def _placeholders(template: str) -> set[str]:
    return set(_FIELD.findall(template))


def fill(template: str, values: Mapping[str, JsonValue]) -> str:
    """Return TEMPLATE, a path and query, with VALUES in the place of what stands in braces. Raises `EffectRejected`."""
    path, _, query = template.partition("?")
    path = _FIELD.sub(lambda field: quote_segment(to_text(values[field[1]], field[1]), field[1]), path)
    if any(segment in (".", "..") for segment in path.split("/")):
        raise EffectRejected(f"the path {path!r} would change the address; nothing was sent")
    # As everywhere in a query, what is None is left out.
    pairs = [pair for pair in query.split("&") if all(values[name] is not None for name in _placeholders(pair))]
    filled = [_FIELD.sub(lambda field: quote_value(to_text(values[field[1]], field[1])), pair) for pair in pairs if pair]
    return f"{path}?{'&'.join(filled)}" if filled else path


def _kinds(schema: JsonValue, definitions: Mapping[str, JsonValue], depth: int = 0) -> set[str]:
    """Return which of "object", "array" and "list in a list" a value of SCHEMA can be."""
    if not isinstance(schema, dict) or depth > _DEEPEST:
        return set()
    if isinstance(reference := schema.get("$ref"), str):
        return _kinds(definitions.get(reference.rpartition("/")[2]), definitions, depth + 1)
    found = {str(schema.get("type"))} & {"object", "array"}
    if "array" in found and (inner := _kinds(schema.get("items"), definitions, depth + 1)):
        found |= {"object" if "object" in inner else "list in a list"}
    for union in ("anyOf", "oneOf", "allOf"):
        parts = schema.get(union)
        for part in parts if isinstance(parts, list) else ():
            found |= _kinds(part, definitions, depth + 1)
    return found


_DEEPEST = 5


def _makes_a_list(maker: object) -> bool:
    """Say whether MAKER, a model or a function, is known to make a list: a function says so by its annotation."""
    if isinstance(maker, type) and issubclass(maker, RootModel):
        return get_origin(maker.model_fields["root"].annotation) in (list, tuple)
    returns = getattr(maker, "__annotations__", {}).get("return")
    return returns in (list, tuple) or get_origin(returns) in (list, tuple) or str(returns).startswith(("list[", "tuple["))


def _field_names(model: type[BaseModel]) -> set[str]:
    aliases = {field.alias for field in model.model_fields.values() if field.alias}
    return aliases | set(model.model_fields)

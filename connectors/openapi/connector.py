"""How operations of an OpenAPI document become actions.

    python -m perdure.connectors.openapi --list https://shop.example/openapi.json
    python -m perdure.connectors.openapi https://shop.example/openapi.json > shop.openapi.json

Safe to import in workflow code: httpx and YAML come when they are needed.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Self, cast
from urllib.parse import urlsplit

from pydantic import BaseModel, JsonValue, ValidationError

from perdure.connectors.contracts import Action, AnyAction, Attempt
from perdure.connectors.drift.contracts import Contract, Operation
from perdure.connectors.http import HttpConnector, Request, check_address, join
from perdure.connectors.json_models import JsonModel
from perdure.connectors.openapi._action import ActionBuilder, OpenApiAction
from perdure.connectors.openapi._document import (
    MAX_BYTES,
    Document,
    Part,
    is_address,
    parse_document,
    read_document,
)
from perdure.connectors.openapi._operations import Operation as Described
from perdure.connectors.openapi._operations import read_operation
from perdure.connectors.openapi._schemas import Schema
from perdure.connectors.openapi._servers import document_server, own_server, server_address
from perdure.connectors.openapi._use import Undoing, Use
from perdure.connectors.schemas import inline_references, keep_properties, normalize_path
from perdure.errors import EffectRejected, InvalidSettings, TargetUnavailable

if TYPE_CHECKING:
    import httpx

__all__ = ["OpenApiAction", "OpenApiConnector", "Undoing", "Use", "connector_from_settings"]

_NAME: Final = re.compile(r"[A-Za-z_][\w.-]*")

Uses = Mapping[str, Use | str] | Collection[str]


class OpenApiConnector(HttpConnector):
    """Actions `NAME.USE` of the system that DOCUMENT describes, a path or an address; JSON or YAML, OpenAPI 3.0 or 3.1.

        shop = OpenApiConnector("shop", "shop.openapi.yaml", {
            "order": "getOrder",
            "refund": Use(operation="POST /refunds", mechanism="natural-key", key="reference",
                          probe="GET /refunds?reference={key}"),
        })

    USES says which operations become actions, by name; a collection of operationIds names them after themselves. A GET
    only reads. Anything else is of high risk and happens at most once, unless its `Use` says how the target can be asked.

    LIVE is where the system serves its document, an address or a path below `url`; None: where DOCUMENT came from, if that
    is an address. What it says there is compared with DOCUMENT by `perdure connectors check`.
    """

    takes: ClassVar[Mapping[str, str]] = {**HttpConnector.takes, r"url\.[\w.-]+": "https://upload..."}

    def __init__(self, name: str, document: str | Path, uses: Uses, *, live: str | None = None) -> None:
        self._document = read_document(document)
        source = str(document)
        self._live = live if live is not None else source if is_address(source) else ""
        if self._live and not is_address(self._live) and not self._live.startswith("/"):
            raise InvalidSettings(f"{name}: live is {self._live!r}; it is an address or a path such as /openapi.json")
        self._uses = _read_uses(name, uses)
        self._last: tuple[bytes, Contract] | None = None
        super().__init__(*ActionBuilder(name, self._document, self._uses).build_all())

    def action(self, name: str) -> Action[JsonModel, JsonModel]:
        """Return the action NAME, for `act(connector.action("refund"), connector.args("refund", order="R-1"))`."""
        found = self._actions.get(f"{self.name}.{name}")
        if found is None:
            raise KeyError(f"{self.name} has no action {name!r}; it has {', '.join(self._uses)}")
        return cast("Action[JsonModel, JsonModel]", found)

    def args(self, name: str, /, **values: JsonValue) -> JsonModel:
        """Return VALUES as the arguments of the action NAME. Raises pydantic's `ValidationError` if they do not fit."""
        return self.action(name).input.model_validate(values)

    def with_options(self, options: Mapping[str, str]) -> Self:
        """Return a copy of it that works with OPTIONS. Raises `InvalidSettings`.

        Without `url` it goes to the first of the document's servers. An operation that has a server of its own goes there;
        `url.NAME` says where the operation of the action NAME is.
        """
        where = f"[connectors.{self.name}]"
        if strange := sorted(each for each in options if each.startswith("url.") and each[4:] not in self._uses):
            raise InvalidSettings(f"{where} {strange[0]}: there is no such action; there are {', '.join(self._uses)}")
        server = document_server(self._document) if not options.get("url") else None
        if server is not None:
            options = {**options, "url": server}
        return super().with_options(options)

    def _reset(self) -> None:
        super()._reset()
        self._servers: Mapping[tuple[str, str], str] = self._find_servers() if self._options is not None else {}

    def _find_servers(self) -> dict[tuple[str, str], str]:
        """Return the addresses of what is not below `url`, by action and `METHOD /path`."""
        found: dict[tuple[str, str], str] = {}
        for name, spec in zip(self._uses, self._openapi_actions, strict=True):
            given = self.option(f"url.{name}")
            if given and (wrong := check_address(given)):
                raise InvalidSettings(f"{self.where} url.{name} cannot be used: {wrong}")
            own = self._own_server(spec.request)
            for template in filter(None, (spec.request, spec.probe, spec.listing.request if spec.listing else "")):
                server = self._own_server(template)
                if given and (server is None) == (own is None):
                    found[spec.name, template] = given
                elif server is not None:
                    found[spec.name, template] = self._address_of(server, name)
        return found

    def _own_server(self, template: str) -> Part | None:
        operations = self._document.operations
        by_shape = {normalize_path(place): place for place in operations}
        place = template if template in operations else by_shape.get(normalize_path(template.partition("?")[0]))
        return own_server(self._document, place.partition(" ")[2], operations[place]) if place else None

    def _address_of(self, server: Part, name: str) -> str:
        address = server_address(server)
        if address is None:
            server.refuse(f"nobody can tell for sure where this server of {name} is: set url.{name} under {self.where}")
        first = None
        with suppress(InvalidSettings):  # it needs not be usable where `url` says something else
            first = document_server(self._document)
        if self.option("url").rstrip("/") not in (first, address):
            server.refuse(
                f"{name} has a server of its own, and the connector's url is not the document's: say where it is by "
                f"url.{name} under {self.where}"
            )
        return address

    def base_url(self, spec: AnyAction, request: Request) -> str:
        """Return the address that the path of REQUEST is below."""
        return self._servers.get((spec.name, request.template)) or super().base_url(spec, request)

    def encode_body(self, spec: AnyAction, request: Request, key: str) -> tuple[bytes | None, dict[str, str]]:
        """Return the content of REQUEST and the headers that describe it."""
        body = spec.operation.body if isinstance(spec, OpenApiAction) and spec.operation else None
        if body is None or not request.content_type:
            return super().encode_body(spec, request, key)
        content, said = body.encode(request.body)
        return content, {"Content-Type": said}

    def decode_response(self, spec: AnyAction, response: httpx.Response) -> JsonValue:
        """Return the JSON or text of RESPONSE; where the document describes none, whatever comes says nothing."""
        kind = spec.operation.answer.kind if isinstance(spec, OpenApiAction) and spec.operation else "other"
        if kind == "text":
            return response.text
        return {} if kind == "nothing" else super().decode_response(spec, response)

    @property
    def _openapi_actions(self) -> list[OpenApiAction[BaseModel, BaseModel]]:
        return [cast("OpenApiAction[BaseModel, BaseModel]", action) for action in self._specs]

    def pinned(self) -> Contract | None:
        """Return what the document says that the actions were made from."""
        return self._contract_in(self._document)

    @property
    def contract_age(self) -> timedelta:
        """How old the last look at the contract may be in any case."""
        return timedelta(0) if self._live else super().contract_age

    async def contract(self) -> Contract | None:
        """Return what the live document says of the actions; if nobody said where it is, what their listings let infer."""
        if not self._live:
            return await super().contract()
        content = await self._fetch_live(self._live)
        # It is asked for before each high-risk write, and hardly ever another one.
        if self._last is None or self._last[0] != content:
            try:
                contract = await asyncio.to_thread(lambda: self._contract_in(parse_document(content, "the live document")))
            except InvalidSettings as error:
                raise EffectRejected(f"{self.name}: {error.message}") from None
            self._last = (content, contract)
        return self._last[1]

    def _contract_in(self, document: Document) -> Contract:
        by_shape = {normalize_path(place): (place, part) for place, part in document.operations.items()}
        relying: dict[str, list[OpenApiAction[BaseModel, BaseModel]]] = {}
        for action in self._specs:
            relying.setdefault(action.request, []).append(cast("OpenApiAction[BaseModel, BaseModel]", action))
        found: dict[str, Operation] = {}
        for request, actions in relying.items():
            if normalize_path(request) in by_shape:
                found[request] = self._read_contract_operation(document, *by_shape[normalize_path(request)], actions)
        return Contract(source="openapi", operations=found)

    def _read_contract_operation(
        self, document: Document, place: str, part: Part, actions: Sequence[OpenApiAction[BaseModel, BaseModel]]
    ) -> Operation:
        names = tuple(action.name for action in actions)
        ours = [action.key for action in actions if action.target.mechanism == "header"]
        try:
            # What is sent has to be taken still, whatever else is.
            described = read_operation(document, place, part, ours=ours, content_type=_sent_as(actions))
        except InvalidSettings:
            # It cannot be used any more as it is, and to have nothing to hold against is breaking.
            return Operation(actions=names)
        read = [self._uses[action.name.partition(".")[2]].answer for action in actions]
        output = described.output
        if all(read):
            output = keep_properties(output, {name for each in read for name in each}, output)
        return Operation(
            request=_label_by_place(inline_references(described.input), described),
            response=inline_references(output),
            annotations=_describe_body(described),
            actions=names,
        )

    async def _fetch_live(self, live: str) -> bytes:
        import httpx

        base = self.option("url", self.default_url)
        address = live if is_address(live) else join(base, live)
        same = urlsplit(address)[:2] == urlsplit(base)[:2]
        attempt = Attempt(key="", fence=0, deadline=max(action.target.deadline for action in self.actions.values()))
        if self._client is None:
            self._client = httpx.AsyncClient(follow_redirects=False)
        # Who we are is told to the system itself, and to no other that describes it.
        headers = await self._authenticate(self._specs[0], attempt) if same else {}
        content = b""
        try:
            timeout = attempt.deadline.total_seconds()
            async with self._client.stream("GET", address, headers=headers, timeout=timeout) as response:
                if response.status_code != 200:
                    raise TargetUnavailable(f"{self.name} answered {response.status_code} at the address of its document")
                async for part in response.aiter_bytes():
                    content += part
                    if len(content) > MAX_BYTES:
                        break
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise TargetUnavailable(f"{self.name}: its document cannot be fetched ({type(error).__name__})") from None
        return content


def connector_from_settings(name: str, section: Mapping[str, JsonValue]) -> OpenApiConnector:
    """Return the connector NAME that SECTION declares, `[openapi.NAME]` of perdure.toml. Raises `InvalidSettings`."""
    where = f"[openapi.{name}] in perdure.toml"
    if unknown := sorted(section.keys() - {"document", "live", "actions"}):
        raise InvalidSettings(f"{where} does not take {unknown[0]!r}; it takes document, live, actions")
    document, live, actions = section.get("document"), section.get("live"), section.get("actions")
    if not isinstance(document, str) or not document:
        raise InvalidSettings(f'{where} needs document, e.g. document = "{name}.openapi.yaml"')
    if live is not None and not isinstance(live, str):
        raise InvalidSettings(f"{where}: live is an address or a path such as /openapi.json")
    if not isinstance(actions, dict | list) or not actions:
        raise InvalidSettings(f'{where} needs actions, e.g. actions = ["getOrder"], or [openapi.{name}.actions.order]')
    return OpenApiConnector(name, document, cast(Uses, actions), live=live)


def _read_uses(connector: str, uses: Uses) -> dict[str, Use]:
    named = uses if isinstance(uses, Mapping) else {each: each for each in uses}
    made: dict[str, Use] = {}
    for name, use in named.items():
        if not _NAME.fullmatch(name):
            raise InvalidSettings(
                f"{connector}: {name!r} cannot be the name of an action. Give it one: {{'a_name': {name!r}}}, or in "
                f"perdure.toml a_name = {json.dumps(name)} under [openapi.{connector}.actions]"
            )
        try:
            made[name] = Use(operation=use) if isinstance(use, str) else Use.model_validate(use)
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
            raise InvalidSettings(f"{connector}.{name} is declared wrongly: {wrong}") from None
    if not made:
        raise InvalidSettings(f"{connector} has no actions: name the operations of its document that become actions")
    return made


def _sent_as(actions: Sequence[OpenApiAction[BaseModel, BaseModel]]) -> str:
    body = actions[0].operation.body if actions[0].operation else None
    return body.content_type if body else ""


def _describe_body(described: Described) -> dict[str, JsonValue]:
    if described.body is None or described.body.content_type == "application/json":
        return {}
    return {"body": "form" if described.body.kind == "form" else described.body.content_type}


def _label_by_place(schema: Schema, described: Described) -> Schema:
    # Where a parameter is matters as much as what it is; which name a part of the path has does not.
    path = re.findall(r"{([^{}]+)}", described.request)
    numbers = {name: number for number, name in enumerate(path, start=1)}
    names = {
        each.argument: f"path {numbers[each.name]}" if each.place == "path" else f"{each.place} {each.name}"
        for each in described.parameters
    }
    properties = {names.get(name, name): value for name, value in cast(Schema, schema["properties"]).items()}
    required = [names.get(str(name), str(name)) for name in cast(list[JsonValue], schema["required"])]
    return {**schema, "properties": properties, "required": cast(list[JsonValue], required)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a document, to be kept in a file, or its operations."""
    import argparse
    import sys

    parser = argparse.ArgumentParser(prog="python -m perdure.connectors.openapi", description=main.__doc__)
    parser.add_argument("document", help="a path or an address; JSON or YAML, OpenAPI 3.0 or 3.1")
    parser.add_argument("--list", action="store_true", help="list the operations, and which of them can be actions")
    given = parser.parse_args(arguments)
    try:
        document = read_document(given.document)
        lines = list(map(_describe_operation, document.operations.items())) if given.list else [_to_json(document)]
    except InvalidSettings as error:
        sys.stderr.write(f"{error.message}\n")
        raise SystemExit(1) from None
    sys.stdout.write("\n".join(lines) + "\n")


def _describe_operation(named: tuple[str, Part]) -> str:
    place, part = named
    try:
        described = read_operation(part.document, place, part)
        takes = ", ".join(described.fields) or "nothing"
    except InvalidSettings as error:
        takes = f"cannot be an action: {error.message}"
    return f"{place:<40} {part.text('operationId') or '-':<30} {takes}"


def _to_json(document: Document) -> str:
    return json.dumps(document.root, indent=2, ensure_ascii=False)

"""Tests of connectors/schemas.py and http_contract.py: contracts out of what targets say of themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast

import pytest
from kits.connectors import ShopProcess
from kits.watch import ListedPayments
from pydantic import JsonValue

from perdure.connectors import HttpAction, HttpConnector, Listing
from perdure.connectors.schemas import (
    Unreadable,
    from_graphql,
    from_mcp,
    from_openapi,
    from_samples,
)
from perdure.errors import EffectRejected
from perdure.examples.returns_desk.desk_connectors import Refund, RefundDone
from perdure.examples.returns_desk.shop_api import document


def shop_document() -> dict[str, JsonValue]:
    """Return the shop's OpenAPI document."""
    return cast(dict[str, JsonValue], document("first"))


def test_openapi() -> None:
    """References are followed, and of an answer only what is read is in the contract."""
    contract = from_openapi(
        shop_document(), {"POST /refunds": ["payments.refund"]}, reads={"POST /refunds": ["id", "amount"]}
    )

    operation = contract.operations["POST /refunds"]
    assert operation.request is not None
    assert operation.response is not None
    assert {"order", "amount", "currency", "reference", "reason"} == set(
        cast(dict[str, JsonValue], operation.request["properties"])
    )
    assert {"id": {"type": "string"}, "amount": {"type": "integer", "minimum": 1}} == operation.response["properties"]
    assert ("payments.refund",) == operation.actions


def test_openapi_names_of_parameters_do_not_matter() -> None:
    """`/reservations/{id}` and `/reservations/{slot}` are the same place; what is not there is left out."""
    wanted = {"POST /reservations/{slot}/release": ["a.b"], "POST /nowhere": ["a.c"]}

    assert ["POST /reservations/{slot}/release"] == list(from_openapi(shop_document(), wanted).operations)


def test_openapi_within_itself() -> None:
    """A type that contains itself ends there, and a reference to nowhere is an error."""
    node: JsonValue = {"type": "object", "properties": {"next": {"$ref": "#/components/schemas/Node"}}}
    body: JsonValue = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Node"}}}}
    described = {"components": {"schemas": {"Node": node}}, "paths": {"/n": {"post": {"requestBody": body}}}}

    request = from_openapi(cast(Mapping[str, JsonValue], described), {"POST /n": ["a.b"]}).operations["POST /n"].request

    assert {"next": {}} == (request or {})["properties"]
    with pytest.raises(Unreadable, match="leads nowhere"):
        from_openapi({**cast(dict[str, JsonValue], described), "components": {}}, {"POST /n": ["a.b"]})


def test_graphql() -> None:
    """A mutation's arguments are the request, its type the response; non-null is needed, and unions stay open."""
    scalar: JsonValue = {"kind": "SCALAR", "name": "Int"}
    needed: JsonValue = {"kind": "NON_NULL", "ofType": {"kind": "INPUT_OBJECT", "name": "RefundInput"}}
    types: JsonValue = [
        {
            "name": "Mutation",
            "fields": [
                {
                    "name": "refund",
                    "args": [{"name": "input", "type": needed}],
                    "type": {"kind": "OBJECT", "name": "Refund"},
                }
            ],
        },
        {"name": "RefundInput", "inputFields": [{"name": "amount", "type": {"kind": "NON_NULL", "ofType": scalar}}]},
        {
            "name": "Refund",
            "fields": [
                {"name": "state", "args": [], "type": {"kind": "ENUM", "name": "State"}},
                {"name": "parent", "args": [], "type": {"kind": "OBJECT", "name": "Refund"}},
            ],
        },
        {"name": "State", "enumValues": [{"name": "DONE"}, {"name": "OPEN"}]},
    ]
    introspection: JsonValue = {"data": {"__schema": {"mutationType": {"name": "Mutation"}, "types": types}}}

    contract = from_graphql(
        cast(dict[str, JsonValue], introspection), {"mutation refund": ["shop.refund"], "query x": ["a.b"]}
    )

    operation = contract.operations["mutation refund"]
    assert ["mutation refund"] == list(contract.operations)
    assert ["input"] == (operation.request or {})["required"]
    assert '"amount": {"type": "integer"}' in json.dumps(operation.request)
    assert '["DONE", "OPEN"]' in json.dumps(operation.response)
    with pytest.raises(Unreadable, match="introspection"):
        from_graphql({"errors": []}, {})


def test_mcp() -> None:
    """A tool's schemas, words and annotations are its contract."""
    tool: dict[str, JsonValue] = {
        "name": "send",
        "title": "Send",
        "description": "Sends a mail.",
        "inputSchema": {
            "type": "object",
            "properties": {"to": {"$ref": "#/$defs/To"}},
            "$defs": {"To": {"type": "string"}},
        },
        "annotations": {"destructiveHint": False},
    }

    operation = from_mcp([tool], {"send": ["mail.send"], "other": ["mail.other"]}).operations["send"]

    assert {"to": {"type": "string"}} == (operation.request or {})["properties"]
    assert ("Send\nSends a mail.", {"destructiveHint": False}, None) == (
        operation.description,
        operation.annotations,
        operation.response,
    )


def test_samples() -> None:
    """A schema is inferred from what came; nothing says nothing."""
    contract = from_samples({"a": [{"n": 1}, {"n": None, "m": "x"}], "b": []}, {"a": ["x.a"], "b": ["x.b"]})

    assert {"n": {"type": ["integer", "null"]}, "m": {"type": "string"}} == (contract.operations["a"].response or {})[
        "properties"
    ]
    assert contract.operations["b"].response is None


async def test_a_connector_asks_its_target(shop: ShopProcess) -> None:
    """A connector with `openapi` reads the document, and its contract has what its actions rely on, our key included."""
    connector = ListedPayments().with_options({"url": shop.url})
    contract = await connector.contract()
    await connector.close()

    assert contract is not None
    response = contract.operations["POST /refunds"].response or {}
    assert {"id", "order", "amount", "currency", "reference"} == set(cast(dict[str, JsonValue], response["properties"]))


async def test_a_connector_whose_target_says_nothing(shop: ShopProcess) -> None:
    """Without a document the contract is inferred from what the target lists; without that there is none."""

    class Silent(HttpConnector):
        refund = HttpAction("silent.refund", Refund, RefundDone, request="POST /refunds", listing=Listing("GET /refunds"))

    class Mute(HttpConnector):
        refund = HttpAction("mute.refund", Refund, RefundDone, request="POST /refunds")

    await shop.ask("POST", "/refunds", {"order": "R-1001", "amount": 100})
    silent, mute = Silent().with_options({"url": shop.url}), Mute().with_options({"url": shop.url})
    contract = await silent.contract()

    assert contract is not None
    assert ("samples", {"id", "order", "amount", "currency"}) == (
        contract.source,
        set(cast(dict[str, JsonValue], (contract.operations["silent.refund"].response or {})["properties"])),
    )
    assert await mute.contract() is None
    await silent.close()
    await mute.close()


async def test_a_document_that_is_none(shop: ShopProcess) -> None:
    """An address that answers something else is named."""

    class Wrong(HttpConnector):
        openapi = "/refunds"
        refund = HttpAction("wrong.refund", Refund, RefundDone, request="POST /refunds")

    wrong = Wrong().with_options({"url": shop.url})
    with pytest.raises(EffectRejected, match="neither JSON nor YAML"):
        await wrong.contract()
    await wrong.close()

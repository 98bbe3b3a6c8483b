"""Tests of actions that are made from an OpenAPI document: what goes over the wire, what is refused, what is noticed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest
from kits.connectors import Server, ShopProcess, call, key_of, persist, reply, undo
from pydantic import JsonValue, ValidationError

from perdure.connectors import Attempt, Executed
from perdure.connectors.drift import Drift, version
from perdure.connectors.drift.drift import declaration
from perdure.connectors.http import HttpAction, Request
from perdure.connectors.json_models import JsonModel
from perdure.connectors.ledger import Ledger
from perdure.connectors.openapi import (
    OpenApiConnector,
    Undoing,
    Use,
    connector_from_settings,
    main,
    parse_document,
    read_document,
)
from perdure.connectors.testing import Case, HttpFaultProxy, check
from perdure.connectors.watch import Watch
from perdure.errors import ContractDrifted, EffectRejected, InvalidSettings
from perdure.examples.returns_desk.shop_api import document as shop_document
from perdure.settings import Settings
from perdure.storage import Database
from perdure.worker import load_modules

DOCUMENT = Path(__file__).parents[2] / "data" / "shop.openapi.yaml"
ATTEMPT = Attempt(key="pe-1", fence=1, deadline=timedelta(seconds=5))
REFUND = Use(
    operation="createRefund",
    mechanism="natural-key",
    key="reference",
    probe="GET /refunds?reference={key}",
    undo=Undoing(action="cancel", args={"id": "$response.body#/id", "why": "undone", "tags": ["perdure"]}),
    fixed={"Idempotency-Key": "none"},
    describe="refund {amount} for {order}",
    once_per=("order",),
)
USES: dict[str, Use | str] = {"cancel": "cancelRefund", "order": "getOrder", "refund": REFUND, "change": "PUT /orders/{id}"}
NATURAL = {"mechanism": "natural-key", "settle": 0.2, "deadline": 3}


@pytest.fixture
def connector() -> OpenApiConnector:
    """The shop of the document, which nobody has configured."""
    return OpenApiConnector("shop", DOCUMENT, USES)


def asked(connector: OpenApiConnector, name: str, **values: JsonValue) -> Request:
    """Return the request that the action NAME makes of VALUES."""
    action = connector.action(name)
    assert isinstance(action, HttpAction)
    return cast(HttpAction[JsonModel, JsonModel], action).build_request(connector.args(name, **values), "pe-1")


# What becomes of an operation


def test_safe_unless_declared(connector: OpenApiConnector) -> None:
    """A GET reads at low risk; anything else is of high risk and irreversible, and nothing is assumed about repeats."""
    said = {
        name.removeprefix("shop."): (action.reads, action.risk, action.reversibility, action.target.mechanism)
        for name, action in connector.actions.items()
    }

    assert (True, "low", "irreversible", "none") == said["order"]
    assert (False, "high", "irreversible", "none") == said["cancel"]
    assert (False, "high", "compensatable", "natural-key") == said["refund"]


def test_parameters_have_their_places(connector: OpenApiConnector) -> None:
    """A path's, query's and header's values are written as the document says, whatever the YAML made of `no`."""
    request = asked(
        connector,
        "order",
        order_id="R/1",
        expand=["no", "yes"],
        between=[1, 5],
        where={"city": "A b"},
        X_Trace="t",
    )

    assert "/orders/R%2F1?expand=no&expand=yes&between=1,5&where%5Bcity%5D=A%20b" == request.path
    assert {"Accept": "application/json, */*;q=0.1", "X-Trace": "t"} == request.headers
    assert "Authorization" not in str(connector.action("order").input.model_json_schema())


def test_body(connector: OpenApiConnector) -> None:
    """The parts of an allOf are the fields of the input; the key goes in, and what is fixed or only read stays out."""
    request = asked(connector, "refund", order="R-1", amount=5)
    action = connector.action("refund")

    assert ["order", "amount", "reason"] == list(action.input.model_fields)
    assert {"order": "R-1", "amount": 5, "reference": "pe-1"} == request.body
    assert "none" == request.headers["Idempotency-Key"]
    assert action.describe is not None
    assert "refund 5 for R-1" == action.describe(connector.args("refund", order="R-1", amount=5))


def test_body_whose_fields_have_the_names_of_parameters(connector: OpenApiConnector) -> None:
    """Then the whole body is one field."""
    request = asked(connector, "change", id="a", body={"id": "b"})

    assert ("PUT", "/orders/a", {"id": "b"}) == (request.method, request.path, request.body)


def test_form(connector: OpenApiConnector) -> None:
    """A form is sent as one, with a field for each value of a list."""
    request = asked(connector, "cancel", id="x", why="ü b", tags=["a", "b"])
    content, described = connector.encode_body(connector.actions["shop.cancel"], request, "")

    assert b"why=%C3%BC+b&tags=a&tags=b" == content
    assert {"Content-Type": "application/x-www-form-urlencoded"} == described


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_value_that_would_be_another_address(connector: OpenApiConnector, name: str) -> None:
    """An argument cannot lead the request to another place."""
    with pytest.raises(EffectRejected, match="would change the address"):
        asked(connector, "cancel", id=name)
    with pytest.raises(EffectRejected, match="cannot have these characters"):
        asked(connector, "order", order_id="x", X_Trace="a\r\nb: c")


def test_arguments_are_checked_before_anything_is_sent(connector: OpenApiConnector) -> None:
    """What the schemas refuse is refused in the workflow already."""
    for wrong in ({"order": "R-1"}, {"order": "R-1", "amount": "5"}, {"order": "R-1", "amount": 5, "reference": "mine"}):
        with pytest.raises(ValidationError):
            connector.args("refund", **cast(dict[str, JsonValue], wrong))


def test_answers_may_have_more_than_was_said(connector: OpenApiConnector) -> None:
    """Fields nobody described are let go of, a null that has to be there stays, and a misfit is told without values."""
    action = connector.action("refund")
    assert isinstance(action, HttpAction)
    done = action.parse_result({"id": "r-1", "amount": 5, "note": None, "new": {"deep": 1}})
    again = type(done.output).model_validate(done.output.model_dump(mode="json"))

    assert {"id": "r-1", "amount": 5, "note": None} == cast(JsonModel, done.output).outward()
    assert (done.output, "r-1") == (again, done.remote_ref)
    with pytest.raises(ValueError, match=r"\$\.amount: does not fit 'type'"):
        action.parse_result({"id": "r-1", "amount": "secret", "note": "x"})


def test_answers_of_every_kind() -> None:
    """A list is the field `result`; where nothing is described nothing is read; a union of objects is open."""
    shop = OpenApiConnector("shop", DOCUMENT, ["listRefunds", "cancelRefund", "changeOrder"])
    listed, gone, changed = (cast("HttpAction[JsonModel, JsonModel]", shop.action(name)) for name in shop_names(shop))
    found = listed.parse_result([{"id": "r-1", "amount": 5, "note": None, "new": 1}])

    assert [{"id": "r-1", "amount": 5, "note": None, "new": 1}] == cast(JsonModel, found.output).outward()["result"]
    assert {} == outward(gone.parse_result("whatever"))
    assert {"kind": "card", "card": "1"} == outward(changed.parse_result({"kind": "card", "card": "1"}))


def outward(executed: Executed) -> dict[str, JsonValue]:
    """Return the output of EXECUTED by the target's names."""
    assert isinstance(executed.output, JsonModel)
    return executed.output.outward()


def shop_names(shop: OpenApiConnector) -> list[str]:
    """Return the names of the actions of SHOP, without the connector's."""
    return [name.removeprefix("shop.") for name in shop.actions]


def test_only_some_fields_of_the_answer() -> None:
    """`answer` chooses what is read; the rest does not get into the history, and may change."""
    shop = OpenApiConnector("shop", DOCUMENT, {"refunded": Use(operation="createRefund", answer=("id",))})
    action = shop.action("refunded")
    pinned = shop.pinned()
    assert isinstance(action, HttpAction)
    assert pinned is not None

    assert {"id": "r-1"} == action.parse_result({"id": "r-1", "amount": "?"}).output.model_dump()
    assert ["id"] == list(cast(dict[str, JsonValue], (pinned.operations["POST /refunds"].response or {})["properties"]))


# Against a server


async def test_what_goes_over_the_wire(server: Server, connector: OpenApiConnector) -> None:
    """Token, key in the query and the document's parts come together; an answer that is not described is not read."""
    server.answers = [
        reply(204),
        reply(200, {"id": "R-1", "amount": 5, "note": None, "parent": {"id": "R-0", "amount": 1}}),
    ]
    shop = connector.with_options({"url": f"{server.url}/v2", "token": "t", "query.api_key": "a b"})
    order = shop.action("order")

    await shop.execute(shop.actions["shop.cancel"], shop.args("cancel", id="x", why="y"), ATTEMPT)
    got = await shop.execute(shop.actions[order.name], shop.args("order", order_id="R-1", between=[1]), ATTEMPT)
    await shop.close()

    assert server.heads[0].startswith("POST /v2/refunds/x/cancel?api_key=a%20b HTTP/1.1")
    assert server.heads[1].startswith("GET /v2/orders/R-1?between=1&api_key=a%20b HTTP/1.1")
    assert "Authorization: Bearer t" in server.heads[0]
    assert {"id": "R-0", "amount": 1} == cast(JsonModel, got.output).outward()["parent"]


async def test_key_in_the_query_is_in_no_error(server: Server, connector: OpenApiConnector) -> None:
    """What a target says back is told without our secrets."""
    server.answers = [reply(400, {"error": "no such key: s3cret"})]
    shop = connector.with_options({"url": server.url, "query.api_key": "s3cret"})

    with pytest.raises(EffectRejected, match=r"no such key: \*\*\*"):
        await shop.execute(shop.actions["shop.cancel"], shop.args("cancel", id="x"), ATTEMPT)
    await shop.close()


def stocked(url: str, **more: str) -> OpenApiConnector:
    """Return the stand-in shop's connector, out of its own document."""
    reserve = {
        "operation": "POST /reservations",
        "key": "reference",
        "probe": "GET /reservations?reference={key}",
        "undo": {"action": "release", "args": {"id": "$response.body#/id"}},
        "listing": {"request": "GET /reservations", "at": "created_at"},
        **NATURAL,
    }
    release = {
        "operation": "POST /reservations/{id}/release",
        "key": "released_by",
        "probe": "GET /reservations?released_by={key}",
        **NATURAL,
    }
    refund = {
        "operation": "POST /refunds",
        "key": "reference",
        "probe": "GET /refunds?reference={key}",
        **NATURAL,
    }
    uses = {"reserve": reserve, "release": release, "refund": refund, "order": "GET /orders/{order}"}
    declared = connector_from_settings(
        "stock", cast(dict[str, JsonValue], {"document": more.pop("document", url), "actions": uses} | more)
    )
    return declared.with_options({"url": url.removesuffix("/openapi.json")})


@pytest.fixture
async def stock(shop: ShopProcess) -> AsyncIterator[OpenApiConnector]:
    """The stand-in shop's connector, from its address."""
    stock = stocked(f"{shop.url}/openapi.json")
    yield stock
    await stock.close()


async def test_done_and_undone(sqlite_database: Database, stock: OpenApiConnector, shop: ShopProcess) -> None:
    """An action happens once however often it is asked for, and its undo gets what the answer said."""
    ledger = Ledger(sqlite_database, {"stock": stock})
    reserve = call("stock.reserve", order="R-1001")
    await persist(lambda: ledger.perform(reserve))
    await persist(lambda: ledger.perform(reserve))
    undone = await persist(lambda: ledger.undo(undo(reserve)))

    [slot] = cast(list[dict[str, JsonValue]], (await shop.ask("GET", "/reservations"))[1])
    assert ("compensated", key_of(reserve)) == (undone.outcome, slot["reference"])
    assert slot["released_by"]


async def test_under_every_fault(stock: OpenApiConnector, shop: ShopProcess) -> None:
    """What the document's actions do happens once under every fault of the matrix."""

    async def count(args: JsonModel) -> int:
        found = cast(list[dict[str, JsonValue]], (await shop.ask("GET", "/refunds"))[1])
        return sum(refund["order"] == args.outward()["order"] for refund in found)

    async with HttpFaultProxy(shop.url) as proxy:
        through = stock.with_options({"url": proxy.url})
        matrix = await check(
            Case(
                connector=through,
                action=through.action("refund"),
                args=lambda number: through.args("refund", order=f"R-{1001 + number}", amount=100),
                count=count,
                proxy=proxy,
                operations=1,
                tries=2,
            )
        )
        await through.close()

    assert [] == matrix.problems


# Drift


async def test_a_change_since_the_document_was_kept(sqlite_database: Database, shop: ShopProcess, tmp_path: Path) -> None:
    """What is relied on is the kept document, so the very first look finds what has changed since; reads go on."""
    kept = tmp_path / "shop.json"
    kept.write_text(json.dumps(shop_document("first")))
    await shop.ask("POST", "/release", {"release": "breaking"})
    stock = stocked(shop.url, document=str(kept), live="/openapi.json")
    watch = Watch.over(sqlite_database, {"stock": stock}, fresh=timedelta(0))
    ledger = Ledger(sqlite_database, {"stock": stock}, guard=watch.guard)

    with pytest.raises(ContractDrifted, match="/amount_minor: is new and needed"):
        await ledger.perform(call("stock.refund", order="R-1001", amount=5))
    await ledger.perform(call("stock.order", "look", order="R-1001"))
    await ledger.perform(call("stock.reserve", "reserve", order="R-1001"))
    [checked] = await watch.drift.last_checks()
    await stock.close()

    assert ("stock.refund",) == checked.blocked
    assert ("breaking", "same") == (checked.verdict_on("stock.refund"), checked.verdict_on("stock.reserve"))
    assert [] == await shop.refunds()


def test_documents_kept_anew_are_relied_on(tmp_path: Path, connector: OpenApiConnector) -> None:
    """A connector that is made from a changed document is another version, and relies on that document."""
    path = tmp_path / "shop.json"
    path.write_text(json.dumps(_with("/components/schemas/Refund/properties/amount/type", "number")))
    anew = OpenApiConnector("shop", path, USES)

    assert version(OpenApiConnector("shop", DOCUMENT, USES)) == version(connector)
    assert version(anew) != version(connector)
    assert declaration(anew.actions["shop.order"]) == declaration(connector.actions["shop.order"])


CHANGES: Mapping[str, tuple[str, JsonValue, str]] = {
    "needed": ("/components/schemas/NewRefund/allOf/1/required", ["amount", "reference"], "/reference: is needed now"),
    "enum": (
        "/components/schemas/NewRefund/allOf/1/properties/reason",
        {"type": "string", "enum": ["broken"]},
        "request /reason",
    ),
    "type": ("/components/schemas/Refund/properties/amount", {"type": "string"}, "/amount: integer -> string"),
    "enum of an answer": (
        "/components/schemas/Refund/properties/state",
        {"type": "string", "enum": ["done", "open", "lost"]},
        "/state",
    ),
    "parameter": (
        "/paths/~1refunds/post/parameters",
        [{"name": "shop", "in": "query", "required": True, "schema": {"type": "string"}}],
        "/query shop: is new and needed",
    ),
    "gone": ("/paths/~1refunds", {}, "operation: is gone"),
    "another kind of body": (
        "/paths/~1refunds/post/requestBody/content",
        {"multipart/form-data": {"schema": {"type": "object"}}},
        "request: is no longer described",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_breaking_changes(
    sqlite_database: Database,
    server: Server,
    change: str,
    tmp_path: Path,
) -> None:
    """Each change that would break a refund holds it back before anything is sent."""
    pointer, value, said = CHANGES[change]
    uses = {"refund": REFUND.model_copy(update={"undo": None})}
    shop = OpenApiConnector("shop", DOCUMENT, uses, live="/api.json").with_options({"url": server.url})
    server.answers = [reply(200, _with(pointer, value))]
    watch = Watch.over(sqlite_database, {"shop": shop}, fresh=timedelta(0))

    held_back = await watch.guard.admit(shop, shop.actions["shop.refund"])
    with pytest.raises(ContractDrifted, match=said):
        await held_back.execute(shop.actions["shop.refund"], shop.args("refund", order="R", amount=5), ATTEMPT)
    await shop.close()

    assert ["GET /api.json"] == [" ".join(head.split()[:2]) for head in server.heads]


async def test_live_document_of_another_host_does_not_get_our_token(
    sqlite_database: Database,
    server: Server,
) -> None:
    """Whoever publishes the document is not told who we are, unless it is the system itself."""
    shop = OpenApiConnector("shop", DOCUMENT, USES, live=f"{server.url}/api.json")
    shop = shop.with_options({"url": "https://shop.example", "token": "s3cret"})
    server.answers = [reply(200, _with("", {}))]

    checked = await Drift(sqlite_database, {"shop": shop}).check("shop")
    await shop.close()

    assert checked is not None
    assert "same" == checked.verdict
    assert "s3cret" not in server.heads[0]


def _with(pointer: str, value: JsonValue) -> JsonValue:
    """Return the document with VALUE at POINTER."""
    document = cast(dict[str, JsonValue], json.loads(json.dumps(parse_document(DOCUMENT.read_bytes(), "x").root)))
    *path, last = [part.replace("~1", "/") for part in pointer.split("/")[1:]] or [""]
    holder: JsonValue = document
    for part in path:
        holder = holder[int(part)] if isinstance(holder, list) else cast(dict[str, JsonValue], holder)[part]
    if last:
        cast(dict[str, JsonValue], holder)[last] = value
    return document


# What is refused, and where


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (Use(operation="createRefnd"), "has no operation 'createRefnd'; did you mean createRefund"),
        (Use(operation="createRefund", mechanism="natural-key"), "needs `key`, a field of the body, and `probe`"),
        (
            Use(operation="createRefund", mechanism="natural-key", key="ref", probe="GET /refunds?r={key}"),
            "no field 'ref' for the key; it has order, amount, reference, reason",
        ),
        (
            Use(operation="createRefund", mechanism="natural-key", key="amount", probe="GET /refunds?r={key}"),
            "does not fit the field 'amount': .* 'type'",
        ),
        (Use(operation="createRefund", probe="GET /refunds"), "is not like `GET /path"),
        (Use(operation="createRefund", describe="{what}"), "`describe` names 'what'"),
        (Use(operation="createRefund", once_per=("what",)), "`once_per` names 'what'"),
        (Use(operation="createRefund", fixed={"what": 1}), "no argument 'what' to fix"),
        (Use(operation="createRefund", fixed={"amount": "1"}), "fixed value of 'amount' does not fit"),
        (Use(operation="getOrder", mechanism="header"), "only reads, so `mechanism` has no meaning"),
        (
            Use(operation="createRefund", undo=Undoing(action="nothing", args={})),
            "undo 'nothing' is not an action",
        ),
        (
            Use(operation="createRefund", undo=Undoing(action="cancel", args={})),
            "undo cancel needs id",
        ),
        (
            Use(operation="createRefund", undo=Undoing(action="cancel", args={"id": "$response.body#/number"})),
            "does not resolve; the answer has id, amount, state, note, at",
        ),
        (
            Use(operation="createRefund", undo=Undoing(action="cancel", args={"id": "$request.path.id"})),
            "there is no such parameter",
        ),
        (
            Use(operation="createRefund", undo=Undoing(action="cancel", args={"number": 1, "id": "x"})),
            "cancel takes no 'number'; it takes id, why, tags",
        ),
    ],
)
def test_wrong_declarations(use: Use, said: str) -> None:
    """What cannot work is refused at start-up, and says where in the document, and what there is."""
    with pytest.raises(InvalidSettings, match=said):
        OpenApiConnector("shop", DOCUMENT, {"it": use, "cancel": "cancelRefund"})


@pytest.mark.parametrize(
    ("pointer", "value", "said"),
    [
        ("/openapi", "2.9", "#/openapi: '2.9' is not a supported version"),
        ("/swagger", "2.0", "is Swagger 2.0; convert it"),
        ("/components/schemas/Refund/properties/id", {"$ref": "http://127.0.0.1:1/x"}, "leads out of the document"),
        ("/components/schemas/Refund/properties/id", {"$ref": "other.yaml#/x"}, "leads out of the document"),
        ("/components/schemas/Refund/properties/id", {"$ref": "#/nowhere"}, "at #/components/schemas/Refund/properties/id"),
        ("/components/schemas/Refund/properties/id", {"type": "txt"}, "at #/components/schemas/Refund/.*'txt' is not"),
        ("/components/schemas/Refund/properties/id", {"typ": "string"}, "the keyword 'typ' of a schema"),
        ("/components/schemas/Refund/properties/id", {"minLength": "1"}, "properties/id: minLength is not a count"),
        ("/paths/~1refunds/post/parameters/0/in", "cookie", "post/parameters/0: a parameter in 'cookie'"),
        ("/paths/~1refunds/post/parameters/0/style", "matrix", "the style 'matrix'"),
        (
            "/paths/~1refunds/post/parameters/0/schema",
            {"type": "array", "items": {"type": "object"}},
            "parameters/0: a list of objects or lists cannot be written in header",
        ),
        ("/paths/~1refunds/post/requestBody/content", {"text/csv": {}}, "a body of text/csv is supported only as a text"),
        ("/paths/~1refunds/post/requestBody/content", {"image/png": {}}, "a body of image/png is not supported"),
        ("/paths/~1refunds/post/responses/201/content", {"image/png": {}}, "an answer of image/png is not supported"),
    ],
)
def test_documents_that_are_not_understood(tmp_path: Path, pointer: str, value: JsonValue, said: str) -> None:
    """What nobody here understands is refused at start-up, with its place in the document."""
    path = tmp_path / "shop.json"
    path.write_text(json.dumps(_with(pointer, value)))
    with pytest.raises(InvalidSettings, match=said):
        OpenApiConnector("shop", path, ["createRefund"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "neither JSON nor YAML"),
        ("[]", "with an object at its top"),
        (
            "a: &a [x, x, x, x, x, x, x, x]\n"
            + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [" + ", ".join([f"*{chr(97 + n)}"] * 8) + "]\n" for n in range(12)),
            "it stands for more than 2000000 values",
        ),
        ("a: &a [*a]", "line 1, column 8: `\\*a` stands inside of what it stands for"),
        ("openapi: 3.0.0\npaths: {/x: {get: {}, get: {}}}", "line 2, column 23: `get` stands twice .* at #/paths/~1x"),
        ('{"openapi": "3.0.0",\n "info": {"a": 1, "a": 2}}', "line 2, column 19: `a` stands twice .* at #/info"),
        ("[" * 100_000, "nested too deeply|neither JSON nor YAML"),
    ],
)
def test_documents_that_are_none(tmp_path: Path, content: str, said: str) -> None:
    """What is no document, too large, or without an end is refused (case 04) and keeps nobody busy."""
    path = tmp_path / "shop.yaml"
    path.write_text(content)
    with pytest.raises(InvalidSettings, match=said):
        read_document(path)


def test_what_leads_out_and_is_not_used(tmp_path: Path) -> None:
    """Parts of the document that nobody uses need not be understood."""
    path = tmp_path / "shop.json"
    document = cast(dict[str, dict[str, JsonValue]], _with("/paths/~1elsewhere", {"$ref": "other.yaml#/x"}))
    cast(dict[str, dict[str, dict[str, JsonValue]]], document["paths"]["/refunds"])["post"]["responses"]["500"] = {
        "$ref": "errors.yaml#/x"
    }
    path.write_text(json.dumps(document))

    assert "shop.createRefund" in OpenApiConnector("shop", path, ["createRefund"]).actions
    with pytest.raises(InvalidSettings, match=r"at #/paths/~1elsewhere: the reference 'other.yaml#/x' leads out"):
        OpenApiConnector("shop", path, {"it": "GET /elsewhere"})


def test_undo_of_its_own_undo() -> None:
    """Two actions cannot undo each other."""
    uses = {
        "a": Use(operation="cancelRefund", undo=Undoing(action="b", args={"id": "$request.path.id"})),
        "b": Use(operation="cancelRefund", undo=Undoing(action="a", args={"id": "$request.path.id"})),
    }
    with pytest.raises(InvalidSettings, match="a is undone by b is undone by a"):
        OpenApiConnector("shop", DOCUMENT, uses)


# Where it is declared


def test_declared_in_the_settings(tmp_path: Path) -> None:
    """A section of perdure.toml is as good as Python; what it lacks is said."""
    section: dict[str, JsonValue] = {"document": str(DOCUMENT), "actions": {"order": "getOrder"}}
    settings = Settings(openapi={"shop": section}, connectors={"shop": {"token": "t"}})

    [shop] = load_modules([], settings).connectors
    assert ["shop.order"] == list(shop.actions)
    assert "https://shop.example/v1" == cast(OpenApiConnector, shop).option("url")
    for wrong, said in (
        ({"actions": ["x"]}, "needs document"),
        ({"document": "x"}, "needs actions"),
        ({"document": "x", "action": []}, "does not take 'action'"),
        ({"document": "nowhere.yaml", "actions": ["x"]}, "nowhere.yaml cannot be read"),
        ({"document": str(DOCUMENT), "actions": {"a": {"operation": "getOrder", "risky": 1}}}, "a is declared wrongly"),
        ({"document": str(DOCUMENT), "actions": ["GET /refunds"]}, "cannot be the name of an action"),
    ):
        with pytest.raises(InvalidSettings, match=said):
            connector_from_settings("shop", cast(dict[str, JsonValue], wrong))


def test_servers(shop: ShopProcess) -> None:
    """A fetched document does not decide to which other host our secrets go."""
    with pytest.raises(InvalidSettings, match="needs the address of the system"):
        OpenApiConnector("shop", f"{shop.url}/openapi.json", {"order": "GET /orders/{order}"}).with_options({"token": "t"})


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """It lists the operations and what they take, and prints a document to be kept."""
    main(["--list", str(DOCUMENT)])
    listed = capsys.readouterr().out
    main([str(DOCUMENT)])

    assert "POST /refunds" in listed
    assert "createRefund" in listed
    assert parse_document(DOCUMENT.read_bytes(), "x").root == json.loads(capsys.readouterr().out)
    with pytest.raises(SystemExit):
        main(["nowhere.yaml"])
    assert "cannot be read" in capsys.readouterr().err

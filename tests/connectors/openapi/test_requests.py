"""What an operation of an OpenAPI document sends: parameters, bodies, media types and addresses as the document says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import pytest
from kits.connectors import Server, reply
from kits.openapi import ATTEMPT, Json, Trial, asking, document_of, taking
from pydantic import JsonValue, ValidationError

from perdure.connectors import CannotTell
from perdure.connectors.json_models import JsonModel
from perdure.connectors.openapi import OpenApiConnector, Use
from perdure.errors import EffectRejected, InvalidSettings

FORM = "application/x-www-form-urlencoded"
TEXT: Json = {"type": "string"}
TEXTS: Json = {"type": "array", "items": {"type": "string"}}
COLOURS: Json = {"type": "object", "properties": {name: {"type": "integer"} for name in "RGB"}}
DEEP: Json = {"style": "deepObject", "explode": True}


@pytest.fixture
def trial(server: Server, tmp_path: Path) -> Trial:
    """Sends to the scripted server."""
    return Trial(server, tmp_path)


def form(properties: Json, encoding: Json | None = None, **more: JsonValue) -> Json:
    """Return a document with a form of PROPERTIES."""
    media: Json = {"schema": {"type": "object", "properties": properties, **more}}
    return document_of(taking({FORM: {**media, **({"encoding": encoding} if encoding else {})}}))


def query(schema: Json, **said: JsonValue) -> Json:
    """Return a document with a parameter `q` in the query."""
    return document_of(asking({"name": "q", "in": "query", "schema": schema, **said}), method="get")


def one_of(*schemas: Json) -> Json:
    """Return the schema of values that fit any of SCHEMAS."""
    return {"anyOf": cast(list[JsonValue], list(schemas))}


def list_of(schema: Json) -> Json:
    """Return the schema of lists of SCHEMA."""
    return {"type": "array", "items": schema}


def object_of(**properties: Json) -> Json:
    """Return the schema of objects with PROPERTIES."""
    return {"type": "object", "properties": cast(Json, properties)}


# Forms


ITEM = object_of(price=TEXT, quantity={"type": "integer"}, tags=TEXTS)


@pytest.mark.parametrize(
    ("properties", "encoding", "values", "content"),
    [
        (
            {"expand": TEXTS, "items": list_of(ITEM)},
            {"items": DEEP, "expand": DEEP},
            {"items": [{"price": "p1", "quantity": 2}, {"price": "p2", "quantity": 1}], "expand": ["a", "b"]},
            "items[0][price]=p1&items[0][quantity]=2&items[1][price]=p2&items[1][quantity]=1&expand[0]=a&expand[1]=b",
        ),
        ({"i": list_of(ITEM)}, {"i": DEEP}, {"i": [{"tags": ["x", "y"]}]}, "i[0][tags][0]=x&i[0][tags][1]=y"),
        ({"m": {"type": "object"}}, {"m": DEEP}, {"m": {"a b": {"c": True}}}, "m[a+b][c]=true"),
        ({"e": one_of(COLOURS, {"enum": [""]})}, {"e": DEEP}, {"e": ""}, "e="),
        ({"tags": TEXTS}, {}, {"tags": ["a", "b c", "d&e"]}, "tags=a&tags=b+c&tags=d%26e"),
        ({"tags": TEXTS}, {"tags": {"style": "form", "explode": False}}, {"tags": ["a,b", "c"]}, "tags=a%2Cb,c"),
        ({"tags": TEXTS}, {"tags": {"style": "spaceDelimited"}}, {"tags": ["a", "b"]}, "tags=a+b"),
        ({"tags": TEXTS}, {"tags": {"style": "pipeDelimited"}}, {"tags": ["a", "b"]}, "tags=a%7Cb"),
        ({"c": COLOURS}, {"c": {"style": "form"}}, {"c": {"R": 1, "G": 2}}, "R=1&G=2"),
        ({"c": COLOURS}, {"c": {"style": "form", "explode": False}}, {"c": {"R": 1, "G": 2}}, "c=R,1,G,2"),
        ({"c": COLOURS}, {"c": {"contentType": "application/json"}}, {"c": {"R": 1}}, "c=%7B%22R%22%3A1%7D"),
        ({"u": TEXT}, {"u": {"allowReserved": True}}, {"u": "a/b:c+d&e f"}, "u=a/b:c%2Bd%26e+f"),
        ({"n": {"type": "number"}, "b": {"type": "boolean"}}, {}, {"n": 1.5, "b": False}, "n=1.5&b=false"),
        ({"anything": {}}, {}, {"anything": ["a", 1]}, "anything=a&anything=1"),
    ],
)
async def test_forms(trial: Trial, properties: Json, encoding: Json, values: Json, content: str) -> None:
    """Lists and objects are written as the encoding says, each item in its own place (case 02)."""
    sent = await trial.send(form(properties, encoding), values)

    assert sorted(content.split("&")) == sorted(sent.content.replace("%5B", "[").replace("%5D", "]").split("&"))
    assert FORM == sent.headers["content-type"]


@pytest.mark.parametrize(
    "schema",
    [
        list_of(ITEM),
        list_of(TEXTS),
        list_of({"$ref": "#/components/schemas/Item"}),
        list_of(one_of(TEXT, ITEM)),
        {"$ref": "#/components/schemas/Items"},
        COLOURS,
        {"type": ["object", "null"], "properties": {}},
        one_of(COLOURS, {"type": "null"}),
        {"allOf": [{"$ref": "#/components/schemas/Item"}, {"description": "x"}]},
        {"additionalProperties": TEXT},
        {"prefixItems": [ITEM], "type": "array"},
    ],
)
@pytest.mark.parametrize("encoding", [{}, {"f": {"style": "form"}}])
def test_forms_that_nobody_can_write(trial: Trial, schema: Json, encoding: Json) -> None:
    """What OpenAPI has no way to write is refused when the worker starts, with its place (case 02)."""
    if encoding and schema not in (list_of(ITEM), list_of(TEXTS)):
        return  # an object has a form style
    schemas: JsonValue = {"schemas": {"Item": ITEM, "Items": list_of(ITEM)}}
    document = {**form({"f": schema}, encoding), "components": schemas}
    place = "at #/paths/~1r/post/requestBody/content/application~1x-www-form-urlencoded: the field 'f' of a form"

    with pytest.raises(InvalidSettings, match=place):
        trial.connector(document)
    with pytest.raises(InvalidSettings, match="the fields of a form that are not named"):
        trial.connector(form({"a": TEXT}, additionalProperties=list_of(ITEM)))


@pytest.mark.parametrize(
    ("properties", "encoding", "values", "said"),
    [
        ({"tags": TEXTS}, {}, {"tags": []}, "tags is an empty list"),
        ({"i": list_of(ITEM)}, {"i": DEEP}, {"i": [{"tags": []}]}, r"i\[0\]\[tags\] is an empty list"),
        ({"m": {"type": "object"}}, {"m": DEEP}, {"m": {}}, "m is an empty object"),
        ({"m": {"type": "object"}}, {"m": DEEP}, {"m": {"a": None}}, r"m\[a\] is null"),
        ({"x": {}}, {}, {"x": [{"a": 1}]}, "an item of x is an object"),
        ({"x": {}}, {}, {"x": {"a": [1]}}, "x.a is a list"),
        ({"t": TEXTS}, {"t": {"style": "spaceDelimited"}}, {"t": ["a b"]}, "the delimiter ' '"),
        ({"t": TEXTS}, {"t": {"style": "pipeDelimited"}}, {"t": ["a|b"]}, r"the delimiter '\|'"),
        ({"t": TEXT}, {}, {"t": "\ud83d"}, "half a character"),
    ],
)
async def test_values_that_a_form_cannot_say(
    trial: Trial, properties: Json, encoding: Json, values: Json, said: str
) -> None:
    """What would be read as something else, or as nothing, is refused before anything is sent (case 02)."""
    with pytest.raises(EffectRejected, match=f"{said}.*nothing was sent"):
        await trial.send(form(properties, encoding), values)

    assert [] == trial.server.heads


# Parameters


@pytest.mark.parametrize(
    ("schema", "said", "value", "line"),
    [
        (TEXTS, {}, ["a", "b c"], "q=a&q=b%20c"),
        (TEXTS, {"explode": False}, ["a,b", "c"], "q=a%2Cb,c"),
        (TEXTS, {"style": "spaceDelimited"}, ["a", "b"], "q=a%20b"),
        (TEXTS, {"style": "pipeDelimited"}, ["a", "b"], "q=a%7Cb"),
        (TEXTS, {"style": "pipeDelimited", "explode": True}, ["a", "b"], "q=a&q=b"),
        (TEXTS, {"style": "deepObject"}, ["a", "b"], "q[0]=a&q[1]=b"),
        (
            object_of(status=TEXTS),
            {"style": "deepObject"},
            {"status": ["open", "paid"]},
            "q[status][0]=open&q[status][1]=paid",
        ),
        (COLOURS, {}, {"R": 1, "G": 2}, "R=1&G=2"),
        (COLOURS, {"explode": False}, {"R": 1, "G": 2}, "q=R,1,G,2"),
        (COLOURS, {"style": "pipeDelimited"}, {"R": 1, "G": 2}, "q=R%7C1%7CG%7C2"),
        (TEXT, {"allowReserved": True}, "a/b?c:d@e=f#g&h+i[j]%", "q=a/b?c:d@e=f%23g%26h%2Bi%5Bj%5D%25"),
        (TEXTS, {"allowReserved": True, "explode": False}, ["a/b,c", "d"], "q=a/b%2Cc,d"),
        (TEXT, {}, "a/b+c", "q=a%2Fb%2Bc"),
        (TEXTS, {"allowEmptyValue": True}, [], "q="),
        (TEXT, {}, "", "q="),
        ({"type": "boolean"}, {}, False, "q=false"),
        ({"type": "integer"}, {}, 12345678901234567890, "q=12345678901234567890"),
    ],
)
async def test_parameters_in_the_query(trial: Trial, schema: Json, said: Json, value: JsonValue, line: str) -> None:
    """Each style writes what OpenAPI's table of styles says (case 02)."""
    sent = await trial.send(query(schema, **said), {"q": value})

    # Only here brackets are shown as they are: on the wire they are encoded.
    shown = line.replace("%5B", "<").replace("%5D", ">").replace("[", "%5B").replace("]", "%5D")
    assert f"GET /r?{shown.replace('<', '%5B').replace('>', '%5D')}" == sent.line


@pytest.mark.parametrize(
    ("schema", "said", "value", "path"),
    [
        (TEXTS, {}, ["a/b", "c"], "/a%2Fb,c"),
        (COLOURS, {}, {"R": 1, "G": 2}, "/R,1,G,2"),
        (COLOURS, {"explode": True}, {"R": 1, "G": 2}, "/R=1,G=2"),
        (TEXTS, {"style": "label"}, ["a", "b"], "/.a,b"),
        (TEXTS, {"style": "label", "explode": True}, ["a", "b"], "/.a.b"),
        (TEXT, {"style": "label"}, "a", "/.a"),
        (TEXTS, {"style": "matrix"}, ["a", "b"], "/;p=a,b"),
        (TEXTS, {"style": "matrix", "explode": True}, ["a", "b"], "/;p=a;p=b"),
        (COLOURS, {"style": "matrix", "explode": True}, {"R": 1, "G": 2}, "/;R=1;G=2"),
        ({"type": "boolean"}, {}, True, "/true"),
    ],
)
async def test_parameters_in_the_path(trial: Trial, schema: Json, said: Json, value: JsonValue, path: str) -> None:
    """A path has three styles."""
    parameter: Json = {"name": "p", "in": "path", "required": True, "schema": schema, **said}

    assert f"POST {path}" == (await trial.send(document_of(asking(parameter), "/{p}"), {"p": value})).line


async def test_parameters_in_headers(trial: Trial) -> None:
    """A header has a list with commas, an object in pairs, and JSON where the document says `content`."""
    parameters: list[Json] = [
        {"name": "X-List", "in": "header", "schema": TEXTS},
        {"name": "X-Object", "in": "header", "explode": True, "schema": COLOURS},
        {"name": "X-Json", "in": "header", "content": {"application/json": {"schema": COLOURS}}},
        {"name": "Content-Length", "in": "header", "required": True, "schema": {"type": "integer"}},
    ]
    sent = await trial.send(
        document_of(asking(*parameters)), {"X_List": ["a", "b c"], "X_Object": {"R": 1, "G": 2}, "X_Json": {"R": 1}}
    )

    assert ("a,b c", "R=1,G=2", '{"R":1}', "0") == tuple(
        sent.headers[name] for name in ("x-list", "x-object", "x-json", "content-length")
    )


async def test_parameter_with_content(trial: Trial) -> None:
    """Its value is written in that media type first, and then into the query."""
    document = document_of(
        asking(
            {"name": "filter", "in": "query", "content": {"application/json": {"schema": object_of(a=list_of(ITEM))}}},
            {"name": "t", "in": "query", "content": {"text/plain": {"schema": TEXT}}},
        ),
        method="get",
    )
    sent = await trial.send(document, {"filter": {"a": [{"price": "ü"}]}, "t": "x y"})

    assert "GET /r?filter=%7B%22a%22%3A%5B%7B%22price%22%3A%22%C3%BC%22%7D%5D%7D&t=x%20y" == sent.line


@pytest.mark.parametrize(
    ("parameter", "said"),
    [
        (
            {"in": "query", "schema": list_of(COLOURS)},
            "a list of objects or lists cannot be written in query; `style: deepObject` can",
        ),
        ({"in": "query", "schema": object_of(a=TEXTS)}, "an object with objects or lists in it"),
        (
            {"in": "query", "schema": COLOURS, "style": "pipeDelimited", "explode": True},
            "an object cannot be written in the style pipe",
        ),
        ({"in": "header", "schema": list_of(list_of(TEXT))}, "a list of objects or lists cannot be written in header"),
        ({"in": "path", "schema": one_of(TEXT, list_of(COLOURS))}, "a list of objects or lists cannot be written in path"),
        ({"in": "cookie", "schema": TEXT}, "a parameter in 'cookie' is not supported"),
        ({"in": "query", "content": {"application/xml": {}}}, "a parameter of application/xml is not supported"),
        (
            {"in": "query", "content": {"application/json": {}, "text/plain": {}}},
            "the content of a parameter has exactly one media type",
        ),
        ({"in": "query", "schema": TEXT, "style": "simple"}, "the style 'simple' of a parameter in query"),
    ],
)
def test_parameters_that_nobody_can_write(trial: Trial, parameter: Json, said: str) -> None:
    """What no style can write is refused when the worker starts, with its place (case 02)."""
    path = "/r/{p}" if parameter["in"] == "path" else "/r"
    with pytest.raises(InvalidSettings, match=f"/post/parameters/0(/content)?: {said}"):
        trial.connector(document_of(asking({"name": "p", "required": True, **parameter}), path))


@pytest.mark.parametrize(
    ("parameter", "value", "said"),
    [
        ({"in": "query", "schema": TEXTS}, [], "p is an empty list"),
        ({"in": "query", "schema": {}}, [[1]], "an item of p is a list"),
        ({"in": "query", "schema": {}}, {"a": [1]}, "p.a is a list"),
        ({"in": "query", "schema": {"type": "object"}}, {"other": 1}, "p.other is another parameter's name"),
        ({"in": "path", "schema": TEXTS}, [], "p is an empty list"),
        ({"in": "path", "schema": TEXTS}, ["a", ".."], "would change the address"),
        ({"in": "path", "schema": TEXT, "name": "p"}, ".", "would change the address"),
        ({"in": "header", "schema": TEXTS}, ["a,b"], "has a comma"),
        ({"in": "header", "schema": TEXT}, " a", "cannot have these characters"),
        ({"in": "header", "schema": TEXT}, "a\nb", "cannot have these characters"),
        ({"in": "header", "schema": TEXT}, "ü", "cannot have these characters"),
    ],
)
async def test_values_that_a_parameter_cannot_say(trial: Trial, parameter: Json, value: JsonValue, said: str) -> None:
    """What would be read as something else is refused before anything is sent (case 02)."""
    path = "/r/{p}" if parameter["in"] == "path" else "/r"
    other: Json = {"name": "other", "in": "query", "schema": TEXT}
    with pytest.raises(EffectRejected, match=f"{said}.*nothing was sent"):
        await trial.send(document_of(asking({"name": "p", "required": True, **parameter}, other), path), {"p": value})

    assert [] == trial.server.heads


async def test_parts_of_a_path_that_make_another(trial: Trial) -> None:
    """Two arguments that are harmless alone cannot lead elsewhere together."""
    document = document_of({}, "/a/.{x}/b")

    assert "POST /a/.y/b" == (await trial.send(document, {"x": "y"})).line
    with pytest.raises(EffectRejected, match="would change the address"):
        await trial.send(document, {"x": "."})


# Names that are there twice


async def test_arguments_called_like_our_own(trial: Trial) -> None:
    """An argument may be called `name` or `self`, in Python too (case 20)."""
    names = ("name", "self", "values", "action", "args", "cls", "class", "model_config", "outward", "json", "_id")
    document = document_of(taking({"application/json": {"schema": object_of(**dict.fromkeys(names, TEXT))}}))
    connector = trial.connector(document).with_options({"url": trial.server.url})
    args = connector.args("do", **dict.fromkeys(names, "x"))
    trial.server.answers = [reply(204)]
    await connector.execute(connector.actions["t.do"], args, ATTEMPT)
    await connector.close()

    assert [dict.fromkeys(names, "x")] == trial.server.bodies


async def test_a_field_of_a_form_called_like_a_parameter(trial: Trial) -> None:
    """Then the whole form is the argument `body`, as with JSON (case 29)."""
    content: Json = {FORM: {"schema": object_of(Sid=TEXT, Name=TEXT)}}
    parameter: Json = {"name": "Sid", "in": "path", "required": True, "schema": TEXT}
    document = document_of({**asking(parameter), **taking(content)}, "/accounts/{Sid}/numbers")

    sent = await trial.send(document, {"Sid": "a", "body": {"Sid": "b", "Name": "c d"}})
    without = await trial.send(document, {"Sid": "a"})

    assert ("POST /accounts/a/numbers", "Sid=b&Name=c+d", FORM) == (sent.line, sent.content, sent.headers["content-type"])
    assert ("", None) == (without.content, without.headers.get("content-type"))
    with pytest.raises(ValidationError):
        trial.connector(document).args("do", Sid="a", body={"Sid": 1})


async def test_parameters_of_the_same_name(trial: Trial) -> None:
    """The one in the path keeps its name; the others say their place (case 29)."""
    document = document_of(
        {
            **asking(
                {"name": "id", "in": "query", "schema": TEXT},
                {"name": "id", "in": "path", "required": True, "schema": TEXT},
                {"name": "id", "in": "header", "schema": TEXT},
                {"name": "body", "in": "query", "schema": TEXT},
            ),
            **taking({"application/json": {"schema": object_of(id=TEXT)}}),
        },
        "/r/{id}",
    )
    values: Json = {"id": "p", "query_id": "q", "header_id": "h", "body": "b", "body_": {"id": "j"}}
    sent = await trial.send(document, values)

    assert ("POST /r/p?id=q&body=b", "h", {"id": "j"}) == (sent.line, sent.headers["id"], sent.json)
    with pytest.raises(InvalidSettings, match="there are two parameters 'a' in query"):
        trial.connector(document_of(asking({"name": "a", "in": "query"}, {"name": "a", "in": "query"})))


# Paths


PATHS: dict[str, tuple[str, list[Json], Json, str]] = {
    "fragment": ("/a#one", [{"name": "q", "in": "query", "required": True}], {"q": "1"}, "/a?q=1"),
    "fragment after a parameter": ("/a/{id}#one?x=y", [], {"id": "b#c?"}, "/a/b%23c%3F"),
    "only a fragment": ("/#one", [{"name": "q", "in": "query"}], {"q": "1"}, "/?q=1"),
    "query": ("/a?b=c", [{"name": "q", "in": "query"}], {"q": "1"}, "/a?b=c&q=1"),
    "query and fragment": ("/a?b#one", [{"name": "q", "in": "query"}], {"q": "1"}, "/a?b&q=1"),
    "query parameter in the path": ("/a?b=c&q={q}", [{"name": "q", "in": "query"}], {"q": "1&2"}, "/a?b=c&q=1%262"),
    "left out": ("/a?b=c&q={q}", [{"name": "q", "in": "query"}], {}, "/a?b=c"),
    "path parameter in the query": ("/a?q={q}", [{"name": "q", "in": "path"}], {"q": "."}, "/a?q=."),
    "undeclared in the query": ("/a?q={q}", [], {"q": "1"}, "/a?q=1"),
    "encoded": ("/a%23b%3Fc", [], {}, "/a%23b%3Fc"),
}


@pytest.mark.parametrize("what", PATHS)
async def test_paths_with_a_hash_or_question_mark(trial: Trial, what: str) -> None:
    """What stands after `#` tells operations apart and is not sent; a query in a path stays one (case 10)."""
    path, parameters, values, address = PATHS[what]
    typed: list[Json] = [{"schema": TEXT, **each} for each in parameters]

    assert f"POST {address}" == (await trial.send(document_of(asking(*typed), path), values)).line


@pytest.mark.parametrize(
    ("path", "parameter", "said"),
    [
        ("/a#{id}", {"name": "id", "in": "path", "required": True}, "the path has no {id}"),
        ("/a?q=1", {"name": "q", "in": "query"}, "the path has the query parameter 'q' already"),
        ("/a/{id}", {"name": "id", "in": "query"}, "'id' in the path has no parameter of its own"),
        ("/a", {"name": "id", "in": "path", "required": True}, "the path has no {id}"),
    ],
)
def test_paths_that_cannot_be_sent(trial: Trial, path: str, parameter: Json, said: str) -> None:
    """A parameter that would be lost is refused when the worker starts, with its place (case 10)."""
    with pytest.raises(InvalidSettings, match=rf"at #/paths/.*{said}"):
        trial.connector(document_of(asking({"schema": TEXT, **parameter}), path))


async def test_probe_with_names_of_the_document(trial: Trial) -> None:
    """A probe takes the document's names and what is fixed; with a `#` it is refused at the start (case 10)."""
    parameters = asking(
        {"name": "order-id", "in": "query", "required": True, "schema": TEXT},
        {"name": "shop", "in": "query", "required": True, "schema": {"type": "integer"}},
    )
    body = taking({"application/json": {"schema": object_of(ref=TEXT)}})
    document = document_of({**parameters, **body}, "/a#one")
    use: Json = {"mechanism": "natural-key", "key": "ref", "fixed": {"shop": 7}}
    connector = trial.connector(document, **use, probe="GET /a?ref={key}&order={order-id}&shop={shop}")
    connector = connector.with_options({"url": trial.server.url})
    trial.server.answers = [reply(200, [])]
    await connector.probe(connector.actions["t.do"], connector.args("do", **{"order-id": "1&2"}), ATTEMPT)
    await connector.close()

    assert trial.server.heads[0].startswith("GET /a?ref=pe-1&order=1%262&shop=7 ")
    with pytest.raises(InvalidSettings, match=r"the probe .* cannot be sent: it has a `#`"):
        trial.connector(document, **use, probe="GET /a#one?ref={key}")


# Media types


OBJECT: Json = {"schema": object_of(a=TEXT)}


@pytest.mark.parametrize(
    ("offered", "chosen", "sent_as"),
    [
        (["application/merge-patch+json"], "", "application/merge-patch+json"),
        (["application/vnd.api+json"], "", "application/vnd.api+json"),
        (["application/strategic-merge-patch+json"], "", "application/strategic-merge-patch+json"),
        (["application/json; charset=utf-8"], "", "application/json; charset=utf-8"),
        (["Application/JSON"], "", "Application/JSON"),
        (["application/json;v=1", "application/json"], "", "application/json;v=1"),
        (["text/json"], "", "text/json"),
        (["application/xml", "application/vnd.api+json", "application/json"], "", "application/json"),
        (["application/xml", FORM, "application/problem+json"], "", "application/problem+json"),
        (["*/*"], "", "application/json"),
        (["application/*"], "", "application/json"),
        (["application/*+json", "application/json"], "", "application/json"),
        (["application/json-patch+json", "application/merge-patch+json"], "application/merge-patch+json", None),
        (["application/*+json"], "application/vnd.shop+json", None),
        (["application/json", FORM], FORM, None),
        (["application/json"], "application/json; odata=verbose", None),
    ],
)
async def test_media_types(trial: Trial, offered: list[str], chosen: str, sent_as: str | None) -> None:
    """A body is sent as the media type that the document says, to the letter (case 21)."""
    document = document_of(taking(dict.fromkeys(offered, OBJECT)), method="patch")
    sent = await trial.send(document, {"a": "ü"}, use={"content_type": chosen})

    assert (sent_as or chosen) == sent.headers["content-type"]
    assert sent.content in ('{"a":"ü"}', "a=%C3%BC")


@pytest.mark.parametrize(
    ("offered", "chosen", "said"),
    [
        (["application/json-patch+json", "application/merge-patch+json"], "", "say which as `content_type`"),
        (["application/*+json"], "", r"its body can be application/\*\+json: say which"),
        (["application/json"], "application/xml", "its body cannot be application/xml; it can be application/json"),
        (["application/json; charset=klingon"], "", "the charset klingon is not supported"),
        (["application/json; charset=utf-16"], "", "the charset utf-16 is not supported"),
        (["application/octet-stream"], "", "a body of application/octet-stream is not supported"),
        (["application/json-seq", "application/x-ndjson"], "", "application/x-ndjson is supported only as a text"),
        (["text/plain", "text/html"], "", "say which as `content_type`"),
        (["application/xml"], "", "a body of application/xml is supported only as a text"),
    ],
)
def test_media_types_that_are_not_clear(trial: Trial, offered: list[str], chosen: str, said: str) -> None:
    """Where it is not clear what to send, or nobody here can, it is refused when the worker starts (case 21)."""
    with pytest.raises(InvalidSettings, match=rf"at #/paths/~1r/post/requestBody/content.*: .*{said}"):
        trial.connector(document_of(taking(dict.fromkeys(offered, OBJECT))), content_type=chosen)


@pytest.mark.parametrize(
    ("media", "text", "sent_as", "content"),
    [
        ("text/plain", "ü", "text/plain; charset=utf-8", "ü".encode()),
        ("text/plain", "a\nb", "text/plain", b"a\nb"),
        ("text/csv; charset=ISO-8859-1", "ü", "text/csv; charset=ISO-8859-1", b"\xfc"),
        ("application/xml", "<a/>", "application/xml", b"<a/>"),
        ("text/plain", "", "text/plain", b""),
    ],
)
async def test_texts(trial: Trial, media: str, text: str, sent_as: str, content: bytes) -> None:
    """A body that is a text is sent as it is (case 21)."""
    document = document_of(taking({media: {"schema": TEXT}}))
    connector = trial.connector(document).with_options({"url": trial.server.url})
    trial.server.answers = [reply(204)]
    await connector.execute(connector.actions["t.do"], connector.args("do", body=text), ATTEMPT)
    await connector.close()

    assert f"Content-Type: {sent_as}\r\n" in trial.server.heads[0]
    assert [content] == trial.server.contents
    with pytest.raises(ValidationError):
        connector.args("do", body={"a": 1})


@pytest.mark.parametrize(
    ("answers", "accept"),
    [
        ({"200": {"content": {"application/vnd.api+json": {}}}}, "application/vnd.api+json, */*;q=0.1"),
        ({"200": {"content": {"application/xml": {}, "application/json": {}}}}, "application/json, */*;q=0.1"),
        (
            {"200": {"content": {"application/hal+json": {}}}, "202": {"content": {"application/json": {}}}},
            "application/hal+json, application/json, */*;q=0.1",
        ),
        ({"200": {"content": {"*/*": {}}}}, "application/json, */*;q=0.1"),
        ({"204": {}}, "*/*"),
        ({"200": {"content": {"text/csv": {}, "text/plain": {}}}}, "text/csv, */*;q=0.1"),
    ],
)
async def test_accept(trial: Trial, answers: Json, accept: str) -> None:
    """A request says which of the described answers it wants (case 21)."""
    described: JsonValue = {status: {"description": "x", **cast(Json, each)} for status, each in answers.items()}
    sent = await trial.send(document_of({"responses": described}), answer=reply(200, {}))

    assert accept == sent.headers["accept"]


async def test_text_as_an_answer(trial: Trial) -> None:
    """An answer that is a text is the field `result`, in whatever charset it comes."""
    answers: JsonValue = {"200": {"description": "x", "content": {"text/csv": {}}}}
    answer = reply(200, "ü;1".encode("latin-1"), Content_Type="text/csv; charset=ISO-8859-1")
    sent = await trial.send(document_of({"responses": answers}), answer=answer)

    assert isinstance(sent.done.output, JsonModel)
    assert {"result": "ü;1"} == sent.done.output.outward()


PARTS = object_of(title=TEXT, meta=COLOURS, tags=TEXTS, lines=list_of(ITEM), price={"type": "number"})


async def test_multipart(trial: Trial) -> None:
    """Each field is a part, a list one for each item; what is no text is JSON, if its encoding says nothing (case 21)."""
    encoding: Json = {"title": {"contentType": "text/markdown"}, "price": {"contentType": "application/json"}}
    document = document_of(taking({"multipart/form-data": {"schema": PARTS, "encoding": encoding}}))
    values: Json = {"title": "ü", "meta": {"R": 1}, "tags": ["a", "b"], "lines": [{"price": "p"}], "price": 1.5}
    sent = await trial.send(document, values)
    again = await trial.send(document, values)

    boundary = sent.headers["content-type"].removeprefix("multipart/form-data; boundary=")
    *parts, end = [part.strip("\r\n") for part in sent.content.split(f"--{boundary}")[1:]]
    assert "--" == end
    assert [
        'Content-Disposition: form-data; name="title"\r\nContent-Type: text/markdown; charset=utf-8\r\n\r\nü',
        'Content-Disposition: form-data; name="meta"\r\nContent-Type: application/json\r\n\r\n{"R":1}',
        'Content-Disposition: form-data; name="tags"\r\n\r\na',
        'Content-Disposition: form-data; name="tags"\r\n\r\nb',
        'Content-Disposition: form-data; name="lines"\r\nContent-Type: application/json\r\n\r\n{"price":"p"}',
        'Content-Disposition: form-data; name="price"\r\nContent-Type: application/json\r\n\r\n1.5',
    ] == parts
    assert sent.content == again.content


@pytest.mark.parametrize(
    ("properties", "encoding", "said"),
    [
        ({"f": {"type": "string", "format": "binary"}}, {}, r"bytes \(`format: binary`\)"),
        ({"f": TEXT}, {"f": {"contentType": "image/png"}}, "a part of image/png is not supported"),
        ({"f": COLOURS}, {"f": {"contentType": "text/plain"}}, "the part 'f' can be an object"),
        ({"f": TEXT}, {"f": {"style": "form"}}, "a style of a part"),
        ({"f": TEXT}, {"f": {"headers": {"X": {"required": True, "schema": TEXT}}}}, "a header that is needed"),
    ],
)
def test_parts_that_nobody_can_send(trial: Trial, properties: Json, encoding: Json, said: str) -> None:
    """Bytes, pictures and headers of parts are refused when the worker starts, with their place (case 21)."""
    schema = object_of(**cast(dict[str, Json], properties))
    with pytest.raises(InvalidSettings, match=f"multipart~1form-data.*{said}"):
        trial.connector(document_of(taking({"multipart/form-data": {"schema": schema, "encoding": encoding}})))


# The key of an effect in a body


@pytest.mark.parametrize("required", [True, False])
async def test_natural_key_in_a_whole_body(trial: Trial, *, required: bool) -> None:
    """A key goes into a body also where that is one argument, and where it is not given (case 29)."""
    content: Json = {"application/json": {"schema": {**object_of(id=TEXT, ref=TEXT), "required": ["ref"]}}}
    parameter: Json = {"name": "id", "in": "path", "required": True, "schema": TEXT}
    document = document_of({**asking(parameter), **taking(content, required=required)}, "/r/{id}")
    use: Json = {"mechanism": "natural-key", "key": "ref", "probe": "GET /r?ref={key}"}

    given = await trial.send(document, {"id": "1", "body": {"id": "2"}}, use=use)
    assert {"id": "2", "ref": "pe-1"} == given.json
    if not required:
        assert {"ref": "pe-1"} == (await trial.send(document, {"id": "1"}, use=use)).json
    with pytest.raises(EffectRejected, match=r"body\.ref is where perdure puts its own key"):
        await trial.send(document, {"id": "1", "body": {"ref": "mine"}}, use=use)


# Servers


def served(servers: JsonValue, *, of_path: bool = False, root: str = "https://api.example/v1") -> Json:
    """Return a document whose operation has SERVERS of its own, or its path."""
    document = document_of({} if of_path else {"servers": servers}, "/files", servers=[{"url": root}])
    if of_path:
        cast(dict[str, Json], document["paths"])["/files"]["servers"] = servers
    return document


@pytest.mark.parametrize("of_path", [False, True])
@pytest.mark.parametrize(
    "own",
    [{"url": "{url}/up"}, {"url": "{url}/{stage}", "variables": {"stage": {"default": "up", "enum": ["up"]}}}],
)
async def test_servers_of_an_operation(trial: Trial, *, of_path: bool, own: Json) -> None:
    """An operation that has a server of its own goes there, and the others to the document's (case 22)."""
    server = {**own, "url": cast(str, own["url"]).replace("{url}", trial.server.url)}
    document = served([server], of_path=of_path)
    connector = trial.connector(document).with_options({"token": "t"})
    trial.server.answers = [reply(204)]
    await connector.execute(connector.actions["t.do"], connector.args("do"), ATTEMPT)
    await connector.close()

    assert "https://api.example/v1" == connector.option("url")
    assert trial.server.heads[0].startswith("POST /up/files HTTP")


async def test_server_that_the_settings_say(trial: Trial) -> None:
    """`url.NAME` says where one operation is, whatever the document says (case 22)."""
    document = served([{"url": "https://upload.example"}])
    sent = await trial.send(document, options={"url.do": f"{trial.server.url}/staging/?v=1"})

    assert "POST /staging/files?v=1" == sent.line


@pytest.mark.parametrize(
    ("document", "options", "said"),
    [
        (served([{"url": "https://upload.example"}]), {"url": "https://staging.example"}, "url is not the document's"),
        (served([{"url": "/upload"}]), {}, "nobody can tell for sure where this server of do is: set url.do"),
        (served([{"url": "https://{region}.example"}]), {}, "its variable 'region' has no default"),
        (served([{"url": "https://upload.example/#a"}]), {}, "nothing can be sent to .*: it has a `#`"),
        (
            document_of({}, servers=[{"url": "https://{r}.example", "variables": {"r": {"enum": ["eu"]}}}]),
            {},
            "its variable 'r' has no default",
        ),
    ],
)
def test_servers_that_nobody_knows(trial: Trial, document: Json, options: dict[str, str], said: str) -> None:
    """Where it is not clear to which host a request and our token go, the worker does not start (case 22)."""
    with pytest.raises(InvalidSettings, match=f"at #/(paths/~1files/post/)?servers/0: .*{said}"):
        trial.connector(document).with_options(options)


def test_server_with_a_port_that_is_a_number(trial: Trial) -> None:
    """YAML has numbers where OpenAPI has texts."""
    root: JsonValue = [{"url": "https://x.example:{port}", "variables": {"port": {"default": 8443}}}]

    assert "https://x.example:8443" == trial.connector(document_of({}, servers=root)).with_options({}).option("url")
    with pytest.raises(InvalidSettings, match=r"url\.nope: there is no such action; there are do"):
        trial.connector(document_of({}, servers=root)).with_options({"url.nope": "https://x.example"})


async def test_probe_at_the_server_of_its_own_operation(trial: Trial, server: Server) -> None:
    """A look-up goes to where its own operation is (case 22)."""
    body = taking({"application/json": {"schema": object_of(ref=TEXT)}})
    document = document_of(
        {**body, "servers": [{"url": "https://upload.example"}]}, "/files", servers=[{"url": server.url}]
    )
    cast(dict[str, Json], document["paths"])["/files/{id}"] = {
        "get": {"responses": {}, "servers": [{"url": f"{server.url}/look"}]}
    }
    connector = trial.connector(document, mechanism="natural-key", key="ref", probe="GET /files/{key}").with_options({})
    server.answers = [reply(403)]
    found = await connector.probe(connector.actions["t.do"], connector.args("do"), ATTEMPT)
    await connector.close()

    assert isinstance(found, CannotTell)
    assert server.heads[0].startswith("GET /look/files/pe-1 ")


# Documents


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("openapi: 3.0.0\npaths: {}\npaths: {}\n", "paths"),
        ('{"openapi": "3.0.0", "paths": {}, "paths": {}}', "paths"),
    ],
)
def test_keys_that_stand_twice(tmp_path: Path, text: str, said: str) -> None:
    """Of two equal keys neither is taken: the document is refused (case 04)."""
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises(InvalidSettings, match=said):
        OpenApiConnector("t", path, ["do"])


def test_times_in_a_document(tmp_path: Path) -> None:
    """`10:30` is a text, as YAML 1.2 says, and no number of minutes."""
    document = document_of(taking({"application/json": {"schema": object_of(at={"enum": ["TIME"]})}}))
    path = tmp_path / "t.yaml"
    path.write_text(json.dumps(document).replace('["TIME"]', "[10:30]"))

    assert {"at": "10:30"} == OpenApiConnector("t", path, {"do": Use(operation="do")}).args("do", at="10:30").outward()

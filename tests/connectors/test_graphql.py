"""What goes to a system that speaks GraphQL, and what is made of each kind of answer."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import cast

import httpx
import pytest
from kits.recorded import KEY, Recorded, answered, execute, probe
from pydantic import JsonValue

from perdure.connectors import (
    Absent,
    CannotTell,
    Found,
    Target,
)
from perdure.connectors.drift._compatibility import compare
from perdure.connectors.graphql import GraphqlAction, GraphqlConnector
from perdure.errors import EffectRejected, EffectUnknown, TargetUnavailable, UnusableAnswer
from perdure.lineage import Frozen


class Send(Frozen):
    """What to send to whom."""

    to: str
    text: str = ""


class Sent(Frozen):
    """What was sent."""

    id: str
    text: str


class Post(GraphqlConnector):
    """A system that sends letters."""

    send = GraphqlAction(
        "post.send",
        Send,
        Sent,
        document="mutation($input: SendInput!) { sendLetter(input: $input) "
        "{ ... on Letter { id text: body } ... on Error { errorCode message } } }",
        variables=lambda asked, key: {"input": {"to": asked.to, "text": f"{asked.text} {key}"}},
        look="query($to: ID!) { letters(to: $to) { id text: body } }",
        matches=lambda root, _, key: (
            [each for each in root if isinstance(each, dict) and str(each["text"]).endswith(key)]
            if isinstance(root, list)
            else []
        ),
        target=Target(mechanism="natural-key"),
    )
    page = GraphqlAction(
        "post.page",
        Send,
        Sent,
        document="mutation($text: String) { sendPage(text: $text) { id text } }",
        look="query($to: ID!) { letters(to: $to) { nodes { id text } pageInfo { hasNextPage } } }",
        matches=lambda *_: [],
        target=Target(mechanism="natural-key"),
    )
    count = GraphqlAction(
        "post.count", Send, Sent, document="query($to: ID!, $text: String) { count(to: $to) { id text } }", reads=True
    )


SEND = Send(to="Ada", text="hello")
LETTER: dict[str, JsonValue] = {"id": "7", "text": f"hello {KEY}"}


@pytest.fixture
def recorded() -> Recorded:
    """What comes next."""
    return Recorded("graphql")


@pytest.fixture
async def post(recorded: Recorded) -> AsyncIterator[Post]:
    """The connector."""
    post = Post().with_options({"url": "http://post/graphql", "token": "t"})
    async with answered(post, recorded):
        yield post


def answer(body: JsonValue, status: int = 200) -> httpx.Response:
    """Return an answer."""
    return httpx.Response(status, json=body)


def error(code: str, *path: str | int) -> JsonValue:
    """Return the answer that is an error with CODE at PATH."""
    return {"errors": [{"message": "so and so", "path": list(path), "extensions": {"code": code}}], "data": None}


async def test_operation(recorded: Recorded, post: Post) -> None:
    """The operation goes to the address of the connector with its variables, and one request is one attempt."""
    recorded.next(answer({"data": {"sendLetter": LETTER}}))
    done = await execute(post, post.send, SEND)

    asked: JsonValue = {"input": {"to": "Ada", "text": f"hello {KEY}"}}
    assert ["POST /graphql"] == recorded.paths()
    assert [{"query": post.send.document, "variables": asked}] == recorded.bodies()
    assert ("7", Sent(id="7", text=f"hello {KEY}")) == (done.remote_ref, done.output)


async def test_what_breaks_before_it_is_sent_is_unsent(recorded: Recorded, post: Post) -> None:
    """Variables that cannot be made leave nothing in doubt: nothing was sent, so nothing is looked up or parked."""

    def broken(asked: Send, key: str) -> dict[str, JsonValue]:
        raise ValueError(f"no box for {asked.to}")

    action = dataclasses.replace(post.send, variables=broken)
    with pytest.raises(TargetUnavailable, match="nothing was sent"):
        await execute(post, action, SEND)

    assert [] == recorded.paths()


async def test_look_up_has_the_input_as_variables(recorded: Recorded, post: Post) -> None:
    """Of the input those fields are sent that the query asks for."""
    recorded.next(answer({"data": {"letters": [LETTER]}}), answer({"data": {"letters": []}}))

    assert isinstance(await probe(post, post.send, SEND), Found)
    assert Absent() == await probe(post, post.send, SEND)
    assert [{"query": post.send.look, "variables": {"to": "Ada"}}] * 2 == recorded.bodies()


NOT_THERE = answer({"data": {"letters": []}})


@pytest.mark.parametrize(
    ("response", "raised"),
    [
        (answer({"data": {"sendLetter": {"errorCode": "NO", "message": "not to Ada"}}}), EffectRejected),
        (answer(error("GRAPHQL_VALIDATION_FAILED"), 400), EffectRejected),
        (answer(error("BAD_USER_INPUT", "sendLetter")), EffectRejected),
        (answer(error("FORBIDDEN", "sendLetter")), EffectRejected),
        (answer({}, 404), EffectRejected),
        (answer(error("FORBIDDEN", "sendLetter", "sender")), EffectUnknown),
        (answer(error("BAD_USER_INPUT", "sendLetter", "sender")), EffectUnknown),
        (answer(error("INTERNAL_SERVER_ERROR", "sendLetter")), EffectUnknown),
        (answer({"errors": ["so"]}), EffectUnknown),
        (answer({"data": None}), EffectUnknown),
        (answer({"data": {"sendLetter": None}}), UnusableAnswer),
        (answer({"data": {"sendLetter": {"id": "7"}}}), UnusableAnswer),
        (answer([]), EffectUnknown),
        (answer({}, 500), EffectUnknown),
        (answer({}, 408), EffectUnknown),
        (httpx.Response(200, text="<html>"), EffectUnknown),
        (answer({}, 429), TargetUnavailable),
    ],
)
async def test_answers_become_errors(
    recorded: Recorded, post: Post, response: httpx.Response, raised: type[Exception]
) -> None:
    """What was refused before anything was done, what nobody knows, and what was not taken are three different errors."""
    recorded.next(response, NOT_THERE)

    with pytest.raises(raised) as failed:
        await execute(post, post.send, SEND)
    assert raised is type(failed.value)


async def test_secrets_stay_in_the_request(recorded: Recorded, post: Post) -> None:
    """A token that the target repeats is in no error, and neither is a message without an end."""
    post = post.with_options({"url": "http://post/graphql", "token": "hunter2"})
    async with answered(post, recorded):
        said: JsonValue = {"message": "hunter2 " + "x" * 300, "path": ["count"], "extensions": {"code": "FORBIDDEN"}}
        recorded.next(answer({"errors": [said]}))
        with pytest.raises(EffectRejected, match=r"\*\*\* x+…$") as refused:
            await execute(post, post.count, SEND)

    assert "hunter2" not in str(refused.value)
    assert "Bearer hunter2" == recorded.asked[0].headers["Authorization"]


@pytest.mark.parametrize("response", [answer({}, 500), answer({"data": None}), httpx.Response(200, text="<html>")])
async def test_look_without_an_answer(recorded: Recorded, post: Post, response: httpx.Response) -> None:
    """A look has no effect, so one that gets no answer may be had again."""
    recorded.next(response)

    with pytest.raises(TargetUnavailable):
        await execute(post, post.count, SEND)


@pytest.mark.parametrize(
    ("letters", "expected"),
    [
        ({"nodes": [], "pageInfo": {"hasNextPage": True}}, CannotTell),
        ({"items": [], "totalItems": 7}, CannotTell),
        ({"nodes": [], "pageInfo": {"hasNextPage": False}}, Absent),
        ({"items": [], "totalItems": 0}, Absent),
        ([], Absent),
    ],
)
async def test_a_page_of_many_proves_nothing(
    recorded: Recorded, post: Post, letters: JsonValue, expected: type[object]
) -> None:
    """Where an answer says that there is more than it holds, what it lacks may be there (case 70)."""
    recorded.next(answer({"data": {"letters": letters}}))

    assert isinstance(await probe(post, post.page, SEND), expected)


@pytest.mark.parametrize("response", [answer(error("FORBIDDEN", "letters")), answer({}, 404)])
async def test_look_up_that_is_refused(recorded: Recorded, post: Post, response: httpx.Response) -> None:
    """Who may not look cannot tell."""
    recorded.next(response)

    assert isinstance(await probe(post, post.send, SEND), CannotTell)


@pytest.mark.parametrize(
    "declare",
    [
        lambda: GraphqlAction("post.x", Send, Sent, document="subscription { x }", reads=True),
        lambda: GraphqlAction("post.x", Send, Sent, document="mutation { x }", target=Target(mechanism="natural-key")),
    ],
)
def test_wrong_declarations_fail_at_once(declare: Callable[[], object]) -> None:
    """A declaration that cannot work is refused when its module is imported."""
    with pytest.raises(ValueError, match=r"post\.x"):
        declare()


async def test_contract(recorded: Recorded, post: Post) -> None:
    """The contract has of each answer what its document reads; kinds of errors may come and go."""
    recorded.next(answer(SCHEMA))
    recorded.next(answer({"data": {"__schema": _schema("Letter", "Error", "TooLong", fields=("id", "body"))}}))
    recorded.next(answer({"data": {"__schema": _schema("Letter", "Error", fields=("id",))}}))
    first, same, other = [await post.contract() for _ in range(3)]
    assert first is not None
    assert same is not None
    assert other is not None

    assert ["mutation sendLetter", "query letters"] == sorted(first.operations)
    assert ("post.send",) == first.operations["mutation sendLetter"].actions
    assert [] == compare(first, same)
    assert {"breaking"} == {change.verdict for change in compare(first, other)}


async def test_system_that_does_not_describe_itself(recorded: Recorded, post: Post) -> None:
    """Older servers are asked again without what they do not know; one that tells nothing has no contract to ask for."""
    refused = answer(error("GRAPHQL_VALIDATION_FAILED"), 400)
    recorded.next(refused, answer(SCHEMA), refused, refused)

    assert await post.contract() is not None
    assert await post.contract() is None
    assert 4 == len(recorded.asked)


def _schema(*kinds: str, fields: tuple[str, ...]) -> JsonValue:
    text: JsonValue = {"kind": "SCALAR", "name": "String"}
    letter: list[JsonValue] = [{"name": name, "args": [], "type": text} for name in (*fields, "nobody_reads_it")]
    failure: list[JsonValue] = [{"name": name, "args": [], "type": text} for name in ("errorCode", "message")]
    named: dict[str, JsonValue] = {"name": "input", "defaultValue": None, "type": text}
    send: JsonValue = {"name": "sendLetter", "args": [named], "type": {"kind": "UNION", "name": "Sending"}}
    letters: JsonValue = {"name": "letters", "args": [named], "type": {"kind": "LIST", "ofType": _of("Letter")}}
    named_types: list[JsonValue] = [
        {"kind": "OBJECT", "name": kind, "fields": letter if kind == "Letter" else failure} for kind in kinds
    ]
    return {
        "queryType": {"name": "Query"},
        "mutationType": {"name": "Mutation"},
        "types": [
            {"kind": "OBJECT", "name": "Query", "fields": [letters]},
            {"kind": "OBJECT", "name": "Mutation", "fields": [send]},
            {"kind": "UNION", "name": "Sending", "possibleTypes": [_of(kind) for kind in kinds]},
            *named_types,
        ],
    }


def _of(kind: str) -> JsonValue:
    return {"kind": "OBJECT", "name": kind}


SCHEMA: JsonValue = {"data": {"__schema": _schema("Letter", "Error", fields=("id", "body"))}}


Make = Callable[[GraphqlAction["Send", "Refunded"]], Awaitable[GraphqlConnector]]


class Refunded(Frozen):
    """What came of a refund."""

    refund: dict[str, JsonValue] | None = None


_REFUND = "mutation($to: ID!) { refund(to: $to) { refund { id } userErrors { message } } }"


def _refund(
    document: str = _REFUND, *, refused_in: tuple[str, ...] | None = None, untouched_codes: tuple[str, ...] = ()
) -> GraphqlAction[Send, Refunded]:
    return GraphqlAction(
        "post.refund", Send, Refunded, document=document, refused_in=refused_in, untouched_codes=untouched_codes
    )


@pytest.fixture
async def shop(recorded: Recorded) -> AsyncIterator[Make]:
    """Makes a connector of one action."""
    async with AsyncExitStack() as stack:

        async def make(action: GraphqlAction[Send, Refunded]) -> GraphqlConnector:
            made = cast("GraphqlConnector", type("Shop", (GraphqlConnector,), {"refund": action})())
            connector = made.with_options({"url": "http://s", "token": "its-token"})
            return await stack.enter_async_context(answered(connector, recorded))

        yield make


@pytest.mark.parametrize(
    ("document", "operation"),
    [
        ("# a note\nmutation { refund(id: 1) { id } }", "mutation refund"),
        ("fragment F on R { id }\nmutation M($to: ID!) { refund(to: $to) { ...F } }", "mutation refund"),
        ("mutation($to: ID!, $text: Opts = {notify: true}) { refund(id: $to, o: $text) { id } }", "mutation refund"),
        ('mutation($text: String = "}{)(") @live(a: 1) { r: refund(x: $text) { ... on A { id } } }', "mutation refund"),
        ('mutation { refund(t: """a } " b""") { id } } # end', "mutation refund"),
        ("\ufeffmutation mutation { refund @include(if: true) { id } }", "mutation refund"),
        ("mutation { ...R } fragment R on Mutation { refund { id } }", "mutation refund"),
    ],
)
def test_documents_as_people_keep_them(document: str, operation: str) -> None:
    """Comments, fragments, defaults and texts change nothing about which operation it is (case 24)."""
    assert [operation] == list(_refund(document).operations)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("", "is not a query or a mutation"),
        ("subscription { refunds { id } }", "is not a query or a mutation"),
        ("mutation { a { id } b { id } }", "has 2 fields at its root"),
        ("mutation A { a } mutation B { b }", "holds 2 operations"),
        ("mutation { a(x: $gone) }", "uses .gone and does not declare it"),
        ("mutation { ...Gone }", "has no fragment Gone"),
        ("mutation { a { id }", "brackets that do not fit"),
        ("{ a { id } }", "is a query, so say `reads=True`"),
    ],
)
def test_documents_that_cannot_be_sent(document: str, said: str) -> None:
    """What is not one field of one operation is refused when it is declared (case 24)."""
    with pytest.raises(ValueError, match=said):
        _refund(document)


@pytest.mark.parametrize(
    ("body", "error", "said"),
    [
        ({"errors": [{"message": "Throttled", "extensions": {"code": "THROTTLED"}}]}, TargetUnavailable, "Throttled"),
        ({"errors": [{"message": "Slow", "type": "RATE_LIMITED"}], "data": None}, TargetUnavailable, "Slow"),
        ({"errors": [{"message": "Busy", "extensions": {"code": "LOCKED"}}], "data": None}, TargetUnavailable, "Busy"),
        ({"errors": [{"message": "Down"}]}, TargetUnavailable, "did not begin it: Down"),
        ({"errors": [{"message": "Bad", "locations": [{"line": 1, "column": 2}]}]}, EffectRejected, "says no: Bad"),
        ({"errors": [{"message": "Oops", "extensions": {"code": "INTERNAL_SERVER_ERROR"}}]}, EffectUnknown, "Oops"),
        ({"errors": [{"message": "Oops"}], "data": None}, EffectUnknown, "Oops"),
        ({"errors": [{"message": "Oops", "path": ["refund", "refund"]}], "data": {"refund": {}}}, EffectUnknown, "Oops"),
        (
            {"errors": [{"message": "A", "extensions": {"code": "BAD_USER_INPUT"}}, {"message": "B"}], "data": None},
            EffectUnknown,
            "A",
        ),
        (
            {"data": {"refund": {"refund": None, "userErrors": [{"message": "Order not found"}]}}},
            EffectRejected,
            "Order not found",
        ),
        ({"data": {"refund": {"refund": None, "errors": [{"code": "GONE"}]}}}, EffectRejected, "GONE"),
        ({"data": {"refund": {"success": False, "message": "Too late"}}}, EffectRejected, "Too late"),
        ({"data": {"refund": {"__typename": "TooLateError", "message": "Too late"}}}, EffectRejected, "Too late"),
        ({"data": {"refund": {"refund": {"id": 1}, "userErrors": [{"message": "Half"}]}}}, EffectUnknown, "says both"),
    ],
)
async def test_refusals_as_others_say_them(
    recorded: Recorded, shop: Make, body: JsonValue, error: type[Exception], said: str
) -> None:
    """What was not begun is not parked, and a refusal in the payload is no success (cases 09 and 24)."""
    action = _refund(untouched_codes=("LOCKED",))
    connector = await shop(action)
    recorded.next(answer(body))

    with pytest.raises(error, match=said):
        await execute(connector, action, SEND)


async def test_declared_refusals(recorded: Recorded, shop: Make) -> None:
    """Where refusals are declared, only what is declared is one (case 24)."""
    action = _refund(refused_in=("result.problems", "done"))
    connector = await shop(action)
    recorded.next(
        answer({"data": {"refund": {"refund": {"id": 1}, "errors": [{"message": "only a note"}], "done": True}}}),
        answer({"data": {"refund": {"result": {"problems": [{"message": "Too late"}]}}}}),
        answer({"data": {"refund": {"done": False}}}),
    )

    assert {"refund": {"id": 1}} == (await execute(connector, action, SEND)).output.model_dump()
    with pytest.raises(EffectRejected, match="Too late"):
        await execute(connector, action, SEND)
    with pytest.raises(EffectRejected, match="done is false"):
        await execute(connector, action, SEND)


class Change(Frozen):
    """What to change: who has no end date says null."""

    id: str
    until: str | None
    note: str | None = None
    level: int | None = 3


def test_null_and_nothing() -> None:
    """A null is sent where it is a value; what was not given or is not asked for is not (case 24)."""
    document = 'mutation($id: ID!, $until: Date, $note: String = "none", $level: Int) { change(id: $id) { id } }'
    action = GraphqlAction("post.change", Change, Refunded, document=document)
    narrow = GraphqlAction("post.change", Change, Refunded, document="mutation($id: ID!) { change(id: $id) { id } }")

    assert {"id": "1", "until": None, "level": None} == _variables(action, Change(id="1", until=None, level=None))
    assert {"id": "1", "until": "x", "note": "n", "level": 3} == _variables(action, Change(id="1", until="x", note="n"))
    assert {"id": "1"} == _variables(narrow, Change(id="1", until="x"))


def _variables(action: GraphqlAction[Change, Refunded], change: Change) -> JsonValue:
    body = action.build_request(change, KEY).body
    assert isinstance(body, dict)
    return body["variables"]

"""What goes over the wire, and what is made of each answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import httpx
import pytest
from kits.connectors import Paid, Pay, Server, ShopProcess, reply
from pydantic import BaseModel, JsonValue, RootModel

from perdure.connectors import (
    Absent,
    AnyAction,
    Attempt,
    CannotTell,
    Found,
    HttpAction,
    HttpConnector,
    Listing,
    Target,
)
from perdure.connectors.contracts import In, Out
from perdure.connectors.http import parse_retry_after
from perdure.errors import (
    AlreadyThere,
    EffectRejected,
    EffectUnknown,
    InvalidSettings,
    TargetUnavailable,
    UnusableAnswer,
)
from perdure.examples.returns_desk.desk_connectors import (
    LookUp,
    Refund,
    Release,
    Reserve,
    inventory,
    orders,
    payments,
)
from perdure.lineage import Frozen

ATTEMPT = Attempt(key="pe-1", fence=1, deadline=timedelta(seconds=0.5))
NATURAL = Target(mechanism="natural-key")


class Give(Frozen):
    """How much to give to whom."""

    to: str
    amount: int


class Bank(HttpConnector):
    """A bank with an API of every kind."""

    pay = HttpAction("bank.pay", Pay, Paid, request="POST /pay", key="ref", probe="GET /paid?ref={key}", target=NATURAL)
    keyed = HttpAction("bank.keyed", Pay, Paid, request="POST /pay", target=Target(mechanism="header"))
    give = HttpAction(
        "bank.give", Give, Paid, request="PUT /people/{to}/gifts", key="X-Key", target=Target(mechanism="header")
    )
    take = HttpAction("bank.take", Pay, Paid, request="POST /take", untouched=(429, 503))
    shaped = HttpAction(
        "bank.shaped",
        Pay,
        Paid,
        request="POST /pay",
        key="ref",
        probe="GET /payments/{key}",
        found="data.items",
        body=lambda asked: {"cents": asked.amount},
        answer=lambda got: {"amount": got["cents"]} if isinstance(got, dict) else got,
        remote_ref="number",
        target=NATURAL,
    )
    made = HttpAction("bank.made", Pay, Paid, request="POST /pay", exists=(409,))
    balance = HttpAction("bank.balance", Pay, Paid, request="GET /balance", reads=True)


@pytest.fixture
async def bank(server: Server) -> AsyncIterator[Bank]:
    """The connector of the scripted server."""
    bank = Bank().with_options({"url": server.url})
    yield bank
    await bank.close()


async def test_request_carries_the_natural_key(server: Server, bank: Bank) -> None:
    """The input is the body, and the effect's key is in the declared field."""
    server.answers = [reply(201, {"id": "p-1", "amount": 5, "new_field": True})]

    executed = await bank.execute(_action("bank.pay"), Pay(amount=5), ATTEMPT)

    assert (Paid(amount=5), "p-1") == (executed.output, executed.remote_ref)
    assert [{"amount": 5, "ref": "pe-1"}] == server.bodies
    assert server.heads[0].startswith("POST /pay HTTP/1.1")
    assert "pe-1" not in server.heads[0]


async def test_request_carries_the_key_in_a_header(server: Server, bank: Bank) -> None:
    """Fields in the path are quoted and leave the body; the key is in the declared header."""
    server.answers = [reply(200, {"amount": 5})]

    await bank.execute(_action("bank.give"), Give(to="a/b ?", amount=5), ATTEMPT)

    assert server.heads[0].startswith("PUT /people/a%2Fb%20%3F/gifts HTTP/1.1")
    assert "x-key: pe-1" in server.heads[0].lower()
    assert [{"amount": 5}] == server.bodies


async def test_look_up_puts_its_input_into_the_query(server: Server, bank: Bank) -> None:
    """A GET has no body and no key."""
    server.answers = [reply(200, {"amount": 7})]

    await bank.execute(_action("bank.balance"), Pay(amount=5), ATTEMPT)

    assert server.heads[0].startswith("GET /balance?amount=5 HTTP/1.1")
    assert "pe-1" not in server.heads[0]


async def test_shape_of_the_target_is_translated(server: Server, bank: Bank) -> None:
    """Body, answer, matches and reference are read as declared."""
    server.answers = [reply(200, {"cents": 5, "number": 8}), reply(200, {"data": {"items": [{"cents": 5, "ref": "pe-1"}]}})]

    executed = await bank.execute(_action("bank.shaped"), Pay(amount=5), ATTEMPT)
    found = await bank.probe(_action("bank.shaped"), Pay(amount=5), ATTEMPT)

    assert (Paid(amount=5), "8") == (executed.output, executed.remote_ref)
    assert [{"cents": 5, "ref": "pe-1"}, None] == server.bodies
    assert isinstance(found, Found)


@pytest.mark.parametrize(
    ("action", "answer", "error"),
    [
        ("bank.pay", reply(400, {"error": {"message": "too much"}}), EffectRejected),
        ("bank.pay", reply(404), EffectRejected),
        ("bank.pay", reply(409, {"detail": "taken"}), EffectRejected),
        ("bank.keyed", reply(409, {"detail": "at work"}), EffectUnknown),
        ("bank.pay", reply(408), EffectUnknown),
        ("bank.pay", reply(429, Retry_After="7"), TargetUnavailable),
        ("bank.pay", reply(503, Retry_After="7"), EffectUnknown),
        ("bank.take", reply(503, Retry_After="7"), TargetUnavailable),
        ("bank.pay", reply(500, {"error": "oops"}), EffectUnknown),
        ("bank.pay", reply(302, Location="/elsewhere"), UnusableAnswer),
        ("bank.pay", reply(303, Location="/paid"), UnusableAnswer),
        ("bank.pay", reply(301, Location="/pay/"), EffectRejected),
        ("bank.pay", reply(307, Location="https://elsewhere.example/pay"), EffectRejected),
        ("bank.pay", reply(308, Location="//["), EffectRejected),
        ("bank.pay", reply(200, b"<html>"), UnusableAnswer),
        ("bank.pay", reply(200, {"sum": 5}), UnusableAnswer),
        ("bank.made", reply(409), AlreadyThere),
        ("bank.made", reply(422), EffectRejected),
        ("bank.pay", reply(200, {"amount": 5})[:-4], EffectUnknown),
        ("bank.pay", b"", EffectUnknown),
        ("bank.pay", b"nonsense\r\n\r\n", EffectUnknown),
        ("bank.pay", b"silence", EffectUnknown),
        ("bank.balance", reply(500), TargetUnavailable),
        ("bank.balance", b"", TargetUnavailable),
        ("bank.balance", reply(200, b"<html>"), TargetUnavailable),
        ("bank.balance", reply(302, Location="/elsewhere"), EffectRejected),
        ("bank.balance", reply(404), EffectRejected),
    ],
)
async def test_answers_become_errors(
    server: Server, bank: Bank, action: str, answer: bytes, error: type[Exception]
) -> None:
    """What the target surely refused, surely did not take, and what may have happened are three different errors."""
    server.answers = [answer]

    with pytest.raises(error) as failed:
        await bank.execute(_action(action), Pay(amount=5), ATTEMPT)

    assert error is type(failed.value)
    assert 1 == len(server.heads)


HOUR = 3600


@pytest.mark.parametrize(
    ("said", "least", "most"),
    [
        ("7", 7, 7),
        ("0", 0, 0),
        ("1.5", 2, 2),
        ("0.493", 1, 1),
        ("7.66", 8, 8),
        (" 3 ", 3, 3),
        ("+3", 3, 3),
        ("5, 9", 5, 5),
        ("7200", HOUR, HOUR),
        ("999999999999999999", HOUR, HOUR),
        ("9" * 400, None, None),
        ("{epoch}", 50, 60),
        ("{epoch}.25", 50, 61),
        ("{epoch}000", 50, 60),
        ("1400000000", 0, 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
        ("Wed, 21 Oct 2099 07:28:00 GMT", HOUR, HOUR),
        ("Wed, 99 Oct 2099 07:28:00 GMT", None, None),
        ("-5", None, None),
        ("soon", None, None),
        ("nan", None, None),
        ("1e3", None, None),
        ("\u0663", None, None),
        ("", None, None),
    ],
)
def test_retry_after(said: str, least: int | None, most: int | None) -> None:
    """Seconds, fractions, dates and the time since 1970 say when to come again, which is within an hour (case 12)."""
    minute_ahead = int(datetime.now(UTC).timestamp()) + 60
    response = httpx.Response(429, headers=[(b"Retry-After", said.format(epoch=minute_ahead).encode())])

    wait = parse_retry_after(response)

    if least is None or most is None:
        assert wait is None
    else:
        assert wait is not None
        assert timedelta(seconds=least) <= wait <= timedelta(seconds=most)


async def test_retry_after_is_passed_on(server: Server, bank: Bank) -> None:
    """What the target says is how long the step waits, and never longer than an hour (case 12)."""
    server.answers = [reply(429, Retry_After="0.493"), reply(429, Retry_After="4102444800"), reply(429)]
    waits = []
    for _ in range(3):
        with pytest.raises(TargetUnavailable) as busy:
            await bank.execute(_action("bank.pay"), Pay(amount=5), ATTEMPT)
        waits.append(busy.value.retry_after)

    assert [timedelta(seconds=1), timedelta(hours=1), None] == waits


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (reply(200, [{"amount": 5, "id": "p-1", "ref": "pe-1"}]), Found),
        (reply(200, []), Absent),
        (reply(200, {"amount": 5, "id": "p-1", "ref": "pe-1"}), Found),
        (reply(200, [{"amount": 5, "ref": "pe-1"}] * 2), CannotTell),
        (reply(200, [{"amount": 5, "ref": "pe-2"}]), CannotTell),
        (reply(200, "none"), CannotTell),
        (reply(200, [{"sum": 5, "ref": "pe-1"}]), CannotTell),
        (reply(404), CannotTell),
        (reply(403), CannotTell),
        (reply(200, b"<html>"), CannotTell),
    ],
)
async def test_probe_takes_only_proof(server: Server, bank: Bank, answer: bytes, expected: type[object]) -> None:
    """Absence is an empty list for the key and nothing else: not a 404 for a list, not a list of others, not an error."""
    server.answers = [answer]

    assert isinstance(await bank.probe(_action("bank.pay"), Pay(amount=5), ATTEMPT), expected)
    assert server.heads[0].startswith("GET /paid?ref=pe-1 ")


async def test_probe_by_address_takes_404_as_absence(server: Server, bank: Bank) -> None:
    """Where the key is the address of the one thing, 404 says that it is not there."""
    server.answers = [reply(404)]

    assert Absent() == await bank.probe(_action("bank.shaped"), Pay(amount=5), ATTEMPT)


@pytest.mark.parametrize("answer", [reply(500), reply(429), b""])
async def test_probe_that_gets_no_answer_is_no_look(server: Server, bank: Bank, answer: bytes) -> None:
    """A target that is down says nothing about the effect."""
    server.answers = [answer]

    with pytest.raises(TargetUnavailable):
        await bank.probe(_action("bank.pay"), Pay(amount=5), ATTEMPT)


async def test_action_without_probe_cannot_tell(bank: Bank) -> None:
    """An action that declares no probe says so."""
    assert isinstance(await bank.probe(_action("bank.keyed"), Pay(amount=5), ATTEMPT), CannotTell)


async def test_nobody_listens() -> None:
    """A refused connection means that nothing was sent."""
    bank = Bank().with_options({"url": "http://127.0.0.1:9"})

    with pytest.raises(TargetUnavailable, match="bank cannot be reached"):
        await bank.execute(_action("bank.pay"), Pay(amount=5), ATTEMPT)

    await bank.close()


async def test_secrets_stay_in_the_request(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret is read for each request, goes to the target, and is in no error although the target repeats it."""
    monkeypatch.setenv("BANK_TOKEN", "hunter2")
    bank = Bank().with_options({"url": server.url, "token": "env:BANK_TOKEN", "header.X-Shop": "9"})
    monkeypatch.setenv("BANK_TOKEN", "hunter3")
    server.answers = [reply(401, {"error": "hunter3 is not known"})]

    with pytest.raises(EffectRejected) as refused:
        await bank.execute(_action("bank.pay"), Pay(amount=5), ATTEMPT)

    await bank.close()
    assert "Authorization: Bearer hunter3" in server.heads[0]
    assert "X-Shop: 9" in server.heads[0]
    assert "bank.pay: bank answered 401: *** is not known" == str(refused.value)
    assert "hunter" not in repr(vars(bank))


async def test_connection_stays_open(shop: ShopProcess) -> None:
    """Requests of one connector go over one connection, and it works again after `close`."""
    at = payments.with_options({"url": shop.url})
    refund = Refund(order="R-1001", amount=5)
    for _ in range(3):
        await at.execute(cast(AnyAction, payments.refund), refund, ATTEMPT)
    await at.close()
    await at.execute(cast(AnyAction, payments.refund), refund, ATTEMPT)
    await at.close()

    assert 4 == len(await shop.refunds())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"\[connectors.bank\] in perdure.toml needs the address"),
        ({"url": "localhost:80"}, "needs the address"),
        ({"url": "http://x", "tokn": "1"}, "does not take 'tokn'"),
        ({"url": "http://x", "token": "env:NOT_THERE"}, "that variable is not set"),
    ],
)
def test_wrong_options_fail_at_start_up(options: dict[str, str], message: str) -> None:
    """Options that cannot work are refused before the first request, with the place to change them."""
    with pytest.raises(InvalidSettings, match=message):
        Bank().with_options(options)


async def test_unconfigured_connector_says_what_is_missing() -> None:
    """Without an address nothing is sent."""
    with pytest.raises(TargetUnavailable, match=r"Set \[connectors.bank\] url"):
        await Bank().execute(_action("bank.pay"), Pay(amount=5), ATTEMPT)


@pytest.mark.parametrize(
    "declare",
    [
        lambda: HttpAction("bank.x", Pay, Paid, request="/pay"),
        lambda: HttpAction("bank.x", Pay, Paid, request="POST /{nobody}"),
        lambda: HttpAction("bank.x", Pay, Paid, request="POST /pay", probe="GET /paid", target=NATURAL, key="ref"),
        lambda: HttpAction("bank.x", Pay, Paid, request="POST /pay", target=NATURAL),
        HttpConnector,
    ],
)
def test_wrong_declarations_fail_at_once(declare: Callable[[], object]) -> None:
    """A declaration that cannot work is refused when its module is imported."""
    with pytest.raises(ValueError, match=r"bank\.x|HttpConnector"):
        declare()


async def test_desk_connectors_fit_the_shop(shop: ShopProcess) -> None:
    """The desk's contracts are what the shop's API does: look up, reserve, find, release, find that."""
    at = {connector.name: connector.with_options({"url": shop.url}) for connector in (orders, inventory, payments)}

    async def do(action: HttpAction[In, Out], args: BaseModel) -> BaseModel:
        return (await at[action.connector].execute(cast(AnyAction, action), args, ATTEMPT)).output

    order = await do(orders.look_up, LookUp(order="R-1001"))
    slot = await do(inventory.reserve, Reserve(order="R-1001"))
    reserved = await at["inventory"].probe(cast(AnyAction, inventory.reserve), Reserve(order="R-1001"), ATTEMPT)
    await do(inventory.release, Release(id="rs_1"))
    released = await at["inventory"].probe(cast(AnyAction, inventory.release), Release(id="rs_1"), ATTEMPT)
    for connector in at.values():
        await connector.close()

    assert {"order": "R-1001", "amount": 4990, "stock": 3}.items() <= order.model_dump().items()
    assert {"id": "rs_1", "order": "R-1001"} == slot.model_dump()
    assert [Found, Found] == [type(reserved), type(released)]


def _action(name: str) -> AnyAction:
    return Bank().actions[name]


@pytest.mark.parametrize("name", ["", ".", ".."])
async def test_argument_that_would_be_another_address(server: Server, bank: Bank, name: str) -> None:
    """An argument cannot lead a request to another place, and then nothing is sent."""
    with pytest.raises(EffectRejected, match="would change the address; nothing was sent"):
        await bank.execute(_action("bank.give"), Give(to=name, amount=5), ATTEMPT)

    assert [] == server.heads


async def test_newest_first(server: Server) -> None:
    """A list that begins with the newest is not read on from what is older than the window."""

    class Notes(HttpConnector):
        note = HttpAction(
            "notes.note",
            Pay,
            Paid,
            request="POST /notes",
            listing=Listing("GET /notes?after={after}", at="at", newest_first=True),
        )

    notes = Notes().with_options({"url": server.url, "query.key": "k"})
    pages = [[{"id": 3, "amount": 3, "at": 300}], [{"id": 2, "amount": 2, "at": 200}, {"id": 1, "amount": 1, "at": 50}]]
    server.answers = [reply(200, cast(JsonValue, page)) for page in pages]
    since = datetime.fromtimestamp(100, UTC)

    listed = [each.remote_ref async for each in notes.listing(since, since + timedelta(hours=1))]
    await notes.close()

    assert ["3", "2"] == listed
    assert ["/notes?key=k", "/notes?after=3&key=k"] == [head.split()[1] for head in server.heads]


class PagedBank(HttpConnector):
    """A bank that lists its payments in pages, of each kind."""

    linked = HttpAction(
        "bank.linked",
        Pay,
        Paid,
        request="POST /pay",
        key="ref",
        probe="GET /paid?ref={key}",
        probe_next="links.next",
        found="data",
        target=NATURAL,
    )
    after = HttpAction(
        "bank.after", Pay, Paid, request="POST /pay", key="ref", probe="GET /paid?ref={key}&after={after}", target=NATURAL
    )
    undeclared = HttpAction(
        "bank.undeclared",
        Pay,
        Paid,
        request="POST /pay",
        key="ref",
        probe="GET /paid?ref={key}",
        found="data",
        target=NATURAL,
    )


@pytest.fixture
async def paged_bank(server: Server) -> AsyncIterator[PagedBank]:
    """The paged connector of the scripted server."""
    bank = PagedBank().with_options({"url": server.url})
    yield bank
    await bank.close()


@pytest.mark.parametrize(
    ("more", "headers"),
    [
        ({"has_more": True}, {}),
        ({"hasMore": True}, {}),
        ({"next": "/paid?page=2"}, {}),
        ({"links": {"next": {"href": "/paid?page=2"}}}, {}),
        ({"meta": {"next_cursor": "abc"}}, {}),
        ({"pageInfo": {"hasNextPage": True}}, {}),
        ({"total": 40}, {}),
        ({"pagination": {"page": 1, "total_pages": 2}}, {}),
        ({"incomplete_results": True}, {}),
        ({}, {"Link": '</paid?page=2>; rel="next", </paid?page=9>; rel="last"'}),
    ],
)
async def test_an_empty_page_of_many_proves_nothing(
    server: Server, paged_bank: PagedBank, more: dict[str, JsonValue], headers: dict[str, str]
) -> None:
    """Where a look-up's answer says that there are more pages, and none is declared, it cannot tell (case 70)."""
    server.answers = [reply(200, {"data": [], **more}, **headers)]

    probe = await paged_bank.probe(paged_bank.actions["bank.undeclared"], Pay(amount=5), ATTEMPT)

    assert isinstance(probe, CannotTell)
    assert "says that there are more" in probe.why


@pytest.mark.parametrize(
    "last", [{"has_more": False}, {"next": None}, {"next": ""}, {"total": 0}, {"meta": {"page": 1, "total_pages": 1}}, {}]
)
async def test_the_last_page_is_proof(server: Server, paged_bank: PagedBank, last: dict[str, JsonValue]) -> None:
    """An answer that says that it is all there is proves absence as before."""
    server.answers = [reply(200, {"data": [], **last})]

    assert Absent() == await paged_bank.probe(paged_bank.actions["bank.undeclared"], Pay(amount=5), ATTEMPT)


async def test_declared_pages_are_read_to_the_end(server: Server, paged_bank: PagedBank) -> None:
    """What is on the last page of a look-up is found, whether the pages are linked or asked for by the last item."""
    here: JsonValue = {"id": "p-9", "amount": 5, "ref": "pe-1"}
    other: JsonValue = {"id": "p-1", "amount": 5, "ref": "pe-2"}
    server.answers = [
        reply(200, {"data": [], "links": {"next": "/paid?page=2"}}),
        reply(200, {"data": [other], "links": {"next": "/paid?page=3"}}),
        reply(200, {"data": [here], "links": {"next": None}}),
        reply(200, [other]),
        reply(200, [here]),
        reply(200, []),
    ]

    linked = await paged_bank.probe(paged_bank.actions["bank.linked"], Pay(amount=5), ATTEMPT)
    after = await paged_bank.probe(paged_bank.actions["bank.after"], Pay(amount=5), ATTEMPT)

    assert ["p-9", "p-9"] == [each.executed.remote_ref for each in (linked, after) if isinstance(each, Found)]
    asked = [head.split()[1] for head in server.heads]
    assert ["/paid?ref=pe-1", "/paid?page=2", "/paid?page=3"] == asked[:3]
    assert ["/paid?ref=pe-1", "/paid?ref=pe-1&after=p-1", "/paid?ref=pe-1&after=p-9"] == asked[3:]


async def test_absence_on_many_pages_is_looked_at_twice(server: Server, paged_bank: PagedBank) -> None:
    """An item that moves between pages while they are read is missed once; so only what two readings lack is not there."""

    def pages(first: JsonValue, second: JsonValue) -> list[bytes]:
        return [reply(200, {"data": first, "links": {"next": "/paid?page=2"}}), reply(200, {"data": second})]

    one: JsonValue = [{"id": "p-1", "amount": 5, "ref": "pe-2"}]
    two: JsonValue = [{"id": "p-2", "amount": 5, "ref": "pe-3"}]
    server.answers = [*pages(one, two), *pages(one, two), *pages(one, two), *pages(one, one)]

    twice = await paged_bank.probe(paged_bank.actions["bank.linked"], Pay(amount=5), ATTEMPT)
    moving = await paged_bank.probe(paged_bank.actions["bank.linked"], Pay(amount=5), ATTEMPT)

    assert Absent() == twice
    assert isinstance(moving, CannotTell)


class _Lines(RootModel[list[int]]):
    """A body that is a list."""


def test_a_key_needs_an_object_to_go_into() -> None:
    """A natural key on a body that is a list, or on a DELETE, is refused where the action is declared (case 70)."""

    def lines(_: Pay) -> list[int]:
        return [1]

    natural: dict[str, Any] = {"key": "ref", "probe": "GET /paid?ref={key}", "target": NATURAL}
    with pytest.raises(ValueError, match="its body is a list"):
        HttpAction("bank.lines", _Lines, Paid, request="POST /lines", **natural)
    with pytest.raises(ValueError, match="its body is a list"):
        HttpAction("bank.lines", Pay, Paid, request="POST /lines", body=cast("Any", lines), **natural)
    with pytest.raises(ValueError, match="has no body that the key could go into"):
        HttpAction("bank.gone", Pay, Paid, request="DELETE /payments", **natural)

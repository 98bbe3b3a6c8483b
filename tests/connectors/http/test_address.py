"""Which address a request goes to: what is written down, to the letter, and what cannot be written is refused unsent."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest
from kits.connectors import Paid, Pay, Server, reply
from pydantic import BaseModel, JsonValue

from perdure.connectors import Attempt, CannotTell, HttpAction, HttpConnector, Listing, Target
from perdure.connectors.http import Request, join
from perdure.errors import EffectRejected, InvalidSettings, TargetUnavailable
from perdure.lineage import Frozen

ATTEMPT = Attempt(key="pe-1", fence=1, deadline=timedelta(seconds=5))
NATURAL = Target(mechanism="natural-key")


class Search(Frozen):
    """What to look for, and where."""

    shelf: str | int | bool | None
    tags: list[str] = []
    limit: int | None = None
    exact: bool = False


def _break(_: Pay) -> JsonValue:
    raise KeyError("a")


class Shop(HttpConnector):
    """A shop with requests of every kind."""

    search = HttpAction("shop.search", Search, Paid, request="GET /shelves/{shelf}/items?status=open", reads=True)
    drop = HttpAction("shop.drop", Pay, Paid, request="DELETE /items?why={amount}", body=lambda asked: {"n": asked.amount})
    form = HttpAction(
        "shop.form", Search, Paid, request="POST /forms/{shelf}", content_type="application/x-www-form-urlencoded"
    )
    merge = HttpAction("shop.merge", Pay, Paid, request="PATCH /items", content_type="application/merge-patch+json")
    hook = HttpAction("shop.hook", Pay, Paid, request="PUT")
    pay = HttpAction(
        "shop.pay",
        Search,
        Paid,
        request="POST /pay",
        key="ref",
        probe="GET /paid?ref={key}&shelf={shelf}&limit={limit}",
        target=NATURAL,
        body=lambda _: {},
    )
    broken = HttpAction("shop.broken", Pay, Paid, request="POST /broken", body=_break)


@pytest.fixture
async def shop(server: Server) -> AsyncIterator[Shop]:
    """The connector of the scripted server."""
    shop = Shop().with_options({"url": f"{server.url}/api?v=1"})
    yield shop
    await shop.close()


@pytest.mark.parametrize(
    ("base", "path", "keys", "address"),
    [
        ("https://x.example", "", [], "https://x.example"),
        ("https://x.example/hooks/?", "", [], "https://x.example/hooks/?"),
        ("https://x.example/", "/a", [], "https://x.example/a"),
        ("https://x.example/api/", "/a/?b=c", [], "https://x.example/api/a/?b=c"),
        ("https://x.example/api?key=1", "/a", [], "https://x.example/api/a?key=1"),
        ("https://x.example/api?key=1", "/a?b=%20", [("k", "a b&")], "https://x.example/api/a?key=1&b=%20&k=a%20b%26"),
        ("https://x.example/hook?key=1", "", [("k", "2")], "https://x.example/hook?key=1&k=2"),
        ("https://x.example/?key=1", "/a?key=1&page=2", [("key", "1")], "https://x.example/a?key=1&page=2"),
        ("https://x.example/a?t=1&t=2", "/b?t=3", [], "https://x.example/a/b?t=1&t=2&t=3"),
        ("https://u:p@x.example:8443", "/a", [], "https://u:p@x.example:8443/a"),
    ],
)
def test_address(base: str, path: str, keys: list[tuple[str, str]], address: str) -> None:
    """A query in `url` stays a query, its path comes before the action's, and nothing is added or lost (case 01)."""
    assert address == join(base, path, keys)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://x.example/a#b", "has a `#`"),
        ("https://x.example/a b", "a space or a control character"),
        ("https://x.example:port/", "its host or port is not one"),
        ("https://x.example:0/", "is not like https://host/path"),
        ("https://?a", "is not like https://host/path"),
        ("https://{stage}.x.example/", "nothing was put in the place of {stage}"),
    ],
)
def test_url_that_cannot_be_asked(url: str, said: str) -> None:
    """An address to which nothing could be sent as it is written is refused when the worker starts."""
    with pytest.raises(InvalidSettings, match=said):
        Shop().with_options({"url": url})


def test_user_in_the_url_and_a_token() -> None:
    """One `Authorization` can be sent, so two are refused when the worker starts."""
    with pytest.raises(InvalidSettings, match="has a user in its url and token"):
        Shop().with_options({"url": "https://u:p@x.example", "token": "t"})


def request_of(name: str, args: BaseModel) -> Request:
    """Return the request that the action NAME makes of ARGS."""
    action = Shop().actions[f"shop.{name}"]
    assert isinstance(action, HttpAction)
    return action.build_request(args, "pe-1")


def test_query_of_a_path_that_has_one() -> None:
    """The fields of a GET come after the query that is written down; lists and booleans are written as JSON (case 10)."""
    asked = request_of("search", Search(shelf="a?#/b", tags=["x y", "z"], limit=5, exact=True))
    left_out = request_of("search", Search(shelf=True, tags=["x"]))

    assert "/shelves/a%3F%23%2Fb/items?status=open&tags=x%20y&tags=z&limit=5&exact=true" == asked.path
    assert "/shelves/true/items?status=open&tags=x&exact=false" == left_out.path


def test_body_of_a_delete() -> None:
    """A body that is declared is sent, whatever the method."""
    assert ("/items?why=5", {"n": 5}) == ((asked := request_of("drop", Pay(amount=5))).path, asked.body)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (Search(shelf=None, tags=["a"]), "shelf is null"),
        (Search(shelf="..", tags=["a"]), "would change the address"),
        (Search(shelf="a", tags=[]), "tags is an empty list"),
        (Search(shelf="a\ud83d", tags=["a"]), "half a character"),
        (Search(shelf="a", tags=["\ud83d"]), "half a character"),
    ],
)
async def test_values_that_an_address_cannot_hold(server: Server, shop: Shop, args: Search, said: str) -> None:
    """What nobody can write is refused before anything is sent (case 02)."""
    with pytest.raises(EffectRejected, match=f"{said}.*nothing was sent"):
        await shop.execute(shop.actions["shop.search"], args, ATTEMPT)

    assert [] == server.heads


class Nested(Frozen):
    """What an address cannot hold."""

    one: Pay


class Listed(Frozen):
    """The same in a list."""

    many: list[Pay] | None = None


class Deep(Frozen):
    """A list in a list."""

    rows: list[list[int]]


class Path(Frozen):
    """A list where one text belongs."""

    ids: list[str]


Declare = Callable[[], object]


@pytest.mark.parametrize(
    ("declare", "said"),
    [
        (lambda: HttpAction("x.y", Pay, Paid, request="GET /a#b", reads=True), "has a `#`"),
        (lambda: HttpAction("x.y", Pay, Paid, request="POST /a/../b"), "segment `.` or `..`"),
        (lambda: HttpAction("x.y", Pay, Paid, request="POST /a", probe="GET /b#c?r={key}"), "has a `#`"),
        (lambda: Listing("GET /a#b"), "has a `#`"),
        (lambda: HttpAction("x.y", Nested, Paid, request="GET /a", reads=True), "one can be object"),
        (lambda: HttpAction("x.y", Listed, Paid, request="DELETE /a"), "many can be object"),
        (lambda: HttpAction("x.y", Deep, Paid, request="GET /a", reads=True), "rows can be list in a list"),
        (lambda: HttpAction("x.y", Path, Paid, request="POST /a/{ids}"), "ids can be array"),
        (lambda: HttpAction("x.y", Pay, Paid, request="GET /a", reads=True, body=lambda _: {}), "a GET has no body"),
        (lambda: HttpAction("x.y", Pay, Paid, request="POST /a", content_type="text/csv"), "is neither JSON nor"),
        (
            lambda: HttpAction("x.y", Pay, Paid, request="DELETE /a", key="ref", probe="GET /a?ref={key}", target=NATURAL),
            "has no body that the key could go into",
        ),
    ],
)
def test_declarations_that_cannot_be_sent(declare: Declare, said: str) -> None:
    """What could not be sent as it is written is refused when its module is imported (cases 02, 10)."""
    with pytest.raises(ValueError, match=said):
        declare()


async def test_what_goes_over_the_wire(server: Server, shop: Shop) -> None:
    """The address, media type and content are those that are declared (cases 01, 21)."""
    server.answers = [reply(200, {"amount": 1})] * 3
    for name, args in (
        ("merge", Pay(amount=5)),
        ("hook", Pay(amount=5)),
        ("form", Search(shelf="s", tags=["ü", "b c"], exact=True)),
    ):
        await shop.execute(shop.actions[f"shop.{name}"], args, ATTEMPT)

    assert ["PATCH /api/items?v=1", "PUT /api?v=1", "POST /api/forms/s?v=1"] == [
        head.splitlines()[0].removesuffix(" HTTP/1.1") for head in server.heads
    ]
    assert ["application/merge-patch+json", "application/json", "application/x-www-form-urlencoded"] == [
        line.partition(": ")[2] for head in server.heads for line in head.splitlines() if line.startswith("Content-Type")
    ]
    assert [{"amount": 5}, {"amount": 5}, "tags=%C3%BC&tags=b+c&exact=true"] == server.bodies


async def test_probe_without_what_is_not_given(server: Server, shop: Shop) -> None:
    """What is None is left out of a probe's query; what cannot be written makes it tell nothing."""
    server.answers = [reply(200, [])]

    await shop.probe(shop.actions["shop.pay"], Search(shelf="a&b"), ATTEMPT)
    cannot = await shop.probe(shop.actions["shop.pay"], Search(shelf="\ud83d"), ATTEMPT)

    assert server.heads[0].startswith("GET /api/paid?v=1&ref=pe-1&shelf=a%26b HTTP")
    assert isinstance(cannot, CannotTell)
    assert 1 == len(server.heads)


# What was not sent


@pytest.mark.parametrize(
    "options",
    [{"token": "abc\n"}, {"token": "ä"}, {"header.X-Key": " a"}, {"header.X-Key": "a\r\nb: c"}, {"header.X-Key": "a\x00"}],
)
async def test_secret_that_no_header_can_have(server: Server, options: dict[str, str]) -> None:
    """A secret with the line end of its file is no lost answer: nothing was sent, and it is not in the message."""
    shop = Shop().with_options({"url": server.url, **options})

    with pytest.raises(TargetUnavailable, match="nothing was sent") as unsent:
        await shop.execute(shop.actions["shop.merge"], Pay(amount=5), ATTEMPT)
    await shop.close()

    assert [] == server.heads
    assert "abc" not in unsent.value.message


async def test_function_that_breaks(server: Server, shop: Shop) -> None:
    """What an action's own function raises is raised before anything is sent, so it is not a lost answer."""
    with pytest.raises(TargetUnavailable, match=r"cannot be built \(KeyError\), nothing was sent"):
        await shop.execute(shop.actions["shop.broken"], Pay(amount=5), ATTEMPT)

    assert [] == server.heads


async def test_host_that_takes_no_connection() -> None:
    """A connection that never comes about is given up before the ledger's own deadline, which would park it."""
    # A listener whose queue is full takes no more connections, and says nothing.
    full = socket.create_server(("127.0.0.1", 0), backlog=0)
    port = full.getsockname()[1]
    waiting = [socket.socket() for _ in range(4)]
    for each in waiting:
        each.setblocking(False)
        each.connect_ex(("127.0.0.1", port))
    shop = Shop().with_options({"url": f"http://127.0.0.1:{port}"})
    attempt = Attempt(key="pe-1", fence=1, deadline=timedelta(seconds=1))

    with pytest.raises(TargetUnavailable, match="cannot be reached"):
        async with asyncio.timeout(1):
            await shop.execute(shop.actions["shop.merge"], Pay(amount=5), attempt)
    await shop.close()
    for each in (full, *waiting):
        each.close()


# Pages


Pages = Literal["Link", "next"]


@pytest.mark.parametrize(
    ("link", "path"),
    [
        ("/api/items?page=2", "/api/items?v=1&page=2&key=k"),
        ("?page=2", "/api/items?v=1&page=2&key=k"),
        ("items?page=2&key=k&v=1", "/api/items?v=1&page=2&key=k"),
        ("{url}/api/items?page=2", "/api/items?v=1&page=2&key=k"),
    ],
)
@pytest.mark.parametrize("where", ["Link", "next"])
async def test_next_page(server: Server, link: str, path: str, where: Pages) -> None:
    """A link leads from the page that has it, wherever it is written, and repeats no parameter (case 01)."""

    class Items(HttpConnector):
        add = HttpAction(
            "items.add", Pay, Paid, request="POST /items", listing=Listing("GET /items", items="data", next=where)
        )

    link = link.format(url=server.url)
    header = f'</first>; rel="first"; title="a, b", <{link}>; rel="prev-ish next"; title="x"'
    page: JsonValue = {"data": [{"id": 1, "amount": 1}], "next": link}
    server.answers = [reply(200, page, Link=header), reply(200, {"data": []})]
    items = Items().with_options({"url": f"{server.url}/api?v=1", "query.key": "k"})
    now = datetime.now(UTC)

    listed = [each.remote_ref async for each in items.listing(now - timedelta(days=1), now)]
    await items.close()

    assert ["1"] == listed
    assert ["/api/items?v=1&key=k", path] == [head.split()[1] for head in server.heads]


@pytest.mark.parametrize("link", ["https://elsewhere.example/api/items", "/other/items", "/apis/items"])
async def test_next_page_that_is_elsewhere(server: Server, link: str) -> None:
    """A link out of the connector's url is refused: our credentials do not go there."""

    class Items(HttpConnector):
        add = HttpAction(
            "items.add", Pay, Paid, request="POST /items", listing=Listing("GET /items", items="data", next="next")
        )

    server.answers = [reply(200, {"data": [], "next": link})]
    items = Items().with_options({"url": f"{server.url}/api"})
    with pytest.raises(EffectRejected, match=r"next page is (on another host|outside of the connector's url)"):
        [each async for each in items.listing(datetime.now(UTC), datetime.now(UTC))]
    await items.close()

    assert 1 == len(server.heads)


# What comes back


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b'{"amount": 5, "note": "cut \\ud83d"}', {}),
        ('{"amount": 5, "note": "ü"}'.encode("latin-1"), {"Content_Type": "application/json; charset=ISO-8859-1"}),
        ('\ufeff{"amount": 5}'.encode(), {}),
    ],
)
async def test_json_that_others_write(server: Server, shop: Shop, content: bytes, headers: dict[str, str]) -> None:
    """Half a character, another charset and a byte order mark are read, not taken for a lost answer."""
    server.answers = [reply(200, content, **headers)]

    done = await shop.execute(shop.actions["shop.merge"], Pay(amount=5), ATTEMPT)

    assert Paid(amount=5) == done.output

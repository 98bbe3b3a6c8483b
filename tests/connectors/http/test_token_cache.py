"""Tests of access tokens that many workers share: exactly one gets the next."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest
import sqlalchemy as sa
from kits.connectors import persist, step

from perdure.connectors import (
    EffectCall,
    HttpAction,
    HttpConnector,
    Target,
)
from perdure.connectors.http.tables import AccessTokenRow
from perdure.connectors.ledger import Ledger
from perdure.errors import EffectRejected, InvalidSettings, TargetUnavailable
from perdure.lineage import Frozen
from perdure.storage import Database, now

Opened = Callable[..., Ledger]

WORKERS = Path(__file__).parents[2] / "processes" / "token_workers.py"


class Nothing(Frozen):
    """Nothing to say."""


class Read(HttpConnector):
    """A target that wants a token."""

    look = HttpAction("guarded.look", Nothing, Nothing, request="GET /", reads=True)


@dataclass
class Guarded:
    """An authorization server whose refresh tokens serve once, and a target that takes its access tokens."""

    url: str = ""
    refresh_token: str = "r-0"
    access_token: str = ""
    slow: float = 0.0
    """How many seconds it takes to answer with new tokens."""
    answers: list[int] = field(default_factory=list)
    """Statuses with which it answers next instead of giving tokens."""
    refreshes: int = 0
    reused: int = 0
    """How often a refresh token came a second time. A strict server ends the authorization then."""
    lifetime: int = 3600
    asked: list[dict[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def give(self, form: dict[str, str], authorization: str) -> tuple[int, dict[str, object]]:
        """Answer the request FORM for tokens."""
        with self.lock:
            self.asked.append({**form, "authorization": authorization})
            if self.answers:
                return self.answers.pop(0), {"error": "temporarily_unavailable"}
            if form["grant_type"] == "refresh_token":
                if form["refresh_token"] != self.refresh_token:
                    self.reused += 1
                    return 400, {"error": "invalid_grant", "error_description": "token-r-0-was-used"}
                self.refresh_token = f"r-{self.refreshes + 1}"
            self.refreshes += 1
            self.access_token = f"a-{self.refreshes}"
        time.sleep(self.slow)
        given: dict[str, object] = {"access_token": self.access_token, "expires_in": self.lifetime, "token_type": "Bearer"}
        if form["grant_type"] == "refresh_token":
            given["refresh_token"] = self.refresh_token
        return 200, given


@pytest.fixture
def guarded() -> Iterator[Guarded]:
    """The two servers, listening at one address."""
    guarded = Guarded()

    class Conversation(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"])).decode()
            form = {name: values[0] for name, values in parse_qs(content).items()}
            self._answer(*guarded.give(form, self.headers.get("Authorization", "")))

        def do_GET(self) -> None:
            good = self.headers.get("Authorization") == f"Bearer {guarded.access_token}"
            self._answer(200 if good else 401, {})

        def _answer(self, status: int, body: dict[str, object]) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the library's name
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 256
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Conversation)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    guarded.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield guarded
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
async def opened(guarded: Guarded, sqlite_database: Database) -> AsyncIterator[Opened]:
    """Makes a ledger before the target, as another process has it."""
    made: list[HttpConnector] = []

    def open_ledger(connector: HttpConnector | None = None, **options: str) -> Ledger:
        given = {"client_id": "desk", "client_secret": "hush", "refresh_token": "r-0", "scope": "refunds", **options}
        addresses = {"url": guarded.url, "token_url": f"{guarded.url}/token"}
        made.append((connector or Read()).with_options({**addresses, **given}))
        made[-1].share(sqlite_database)
        return Ledger(sqlite_database, {"guarded": made[-1]})

    yield open_ledger
    for each in made:
        await each.close()


async def test_hundred_workers_refresh_once(guarded: Guarded, database: Database) -> None:
    """A hundred workers in four processes, which need a token at once, use a single-use refresh token once."""
    guarded.slow = 0.5
    given = json.dumps({"database": database.url, "url": guarded.url, "workers": 25})
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, WORKERS, given, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(4)
    ]
    outputs = [(await process.communicate())[0] for process in processes]
    done = [json.loads(output)["done"] for output in outputs]

    assert ([25] * 4, 1, 0) == (done, guarded.refreshes, guarded.reused)


async def test_again_when_it_ends(guarded: Guarded, opened: Opened) -> None:
    """When a token's time is over, the next is got with the refresh token that came with it."""
    guarded.lifetime = 0
    ledger = opened()
    await ledger.perform(_look())
    guarded.lifetime = 3600
    await ledger.perform(_look())
    await ledger.perform(_look())

    assert (["r-0", "r-1"], 0) == ([each["refresh_token"] for each in guarded.asked], guarded.reused)


async def test_client_acts_for_itself(guarded: Guarded, opened: Opened) -> None:
    """Without a refresh token the client asks for itself, by its id and secret in the header or in the body."""
    await opened(refresh_token="").perform(_look())
    asked = guarded.asked[0]

    assert ("client_credentials", "refunds") == (asked["grant_type"], asked["scope"])
    assert "Basic " + base64.b64encode(b"desk:hush").decode() == asked["authorization"]


async def test_secret_in_the_body(guarded: Guarded, opened: Opened) -> None:
    """Some servers want the client's secret in the body."""
    await opened(client_auth="body").perform(_look())
    asked = guarded.asked[0]

    assert ("desk", "hush", "") == (asked["client_id"], asked["client_secret"], asked["authorization"])


async def test_revoked_token(guarded: Guarded, sqlite_database: Database, opened: Opened) -> None:
    """When the target refuses a token that should still be good, another one is got, and the step goes on."""
    ledger = opened()
    await ledger.perform(_look())
    guarded.access_token = "another"
    await _grow_old(sqlite_database)

    with pytest.raises(TargetUnavailable, match="so the next attempt uses a new access token"):
        await ledger.perform(_look())
    await ledger.perform(_look())

    assert 2 == guarded.refreshes


async def test_fresh_token_that_is_refused(guarded: Guarded, opened: Opened) -> None:
    """A target that refuses a brand-new token says no: no others are got in a circle."""
    ledger = opened()
    await ledger.perform(_look())
    guarded.access_token = "another"

    with pytest.raises(EffectRejected, match="401"):
        await ledger.perform(_look())

    assert 1 == guarded.refreshes


async def test_server_that_fails_is_asked_again(guarded: Guarded, opened: Opened) -> None:
    """While the authorization server fails, nothing is sent to the target, and it is asked again."""
    guarded.answers = [500, 503]
    ledger = opened()
    with pytest.raises(TargetUnavailable, match="the authorization server answered 500"):
        await ledger.perform(_look())
    await persist(lambda: ledger.perform(_look()))

    assert 3 == len(guarded.asked)


async def test_authorization_that_is_over(guarded: Guarded, opened: Opened) -> None:
    """When the server refuses the refresh token the workers stop asking, until the settings have another one."""
    guarded.refresh_token = "r-7"
    ledger = opened()
    with pytest.raises(TargetUnavailable, match=r"invalid_grant\. Authorize again") as over:
        await ledger.perform(_look())
    for _ in range(3):
        with pytest.raises(TargetUnavailable, match="Authorize again"):
            await ledger.perform(_look())
    await opened(refresh_token="r-7").perform(_look())

    assert "was-used" not in over.value.message
    assert ["r-0", "r-7"] == [each["refresh_token"] for each in guarded.asked]


async def test_who_stops_waiting_does_not_lose_the_answer(guarded: Guarded, opened: Opened) -> None:
    """The first worker gives up before the answer comes, and the refresh token in it is kept all the same."""
    guarded.slow = 1.0
    ledger = opened(connector=_with_deadline(timedelta(seconds=0.4)))
    with pytest.raises(TargetUnavailable, match="no access token yet"):
        await ledger.perform(_look())
    await persist(lambda: ledger.perform(_look()), most=100)

    assert (1, 0) == (guarded.refreshes, guarded.reused)


async def test_nothing_in_clear_in_the_database(guarded: Guarded, sqlite_database: Database, opened: Opened) -> None:
    """What is kept can be read with the secret alone."""
    await opened().perform(_look())
    async with sqlite_database.read() as connection:
        (row,) = (await connection.execute(sa.text("SELECT * FROM access_token"))).mappings()

    assert not {"a-1", "r-1"} & {str(value) for value in row.values()}
    assert b"a-1" not in base64.b64decode(row["sealed"])


async def test_another_secret_begins_anew(guarded: Guarded, opened: Opened) -> None:
    """Tokens that were kept under another secret are of no use, and the refresh token of the settings is."""
    await opened().perform(_look())
    guarded.refresh_token = "r-0"
    await opened(seal="another").perform(_look())

    assert 2 == guarded.refreshes


def test_public_client_needs_a_seal(guarded: Guarded, opened: Opened) -> None:
    """Without any secret the tokens could not be kept."""
    with pytest.raises(InvalidSettings, match="so it needs seal"):
        opened(client_secret="")


def _look() -> EffectCall:
    return EffectCall(step=step("look"), action="guarded.look", args={})


def _with_deadline(deadline: timedelta) -> HttpConnector:
    class Hasty(HttpConnector):
        look = HttpAction("guarded.look", Nothing, Nothing, request="GET /", reads=True, target=Target(deadline=deadline))

    return Hasty()


async def _grow_old(database: Database) -> None:
    async with database.write() as connection:
        row = sa.update(AccessTokenRow).values(obtained_at=now() - timedelta(minutes=5))
        await connection.execute(row)

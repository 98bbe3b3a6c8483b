"""Tests of outgoing webhooks against a receiver that checks the signature and may drop repeats."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from kits.connectors import Server, call, key_of, persist, reply
from pydantic import JsonValue

from perdure.connectors import Attempt, EffectCall, Target
from perdure.connectors.ledger import Ledger
from perdure.connectors.testing import Case, HttpFaultProxy, check
from perdure.connectors.webhook import (
    Event,
    WebhookConnector,
    signature,
    verify,
)
from perdure.errors import (
    EffectParked,
    EffectRejected,
    InvalidInput,
    InvalidSettings,
    TargetUnavailable,
)
from perdure.storage import Database

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
OLD = "whsec_" + base64.b64encode(b"o" * 32).decode()
AT = datetime(2026, 11, 23, 12, tzinfo=UTC)
ATTEMPT = Attempt(key="pe-1", fence=1, deadline=timedelta(seconds=5))


@dataclass
class Receiver:
    """Takes webhooks that are signed with its secret, each id once."""

    url: str = ""
    secret: str = SECRET
    answers: list[int] = field(default_factory=list)
    """The statuses of the next answers; 204 when there are none left."""
    deliveries: list[str] = field(default_factory=list)
    taken: dict[str, dict[str, JsonValue]] = field(default_factory=dict)

    def take(self, headers: dict[str, str], content: bytes) -> int:
        """Take a delivery, and return the status of the answer."""
        id = verify(self.secret, headers, content)
        self.deliveries.append(id)
        status = self.answers.pop(0) if self.answers else 204
        if status < 400:
            self.taken.setdefault(id, json.loads(content))
        return status


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver, listening."""
    receiver = Receiver()

    class Conversation(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(receiver.take({name.lower(): value for name, value in self.headers.items()}, content))
            self.send_header("Retry-After", "7")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the library's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Conversation)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield receiver
    server.shutdown()
    server.server_close()
    thread.join()


def test_signature_is_the_standards() -> None:
    """The signature is that of the specification's own example."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    content = b'{"test": 2432232314}'

    assert "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" == signature(
        secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", content
    )


async def test_delivers_a_signed_event(receiver: Receiver, sqlite_database: Database) -> None:
    """The receiver takes the event, and its id is the effect's key."""
    webhook = WebhookConnector().with_options({"url": receiver.url, "secret": SECRET})
    await Ledger(sqlite_database, {"webhook": webhook}).perform(_event())
    await webhook.close()

    assert {
        key_of(_event()): {"type": "invoice.paid", "timestamp": "2026-11-23T12:00:00+00:00", "data": {"invoice": 1}}
    } == receiver.taken


@pytest.mark.parametrize(
    "path", ["/hooks", "/hooks/", "/hooks?token=abc", "/hooks?", "/services/T1/B2/xyz", "/", "/a%2Fb?x=%20&y", ""]
)
async def test_posts_to_the_letter_of_its_url(server: Server, sqlite_database: Database, path: str) -> None:
    """An event goes exactly to the address in the settings, query included; nothing is added to it (case 01)."""
    server.answers = [reply(204)]
    webhook = WebhookConnector().with_options({"url": server.url + path, "secret": SECRET})
    await Ledger(sqlite_database, {"webhook": webhook}).perform(_event())
    await webhook.close()

    assert f"POST {path or '/'} HTTP/1.1" == server.heads[0].splitlines()[0]


async def test_a_receiver_that_has_moved(server: Server, sqlite_database: Database) -> None:
    """To be sent elsewhere with the same method is a refusal that says what to change, and nothing is parked (case 01)."""
    server.answers = [reply(308, Location="/hooks/T1?token=abc")]
    webhook = WebhookConnector().with_options({"url": f"{server.url}/hooks/T1/?token=abc", "secret": SECRET})

    with pytest.raises(EffectRejected, match="without the slash at its end: check the connector's url") as refused:
        await Ledger(sqlite_database, {"webhook": webhook}).perform(_event())
    await webhook.close()

    assert "abc" not in refused.value.message


async def test_an_event_that_cannot_be_written(server: Server, sqlite_database: Database) -> None:
    """Half a character is refused before anything is sent, and is not parked."""
    webhook = WebhookConnector().with_options({"url": server.url, "secret": SECRET})
    event = call("webhook.send", type="x", data="cut \ud83d", at=AT.isoformat())
    action = webhook.actions["webhook.send"]

    with pytest.raises(EffectRejected, match="half a character"):
        await webhook.execute(action, action.input.model_validate(event.args), ATTEMPT)
    await webhook.close()

    assert [] == server.heads


async def test_signs_with_the_old_secret_too(receiver: Receiver, sqlite_database: Database) -> None:
    """While the secret is being replaced, a receiver that still has the old one takes it."""
    receiver.secret = OLD
    webhook = WebhookConnector().with_options({"url": receiver.url, "secret": SECRET, "old_secret": OLD})
    await Ledger(sqlite_database, {"webhook": webhook}).perform(_event())
    await webhook.close()

    assert 1 == len(receiver.taken)


async def test_is_told_when_to_come_back(receiver: Receiver, sqlite_database: Database) -> None:
    """A 429 says when to try again, and it is tried again under the same id."""
    receiver.answers = [429]
    webhook = WebhookConnector().with_options({"url": receiver.url, "secret": SECRET})
    ledger = Ledger(sqlite_database, {"webhook": webhook})
    with pytest.raises(TargetUnavailable) as busy:
        await ledger.perform(_event())
    await ledger.perform(_event())
    await webhook.close()

    assert timedelta(seconds=7) == busy.value.retry_after
    assert [key_of(_event())] * 2 == receiver.deliveries


async def test_without_dedupe_a_lost_answer_is_parked(receiver: Receiver, sqlite_database: Database) -> None:
    """To a receiver of which nobody said that it drops repeats, nothing is repeated."""
    receiver.answers = [500]
    webhook = WebhookConnector().with_options({"url": receiver.url, "secret": SECRET})
    with pytest.raises(EffectParked):
        await Ledger(sqlite_database, {"webhook": webhook}).perform(_event())
    await webhook.close()

    assert 1 == len(receiver.deliveries)


async def test_with_dedupe_it_is_repeated(receiver: Receiver, sqlite_database: Database) -> None:
    """A receiver that drops repeats gets the same id again."""
    receiver.answers = [500, 503]
    webhook = WebhookConnector(dedupes=True).with_options({"url": receiver.url, "secret": SECRET})
    ledger = Ledger(sqlite_database, {"webhook": webhook})
    await persist(lambda: ledger.perform(_event()))
    await webhook.close()

    assert [key_of(_event())] * 3 == receiver.deliveries
    assert 1 == len(receiver.taken)


async def test_every_fault(receiver: Receiver) -> None:
    """Under every fault an event is taken once."""

    async def taken(args: Event) -> int:
        return sum(event["data"] == args.data for event in receiver.taken.values())

    async with HttpFaultProxy(receiver.url) as proxy:
        webhook = WebhookConnector(dedupes=True).with_options({"url": proxy.url, "secret": SECRET})
        matrix = await check(
            Case(
                connector=webhook,
                action=webhook.send,
                args=lambda number: Event(type="invoice.paid", data={"invoice": number}, at=AT),
                count=taken,
                proxy=proxy,
                target=Target(mechanism="header", settle=timedelta(seconds=0.1), deadline=timedelta(seconds=1)),
                operations=2,
            )
        )
        await webhook.close()

    assert [] == matrix.problems
    assert 0 < matrix.total().naive.duplicates


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"webhook-signature": "v1,AAAA"}, "does not match"),
        ({"webhook-id": "another"}, "does not match"),
        ({"webhook-timestamp": "12"}, "too long ago"),
        ({"webhook-timestamp": "soon"}, "no valid"),
    ],
)
def test_verify_refuses(change: dict[str, str], said: str) -> None:
    """A webhook whose signature, id or time is not right is refused."""
    timestamp = str(int(datetime.now(UTC).timestamp()))
    headers = {
        "webhook-id": "a",
        "webhook-timestamp": timestamp,
        "webhook-signature": signature(SECRET, "a", timestamp, b"{}"),
    }

    assert "a" == verify(SECRET, headers, b"{}")
    with pytest.raises(InvalidInput, match=said):
        verify(SECRET, {**headers, **change}, b"{}")


@pytest.mark.parametrize("secret", ["", "whsec_short", "whsec_" + base64.b64encode(b"k").decode()])
def test_secret_that_is_none(secret: str) -> None:
    """A secret that is missing, not base64 or too short is found at the start."""
    with pytest.raises(InvalidSettings, match="secret"):
        WebhookConnector().with_options({"url": "http://x", "secret": secret})


def _event() -> EffectCall:
    return call("webhook.send", type="invoice.paid", data={"invoice": 1}, at=AT.isoformat())

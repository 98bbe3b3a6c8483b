"""Tests of connectors/events/_inbound.py."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping

import httpx
import pytest

from perdure.connectors.events import (
    Asgi,
    BodySignature,
    Stream,
    StripeSignature,
    receiver,
)
from perdure.errors import InvalidSettings
from perdure.storage import Database

SECRET = "a made-up secret"


def signed(content: bytes, secret: str = SECRET) -> bytes:
    """Return the HMAC-SHA256 of CONTENT."""
    return hmac.new(secret.encode(), content, hashlib.sha256).digest()


def standard(body: bytes, *, id: str = "msg_1", at: float | None = None, secret: str = SECRET) -> dict[str, str]:
    """Return the headers of a standard webhook."""
    sent = str(int(time.time() if at is None else at))
    signature = base64.b64encode(signed(f"{id}.{sent}.".encode() + body, secret)).decode()
    # The other signatures are what a sender adds that changes its secret or its scheme.
    return {"webhook-id": id, "webhook-timestamp": sent, "webhook-signature": f"v2,x v1,eA== v1,{signature}"}


async def post(app: Asgi, body: bytes, headers: Mapping[str, str], *, method: str = "POST") -> int:
    """Send BODY to APP and return the status."""
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        sent = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        return (await client.request(method, "/hook", content=body, headers=sent)).status_code


async def test_a_webhook_is_taken_once(database: Database) -> None:
    """A signed webhook is in the stream once, however often it comes, under its sender's id and with its type."""
    stream = Stream(database)
    app = receiver(stream, source="shop", secret=SECRET)
    body = json.dumps({"type": "refund.paid", "amount": 5}).encode()

    answers = [await post(app, body, standard(body)) for _ in range(3)]

    [event] = await stream.events()
    assert [202, 200, 200] == answers
    assert ("inbound:shop:msg_1", "inbound.refund.paid", "shop", {"type": "refund.paid", "amount": 5}) == (
        event.id,
        event.type,
        event.source,
        event.data,
    )


async def test_another_content_under_the_same_id(sqlite_database: Database) -> None:
    """An id that is there with another content is refused; what was there stays."""
    stream = Stream(sqlite_database)
    app = receiver(stream, source="shop", secret=SECRET)
    await post(app, b'{"n": 1}', standard(b'{"n": 1}'))

    assert 409 == await post(app, b'{"n": 2}', standard(b'{"n": 2}'))
    assert [{"n": 1}] == [event.data for event in await stream.events()]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b'{"n": 1}', lambda _: {}, 401),
        (b'{"n": 1}', lambda _: standard(b'{"n": 2}'), 401),
        (b'{"n": 1}', lambda body: standard(body, secret="another"), 401),
        (b'{"n": 1}', lambda body: standard(body, at=time.time() - 3600), 401),
        (b'{"n": 1}', lambda body: standard(body, at=time.time() + 3600), 401),
        (b'{"n": 1}', lambda body: {**standard(body), "webhook-id": "msg_2"}, 401),
        (b'{"n": 1}', lambda body: {**standard(body), "webhook-timestamp": "soon"}, 401),
        (b'{"n": 1}', lambda body: {**standard(body), "webhook-signature": "v1,\xe9"}, 401),
        (b"no json", standard, 400),
        (b"x" * 2000, standard, 413),
    ],
    ids=["unsigned", "body", "secret", "old", "early", "id", "time", "not ascii", "no json", "too long"],
)
async def test_what_is_refused(
    sqlite_database: Database, body: bytes, headers: Callable[[bytes], dict[str, str]], status: int
) -> None:
    """A signature that is missing, wrong, old, of another body, id or secret is refused, and so is what cannot be read."""
    stream = Stream(sqlite_database)
    app = receiver(stream, source="shop", secret=SECRET, limit=1000)

    assert status == await post(app, body, headers(body))
    assert [] == list(await stream.events())


async def test_only_post(sqlite_database: Database) -> None:
    """A scanner's GET does nothing."""
    assert 405 == await post(receiver(Stream(sqlite_database), source="s", secret=SECRET), b"", {}, method="GET")


async def test_stripe(sqlite_database: Database) -> None:
    """Stripe's signature counts, and the event's id is the body's."""
    stream = Stream(sqlite_database)
    app = receiver(stream, source="stripe", secret=SECRET, scheme=StripeSignature())
    body = b'{"id": "evt_1", "type": "charge.refunded"}'
    sent = str(int(time.time()))
    right = {"Stripe-Signature": f"t={sent},v0=aa,v1={signed(sent.encode() + b'.' + body).hex()}"}

    assert [202, 200] == [await post(app, body, right), await post(app, body, right)]
    assert 401 == await post(app, body, {"Stripe-Signature": f"t={sent},v1={signed(body).hex()}"})
    assert ["inbound:stripe:evt_1"] == [event.id for event in await stream.events()]


async def test_a_signature_of_the_body_only(sqlite_database: Database) -> None:
    """Where only the body is signed, the same body is the same event, whatever unsigned id comes with it."""
    stream = Stream(sqlite_database)
    app = receiver(stream, source="github", secret=SECRET, scheme=BodySignature(), type="action")
    body = b'{"action": "opened"}'
    headers = {"X-Hub-Signature-256": f"sha256={signed(body).hex()}"}

    first = await post(app, body, {**headers, "X-GitHub-Delivery": "1"})
    replayed = await post(app, body, {**headers, "X-GitHub-Delivery": "2"})

    assert [202, 200] == [first, replayed]
    assert 401 == await post(app, body, {"X-Hub-Signature-256": signed(body).hex()})


async def test_a_secret_from_the_environment(sqlite_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The secret is read where it is, and a receiver without one does not start."""
    stream = Stream(sqlite_database)
    with pytest.raises(InvalidSettings, match="HOOK_SECRET is not set"):
        receiver(stream, source="shop", secret="env:HOOK_SECRET")
    with pytest.raises(InvalidSettings, match="it is empty"):
        receiver(stream, source="shop", secret="")
    encoded = "whsec_" + base64.b64encode(SECRET.encode()).decode()
    monkeypatch.setenv("HOOK_SECRET", encoded)

    assert 202 == await post(receiver(stream, source="shop", secret="env:HOOK_SECRET"), b"{}", standard(b"{}"))


async def test_the_topic_is_in_a_header(database: Database) -> None:
    """GitHub, Shopify and others say in a header what an event is about: it is the event's type (case 26)."""
    stream = Stream(database)
    app = receiver(stream, source="github", secret=SECRET, scheme=BodySignature(), type_header="X-GitHub-Event")
    body = b'{"action": "opened"}'
    headers = {"X-Hub-Signature-256": f"sha256={signed(body).hex()}"}

    with_topic = await post(app, body, {**headers, "x-github-event": "issues"})
    other = b'{"action": "closed", "type": "by the body"}'
    without = await post(app, other, {"X-Hub-Signature-256": f"sha256={signed(other).hex()}"})

    assert [202, 202] == [with_topic, without]
    assert ["inbound.issues", "inbound.by_the_body"] == [event.type for event in await stream.events()]


async def test_a_later_state_of_a_thing_is_another_event(database: Database) -> None:
    """Where a scheme has no event id, the body's `id` is the thing's: each state of it is taken, each once (case 26)."""
    stream = Stream(database)
    app = receiver(stream, source="mollie", secret=SECRET, scheme=BodySignature())
    bodies = [b'{"id": "tr_1", "status": "open"}', b'{"id": "tr_1", "status": "paid"}']

    answers = [
        await post(app, body, {"X-Hub-Signature-256": f"sha256={signed(body).hex()}"}) for body in [*bodies, *bodies]
    ]

    assert [202, 202, 200, 200] == answers
    assert ["open", "paid"] == [event.data["status"] for event in await stream.events()]


async def test_half_a_character_is_taken(database: Database) -> None:
    """A rightly signed body with half an emoji is taken, with U+FFFD in its place, and answered once (case 16)."""
    stream = Stream(database)
    app = receiver(stream, source="shop", secret=SECRET, scheme=BodySignature(), id="id")
    body = rb'{"id": "n1 \ud83d\u0000", "type": "x", "text": "cut \ud83d", "\udc00": ["\ude00"]}'
    headers = {"X-Hub-Signature-256": f"sha256={signed(body).hex()}"}

    assert [202, 200] == [await post(app, body, headers), await post(app, body, headers)]

    [event] = await stream.events()
    assert ("cut \ufffd", ["\ufffd"]) == (event.data["text"], event.data["\ufffd"])
    assert "inbound:shop:n1 \ufffd" == event.id

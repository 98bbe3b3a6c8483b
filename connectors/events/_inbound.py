"""What others send us: webhooks, verified and taken into the stream of events once each.

`receiver` is an ASGI application without a framework: mount it wherever the process that faces the world runs.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol

import structlog
from pydantic import JsonValue

from perdure.connectors.events.contracts import NewEvent
from perdure.connectors.events.stream import Stream
from perdure.connectors.wire import storable_text, with_whole_characters
from perdure.errors import InvalidSettings
from perdure.storage import now

log = structlog.get_logger(__name__)

Message = MutableMapping[str, object]
Asgi = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]

_TOLERANCE = timedelta(minutes=5)


@dataclass(frozen=True)
class VerifiedRequest:
    """What a scheme knows of a request whose signature is right."""

    id: str = ""
    """The sender's id of the event; empty if the scheme has none."""
    at: datetime | None = None


class Scheme(Protocol):
    """How a sender signs.

    A scheme may have an attribute `event_id`, the body's field with the event's id. Without one the body's hash is its id.
    """

    def verify(self, headers: Mapping[str, str], body: bytes, secret: bytes) -> VerifiedRequest | None:
        """Return what is known if the signature in HEADERS (lower case) is that of BODY under SECRET, else None."""
        ...


class StandardWebhooks:
    """The scheme of https://www.standardwebhooks.com: `webhook-id`, `webhook-timestamp`, `webhook-signature`."""

    def __init__(self, *, tolerance: timedelta = _TOLERANCE) -> None:
        self._tolerance = tolerance

    def verify(self, headers: Mapping[str, str], body: bytes, secret: bytes) -> VerifiedRequest | None:
        """See `Scheme.verify`. A secret that begins with `whsec_` is base64 after that."""
        id, sent = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
        at = _parse_recent(sent, self._tolerance)
        if not id or at is None:
            return None
        if secret.startswith(b"whsec_"):
            secret = base64.b64decode(secret.removeprefix(b"whsec_"))
        wanted = base64.b64encode(_hmac(secret, f"{id}.{sent}.".encode() + body))
        given = [
            each.removeprefix("v1,") for each in headers.get("webhook-signature", "").split() if each.startswith("v1,")
        ]
        return VerifiedRequest(id=id, at=at) if _matches_any(given, wanted.decode()) else None


class StripeSignature:
    """The scheme of Stripe: `Stripe-Signature: t=SECONDS,v1=HEX` over `SECONDS.BODY`."""

    event_id = "id"
    """The body's field with the event's id."""

    def __init__(self, *, header: str = "stripe-signature", tolerance: timedelta = _TOLERANCE) -> None:
        self._header = header.lower()
        self._tolerance = tolerance

    def verify(self, headers: Mapping[str, str], body: bytes, secret: bytes) -> VerifiedRequest | None:
        """See `Scheme.verify`."""
        parts = [part.partition("=") for part in headers.get(self._header, "").split(",")]
        sent = next((value for name, _, value in parts if name.strip() == "t"), "")
        at = _parse_recent(sent, self._tolerance)
        if at is None:
            return None
        given = [value for name, _, value in parts if name.strip() == "v1"]
        wanted = _hmac(secret, sent.encode() + b"." + body).hex()
        return VerifiedRequest(at=at) if _matches_any(given, wanted) else None


class BodySignature:
    """The scheme of GitHub, Shopify and many others: a header with the HMAC-SHA256 of the body, in hex or base64.

    It signs neither a time nor an id: the event's id is the body's hash, so that what somebody has overheard and sends
    again is the same event, and a later state of the same thing is another.
    """

    def __init__(
        self,
        header: str = "x-hub-signature-256",
        *,
        prefix: str = "sha256=",
        encoding: Literal["hex", "base64"] = "hex",
    ) -> None:
        self._header = header.lower()
        self._prefix = prefix
        self._encoding = encoding

    def verify(self, headers: Mapping[str, str], body: bytes, secret: bytes) -> VerifiedRequest | None:
        """See `Scheme.verify`."""
        given = headers.get(self._header, "")
        signed = _hmac(secret, body)
        wanted = signed.hex() if self._encoding == "hex" else base64.b64encode(signed).decode()
        if not given.startswith(self._prefix) or not _matches_any([given.removeprefix(self._prefix)], wanted):
            return None
        return VerifiedRequest()


def receiver(
    stream: Stream,
    *,
    source: str,
    secret: str,
    scheme: Scheme | None = None,
    id: str | None = None,
    type: str = "type",  # noqa: A002  CloudEvents calls it so
    type_header: str = "",
    limit: int = 1024 * 1024,
) -> Asgi:
    """Return an ASGI application that takes the webhooks of SOURCE into STREAM as `inbound.TYPE`.

    SECRET is what the sender signs with, or `env:VARIABLE`; SCHEME how, Standard Webhooks unless said otherwise. A scheme's
    own id of the event goes before; ID is the body's field that has it, None where the scheme says, and the body's hash if
    neither does. TYPE is the body's field with the event's type; TYPE_HEADER the header that has it, if there is one, such
    as `x-github-event`, which few schemes sign. LIMIT is in bytes. Answers 202 for a new event, 200 for one that is there
    already, 409 if it is there with another content, 401 for a wrong signature.
    """
    scheme = scheme or StandardWebhooks()
    key = _secret_reader(secret, source)

    async def app(
        scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        if scope["type"] != "http":
            raise ValueError(f"this takes HTTP, not {scope['type']}")
        status, said = await _take(scope, receive)
        body = json.dumps({"status": said}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _take(scope: Message, receive: Callable[[], Awaitable[Message]]) -> tuple[int, str]:
        if scope["method"] != "POST":
            return 405, "send it with POST"
        body = await _read_body(receive, limit)
        if body is None:
            return 413, f"more than {limit} bytes"
        headers = _parse_headers(scope)
        try:
            verified = scheme.verify(headers, body, key())
        except (binascii.Error, UnicodeError):
            verified = None
        if verified is None:
            log.warning("webhook rejected", source=source, why="the signature is wrong or old")
            return 401, "the signature is wrong or old"
        try:
            data = with_whole_characters(json.loads(body))
        except (ValueError, RecursionError):
            return 400, "the body is not JSON"
        said_type = headers.get(type_header.lower(), "") if type_header else ""
        event = _event(data if isinstance(data, dict) else {"value": data}, body, verified, said_type)
        new = await stream.append(event)
        if new:
            log.info("webhook accepted", source=source, type=event.type, id=event.id)
            return 202, "taken"
        there = await stream.find(event.id)
        if there is not None and there.data != event.data:
            log.warning("webhook rejected", source=source, id=event.id, why="another content under the same id")
            return 409, "there is another event with this id"
        return 200, "taken before"

    def _event(data: dict[str, JsonValue], body: bytes, verified: VerifiedRequest, said_type: str) -> NewEvent:
        field: str = getattr(scheme, "event_id", "") if id is None else id
        named, kind = data.get(field), said_type or data.get(type)
        given = storable_text(verified.id or (named if isinstance(named, str) else ""))
        own = given or hashlib.sha256(body).hexdigest()
        word = re.sub(r"[^\w.-]+", "_", kind) if isinstance(kind, str) and kind else "event"
        return NewEvent(
            id=f"inbound:{source}:{own}",
            type=f"inbound.{word}",
            source=source,
            subject=own,
            data=data,
            at=verified.at or now(),
        )

    return app


async def _read_body(receive: Callable[[], Awaitable[Message]], limit: int) -> bytes | None:
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        body += part if isinstance(part, bytes) else b""
        if len(body) > limit:
            return None
        if not message.get("more_body"):
            return body


def _parse_headers(scope: Message) -> dict[str, str]:
    given = scope["headers"]
    assert isinstance(given, list | tuple)
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in given}


def _secret_reader(secret: str, source: str) -> Callable[[], bytes]:
    variable = secret.removeprefix("env:") if secret.startswith("env:") else ""
    if not (os.environ.get(variable) if variable else secret):
        raise InvalidSettings(
            f"the webhooks of {source!r} need a secret: " + (f"{variable} is not set" if variable else "it is empty")
        )

    def read() -> bytes:
        # Each time, so that a new secret counts at once.
        return (os.environ[variable] if variable else secret).encode()

    return read


def _parse_recent(seconds: str, tolerance: timedelta) -> datetime | None:
    if not re.fullmatch(r"\d{1,11}", seconds, re.ASCII):
        return None
    at = datetime.fromtimestamp(int(seconds), UTC)
    return at if abs(now() - at) <= tolerance else None


def _hmac(secret: bytes, content: bytes) -> bytes:
    return hmac.new(secret, content, hashlib.sha256).digest()


def _matches_any(given: list[str], wanted: str) -> bool:
    # Every one is compared, so that the time it takes tells nothing.
    return any([hmac.compare_digest(each.encode(), wanted.encode()) for each in given])  # noqa: C419

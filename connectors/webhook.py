"""How others are told that something happened: outgoing webhooks, signed as Standard Webhooks 1.0 says."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import ClassVar

from pydantic import BaseModel, Field, JsonValue

from perdure.connectors.contracts import AnyAction, Target
from perdure.connectors.http import HttpAction, HttpConnector, Request, encode_json
from perdure.errors import InvalidInput, InvalidSettings
from perdure.lineage import Frozen

__all__ = ["Delivered", "Event", "WebhookConnector", "signature", "verify"]


class Event(Frozen):
    """What happened, e.g. `invoice.paid`. The receiver's address is in the settings: no argument can change it."""

    type: str = Field(pattern=r"^[A-Za-z0-9_.]+$")
    data: JsonValue
    at: datetime
    """When it happened: from `workflow.datetime.now(UTC)`, so that a repeat says the same."""


class Delivered(BaseModel):
    """That the receiver took it."""


class WebhookConnector(HttpConnector):
    """Posts events to one receiver. `webhook-id` is the effect's key, and stays the same when a delivery is repeated.

    DEDUPES says that the receiver drops an id that it had before, for KEY_LIFETIME: then a delivery whose answer was lost
    is repeated. Otherwise it is parked. It needs `url`, the receiver's address to the letter, and `secret` (`whsec_...`);
    while the secret is being replaced it signs with `old_secret` as well.
    """

    takes: ClassVar = {
        **HttpConnector.takes,
        "secret": "env:WEBHOOK_SECRET",
        "old_secret": "env:OLD_WEBHOOK_SECRET",
    }
    needs: ClassVar = ("url", "secret")

    def __init__(
        self, name: str = "webhook", *, dedupes: bool = False, key_lifetime: timedelta | None = timedelta(hours=24)
    ) -> None:
        self.send = HttpAction(
            f"{name}.send",
            Event,
            Delivered,
            request="POST",
            key="webhook-id",
            answer=lambda _: {},
            body=lambda event: {"type": event.type, "timestamp": event.at.isoformat(), "data": event.data},
            target=Target(
                mechanism="header" if dedupes else "none",
                key_lifetime=key_lifetime if dedupes else None,
                deadline=timedelta(seconds=20),
            ),
            risk="medium",
            describe=lambda event: f"tell {name} of {event.type}",
        )
        super().__init__(self.send)

    def _reset(self) -> None:
        super()._reset()
        for secret in self._secrets() if self.option_names else ():
            _decode_secret(secret)

    def encode_body(self, spec: AnyAction, request: Request, key: str) -> tuple[bytes | None, dict[str, str]]:
        """Return the content of REQUEST and its signed headers."""
        content = encode_json(request.body)
        timestamp = str(int(datetime.now(UTC).timestamp()))
        signed = " ".join(signature(secret, key, timestamp, content) for secret in self._secrets())
        return content, {
            "Content-Type": "application/json",
            "webhook-id": key,
            "webhook-timestamp": timestamp,
            "webhook-signature": signed,
        }

    def _secrets(self) -> list[str]:
        return [secret for name in ("secret", "old_secret") if (secret := self.option(name))]


def signature(secret: str, id: str, timestamp: str, content: bytes) -> str:
    """Return the signature of CONTENT under SECRET: `v1,` and the HMAC-SHA256 of ID, TIMESTAMP and CONTENT."""
    signed = hmac.new(_decode_secret(secret), f"{id}.{timestamp}.".encode() + content, hashlib.sha256)
    return "v1," + base64.b64encode(signed.digest()).decode()


def verify(secret: str, headers: Mapping[str, str], content: bytes, *, tolerance: timedelta = timedelta(minutes=5)) -> str:
    """Return the id of a webhook that came in with HEADERS (lower case) and CONTENT.

    Raises `InvalidInput` if it is not signed with SECRET, or was signed longer than TOLERANCE ago or ahead. The id tells
    repeats apart: who acts on webhooks keeps those that it has seen.
    """
    try:
        id, timestamp, signed = (headers[f"webhook-{name}"] for name in ("id", "timestamp", "signature"))
        age = datetime.now(UTC) - datetime.fromtimestamp(int(timestamp), UTC)
    except (KeyError, ValueError, OverflowError):
        raise InvalidInput("the webhook has no valid webhook-id, webhook-timestamp and webhook-signature headers") from None
    if abs(age) > tolerance:
        raise InvalidInput("the webhook was signed too long ago, or the clocks differ")
    right = signature(secret, id, timestamp, content)
    if not any(hmac.compare_digest(right.encode(), given.encode()) for given in signed.split(" ")):
        raise InvalidInput("the webhook's signature does not match")
    return id


def _decode_secret(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) < 24:
        raise InvalidSettings("a webhook's secret is whsec_ and the base64 of 24 to 64 random bytes")
    return key

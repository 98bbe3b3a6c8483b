"""Codecs, converters and storage such as users have, for tests of what becomes of them beside perdure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from temporalio.api.common.v1 import Payload
from temporalio.converter import (
    CompositePayloadConverter,
    EncodingPayloadConverter,
    PayloadCodec,
    StorageDriver,
    StorageDriverClaim,
    StorageDriverRetrieveContext,
    StorageDriverStoreContext,
)

_KEY = 0x5A


def garble(data: bytes) -> bytes:
    """Return DATA so that nobody reads it, or what was so."""
    return bytes(byte ^ _KEY for byte in data)


class Garbling(PayloadCodec):
    """A codec that encrypts, in the way of a test."""

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Garble PAYLOADS."""
        return [Payload(metadata={"encoding": b"garbled"}, data=garble(each.SerializeToString())) for each in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Return PAYLOADS as they were; what was not garbled stays."""
        return [
            Payload.FromString(garble(each.data)) if each.metadata["encoding"] == b"garbled" else each for each in payloads
        ]


class GarblingJson(EncodingPayloadConverter):
    """A converter of JSON that encrypts by itself."""

    @property
    def encoding(self) -> str:
        """The encoding of its payloads."""
        return "json/garbled"

    def to_payload(self, value: Any) -> Payload:
        """Return VALUE, which JSON can hold, garbled."""
        return Payload(metadata={"encoding": b"json/garbled"}, data=garble(json.dumps(value).encode()))

    def from_payload(self, payload: Payload, type_hint: type | None = None) -> Any:
        """Return what JSON holds, whatever TYPE_HINT says."""
        return json.loads(garble(payload.data))


class GarblingConverter(CompositePayloadConverter):
    """A payload converter that is not pydantic's."""

    def __init__(self) -> None:
        super().__init__(GarblingJson())


class Shelf(StorageDriver):
    """Keeps large payloads in this process."""

    def __init__(self, name: str = "shelf") -> None:
        self._name = name
        self.payloads: dict[str, bytes] = {}

    def name(self) -> str:
        """Return the name in claims."""
        return self._name

    async def store(self, context: StorageDriverStoreContext, payloads: Sequence[Payload]) -> list[StorageDriverClaim]:
        """Keep PAYLOADS."""
        claims = []
        for payload in payloads:
            key = str(len(self.payloads))
            self.payloads[key] = payload.SerializeToString()
            claims.append(StorageDriverClaim(claim_data={"key": key}))
        return claims

    async def retrieve(self, context: StorageDriverRetrieveContext, claims: Sequence[StorageDriverClaim]) -> list[Payload]:
        """Return what CLAIMS stand for."""
        return [Payload.FromString(self.payloads[claim.claim_data["key"]]) for claim in claims]

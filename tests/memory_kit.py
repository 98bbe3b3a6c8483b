"""What tests of memory share: a clock that the test moves, embedders that cost nothing, and short names."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from perdure.memory import RecallCall, RememberCall, customer
from perdure.memory.embed import Vector

ADA = customer("ada")
Say = Callable[..., RememberCall]
Ask = Callable[..., RecallCall]


class Clock:
    """A clock that stands still until it is told to move."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        """Return the time that the test chose."""
        return self.now

    def move(self, by: timedelta) -> datetime:
        """Move BY that much and return the new time."""
        self.now += by
        return self.now


class Letters:
    """An embedder that costs nothing: a direction per text, from its hash. Near means equal."""

    name = "letters"
    dimensions = 8

    def __init__(self, version: str = "1") -> None:
        self.version = version

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Return a direction for each of TEXTS."""
        return [tuple(byte - 127.5 for byte in hashlib.sha256(text.encode()).digest()[:8]) for text in texts]


class Plane(Letters):
    """An embedder of two dimensions, for tests that draw their vectors themselves."""

    name = "plane"
    dimensions = 2


class Other(Letters):
    """The next version of `Letters`, as settings can name it."""

    def __init__(self) -> None:
        super().__init__("2")


class Gated(Other):
    """The same, which embeds no second text until the file that PERDURE_TEST_GATE names is there."""

    embedded = 0

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Return a direction for each of TEXTS."""
        self.embedded += len(texts)
        while self.embedded > 1 and not os.path.exists(os.environ["PERDURE_TEST_GATE"]):  # noqa: ASYNC110, ASYNC240, PTH110
            await asyncio.sleep(0.02)  # another process makes it
        return await super().embed(texts)


class Needy(Letters):
    """An embedder that settings cannot make."""

    def __init__(self, key: str) -> None:
        super().__init__(key)

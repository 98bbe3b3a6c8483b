"""What tests of memory share: a clock that the test moves, embedders that cost nothing, and short names."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from perdure.memory import RecallCall, RememberCall, customer
from perdure.memory.index import Vector

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
    """The same, which stops at its 65th text until the file is there that TEST_GATE names.

    Beside that file it writes down how many texts it embeds, and that it waits.
    """

    embedded = 0

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Return a direction for each of TEXTS."""
        self.embedded += len(texts)
        gate = Path(os.environ["TEST_GATE"])
        while self.embedded > 64 and not gate.exists():  # noqa: ASYNC240  # it is done at once
            gate.with_suffix(".waits").touch()
            await asyncio.sleep(0.02)  # another process makes it
        with gate.with_suffix(".embedded").open("a") as file:
            file.write(f"{len(texts)}\n")
        return await super().embed(texts)


class Needy(Letters):
    """An embedder that settings cannot make."""

    def __init__(self, key: str) -> None:
        super().__init__(key)

"""What stands before a target that does not speak HTTP, and has the message that counts go wrong."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from perdure.connectors.testing.faults import Fault, Faults

POSSIBLE: Final[tuple[Fault, ...]] = ("none", "lose request", "lose response", "land late", "truncate")
"""What can go wrong without knowing what the bytes say."""
_ANSWER_WITHIN = timedelta(seconds=10)


class TcpFaultProxy:
    r"""Listens on `host` and `port`, and passes bytes on to TARGET, a `HOST:PORT` or the path of a Unix socket.

    Faults strike where what the client sends holds AT: what makes the target act, such as `b"COMMIT"` for PostgreSQL or
    `b"\r\n.\r\n"` for SMTP. All that comes before goes through, so that the target stands at the brink. With no AT each
    message of the client may be struck.
    """

    def __init__(self, target: str, *, at: bytes = b"", faults: Faults | None = None, port: int = 0) -> None:
        self.faults = faults or Faults(possible=POSSIBLE)
        self.host, self.port = "127.0.0.1", port
        self._target = target
        self._at = at
        self._server: asyncio.Server | None = None
        self._conversations: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._converse, self.host, self.port)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self.faults.wait_until_settled()
        for conversation in self._conversations:
            conversation.cancel()
        await asyncio.gather(*self._conversations, return_exceptions=True)
        await self._server.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = asyncio.current_task()
        assert conversation is not None
        self._conversations.add(conversation)
        try:
            await _Wire(reader, writer, *await self._connect()).run(self._at, self.faults)
        except (OSError, asyncio.CancelledError):
            pass  # one of the two has gone, or the proxy is closing
        finally:
            self._conversations.discard(conversation)
            writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if "/" in self._target:
            return await asyncio.open_unix_connection(Path(self._target))
        host, _, port = self._target.rpartition(":")
        return await asyncio.open_connection(host, int(port))


class _Wire:
    """One connection through the proxy: from the client (NEAR) to the target (FAR)."""

    def __init__(
        self,
        near: asyncio.StreamReader,
        to_near: asyncio.StreamWriter,
        far: asyncio.StreamReader,
        to_far: asyncio.StreamWriter,
    ) -> None:
        self._near, self._to_near, self._far, self._to_far = near, to_near, far, to_far
        self._answered = asyncio.Event()
        self._let_through: int | None = None
        """The divisor of the share of the target's next answer that comes through: None means all of every answer."""

    async def run(self, at: bytes, faults: Faults) -> None:
        down = asyncio.create_task(self._down())
        left_to_land = False
        try:
            while data := await self._near.read(65536):
                fault = faults.draw() if at in data else "none"
                if fault == "none":
                    await self._pass(data)
                    continue
                if fault == "lose request":
                    return
                if fault == "land late":
                    left_to_land = True
                    faults.land_later(self._land(data, down))
                    return
                self._let_through = 2 if fault == "truncate" else 0
                await self._pass(data)
                async with asyncio.timeout(_ANSWER_WITHIN.total_seconds()):
                    await self._answered.wait()
                return
        finally:
            if not left_to_land:
                await self._hang_up(down)

    async def _pass(self, data: bytes) -> None:
        self._to_far.write(data)
        await self._to_far.drain()

    async def _land(self, data: bytes, down: asyncio.Task[None]) -> None:
        self._let_through = 0
        with suppress(OSError, TimeoutError):
            await self._pass(data)
            async with asyncio.timeout(_ANSWER_WITHIN.total_seconds()):
                await self._answered.wait()
        await self._hang_up(down)

    async def _down(self) -> None:
        with suppress(OSError):
            while data := await self._far.read(65536):
                if self._let_through is not None:
                    if self._let_through and not self._answered.is_set():
                        self._to_near.write(data[: len(data) // self._let_through])
                        await self._to_near.drain()
                    self._answered.set()
                    continue
                self._to_near.write(data)
                await self._to_near.drain()
        self._answered.set()
        self._to_near.close()

    async def _hang_up(self, down: asyncio.Task[None]) -> None:
        down.cancel()
        await asyncio.gather(down, return_exceptions=True)
        self._to_far.close()
        with suppress(OSError):
            await self._to_far.wait_closed()

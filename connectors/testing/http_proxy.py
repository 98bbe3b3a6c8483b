"""What stands before an HTTP target and has its requests go wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Self

import httpx

from perdure.connectors.testing.faults import Fault, Faults

_OF_THE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "proxy-connection"}
_READING = ("GET", "HEAD", "OPTIONS")
_LONGEST_HEAD = 256 * 1024


@dataclass(frozen=True)
class ProxiedRequest:
    """A request that came in."""

    method: str
    path: str
    headers: Sequence[tuple[str, str]]
    body: bytes


def writes(asked: ProxiedRequest) -> bool:
    """Say whether ASKED may change something at the target, going by its method."""
    return asked.method not in _READING


class HttpFaultProxy:
    """Listens on `url` and passes requests on to TARGET, except where `faults` has something else in mind.

        async with HttpFaultProxy("http://127.0.0.1:8100") as proxy:
            proxy.faults.script("lose response")

    Faults strike those requests that STRIKES picks, by default all that may write. Everything else passes unharmed.
    """

    def __init__(
        self,
        target: str,
        faults: Faults | None = None,
        *,
        strikes: Callable[[ProxiedRequest], bool] = writes,
        port: int = 0,
    ) -> None:
        self.faults = faults or Faults()
        self.url = ""
        """Where it listens."""
        self._target = target.rstrip("/")
        self._strikes = strikes
        self._port = port
        self._server: asyncio.Server | None = None
        self._client: httpx.AsyncClient | None = None
        self._conversations: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._client = httpx.AsyncClient(follow_redirects=False, timeout=60, trust_env=False)
        self._server = await asyncio.start_server(self._converse, "127.0.0.1", self._port, limit=_LONGEST_HEAD)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        assert self._client is not None
        self._server.close()
        with suppress(httpx.HTTPError):  # the target may be gone by now
            await self.faults.wait_until_settled()
        for conversation in self._conversations:
            conversation.cancel()
        await asyncio.gather(*self._conversations, return_exceptions=True)
        await self._server.wait_closed()
        await self._client.aclose()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = asyncio.current_task()
        assert conversation is not None
        self._conversations.add(conversation)
        try:
            while (asked := await _read(reader, writer)) is not None and await self._answer(asked, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the caller has gone, or the proxy is closing
        finally:
            self._conversations.discard(conversation)
            writer.close()

    async def _answer(self, asked: ProxiedRequest, writer: asyncio.StreamWriter) -> bool:
        # Returns whether the connection goes on.
        fault: Fault = self.faults.draw() if self._strikes(asked) else "none"
        if fault == "lose request":
            return False
        if fault == "land late":
            self.faults.land_later(self._forward_unheard(asked))
            return False
        if fault in ("429", "503"):
            seconds = str(int(self.faults.retry_after.total_seconds()))
            await _write(writer, int(fault), [("Retry-After", seconds)], b'{"error": "the proxy says: not now"}')
            return True
        if fault == "lose response":
            await self._forward_unheard(asked)
            return False
        if fault in ("500 after commit", "truncate"):
            return await self._spoil_answer(asked, writer, fault)
        return await self._pass_on(asked, writer)

    async def _spoil_answer(self, asked: ProxiedRequest, writer: asyncio.StreamWriter, fault: Fault) -> bool:
        async with self._forward(asked) as response:
            content = await response.aread()
        if fault == "500 after commit":
            await _write(writer, 500, [], b'{"error": "the proxy says: something broke"}')
            return True
        kind = [("Content-Type", response.headers.get("Content-Type", ""))]
        await _write(writer, response.status_code, kind, content, most=len(content) // 2)
        return False

    async def _pass_on(self, asked: ProxiedRequest, writer: asyncio.StreamWriter) -> bool:
        try:
            async with self._forward(asked) as response:
                headers = [pair for pair in response.headers.multi_items() if pair[0].lower() not in _OF_THE_CONNECTION]
                writer.write(_head(response.status_code, headers))
                # As it comes: a stream of events may never end. The end of the connection ends a body of unknown length.
                async for part in response.aiter_raw():
                    writer.write(part)
                    await writer.drain()
        except httpx.ConnectError:
            # As if nobody listened here either: what came before the connection was refused cannot be told from that.
            return False
        except httpx.HTTPError:
            return False
        return asked.method != "HEAD" and "content-length" in response.headers

    async def _forward_unheard(self, asked: ProxiedRequest) -> None:
        async with self._forward(asked) as response:
            await response.aread()

    def _forward(self, asked: ProxiedRequest) -> _Exchange:
        assert self._client is not None
        headers = [
            pair for pair in asked.headers if pair[0].lower() not in (_OF_THE_CONNECTION | {"host", "content-length"})
        ]
        request = self._client.build_request(asked.method, self._target + asked.path, headers=headers, content=asked.body)
        return _Exchange(self._client, request)


class _Exchange:
    def __init__(self, client: httpx.AsyncClient, request: httpx.Request) -> None:
        self._client = client
        self._request = request
        self._response: httpx.Response | None = None

    async def __aenter__(self) -> httpx.Response:
        self._response = await self._client.send(self._request, stream=True)
        return self._response

    async def __aexit__(self, *_: object) -> None:
        assert self._response is not None
        await self._response.aclose()


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> ProxiedRequest | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.strip().split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    named = {name.lower(): value for name, value in headers}
    if named.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if "chunked" in named.get("transfer-encoding", "").lower():
        return ProxiedRequest(method, path, headers, await _chunks(reader))
    return ProxiedRequest(method, path, headers, await reader.readexactly(int(named.get("content-length", 0))))


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass
    return body


async def _write(
    writer: asyncio.StreamWriter,
    status: int,
    headers: Sequence[tuple[str, str]],
    body: bytes,
    *,
    most: int | None = None,
) -> None:
    kinds = [] if any(name.lower() == "content-type" for name, _ in headers) else [("Content-Type", "application/json")]
    writer.write(_head(status, [*headers, *kinds, ("Content-Length", str(len(body)))]) + body[:most])
    await writer.drain()


def _head(status: int, headers: Sequence[tuple[str, str]]) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

"""A model provider on loopback that speaks OpenAI's chat API and does what a test told it to. It is no model."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from pydantic import JsonValue


@dataclass(frozen=True)
class Answers:
    """Answer TEXT."""

    text: str
    finish: str = "stop"
    tokens: tuple[int, int] | None = (100, 10)
    model: str = "stub-2026-11-01"
    refusal: str | None = None
    """What the model says instead of an answer."""
    tools: tuple[str, ...] = ()
    """The arguments of the tool calls that it answers by."""
    cached: int = 0
    """How many of the prompt's tokens it says it had cached."""


@dataclass(frozen=True)
class Fails:
    """Answer with STATUS and an error body that, as some providers do, repeats the prompt and the key."""

    status: int
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Sends:
    """Send BYTES as they are, then drop the connection."""

    bytes: bytes = b""


@dataclass(frozen=True)
class Hangs:
    """Never answer; if TRICKLES, send a byte now and then."""

    trickles: bool = False


Behaviour = Answers | Fails | Sends | Hangs


@dataclass
class Stub:
    """The provider: what it will do, and what it was sent."""

    url: str = ""
    received: list[str] = field(default_factory=list)
    """The requests' bodies."""
    models: list[str] = field(default_factory=list)
    messages: list[list[dict[str, str]]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    choose: Callable[[str], Behaviour] | None = None
    """What to do for a request to this model; None: what was planned."""
    _planned: deque[Behaviour] = field(default_factory=deque)
    _last: Behaviour = field(default_factory=lambda: Answers("{}"))

    @property
    def calls(self) -> int:
        return len(self.received)

    def will(self, *behaviours: Behaviour) -> None:
        """Do BEHAVIOURS one after the other, and the last one from there on."""
        self._planned.extend(behaviours)
        self._last = behaviours[-1]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client is gone
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        headers = dict(line.split(": ", 1) for line in head.splitlines()[1:] if ": " in line)
        request = json.loads(await reader.readexactly(int(headers["content-length"])))
        self.received.append(json.dumps(request))
        self.models.append(request["model"])
        self.messages.append(request["messages"])
        self.keys.append(headers.get("authorization", "").removeprefix("bearer "))
        self.arrived.set()
        planned = self._planned.popleft() if self._planned else self._last
        behaviour = self.choose(request["model"]) if self.choose else planned
        if isinstance(behaviour, Answers):
            _send(writer, 200, _completion(behaviour))
        elif isinstance(behaviour, Fails):
            told = f"cannot serve {json.dumps(request)} for {headers.get('authorization')}"
            error = {"message": told, "type": "stub_error", "code": behaviour.code}
            _send(writer, behaviour.status, {"error": error}, behaviour.headers)
        elif isinstance(behaviour, Sends):
            writer.write(behaviour.bytes)
        elif behaviour.trickles:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n")
            while not reader.at_eof():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)  # the pace is what is being played
        else:
            await reader.read()  # until the client hangs up
        await writer.drain()


@asynccontextmanager
async def stub_provider() -> AsyncIterator[Stub]:
    """Run a `Stub` on a free port of 127.0.0.1."""
    stub = Stub()
    server = await asyncio.start_server(stub.serve, "127.0.0.1", 0)
    stub.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with server:
        yield stub


def _completion(answer: Answers) -> JsonValue:
    message: dict[str, JsonValue] = {"role": "assistant", "content": answer.text}
    if answer.refusal is not None:
        message |= {"content": None, "refusal": answer.refusal}
    if answer.tools:
        calls: list[JsonValue] = [{"name": "answer", "arguments": each} for each in answer.tools]
        message |= {
            "content": None,
            "tool_calls": [{"id": f"call-{n}", "type": "function", "function": call} for n, call in enumerate(calls)],
        }
    completion: dict[str, JsonValue] = {
        "id": "stub",
        "object": "chat.completion",
        "created": 1,
        "model": answer.model,
        "choices": [{"index": 0, "finish_reason": answer.finish, "message": message}],
    }
    if answer.tokens is not None:
        prompt, written = answer.tokens
        completion["usage"] = {
            "prompt_tokens": prompt,
            "completion_tokens": written,
            "total_tokens": prompt + written,
            "prompt_tokens_details": {"cached_tokens": answer.cached},
        }
    return completion


def _send(writer: asyncio.StreamWriter, status: int, content: object, headers: Mapping[str, str] | None = None) -> None:
    body = json.dumps(content).encode()
    lines = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close", **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    writer.write(f"HTTP/1.1 {status} STUB\r\n{head}\r\n".encode() + body)

"""A model provider on loopback that speaks OpenAI's chat API and does what a test told it to. It is no model."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

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


@dataclass(frozen=True)
class Holds:
    """Wait until it may GO on, and do what comes THEN."""

    then: Answers
    go: asyncio.Event = field(default_factory=asyncio.Event)


Behaviour = Answers | Fails | Sends | Hangs | Holds


@dataclass
class Stub:
    """The provider: what it will do, and what it was sent."""

    url: str = ""
    received: list[str] = field(default_factory=list)
    """The requests' bodies."""
    embedded: list[list[str]] = field(default_factory=list)
    """The texts of each request for vectors."""
    models: list[str] = field(default_factory=list)
    messages: list[list[dict[str, str]]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, dict[str, JsonValue]] = field(default_factory=dict)
    batch_faults: deque[Behaviour] = field(default_factory=deque)
    """What happens to the next requests for a batch, before they are served."""
    batches_end: asyncio.Event = field(default_factory=asyncio.Event)
    """Whether batches have ended when they are asked about."""
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

    @property
    def plan(self) -> deque[Behaviour]:
        """What it does before it does the same for ever."""
        return self._planned

    def _behaviour(self, model: str) -> Behaviour:
        if self.choose:
            return self.choose(model)
        return self._planned.popleft() if self._planned else self._last

    def _answer_about_batches(
        self, writer: asyncio.StreamWriter, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> None:
        """Serve OpenAI's files and batches."""
        where = path.split("/")
        if path == "files" and method == "POST":
            boundary = headers["content-type"].partition("boundary=")[2].encode()
            part = next(part for part in body.split(b"--" + boundary) if b"filename=" in part)
            id = f"file-{len(self.files)}"
            self.files[id] = part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
            _send(
                writer, 200, {"id": id, "object": "file", "bytes": 1, "created_at": 1, "filename": "x", "purpose": "batch"}
            )
        elif where[0] == "files":
            _send_bytes(writer, 200, self.files[where[1]])
        elif path == "batches" and method == "POST":
            if self.batch_faults:
                self._fail(writer, self.batch_faults.popleft(), json.loads(body))
                return
            _send(writer, 200, self._new_batch(json.loads(body)))
        elif path == "batches":
            _send(writer, 200, {"object": "list", "data": list(self.batches.values()), "has_more": False})
        else:
            if self.batches_end.is_set():
                self._end_batch(self.batches[where[1]])
            _send(writer, 200, self.batches[where[1]])

    def _embed(self, writer: asyncio.StreamWriter, request: dict[str, JsonValue]) -> None:
        """Answer with vectors of three numbers, not of length 1: how often the text has an a, an e, and anything else."""
        texts = request["input"]
        assert isinstance(texts, list)
        self.received.append(json.dumps(request))
        self.embedded.append([str(text) for text in texts])
        self.arrived.set()
        behaviour = self._behaviour(str(request["model"]))
        if isinstance(behaviour, Fails):
            _send(writer, behaviour.status, {"error": {"message": "no", "code": behaviour.code}}, behaviour.headers)
        elif isinstance(behaviour, Answers):
            data: list[JsonValue] = [
                {"object": "embedding", "index": at, "embedding": _vector(text)}
                for at, text in enumerate(self.embedded[-1])
            ]
            answer: dict[str, JsonValue] = {"object": "list", "model": behaviour.model, "data": data[::-1]}
            counted = behaviour.tokens and {"prompt_tokens": behaviour.tokens[0], "total_tokens": behaviour.tokens[0]}
            _send(writer, 200, {**answer, "usage": counted} if counted else answer)

    def _fail(self, writer: asyncio.StreamWriter, fault: Behaviour, request: dict[str, JsonValue]) -> None:
        if isinstance(fault, Fails):
            _send(writer, fault.status, {"error": {"message": "no", "type": "stub_error", "code": fault.code}})
        else:  # it is taken, and the answer gets lost
            self._new_batch(request)

    def _new_batch(self, request: dict[str, JsonValue]) -> dict[str, JsonValue]:
        id = f"batch-{len(self.batches)}"
        self.batches[id] = {
            "id": id,
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "created_at": 1,
            "input_file_id": request["input_file_id"],
            "metadata": request["metadata"],
            "status": "in_progress",
        }
        self.arrived.set()
        return self.batches[id]

    def _end_batch(self, batch: dict[str, JsonValue]) -> None:
        if batch["status"] != "in_progress":
            return
        lines = []
        for line in self.files[str(batch["input_file_id"])].decode().splitlines():
            request = json.loads(line)
            behaviour = self._behaviour(request["body"]["model"])
            if isinstance(behaviour, Answers):
                response = {"status_code": 200, "body": _completion(behaviour)}
                lines.append(json.dumps({"custom_id": request["custom_id"], "response": response}))
        output = f"file-{len(self.files)}"
        self.files[output] = "\n".join(lines).encode()
        batch |= {"status": "completed", "output_file_id": output}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client is gone
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        pairs = (line.split(": ", 1) for line in lines if ": " in line)
        headers = {name.lower(): value for name, value in pairs}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        method, path, _ = first.split(" ", 2)
        if path.endswith("/embeddings"):
            self._embed(writer, json.loads(body))
            await writer.drain()
            return
        if "/chat/completions" not in path:
            self._answer_about_batches(writer, method, path.partition("?")[0].removeprefix("/v1/"), headers, body)
            await writer.drain()
            return
        request = json.loads(body)
        self.received.append(json.dumps(request))
        self.models.append(request["model"])
        self.messages.append(request["messages"])
        self.keys.append(headers.get("authorization", "").removeprefix("Bearer "))
        self.arrived.set()
        behaviour = self._behaviour(request["model"])
        if isinstance(behaviour, Holds):
            await behaviour.go.wait()
            behaviour = behaviour.then
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


def says(status: int, body: JsonValue | bytes, headers: Mapping[str, str] | None = None) -> Sends:
    """Answer STATUS with BODY, and HEADERS instead of the usual ones, and drop the connection."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = {"content-type": "application/json", "content-length": str(len(raw)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return Sends(f"HTTP/1.1 {status} STUB\r\n{head}\r\n".encode() + raw)


def completion(text: str = "{}", *, without: str = "", message: JsonValue = None, **changed: JsonValue) -> Sends:
    """Answer TEXT, or MESSAGE, by a completion WITHOUT a field or with CHANGED ones."""
    body: dict[str, JsonValue] = json.loads(json.dumps(_completion(Answers(text))))
    choice: JsonValue = {"index": 0, "finish_reason": "stop", "message": message}
    body |= {"choices": [choice]} if message is not None else {}
    return says(200, {name: value for name, value in (body | changed).items() if name != without})


@asynccontextmanager
async def stub_provider() -> AsyncIterator[Stub]:
    """Run a `Stub` on a free port of 127.0.0.1."""
    stub = Stub()
    server = await asyncio.start_server(stub.serve, "127.0.0.1", 0)
    stub.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with server:
        yield stub
    await let_go(stub.url)


async def let_go(url: str) -> None:
    """Close the connections to URL. LiteLLM keeps 200 clients, and what it drops then would be closed by nobody."""
    litellm: Any = sys.modules.get("litellm")
    if litellm is None:
        return
    kept = litellm.in_memory_llm_clients_cache
    for key, client in list(kept.cache_dict.items()):
        # Some are of one address, and others of a provider, whatever its address.
        if str(getattr(client, "base_url", url)).startswith(url) and hasattr(client, "close"):
            await client.close()
            kept.delete_cache(key)


def _vector(text: str) -> list[JsonValue]:
    return [text.count("a") + 1.0, text.count("e") + 1.0, float(len(text))]


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
    _send_bytes(writer, status, json.dumps(content).encode(), headers)


def _send_bytes(writer: asyncio.StreamWriter, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
    lines = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close", **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    writer.write(f"HTTP/1.1 {status} STUB\r\n{head}\r\n".encode() + body)

"""Model providers on loopback in six protocols, with an invoice of their own. They are no models.

One server speaks as OpenAI, Anthropic, Mistral, Gemini, Azure and Bedrock do, by the path that is asked for, and does what
a test told it to: answer, tell lies about tokens, fail in the words of the provider, or break the connection.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from pydantic import JsonValue

Protocol = Literal["openai", "anthropic", "mistral", "gemini", "azure", "bedrock"]
PROTOCOLS: tuple[Protocol, ...] = ("openai", "anthropic", "mistral", "gemini", "azure", "bedrock")

MODELS: Mapping[Protocol, str] = {
    "openai": "openai/gpt-stub",
    "anthropic": "anthropic/claude-sonnet-4-5",
    "mistral": "mistral/mistral-stub",
    "gemini": "gemini/gemini-2.5-flash",
    "azure": "azure/stub",
    "bedrock": "bedrock/anthropic.claude-3-haiku-20240307-v1:0",
}
"""LiteLLM's name of a model of each."""

Error = Literal[
    "no credit", "too long", "withheld", "rate", "overloaded", "server", "key", "model", "invalid", "200", "gateway"
]


@dataclass(frozen=True)
class Says:
    """Answer TEXT, which has taken TOKENS: of the prompt, of the answer."""

    text: str = '{"verdict": "refund"}'
    tokens: tuple[int, int] = (200, 10)
    lies: Mapping[str, JsonValue] | None = None
    """What stands in place of the usage: `prompt`, `completion` and `total`, each left out if it is not there."""
    finish: Literal["stop", "length", "filter"] = "stop"
    hidden: int = 0
    """Tokens of thoughts besides, which stand in the total."""


@dataclass(frozen=True)
class Errs:
    """Fail as the provider does, and charge nothing."""

    kind: Error
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Breaks:
    """Do the work, charge it, and break the connection: before, or in the middle of the head or the body of the answer."""

    where: Literal["before", "head", "body"] = "before"
    after: float = 0.0
    """Seconds that it takes before."""
    reset: bool = True
    """By a TCP reset; else the connection is closed."""


@dataclass(frozen=True)
class Sends:
    """Answer 200 with BODY, which is no answer."""

    body: bytes
    charged: bool = True


@dataclass(frozen=True)
class Hangs:
    """Do the work, charge it, and never answer."""


Behaviour = Says | Errs | Breaks | Sends | Hangs
WORK = (200, 10)
"""What is charged for an answer that does not arrive."""


@dataclass
class Request:
    """One request, as it came."""

    protocol: Protocol
    path: str
    headers: Mapping[str, str]
    body: Any


@dataclass
class Providers:
    """The providers: what they will do, what they were sent, and what they charge."""

    url: str = ""
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    choose: Callable[[Request], Behaviour] = field(default=lambda _: Says())
    charged: Counter[str] = field(default_factory=Counter)
    """Tokens by kind: `prompt` and `completion` of answers that arrived, `lost prompt` and `lost completion` of others."""
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def calls(self) -> int:
        """How many requests came."""
        return len(self.requests)

    def calls_by(self, protocol: Protocol) -> int:
        """How many requests came to one of them."""
        return sum(each.protocol == protocol for each in self.requests)

    def api_base(self, protocol: Protocol) -> str:
        """Where one of them is."""
        return f"{self.url}/{protocol}" + ("/v1" if protocol == "openai" else "")

    def deployment(self, protocol: Protocol, *, name: str = "", tier: str = "small", **more: str) -> str:
        """A table of models.toml for one of them."""
        settings = {
            "tier": f'"{tier}"',
            "model": f'"{MODELS[protocol]}"',
            "api_base": f'"{self.api_base(protocol)}"',
            "api_key": '"env:STUB_KEY"',
            "input_usd_per_mtok": "0.15",
            "output_usd_per_mtok": "0.6",
            "timeout": "30",
            **more,
        }
        return f"[deployments.{name or protocol}]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                first, *lines = head.splitlines()
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines if ": " in line)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                path = first.split(" ")[1]
                protocol = cast(Protocol, path.strip("/").partition("/")[0])
                request = Request(protocol, path, headers, json.loads(body) if body else None)
                self.requests.append(request)
                self.arrived.set()
                await self._answer(request, self.choose(request), reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client is gone
        finally:
            writer.close()

    async def _answer(
        self, request: Request, behaviour: Behaviour, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if isinstance(behaviour, Says):
            prompt, completion = behaviour.tokens
            self.charged += Counter(prompt=prompt, completion=completion + behaviour.hidden)
            body = json.dumps(_answers(request, behaviour)).encode()
            writer.write(_head(200, body) + body)
        elif isinstance(behaviour, Errs):
            status, told = _error(request.protocol, behaviour.kind)
            body = json.dumps(told).encode()
            writer.write(_head(status, body, behaviour.headers) + body)
        elif isinstance(behaviour, Sends):
            if behaviour.charged:
                self._lose()
            writer.write(_head(200, behaviour.body) + behaviour.body)
        else:
            self._lose()
            if isinstance(behaviour, Hangs):
                await reader.read()
                raise ConnectionError
            await asyncio.sleep(behaviour.after)  # how long it works is what is being played
            body = json.dumps(_answers(request, Says())).encode()
            whole = _head(200, body)
            if behaviour.where == "head":
                writer.write(whole[:20])
            elif behaviour.where == "body":
                writer.write(whole + body[:20])
            await writer.drain()
            if behaviour.reset:
                _reset(writer)
            raise ConnectionError
        await writer.drain()

    def _lose(self) -> None:
        prompt, completion = WORK
        self.charged += Counter({"lost prompt": prompt, "lost completion": completion})


@asynccontextmanager
async def providers() -> AsyncIterator[Providers]:
    """Run `Providers` on a free port of 127.0.0.1."""
    from stand_ins.provider import let_go

    found = Providers()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield found
    finally:
        server.close()
        await let_go(found.url)


def _reset(writer: asyncio.StreamWriter) -> None:
    """End the connection by a TCP reset, as a crashed or restarted server does."""
    end: socket.socket = writer.get_extra_info("socket")
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _head(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    lines = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} STUB\r\n{head}\r\n".encode()


def _answers(request: Request, says: Says) -> JsonValue:
    usage = says.lies
    if usage is None:
        prompt, completion = says.tokens
        usage = {"prompt": prompt, "completion": completion, "total": prompt + completion + says.hidden}
    if request.protocol == "anthropic":
        return _of_anthropic(says, usage)
    if request.protocol == "gemini":
        return _of_gemini(says, usage)
    if request.protocol == "bedrock":
        return _of_bedrock(request, says, usage)
    finish = {"stop": "stop", "length": "length", "filter": "content_filter"}[says.finish]
    return {
        "id": "stub",
        "object": "chat.completion",
        "created": 1,
        "model": "stub-1",
        "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": says.text}}],
        **_usage(usage, "usage", prompt="prompt_tokens", completion="completion_tokens", total="total_tokens"),
    }


def _of_anthropic(says: Says, usage: Mapping[str, JsonValue]) -> JsonValue:
    stop = {"stop": "end_turn", "length": "max_tokens", "filter": "refusal"}[says.finish]
    return {
        "id": "stub",
        "type": "message",
        "role": "assistant",
        "model": "stub-1",
        "content": [{"type": "text", "text": says.text}],
        "stop_reason": stop,
        **_usage(usage, "usage", prompt="input_tokens", completion="output_tokens"),
    }


def _of_gemini(says: Says, usage: Mapping[str, JsonValue]) -> JsonValue:
    finish = {"stop": "STOP", "length": "MAX_TOKENS", "filter": "SAFETY"}[says.finish]
    content: JsonValue = {"role": "model", "parts": [{"text": says.text}]}
    return {
        "candidates": [{"content": content, "finishReason": finish, "index": 0}],
        "modelVersion": "stub-1",
        **_usage(
            usage,
            "usageMetadata",
            prompt="promptTokenCount",
            completion="candidatesTokenCount",
            total="totalTokenCount",
        ),
    }


def _of_bedrock(request: Request, says: Says, usage: Mapping[str, JsonValue]) -> JsonValue:
    stop = {"stop": "end_turn", "length": "max_tokens", "filter": "content_filtered"}[says.finish]
    content: JsonValue = {"text": says.text}
    if "toolConfig" in request.body and says.finish == "stop":
        try:
            content = {"toolUse": {"toolUseId": "1", "name": "json_tool_call", "input": json.loads(says.text)}}
            stop = "tool_use"
        except ValueError:
            pass  # it says what it says, and calls no tool
    return {
        "output": {"message": {"role": "assistant", "content": [content]}},
        "stopReason": stop,
        "metrics": {"latencyMs": 1},
        **_usage(usage, "usage", prompt="inputTokens", completion="outputTokens", total="totalTokens"),
    }


def _usage(usage: Mapping[str, JsonValue], key: str, **names: str) -> dict[str, JsonValue]:
    found = {names[each]: value for each, value in usage.items() if each in names}
    return {key: found} if found else {}


def _error(protocol: Protocol, kind: Error) -> tuple[int, JsonValue]:
    """Return status and body of an error as PROTOCOL has it. Where it says nothing, it repeats no prompt either."""
    if kind == "200":
        return 200, {"error": {"message": "no", "code": "insufficient_quota"}}
    if kind == "gateway":
        return 502, {"detail": "bad gateway"}
    errors = {
        "openai": _OPENAI,
        "azure": _OPENAI,
        "mistral": _MISTRAL,
        "anthropic": _ANTHROPIC,
        "gemini": _GEMINI,
        "bedrock": _BEDROCK,
    }
    return errors[protocol][kind]


def _openai(status: int, code: str | None, message: str) -> tuple[int, JsonValue]:
    return status, {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}


def _anthropic(status: int, kind: str, message: str) -> tuple[int, JsonValue]:
    return status, {"type": "error", "error": {"type": kind, "message": message}}


def _gemini(code: int, status: str, message: str) -> tuple[int, JsonValue]:
    return code, {"error": {"code": code, "status": status, "message": message}}


_OPENAI: Mapping[Error, tuple[int, JsonValue]] = {
    "no credit": _openai(429, "insufficient_quota", "You exceeded your current quota"),
    "too long": _openai(400, "context_length_exceeded", "This model's maximum context length is 8192 tokens"),
    "withheld": _openai(400, "content_filter", "The response was filtered"),
    "rate": _openai(429, "rate_limit_exceeded", "Rate limit reached"),
    "overloaded": _openai(503, None, "The engine is overloaded"),
    "server": _openai(500, "server_error", "The server had an error"),
    "key": _openai(401, "invalid_api_key", "Incorrect API key provided"),
    "model": _openai(404, "model_not_found", "The model does not exist"),
    "invalid": _openai(400, "unsupported_value", "Unsupported value"),
}
_MISTRAL: Mapping[Error, tuple[int, JsonValue]] = {
    "no credit": (402, {"object": "error", "message": "You have no credits", "type": "payment_required", "code": "3402"}),
    "too long": (400, {"object": "error", "message": "Prompt contains 40000 tokens: too large for model", "code": "3051"}),
    "withheld": (403, {"object": "error", "message": "Input was flagged by moderation", "type": "forbidden"}),
    "rate": (429, {"message": "Requests rate limit exceeded"}),
    "overloaded": (503, {"message": "Service unavailable"}),
    "server": (500, {"object": "error", "message": "Internal Server Error"}),
    "key": (401, {"message": "Unauthorized", "request_id": "1"}),
    "model": (404, {"message": "no Route matched with those values"}),
    "invalid": (422, {"detail": [{"type": "missing", "loc": ["body", "model"], "msg": "Field required"}]}),
}
_ANTHROPIC: Mapping[Error, tuple[int, JsonValue]] = {
    "no credit": _anthropic(400, "invalid_request_error", "Your credit balance is too low to access the Anthropic API."),
    "too long": _anthropic(400, "invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"),
    "withheld": _anthropic(400, "invalid_request_error", "Output blocked by content filtering policy"),
    "rate": _anthropic(429, "rate_limit_error", "This request would exceed your organization's rate limit"),
    "overloaded": _anthropic(529, "overloaded_error", "Overloaded"),
    "server": _anthropic(500, "api_error", "Internal server error"),
    "key": _anthropic(401, "authentication_error", "invalid x-api-key"),
    "model": _anthropic(404, "not_found_error", "model: claude-0"),
    "invalid": _anthropic(400, "invalid_request_error", "messages: roles must alternate"),
}
_GEMINI: Mapping[Error, tuple[int, JsonValue]] = {
    "no credit": _gemini(403, "PERMISSION_DENIED", "Billing account not active"),
    "too long": _gemini(400, "INVALID_ARGUMENT", "The input token count (1200000) exceeds the maximum number of tokens"),
    "withheld": _gemini(400, "INVALID_ARGUMENT", "Request blocked by safety settings"),
    "rate": _gemini(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota, please check your plan"),
    "overloaded": _gemini(503, "UNAVAILABLE", "The model is overloaded."),
    "server": _gemini(500, "INTERNAL", "An internal error has occurred."),
    "key": _gemini(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."),
    "model": _gemini(404, "NOT_FOUND", "models/x is not found"),
    "invalid": _gemini(400, "INVALID_ARGUMENT", "Invalid JSON payload received."),
}
_BEDROCK: Mapping[Error, tuple[int, JsonValue]] = {
    "no credit": (400, {"__type": "ServiceQuotaExceededException", "message": "no"}),
    "too long": (400, {"message": "Input is too long for requested model."}),
    "withheld": (400, {"message": "The request was blocked by a content filter"}),
    "rate": (429, {"__type": "ThrottlingException", "message": "Too many requests, please wait before trying again."}),
    "overloaded": (503, {"message": "Bedrock is unable to process your request."}),
    "server": (500, {"message": "The system encountered an unexpected error"}),
    "key": (403, {"message": "The security token included in the request is invalid."}),
    "model": (400, {"message": "The provided model identifier is invalid."}),
    "invalid": (400, {"message": "Malformed input request"}),
}

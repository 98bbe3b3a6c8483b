"""An MCP server over HTTP, in this process, that answers each call of a tool as it is told to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast

from pydantic import JsonValue

__all__ = ["Answer", "ScriptedServer", "serve"]

_VERSION = "2025-06-18"


@dataclass(frozen=True)
class Answer:
    """How a call is answered: a status of HTTP, a result or an error of JSON-RPC or neither, and headers."""

    status: int = 200
    result: JsonValue = None
    error: JsonValue = None
    body: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class ScriptedServer:
    """What the server offers, how it answers, and what it was asked to do."""

    tools: Sequence[JsonValue]
    answer: Answer = field(default_factory=Answer)
    calls: list[JsonValue] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)
    url: str = ""

    def reply(self, message: dict[str, JsonValue]) -> Answer:
        """Return the answer to MESSAGE."""
        method = str(message.get("method"))
        self.methods.append(method)
        if "id" not in message:
            return Answer(status=202, body="")
        match method:
            case "initialize":
                info: JsonValue = {"name": "scripted", "version": "1"}
                return Answer(result={"protocolVersion": _VERSION, "capabilities": {"tools": {}}, "serverInfo": info})
            case "tools/list":
                return Answer(result={"tools": list(self.tools)})
            case "tools/call":
                self.calls.append(message["params"])
                return self.answer
        return Answer(error={"code": -32601, "message": "no such method"})


@contextmanager
def serve(tools: Sequence[JsonValue]) -> Iterator[ScriptedServer]:
    """Serve TOOLS until the end of the block."""
    scripted = ScriptedServer(tools)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            message = cast("dict[str, JsonValue]", json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            answer = scripted.reply(message)
            body = answer.body
            if body is None:
                payload = {"error": answer.error} if answer.error else {"result": answer.result}
                body = json.dumps({"jsonrpc": "2.0", "id": message.get("id"), **payload})
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json" if answer.body is None else "text/plain")
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        def do_GET(self) -> None:
            self.send_response(405)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_DELETE = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the standard library's name
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    scripted.url = f"http://127.0.0.1:{server.server_address[1]}/mcp"
    try:
        yield scripted
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

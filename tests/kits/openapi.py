"""Tries small OpenAPI documents: what the one operation in each of them sends, and why it is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import cast

from kits.connectors import Server, reply
from pydantic import JsonValue

from perdure.connectors import Attempt, Executed
from perdure.connectors.openapi import OpenApiConnector, Use

ATTEMPT = Attempt(key="pe-1", fence=1, deadline=timedelta(seconds=5))

Json = dict[str, JsonValue]


def document_of(operation: Json, path: str = "/r", method: str = "post", **more: JsonValue) -> Json:
    """Return a document with one OPERATION, `do`, and what MORE it says at its top."""
    answers: Json = {"responses": {"204": {"description": "done"}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "t", "version": "1"},
        "paths": {path: {method: {"operationId": "do", **answers, **operation}}},
        **more,
    }


def taking(content: Json, *, required: bool = False) -> Json:
    """Return an operation with a body of CONTENT."""
    return {"requestBody": {"required": required, "content": content}}


def asking(*parameters: Json) -> Json:
    """Return an operation with PARAMETERS."""
    return {"parameters": list(parameters)}


@dataclass
class Sent:
    """A request as it came over the wire."""

    line: str
    headers: dict[str, str]
    content: str
    done: Executed

    @property
    def json(self) -> JsonValue:
        """Its content, as JSON."""
        return cast(JsonValue, json.loads(self.content))


class Trial:
    """Makes connectors out of small documents and lets them send to SERVER."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self._folder = folder

    def connector(self, document: Json, **use: JsonValue) -> OpenApiConnector:
        """Return the connector of DOCUMENT, whose operation `do` is used as USE says."""
        path = self._folder / "t.json"
        path.write_text(json.dumps(document))
        return OpenApiConnector("t", path, {"do": Use.model_validate({"operation": "do", **use})})

    async def send(
        self,
        document: Json,
        values: Json | None = None,
        *,
        answer: bytes = b"",
        use: Json | None = None,
        options: dict[str, str] | None = None,
    ) -> Sent:
        """Have `do` of DOCUMENT send VALUES, and return what came."""
        self.server.answers = [answer or reply(204)]
        connector = self.connector(document, **(use or {}))
        connector = connector.with_options({"url": self.server.url, **(options or {})})
        args = connector.action("do").input.model_validate(values or {})
        try:
            done = await connector.execute(connector.actions["t.do"], args, ATTEMPT)
        finally:
            await connector.close()
        line, *headers = self.server.heads[-1].splitlines()
        named = dict(header.split(": ", 1) for header in headers if header)
        return Sent(
            line.removesuffix(" HTTP/1.1"),
            {name.lower(): value for name, value in named.items()},
            self.server.contents[-1].decode(),
            done,
        )

"""Answers that real systems gave, and a connector that gets them in turn: tests/targets/record.py writes them down."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final, TypeVar, cast

import httpx
from pydantic import BaseModel, JsonValue

from perdure.connectors import (
    AnyAction,
    Attempt,
    Executed,
    HttpConnector,
    Probe,
)
from perdure.connectors.contracts import Action, In, Out

C = TypeVar("C", bound=HttpConnector)
Json = dict[str, JsonValue]

KEY: Final = "pe-0123456789012345678901234567890123456789"
ATTEMPT: Final = Attempt(key=KEY, fence=1, deadline=timedelta(seconds=20))
_KEPT: Final = ("content-type", "link", "vendure-auth-token")


class Recorded:
    """The answers of one system by name, and what was asked for since the test began."""

    def __init__(self, system: str) -> None:
        self.path = Path(__file__).parent.parent / "data" / f"{system}.json"
        self.answers: dict[str, Json] = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.asked: list[httpx.Request] = []
        self._next: list[httpx.Response] = []

    def next(self, *answers: str | httpx.Response) -> None:
        """Have ANSWERS come next: a name, or an answer that no system gave."""
        self._next += [self.response(each) if isinstance(each, str) else each for each in answers]

    def response(self, name: str) -> httpx.Response:
        """Return the answer called NAME."""
        recorded = self.answers[name]
        headers = cast("dict[str, str]", recorded["headers"])
        return httpx.Response(cast(int, recorded["status"]), headers=headers, json=recorded["body"])

    def bodies(self) -> list[JsonValue]:
        """Return what was sent, as JSON."""
        return [json.loads(request.content) if request.content else None for request in self.asked]

    def paths(self) -> list[str]:
        """Return what was asked, such as `GET /posts?slug=x`."""
        return [f"{request.method} {request.url.raw_path.decode()}" for request in self.asked]

    async def answer(self, request: httpx.Request) -> httpx.Response:
        """Answer REQUEST with what comes next."""
        self.asked.append(request)
        return self._next.pop(0)

    async def take(self, name: str, response: httpx.Response) -> None:
        """Write down RESPONSE as NAME."""
        await response.aread()
        headers = {kept: response.headers[kept] for kept in _KEPT if kept in response.headers}
        if "vendure-auth-token" in headers:
            headers["vendure-auth-token"] = "token"
        self.answers[name] = {"status": response.status_code, "headers": cast(Json, headers), "body": response.json()}

    def save(self) -> None:
        """Write the answers to their file."""
        self.path.write_text(json.dumps(self.answers, indent=1, ensure_ascii=False) + "\n")


@asynccontextmanager
async def answered(connector: C, recorded: Recorded) -> AsyncIterator[C]:
    """Have CONNECTOR get what RECORDED has next, until the block ends."""
    async with httpx.AsyncClient(transport=httpx.MockTransport(recorded.answer)) as client:
        connector._client = client
        yield connector


async def execute(connector: HttpConnector, action: Action[In, Out], args: In) -> Executed:
    """Do ACTION with ARGS under the recorded key."""
    return await connector.execute(cast(AnyAction, action), cast(BaseModel, args), ATTEMPT)


async def probe(connector: HttpConnector, action: Action[In, Out], args: In) -> Probe:
    """Look for the effect of ACTION with ARGS under the recorded key."""
    return await connector.probe(cast(AnyAction, action), cast(BaseModel, args), ATTEMPT)

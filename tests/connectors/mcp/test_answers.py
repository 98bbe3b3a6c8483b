"""Tests of what is made of each kind of answer of an MCP server, with a server that answers as it is told to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import pytest
from kits.connectors import step
from pydantic import JsonValue
from stand_ins.mcp_http import Answer, ScriptedServer, serve

from perdure.connectors import EffectCall
from perdure.connectors.ledger import Ledger
from perdure.connectors.mcp import McpConnector, Tool
from perdure.errors import EffectParked, EffectRejected, PerdureError, TargetUnavailable
from perdure.storage import Database

PAIR: JsonValue = {"type": "array", "items": [{"type": "integer"}, {"type": "string"}]}
TOOLS: list[JsonValue] = [
    {"name": "post", "inputSchema": {"type": "object", "properties": {"at": PAIR}}},
    {"name": "read", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}},
    {
        "name": "pair",
        "description": None,
        "inputSchema": {"type": "object", "properties": {"limit": {"default": None, "maximum": 18446744073709551615}}},
        "outputSchema": {"type": "object", "properties": {"pair": PAIR}},
    },
]


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """The server."""
    with serve(TOOLS) as scripted:
        yield scripted


@pytest.fixture
async def ledger(sqlite_database: Database, server: ScriptedServer) -> AsyncIterator[Ledger]:
    """A ledger before it."""
    tools = [Tool.model_validate(tool) for tool in TOOLS]
    connector = McpConnector("m", tools, deadline=timedelta(seconds=5)).with_options({"url": server.url})
    yield Ledger(sqlite_database, {"m": connector})
    await connector.close()


async def test_text_of_resources(ledger: Ledger, server: ScriptedServer) -> None:
    """A text that stands in the answer as a resource is a text of the answer, in its place; files are not (case 14)."""
    server.answer = Answer(
        result={
            "content": [
                {"type": "text", "text": "read"},
                {"type": "resource", "resource": {"uri": "file:///a.txt", "mimeType": "text/plain", "text": "the file"}},
                {"type": "resource", "resource": {"uri": "file:///b.png", "blob": "AAAA"}},
                {"type": "resource_link", "name": "c", "uri": "file:///c.txt"},
                {"type": "text", "text": "end"},
            ]
        }
    )
    done = await ledger.perform(_call("m.read"))

    assert {"text": "read\nthe file\nend", "structured": None, "other": 2} == done.value


async def test_error_told_in_a_resource(ledger: Ledger, server: ScriptedServer) -> None:
    """The words of a refusal may stand in a resource as well (case 14)."""
    resource: JsonValue = {"uri": "file:///e", "text": "no such file"}
    server.answer = Answer(result={"isError": True, "content": [{"type": "resource", "resource": resource}]})

    with pytest.raises(EffectRejected, match="the tool says: no such file"):
        await ledger.perform(_call("m.post"))


async def test_output_schema_of_another_draft(ledger: Ledger, server: ScriptedServer) -> None:
    """A tuple of an older draft in an output schema makes no answer unknown, and nothing is listed anew (case 13)."""
    server.answer = Answer(result={"content": [], "structuredContent": {"pair": [1, "a"]}})
    done = await ledger.perform(_call("m.pair", limit=18446744073709551615))

    assert {"text": "", "structured": {"pair": [1, "a"]}, "other": 0} == done.value
    assert 1 == server.methods.count("tools/list")


async def test_tuple_as_argument(ledger: Ledger, server: ScriptedServer) -> None:
    """A tuple of draft 7 is sent when it fits, and refused when it does not (case 13)."""
    server.answer = Answer(result={"content": []})
    await ledger.perform(_call("m.post", at=[1, "a"]))
    with pytest.raises(PerdureError, match="does not fit 'type'"):
        await ledger.perform(_call("m.post", "again", at=["a", 1]))

    assert [{"at": [1, "a"]}] == [call["arguments"] for call in server.calls if isinstance(call, dict)]


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (Answer(status=401, body="who are you"), TargetUnavailable, "does not let us in"),
        (Answer(status=403, body="no"), EffectRejected, "refused the call .403"),
        (Answer(status=302, body="", headers={"Location": "https://elsewhere.example/"}), EffectRejected, "302"),
        (Answer(status=413, body="too large"), EffectRejected, "413"),
        (Answer(status=429, body="slowly"), TargetUnavailable, "did not take the call .429"),
        (Answer(status=400, error={"code": -32000, "message": "no session"}), TargetUnavailable, "did not take the call"),
        (Answer(status=404, body="gone"), EffectRejected, "refused the call"),
        (Answer(status=422, error={"code": -32000, "message": "no"}), EffectRejected, "422"),
        (Answer(error={"code": -32602, "message": "wrong"}), EffectRejected, "refused the call .-32602"),
        (Answer(error={"code": -32700, "message": "no JSON"}), EffectRejected, "refused the call .-32700"),
        (Answer(status=202, body=""), EffectParked, "it answered 202"),
        (Answer(status=500, body="oops"), EffectParked, "it answered 500"),
        (Answer(error={"code": -32603, "message": "oops"}), EffectParked, "was lost"),
    ],
)
async def test_refusals(
    ledger: Ledger, server: ScriptedServer, answer: Answer, error: type[PerdureError], said: str
) -> None:
    """What was not begun is not parked, and what was only accepted is not sent again (cases 09 and 15)."""
    server.answer = answer

    with pytest.raises(error, match=said):
        await ledger.perform(_call("m.post"))

    assert 1 == len(server.calls)


def _call(action: str, name: str = "call", **args: JsonValue) -> EffectCall:
    return EffectCall(step=step(name), action=action, args=args)

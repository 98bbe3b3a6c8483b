"""Tests of MCP tools as actions, against the reference servers of the protocol's makers."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
from connectors_kit import persist, step
from pydantic import JsonValue

import perdure
from perdure.connectors import EffectCall
from perdure.connectors.ledger import Ledger
from perdure.connectors.mcp import McpConnector, look_up_tools
from perdure.storage import Database

PROGRAMS = Path(perdure.__file__).parent / ".targets/node_modules/.bin"

pytestmark = [
    pytest.mark.targets,
    pytest.mark.skipif(not PROGRAMS.exists(), reason="npm was not there when the targets were installed"),
]


async def test_everything(sqlite_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tools are actions, and the one that tells its environment finds no secret of ours there."""
    monkeypatch.setenv("SHOP_TOKEN", "top-secret")
    options = {"command": str(PROGRAMS / "mcp-server-everything")}
    connector = McpConnector("every", await look_up_tools(options)).configured(options)
    ledger = Ledger(sqlite_database, {"every": connector})

    echo = await ledger.perform(_call("every.echo", message="hello"))
    summed = await ledger.perform(_call("every.get-sum", a=2, b=3))
    environment = await ledger.perform(_call("every.get-env"))
    weather = await ledger.perform(_call("every.get-structured-content", location="New York"))
    picture = await ledger.perform(_call("every.get-tiny-image"))
    await connector.close()

    assert "hello" in str(echo.value)
    assert "5" in str(summed.value)
    assert "PATH" in str(environment.value)
    assert "top-secret" not in str(environment.value)
    assert isinstance(weather.value, dict)
    assert isinstance(weather.value["structured"], dict)
    assert isinstance(picture.value, dict)
    assert 1 == picture.value["other"]


async def test_memory(sqlite_database: Database, tmp_path: Path) -> None:
    """What a tool writes is written once, also when the step is asked for again."""
    options = {
        "command": str(PROGRAMS / "mcp-server-memory"),
        "env.MEMORY_FILE_PATH": str(tmp_path / "memory.jsonl"),
    }
    connector = McpConnector("graph", await look_up_tools(options)).configured(options)
    ledger = Ledger(sqlite_database, {"graph": connector})
    create = _call(
        "graph.create_entities", entities=[{"name": "Ada", "entityType": "person", "observations": ["likes tea"]}]
    )
    await persist(lambda: ledger.perform(create))
    await ledger.perform(create)
    await connector.close()

    lines = [json.loads(line) for line in (tmp_path / "memory.jsonl").read_text().splitlines()]
    assert ["Ada"] == [line["name"] for line in lines]


def _call(action: str, **args: JsonValue) -> EffectCall:
    return EffectCall(step=step("call", workflow_id=uuid.uuid4().hex), action=action, args=args)

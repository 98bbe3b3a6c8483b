"""Tests of MCP tools as actions, against the reference servers of the protocol's makers."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
from kits.connectors import persist, step
from kits.targets import TARGETS
from pydantic import JsonValue

from perdure.connectors import EffectCall
from perdure.connectors.ledger import Ledger
from perdure.connectors.mcp import McpConnector, look_up_tools
from perdure.errors import EffectRejected
from perdure.storage import Database

pytestmark = pytest.mark.targets


async def test_everything(sqlite_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tools are actions, and the one that tells its environment finds no secret of ours there."""
    monkeypatch.setenv("SHOP_TOKEN", "top-secret")
    options = {"command": _server("everything")}
    connector = McpConnector("every", await look_up_tools(options)).with_options(options)
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
        "command": _server("memory"),
        "env.MEMORY_FILE_PATH": str(tmp_path / "memory.jsonl"),
    }
    connector = McpConnector("graph", await look_up_tools(options)).with_options(options)
    ledger = Ledger(sqlite_database, {"graph": connector})
    create = _call(
        "graph.create_entities", entities=[{"name": "Ada", "entityType": "person", "observations": ["likes tea"]}]
    )
    await persist(lambda: ledger.perform(create))
    await ledger.perform(create)
    await connector.close()

    lines = [json.loads(line) for line in (tmp_path / "memory.jsonl").read_text().splitlines()]
    assert ["Ada"] == [line["name"] for line in lines]


async def test_filesystem(sqlite_database: Database, tmp_path: Path) -> None:
    """A file is written where the server may write, and a refusal of the server is one for the step."""
    (tmp_path / "shared").mkdir()
    options = {"command": f"{_server('filesystem')} {tmp_path / 'shared'}"}
    connector = McpConnector("files", await look_up_tools(options), reads=["read_text_file"]).with_options(options)
    ledger = Ledger(sqlite_database, {"files": connector})
    inside, outside = str(tmp_path / "shared/note.txt"), str(tmp_path / "note.txt")
    await persist(lambda: ledger.perform(_call("files.write_file", path=inside, content="hello")))
    read = await ledger.perform(_call("files.read_text_file", path=inside))
    with pytest.raises(EffectRejected, match="outside"):
        await ledger.perform(_call("files.write_file", path=outside, content="hello"))
    await connector.close()

    assert "hello" in str(read.value)
    assert not (tmp_path / "note.txt").exists()


def _server(name: str) -> str:
    """Return the command of the reference server called NAME, which wants no Node of the machine's."""
    package = TARGETS / "node_modules/@modelcontextprotocol" / f"server-{name}"
    return f"{TARGETS / 'node'} {package / 'dist/index.js'}"


def _call(action: str, **args: JsonValue) -> EffectCall:
    return EffectCall(step=step("call", workflow_id=uuid.uuid4().hex), action=action, args=args)

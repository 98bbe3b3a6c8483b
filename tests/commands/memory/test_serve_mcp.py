"""`perdure memory serve-mcp` as an agent uses it: over stdin and stdout, with the client of the MCP package."""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from kits.cli import Perdure, environment, until
from mcp import Client, StdioServerParameters, stdio_client

from perdure.commands.exits import Exit
from perdure.lineage import Lineage, StepRef
from perdure.memory import RememberCall, customer
from perdure.memory.index import EdgeIndex, MiniLm
from perdure.memory.unindexed import records_only
from perdure.storage import open_database


@asynccontextmanager
async def _agent(address: str, home: Path, *options: str, **variables: str) -> AsyncIterator[Client]:
    """Yield the client of an agent whose server is `perdure memory serve-mcp` with OPTIONS."""
    command = ["-m", "perdure.cli", "memory", "serve-mcp", *options]
    server = StdioServerParameters(
        command=sys.executable, args=command, env=environment(address, home) | variables, cwd=home
    )
    with open(os.devnull, "w") as nowhere:  # noqa: ASYNC230, PTH123  # it is there at once
        async with Client(stdio_client(server, errlog=nowhere), cache=None) as client:
            yield client


async def _call(agent: Client, tool: str, **arguments: object) -> Any:
    answer = await agent.call_tool(tool, arguments)
    said = "".join(getattr(each, "text", "") for each in answer.content)
    return f"error: {said}" if answer.is_error else answer.structured_content


async def _tell(home: Path, name: str, content: str, tenant: str = "default") -> str:
    async with open_database(f"sqlite+aiosqlite:///{home / 'perdure.db'}") as database:
        run = Lineage(namespace="test", workflow_id=name, first_execution_run_id=tenant)
        step = StepRef(lineage=run, name=content)
        call = RememberCall(step=step, scope=customer(name, tenant=tenant), content=content)
        return (await records_only(database).remember(call)).memory_id


ALL = ("--allow", "recall", "--allow", "remember", "--allow", "forget")


@pytest.mark.timeout(300)
def test_agent_recalls_by_way_of_the_worker(desk: Perdure, temporal_address: str, home: Path) -> None:
    """While a worker owns the index, an agent remembers, recalls and forgets in its scope, and in no other tenant's."""
    until(lambda: desk("memory", "sweep", "--dry-run").code == Exit.OK, seconds=100)
    asyncio.run(_talk(temporal_address, home, f"user-{uuid.uuid4().hex[:6]}"))


async def _talk(address: str, home: Path, user: str) -> None:
    foreign = await _tell(home, user, "Graz, as acme knows", tenant="acme")
    async with _agent(address, home, "--user", user, *ALL) as agent:
        tools = sorted(tool.name for tool in (await agent.list_tools()).tools)
        written = await _call(agent, "remember", content="lives in Wien", subject="she", predicate="lives in")
        found = await _call(agent, "recall", query="where does she live?")
        asked_for_acme = await _call(agent, "recall", query="where does she live?", tenant="acme")
        of_acme = await _call(agent, "forget", memory_id=foreign)
        no_time = await _call(agent, "recall", query="where does she live?", as_of="someday")
        gone = await _call(agent, "forget", memory_id=written["memory_id"])
        left = await _call(agent, "recall", query="where does she live?")
    async with _agent(address, home, "--user", user, "--tenant", "acme") as other:
        may = [tool.name for tool in (await other.list_tools()).tools]
        refused = await _call(other, "forget", memory_id=foreign)
        theirs = await _call(other, "recall", query="where does she live?")

    assert ["forget", "recall", "remember"] == tools
    assert ["lives in Wien"] == [each["content"] for each in found["result"]]
    assert found == asked_for_acme
    assert ({"forgotten": 0}, {"forgotten": 1}, []) == (of_acme, gone, left["result"])
    assert "as_of 'someday' is no ISO time" in no_time
    assert (["recall"], True) == (may, "Unknown tool" in refused), refused
    assert ["Graz, as acme knows"] == [each["content"] for each in theirs["result"]]


@pytest.mark.timeout(200)
async def test_agent_is_told_that_the_worker_is_down(temporal_address: str, tmp_path: Path) -> None:
    """When the index is owned and no worker answers, a recall says so and what to do; remembering goes on."""
    index = await EdgeIndex.open(tmp_path / "index", await MiniLm.load())
    try:
        async with _agent(
            temporal_address, tmp_path, "--user", "ada", *ALL, PERDURE_TASK_QUEUE=f"nobody-{uuid.uuid4().hex[:6]}"
        ) as agent:
            recalled = await _call(agent, "recall", query="anything")
            written = await _call(agent, "remember", content="Graz")
    finally:
        await index.close()

    assert "error: " in recalled
    assert "no worker polls task queue 'nobody-" in recalled
    assert "perdure worker" in recalled
    assert 1 == written["version"]

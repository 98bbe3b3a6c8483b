"""Tests of memory behind others' interfaces: an MCP server and a LangGraph store."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest
from kits.memory import ADA, Clock, Say
from langgraph.store.base import SearchItem
from mcp.client.client import Client

from perdure.errors import InvalidInput
from perdure.memory import Memory, customer
from perdure.memory.langgraph import PerdureStore
from perdure.memory.mcp_server import VERBS, mcp_server

_HOUR = timedelta(hours=1)


async def test_mcp_serves_one_scope(sqlite_memory: Memory, to_remember: Say) -> None:
    """An agent outside recalls, remembers and forgets what is of its scope, and of no other."""
    await sqlite_memory.remember(to_remember("of Grace", scope=customer("grace")))
    async with Client(mcp_server(sqlite_memory, ADA, VERBS)) as client:
        written = _value(await client.call_tool("remember", {"content": "Graz", "subject": "Ada", "predicate": "home"}))
        again = _value(await client.call_tool("remember", {"content": "Wien", "subject": "Ada", "predicate": "home"}))
        found = _value(await client.call_tool("recall", {"query": "where"}))
        gone = _value(await client.call_tool("forget", {"memory_id": written["memory_id"]}))
        left = _value(await client.call_tool("recall", {"query": "where"}))

    assert (1, 2, ["Wien"], []) == (
        *(written["version"], again["version"]),
        *([each["content"] for each in found["result"]], left["result"]),
    )
    assert 2 == gone["forgotten"]


def _value(answer: Any) -> Any:  # what a tool returned
    assert not answer.is_error, answer
    return answer.structured_content


async def test_mcp_offers_what_is_allowed(sqlite_memory: Memory) -> None:
    """A server that may only recall has no other tool."""
    async with Client(mcp_server(sqlite_memory, ADA, frozenset({"recall"}))) as client:
        tools = (await client.list_tools()).tools

    assert ["recall"] == [tool.name for tool in tools]
    assert {"query", "limit", "as_of"} == set(tools[0].input_schema["properties"])


async def test_langgraph_store(sqlite_memory: Memory, clock: Clock, to_remember: Say) -> None:
    """A graph's store keeps items by namespace and key, finds them by meaning and filter, and lets them expire."""
    store = PerdureStore(sqlite_memory, ADA)
    await sqlite_memory.remember(to_remember("no item"))
    await store.aput(("users", "ada"), "taste", {"drink": "tea", "rank": 1})
    clock.move(_HOUR)
    await store.aput(("users", "ada"), "taste", {"drink": "coffee", "rank": 2})
    await store.aput(("users", "grace"), "taste", {"drink": "wine", "rank": 3}, ttl=60)
    await store.aput(("orders",), "1042", {"state": "lost"})

    item = await store.aget(("users", "ada"), "taste")
    assert item is not None
    assert ({"drink": "coffee", "rank": 2}, "taste", ("users", "ada")) == (item.value, item.key, item.namespace)
    assert _HOUR == item.updated_at - item.created_at
    assert ["coffee", "wine"] == _drinks(await store.asearch(("users",)))
    assert ["wine"] == _drinks(await store.asearch(("users",), filter={"rank": {"$gt": 2}}))
    assert "wine" == _drinks(await store.asearch(("users",), query="wine"))[0]
    assert [("orders",), ("users",)] == await store.alist_namespaces(max_depth=1)
    assert [("users", "ada")] == await store.alist_namespaces(prefix=("users",), suffix=("ada",))
    await store.adelete(("users", "ada"), "taste")
    clock.move(_HOUR)
    assert [] == await store.asearch(("users",))
    assert await store.aget(("users", "ada"), "taste") is None


async def test_langgraph_store_from_a_thread(sqlite_memory: Memory) -> None:
    """The calls that block work in other threads, and say what to call instead in the event loop's."""
    store = PerdureStore(sqlite_memory, ADA)
    await asyncio.to_thread(store.put, ("a",), "k", {"v": 1})

    item = await asyncio.to_thread(store.get, ("a",), "k")
    assert item is not None
    assert {"v": 1} == item.value
    with pytest.raises(InvalidInput, match="call `abatch`"):
        store.get(("a",), "k")


def _drinks(items: list[SearchItem]) -> list[str]:
    return [json.loads(json.dumps(item.value))["drink"] for item in items]

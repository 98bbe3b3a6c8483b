"""How a session with an MCP server is begun, kept and ended."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from perdure.connectors.mcp._tools import Tool

if TYPE_CHECKING:
    from mcp import Client
    from mcp.types import CallToolResult

__all__ = ["Session", "list_tools"]


class Session:
    """A session with a server, kept by a task of its own: the protocol's library wants it ended where it was begun."""

    def __init__(self, server: AbstractAsyncContextManager[Client]) -> None:
        self.tools: Mapping[str, Tool] = {}
        self._server = server
        self._stop = asyncio.Event()
        self._ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None

    @property
    def ended(self) -> bool:
        return self._task is None or self._task.done()

    @property
    def client(self) -> Client:
        return self._ready.result()

    async def begin(self) -> None:
        self._task = asyncio.create_task(self._run(), name="an MCP session")
        await self._ready

    async def refresh_tools(self) -> Sequence[Tool]:
        """Return the tools as they are now."""
        tools = await list_tools(self.client)
        self.tools = {tool.name: tool for tool in tools}
        return tools

    async def end(self) -> None:
        self._stop.set()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            async with self._server as client:
                # Its own check knows one draft, lists the tools again, and says of what is done that it failed.
                client.session.validate_tool_result = _take_any_result  # type: ignore[method-assign]
                self.tools = {tool.name: tool for tool in await list_tools(client)}
                self._ready.set_result(client)
                await self._stop.wait()
        except Exception as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)


async def list_tools(client: Client) -> Sequence[Tool]:
    tools: list[Tool] = []
    cursor: str | None = None
    while True:
        page = await client.list_tools(cursor=cursor)
        tools += [Tool.model_validate(tool.model_dump(by_alias=True)) for tool in page.tools]
        cursor = page.next_cursor
        if not cursor:
            return tools


async def _take_any_result(name: str, result: CallToolResult) -> None:
    """Stand in for the library's check of an answer: `_read_result` has its own."""

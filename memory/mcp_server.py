"""Memory over MCP: recall, remember and forget for an agent outside of perdure, within one scope that it cannot leave."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from perdure.errors import InvalidInput, PerdureError
from perdure.lineage import Lineage, StepRef
from perdure.memory.contracts import (
    Origin,
    RecallCall,
    RememberCall,
    Scope,
)
from perdure.memory.records.requests import ForgetCall

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

    from perdure.memory.store import Memory

P = ParamSpec("P")
R = TypeVar("R")
VERBS = frozenset({"recall", "remember", "forget"})
"""What a server may be allowed to do."""


def mcp_server(memory: Memory, scope: Scope, allow: frozenset[str]) -> MCPServer:
    """Return an MCP server over MEMORY with the tools that ALLOW names. Every call is of SCOPE: no argument can change it.

    Forgetting is expiry only: what an agent forgets can still be read as of then, and only people erase. What goes wrong
    is told the agent in the words of our errors.
    """
    from mcp.server.mcpserver import MCPServer
    from mcp.types import ToolAnnotations

    server = MCPServer("perdure memory")
    session = str(uuid.uuid4())

    def step(verb: str) -> StepRef:
        # Every call of a tool is a step of its own: MCP has no retries that it tells from new calls.
        lineage = Lineage(namespace="mcp", workflow_id=f"{scope}", first_execution_run_id=session)
        return StepRef(lineage=lineage, name=f"{verb} {uuid.uuid4()}")

    @_translate_errors
    async def recall(query: str, limit: int = 5, as_of: str = "") -> list[dict[str, object]]:
        """Return what is known that bears on the query, best first. `as_of` is an ISO time: what was known then."""
        try:
            moment = datetime.fromisoformat(as_of) if as_of else None
        except ValueError:
            raise InvalidInput(f"as_of {as_of!r} is no ISO time, such as 2026-11-17T09:00Z") from None
        if moment is not None and moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        found = await memory.recall(RecallCall(step=step("recall"), query=query, scope=scope, limit=limit, as_of=moment))
        return [
            {
                "memory_id": hit.record.memory_id,
                "content": hit.record.content,
                "recorded_at": hit.record.recorded_at.isoformat(),
                "score": hit.score,
            }
            for hit in found.hits
        ]

    @_translate_errors
    async def remember(
        content: str, memory_id: str = "", subject: str = "", predicate: str = "", days: float = 0
    ) -> dict[str, object]:
        """Write something down. With the id of a memory, or a subject and predicate, it replaces what was known of that.

        `days` is how long it holds; 0 means until it is replaced.
        """
        call = RememberCall(
            step=step("remember"),
            scope=scope,
            content=content,
            memory_id=memory_id or None,
            subject=subject or None,
            predicate=predicate or None,
            ttl=timedelta(days=days) if days else None,
            origin=Origin(actor="mcp"),
        )
        written = await memory.remember(call)
        return {"memory_id": written.memory_id, "version": written.version}

    @_translate_errors
    async def forget(memory_id: str) -> dict[str, object]:
        """Let a memory expire now."""
        done = await memory.forget(
            ForgetCall(step=step("forget"), scope=scope, how="expire", memory_id=memory_id, by="mcp")
        )
        return {"forgotten": done.versions}

    if "recall" in allow:
        server.add_tool(recall, annotations=ToolAnnotations(read_only_hint=True))
    if "remember" in allow:
        server.add_tool(remember, annotations=ToolAnnotations(destructive_hint=False))
    if "forget" in allow:
        server.add_tool(forget, annotations=ToolAnnotations(destructive_hint=True))
    return server


def _translate_errors(tool: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    """Return TOOL with our errors as those whose message the agent gets; of others it would see only that there was one."""
    from mcp.server.mcpserver.exceptions import ToolError

    @wraps(tool)
    async def telling(*arguments: P.args, **named: P.kwargs) -> R:
        try:
            return await tool(*arguments, **named)
        except PerdureError as error:
            raise ToolError(error.message) from error

    return telling

"""How do an MCP server's tools become actions? As they were when somebody looked at them and kept them in a file.

    python -m perdure.connectors.mcp --command "npx some-server" > some.tools.json

Must not break: what is called is what somebody looked at, and arguments that fit a tool's schema are never refused.
How tools are kept and what they answer goes into `_tools`, how a server is reached into `_session` and `connector`.
Safe to import in workflow code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.lazy import lazy

if TYPE_CHECKING:
    from perdure.connectors.mcp._tools import Hints, Tool, ToolAnswer, read_tools
    from perdure.connectors.mcp.connector import KEY, McpConnector, look_up_tools, main
else:
    __getattr__ = lazy(
        __name__,
        {
            "_tools": ["Hints", "Tool", "ToolAnswer", "read_tools"],
            "connector": ["KEY", "McpConnector", "look_up_tools", "main"],
        },
    )

__all__ = ["KEY", "Hints", "McpConnector", "Tool", "ToolAnswer", "look_up_tools", "main", "read_tools"]

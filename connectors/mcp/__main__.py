"""Prints the tools of an MCP server: `python -m perdure.connectors.mcp --command "npx some-server" > some.tools.json`."""

from contextlib import suppress

from perdure.connectors.mcp import main

if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()

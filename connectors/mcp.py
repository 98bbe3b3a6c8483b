"""How an MCP server's tools become actions: as they were when somebody looked at them and kept them in a file.

    python -m perdure.connectors.mcp --command "npx some-server" > files.tools.json

Safe to import in workflow code: the `mcp` package comes with the first call.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, NoReturn, cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from perdure.connectors.configured import ConfiguredConnector
from perdure.connectors.contracts import (
    Action,
    AnyAction,
    Attempt,
    CannotTell,
    Executed,
    Probe,
    Risk,
    Target,
)
from perdure.connectors.drift.contracts import Contract
from perdure.connectors.json_models import JsonModel, build_model, find_misfit
from perdure.connectors.schemas import from_mcp
from perdure.documents import read_json
from perdure.errors import (
    EffectError,
    EffectRejected,
    EffectUnknown,
    InvalidSettings,
    Malformed,
    TargetUnavailable,
)
from perdure.lineage import Frozen, digest

if TYPE_CHECKING:
    from mcp import Client
    from mcp.types import CallToolResult

__all__ = ["McpConnector", "Tool", "ToolAnswer", "look_up_tools", "read_tools"]

KEY: Final = "perdure/effect-key"
"""Where the effect's key goes in the `_meta` of a call."""


class Hints(BaseModel):
    """What a server says of a tool. It may lie: what counts is what somebody looked at and kept."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    readOnlyHint: bool = False  # noqa: N815  the protocol's names
    destructiveHint: bool = True  # noqa: N815
    idempotentHint: bool = False  # noqa: N815
    openWorldHint: bool = True  # noqa: N815
    title: str = ""


class Tool(BaseModel):
    """A tool as `tools/list` has it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    title: str = ""
    description: str = ""
    inputSchema: dict[str, JsonValue] = Field(default_factory=dict)  # noqa: N815
    outputSchema: dict[str, JsonValue] | None = None  # noqa: N815
    annotations: Hints = Hints()

    @property
    def digest(self) -> str:
        """The digest of all that an agent or the ledger goes by."""
        return digest(self.model_dump(mode="json"))


class _Tools(BaseModel):
    tools: tuple[Tool, ...]


class ToolAnswer(Frozen):
    """What a tool answered: the texts that it gave, and its structured content if it has an output schema."""

    text: str = ""
    structured: JsonValue = None
    other: int = 0
    """How many parts were left out because they are no text: pictures, sounds, links."""


class McpConnector(ConfiguredConnector):
    """The TOOLS of one MCP server, as actions `NAME.TOOL`.

    A tool that says `readOnlyHint` only reads; `idempotentHint` lets it be called again after a lost answer; any other is
    called at most once, and parked when its answer is lost. `destructiveHint`, which is the default, makes it high risk.
    RISKS and READS say otherwise for single tools. HONOURS_KEY says that the server drops a call whose `_meta` has the
    effect's key a second time.

    A tool that is not any more what TOOLS says, in description, schema or hints, is not called before somebody has
    accepted it as it is.
    """

    takes: ClassVar = {
        "command": "npx some-server",
        "url": "https://mcp.example/mcp",
        "token": "env:MCP_TOKEN",
        r"header\.[\w-]+": "env:MCP_KEY",
        r"env\.\w+": "env:MCP_KEY",
        "folder": "/srv/mcp",
    }

    def __init__(
        self,
        name: str,
        tools: Sequence[Tool],
        *,
        risks: Mapping[str, Risk] | None = None,
        reads: Collection[str] = (),
        honours_key: bool = False,
        deadline: timedelta = timedelta(seconds=30),
    ) -> None:
        self._tools = {f"{name}.{tool.name}": tool for tool in tools}
        unknown = ({*(risks or {})} | {*reads}) - {tool.name for tool in tools}
        if unknown:
            raise ValueError(f"the MCP server {name} has no tool {', '.join(sorted(unknown))}")
        every = [
            _build_action(
                name,
                tool,
                risk=(risks or {}).get(tool.name),
                reads=tool.name in reads,
                target=Target(
                    mechanism="header" if honours_key or tool.annotations.idempotentHint else "none", deadline=deadline
                ),
            )
            for tool in tools
        ]
        super().__init__(name, {action.name: cast(AnyAction, action) for action in every})
        self._reset()

    def _reset(self) -> None:
        self._session: _Session | None = None
        self._opening = asyncio.Lock()
        if self._options is not None and bool(self._options.get("command")) == bool(self._options.get("url")):
            raise InvalidSettings(f"{self.where} needs either command or url, the way to the MCP server")

    def action(self, tool: str) -> Action[JsonModel, ToolAnswer]:
        """Return the action of TOOL, for `act(connector.action("search"), connector.args("search", query="..."))`."""
        return cast("Action[JsonModel, ToolAnswer]", self._actions[f"{self.name}.{tool}"])

    def args(self, tool: str, **values: JsonValue) -> JsonModel:
        """Return VALUES as the arguments of TOOL. Raises pydantic's `ValidationError` if they do not fit its schema."""
        return self.action(tool).input.model_validate(values)

    async def execute(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Executed:
        """Call the tool once. Raises as `Connector.execute` says."""
        tool = self._tools[action.name]
        assert isinstance(args, JsonModel)
        client = await self._open_client(action, tool)
        try:
            result = await client.call_tool(
                tool.name,
                args.outward(),
                read_timeout_seconds=attempt.deadline.total_seconds(),
                meta=cast("None", {KEY: attempt.key} if attempt.key else None),
            )
        except EffectError:
            raise
        except Exception as error:  # noqa: BLE001  transports have errors of their own
            await self._raise_failure(action, error)
        return Executed(_read_result(action, tool, result))

    async def probe(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Probe:
        """Say that it cannot be told: the protocol has no way to ask what a call has done."""
        return CannotTell(f"{action.name}: an MCP server cannot be asked what a call has done")

    def pinned(self) -> Contract | None:
        """Return what the kept tools say."""
        return self._build_contract(self._tools.values())

    async def contract(self) -> Contract | None:
        """Ask the server for its tools as they are now. Raises `TargetUnavailable`."""
        try:
            session = await self._open_session()
            live = await session.refresh_tools()
        except EffectError:
            raise
        except Exception as error:  # noqa: BLE001  transports have errors of their own
            await self.close()
            raise TargetUnavailable(f"{self.name} cannot be asked for its tools ({_name_error(error)})") from None
        return self._build_contract(live)

    async def close(self) -> None:
        """End the session, and the server if it was started here."""
        session, self._session = self._session, None
        if session is not None:
            await session.end()

    async def _open_client(self, action: AnyAction, tool: Tool) -> Client:
        session = await self._open_session()
        live = session.tools.get(tool.name)
        if live is None or (live.digest != tool.digest and not await self._is_accepted(live)):
            what = "has no such tool any more" if live is None else "has changed the tool's description, schema or hints"
            raise TargetUnavailable(
                f"{action.name}: the server {what}, so it is not called. Look at the change: `perdure connectors check "
                f"{self.name}`. If it is right, accept it, or keep the tools anew."
            )
        return session.client

    async def _open_session(self) -> _Session:
        async with self._opening:
            if self._session is None or self._session.ended:
                session = _Session(self._connect())
                try:
                    await session.begin()
                except Exception as error:  # noqa: BLE001  transports have errors of their own
                    raise TargetUnavailable(f"{self.name} cannot be reached ({_name_error(error)})") from None
                self._session = session
            return self._session

    async def _is_accepted(self, live: Tool) -> bool:
        """Say whether a person has accepted LIVE as it is."""
        if self._database is None:
            return False
        from perdure.connectors.drift import Drift, version

        relied = await Drift(self._database, {}).relied_contract(self.name, version=version(self))
        if relied is None or not relied.accepted_by:
            return False
        return relied.contract.operations.get(live.name) == self._build_contract([live]).operations.get(live.name)

    def _build_contract(self, tools: Iterable[Tool]) -> Contract:
        said = [cast("dict[str, JsonValue]", tool.model_dump(mode="json")) for tool in tools]
        return from_mcp(said, {tool.name: [action] for action, tool in self._tools.items()})

    async def _raise_failure(self, action: AnyAction, error: Exception) -> NoReturn:
        from mcp import MCPError
        from mcp.types import INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, REQUEST_TIMEOUT

        code = error.code if isinstance(error, MCPError) else None
        if code in (INVALID_PARAMS, METHOD_NOT_FOUND):
            raise EffectRejected(f"{action.name}: {self.name} refused the call ({code})") from None
        if code != REQUEST_TIMEOUT:
            await self.close()  # it is of no more use; the next call begins another
        if code == INVALID_REQUEST:
            raise TargetUnavailable(f"{action.name}: {self.name} does not know the session any more") from None
        raise EffectUnknown(f"{action.name}: the answer of {self.name} was lost ({_name_error(error)})") from None

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[Client]:
        from mcp import Client, StdioServerParameters, stdio_client
        from mcp.client.streamable_http import streamable_http_client
        from mcp.shared._httpx_utils import create_mcp_http_client

        if command := self.option("command"):
            program, *arguments = shlex.split(command)
            # Never this process's own environment: it has the secrets of every other connector.
            given = {name.removeprefix("env."): self.option(name) for name in self.option_names if name.startswith("env.")}
            server = StdioServerParameters(command=program, args=arguments, env=given, cwd=self.option("folder") or None)
            # What it says aside may hold secrets.
            with Path(os.devnull).open("w") as nowhere:  # noqa: ASYNC230  this one never blocks
                async with Client(stdio_client(server, errlog=nowhere), cache=None) as client:
                    yield client
            return
        headers = {
            name.removeprefix("header."): self.option(name) for name in self.option_names if name.startswith("header.")
        }
        if token := self.option("token"):
            headers["Authorization"] = f"Bearer {token}"
        async with create_mcp_http_client(headers=headers) as http:
            transport = streamable_http_client(self.option("url"), http_client=http)
            async with Client(transport, cache=None) as client:
                yield client


class _Session:
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
        tools = await _list_tools(self.client)
        self.tools = {tool.name: tool for tool in tools}
        return tools

    async def end(self) -> None:
        self._stop.set()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            async with self._server as client:
                self.tools = {tool.name: tool for tool in await _list_tools(client)}
                self._ready.set_result(client)
                await self._stop.wait()
        except Exception as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)


async def look_up_tools(options: Mapping[str, str]) -> Sequence[Tool]:
    """Return the tools of the server that OPTIONS lead to, as `[connectors.NAME]` would have them."""
    connector = McpConnector("server", []).with_options(options)
    async with connector._connect() as client:  # noqa: SLF001  it is one of us
        return await _list_tools(client)


def read_tools(path: Path) -> Sequence[Tool]:
    """Return the tools that are kept in the file at PATH. Raises `InvalidSettings` if it is not such a file."""
    try:
        return _Tools.model_validate(read_json(path.read_text("utf-8"), foreign=True)).tools
    except Malformed as error:
        raise InvalidSettings(f"{path} does not have the tools of an MCP server: {error.message}") from None
    except (OSError, ValueError) as error:
        raise InvalidSettings(f"{path} does not have the tools of an MCP server: {type(error).__name__}") from None


async def _list_tools(client: Client) -> Sequence[Tool]:
    tools: list[Tool] = []
    cursor: str | None = None
    while True:
        page = await client.list_tools(cursor=cursor)
        tools += [Tool.model_validate(tool.model_dump(by_alias=True, exclude_none=True)) for tool in page.tools]
        cursor = page.next_cursor
        if not cursor:
            return tools


def _build_action(
    connector: str, tool: Tool, *, risk: Risk | None, reads: bool, target: Target
) -> Action[JsonModel, ToolAnswer]:
    only_reads = reads or tool.annotations.readOnlyHint
    judged: Risk = "low" if only_reads else "high" if tool.annotations.destructiveHint else "medium"
    return Action(
        f"{connector}.{tool.name}",
        build_model(f"{connector} {tool.name}", tool.inputSchema),
        ToolAnswer,
        reads=only_reads,
        risk=risk or judged,
        target=target,
        describe=lambda _: f"call {tool.name} of {connector}",
    )


def _read_result(action: AnyAction, tool: Tool, result: CallToolResult) -> ToolAnswer:
    texts = [part.text for part in result.content if part.type == "text"]
    text = "\n".join(texts)
    if result.is_error:
        raise EffectRejected(f"{action.name}: the tool says: {' '.join(text.split())[:200] or 'an error'}")
    structured = cast(JsonValue, result.structured_content)
    if tool.outputSchema is not None and (misfit := find_misfit(tool.outputSchema, structured)):
        error = TargetUnavailable if action.reads else EffectUnknown
        raise error(f"{action.name}: it answered, and the answer does not fit the tool's output schema: {misfit}")
    return ToolAnswer(text=text, structured=structured, other=len(result.content) - len(texts))


def _name_error(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return type(error).__name__


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tools of a server, to be kept in a file."""
    import argparse
    import sys

    parser = argparse.ArgumentParser(prog="python -m perdure.connectors.mcp", description=main.__doc__)
    parser.add_argument("--command", help="what starts the server, e.g. 'npx some-server'")
    parser.add_argument("--url", help="where it listens")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="another option, e.g. env.KEY=x"
    )
    given = parser.parse_args(arguments)
    options = {"command": given.command, "url": given.url} | dict(each.split("=", 1) for each in given.option)
    tools = asyncio.run(look_up_tools({name: value for name, value in options.items() if value}))
    kept = {"tools": [tool.model_dump(mode="json") for tool in tools]}
    sys.stdout.write(json.dumps(kept, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()

"""How an MCP server's tools become actions, and how they are called.

Safe to import in workflow code: the `mcp` package comes with the first call.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, NoReturn, Protocol, cast

from pydantic import BaseModel, JsonValue

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
from perdure.connectors.json_schema import Checker
from perdure.connectors.mcp._session import Session, list_tools
from perdure.connectors.mcp._tools import Tool, ToolAnswer, drop_nulls, join_texts, takes_objects
from perdure.connectors.schemas import from_mcp
from perdure.errors import (
    EffectError,
    EffectRejected,
    EffectUnknown,
    InvalidSettings,
    TargetUnavailable,
)

if TYPE_CHECKING:
    from mcp import Client
    from mcp.types import CallToolResult

__all__ = ["KEY", "McpConnector", "look_up_tools", "main"]

KEY: Final = "perdure/effect-key"
"""Where the effect's key goes in the `_meta` of a call."""

_REFUSALS: Final = (-32700, -32601, -32602, -32042)
"""The codes of JSON-RPC that say of a call that it was not begun: not JSON, no such method, wrong parameters, and that a
person has to open a page first."""
_HEADER_MISMATCH: Final = -32020
_REFUSING_STATUSES: Final = (*range(300, 400), 402, 403, 405, 406, 410, 411, 413, 414, 415, 417, 421, 422, 431, 451)
"""The statuses of HTTP that say the same, whoever on the way says so."""


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
        if len(self._tools) < len(tools):
            twice = next(name for name, count in Counter(tool.name for tool in tools).items() if count > 1)
            raise InvalidSettings(f"the MCP server {name} has two tools called {twice!r}: leave one out of the file")
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
        self._session: Session | None = None
        self._opening = asyncio.Lock()
        self._statuses: dict[str, int] = {}
        if self._options is not None and bool(self._options.get("command")) == bool(self._options.get("url")):
            raise InvalidSettings(f"{self.where} needs either command or url, the way to the MCP server")

    @property
    def unchecked(self) -> Mapping[str, Sequence[str]]:
        """The places of the tools' schemas, by action, that are not checked here, since nobody can, and why."""
        read = {name: (Checker(tool.inputSchema), Checker(tool.outputSchema or {})) for name, tool in self._tools.items()}
        found = {
            name: [f"inputSchema{place}" for place in taken.unchecked]
            + [f"outputSchema{place}" for place in given.unchecked]
            for name, (taken, given) in read.items()
        }
        return {name: places for name, places in found.items() if places}

    def action(self, tool: str) -> Action[JsonModel, ToolAnswer]:
        """Return the action of TOOL, for `act(connector.action("search"), connector.args("search", query="..."))`."""
        return cast("Action[JsonModel, ToolAnswer]", self._actions[f"{self.name}.{tool}"])

    def args(self, tool: str, /, **values: JsonValue) -> JsonModel:
        """Return VALUES as the arguments of TOOL. Raises pydantic's `ValidationError` if they do not fit its schema."""
        return self.action(tool).input.model_validate(values)

    async def execute(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Executed:
        """Call the tool once. Raises as `Connector.execute` says."""
        tool = self._tools[action.name]
        assert isinstance(args, JsonModel)
        client = await self._open_client(action, tool)
        try:
            # Neither does the library answer what a server asks back, nor send again, nor judge the answer: we do.
            result = await client.session.call_tool(
                tool.name,
                args.outward(),
                read_timeout_seconds=attempt.deadline.total_seconds(),
                meta=cast("None", {KEY: attempt.key} if attempt.key else None),
                allow_input_required=True,
            )
        except EffectError:
            raise
        except Exception as error:  # noqa: BLE001  transports have errors of their own
            await self._raise_failure(action, error, self._statuses.pop(attempt.key, None))
        if result.result_type == "input_required":
            raise EffectRejected(f"{action.name}: the tool wants an answer from a person first, which nobody can give here")
        return Executed(_read_result(action, tool, cast("CallToolResult", result)))

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

    async def _open_session(self) -> Session:
        async with self._opening:
            if self._session is None or self._session.ended:
                session = Session(self._connect())
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
        said = [cast("dict[str, JsonValue]", drop_nulls(tool.model_dump(mode="json"))) for tool in tools]
        return from_mcp(said, {tool.name: [action] for action, tool in self._tools.items()})

    async def _raise_failure(self, action: AnyAction, error: Exception, status: int | None) -> NoReturn:
        from mcp import MCPError
        from mcp.types import INVALID_REQUEST, REQUEST_TIMEOUT

        code = error.code if isinstance(error, MCPError) else None
        if code in _REFUSALS or (code is not None and status in _REFUSING_STATUSES):
            raise EffectRejected(f"{action.name}: {self.name} refused the call ({status or code})") from None
        if code != REQUEST_TIMEOUT:
            await self.close()  # it is of no more use; the next call begins another
        if status == 401:
            raise TargetUnavailable(f"{action.name}: {self.name} does not let us in (401): look at its token") from None
        if status in (400, 404, 429) or code == _HEADER_MISMATCH or (code == INVALID_REQUEST and status is None):
            raise TargetUnavailable(f"{action.name}: {self.name} did not take the call ({status or code})") from None
        why = f"it answered {status}" if status else _name_error(error)
        raise EffectUnknown(f"{action.name}: the answer of {self.name} was lost ({why})") from None

    async def _note_status(self, response: _HttpResponse) -> None:
        """Remember the status with which a call was answered if it is no success: the library does not tell it."""
        if response.status_code == 200 or response.request.method != "POST":
            return
        try:
            key = json.loads(await response.request.aread())["params"]["_meta"][KEY]
        except (ValueError, KeyError, TypeError):
            return
        self._statuses[str(key)] = response.status_code

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
            http.event_hooks = {"response": [self._note_status]}
            transport = streamable_http_client(self.option("url"), http_client=http)
            async with Client(transport, cache=None) as client:
                yield client


class _HttpRequest(Protocol):
    """As much of a request as is read here, whichever client of HTTP the library uses."""

    method: str

    async def aread(self) -> bytes: ...


class _HttpResponse(Protocol):
    """As much of a response."""

    status_code: int

    @property
    def request(self) -> _HttpRequest: ...


async def look_up_tools(options: Mapping[str, str]) -> Sequence[Tool]:
    """Return the tools of the server that OPTIONS lead to, as `[connectors.NAME]` would have them."""
    connector = McpConnector("server", []).with_options(options)
    async with connector._connect() as client:  # noqa: SLF001  it is one of us
        return await list_tools(client)


def _build_action(
    connector: str, tool: Tool, *, risk: Risk | None, reads: bool, target: Target
) -> Action[JsonModel, ToolAnswer]:
    if not takes_objects(tool.inputSchema):
        raise InvalidSettings(
            f"{connector}.{tool.name}: its inputSchema is of type {tool.inputSchema['type']!r}, and arguments are an object"
        )
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
    text, other = join_texts(result)
    if result.is_error:
        raise EffectRejected(f"{action.name}: the tool says: {' '.join(text.split())[:200] or 'an error'}")
    structured = cast(JsonValue, result.structured_content)
    if tool.outputSchema is not None and (misfit := find_misfit(tool.outputSchema, structured)):
        error = TargetUnavailable if action.reads else EffectUnknown
        raise error(f"{action.name}: it answered, and the answer does not fit the tool's output schema: {misfit}")
    return ToolAnswer(text=text, structured=structured, other=other)


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
    for action, places in McpConnector("server", tools).unchecked.items():
        for place in places:
            sys.stderr.write(f"not checked here: {action.partition('.')[2]} {place}\n")
    sys.stdout.write(json.dumps(kept, indent=2, ensure_ascii=False) + "\n")

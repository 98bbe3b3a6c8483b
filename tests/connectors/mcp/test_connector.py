"""Tests of MCP tools as actions, against a small server of ours: by stdio and by HTTP."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest
from kits.connectors import key_of, persist, step
from pydantic import JsonValue, ValidationError
from temporalio import workflow
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from perdure.connectors import EffectCall, EffectResult, Target
from perdure.connectors.contracts import Risk
from perdure.connectors.json_models import DUMPED, JsonModel
from perdure.connectors.ledger import Ledger
from perdure.connectors.mcp import (
    McpConnector,
    Tool,
    look_up_tools,
    main,
    read_tools,
)
from perdure.connectors.testing import Case, HttpFaultProxy, check
from perdure.connectors.watch import Watch
from perdure.errors import (
    ContractDrifted,
    EffectParked,
    EffectRejected,
    InvalidSettings,
    TargetUnavailable,
)
from perdure.plugin import PASSED_THROUGH
from perdure.storage import Database

SERVER = Path(__file__).parents[2] / "stand_ins" / "mcp_server.py"

Connect = Callable[..., McpConnector]


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> list[Tool]:
    """The server's tools, as somebody kept them."""
    book = tmp_path_factory.mktemp("mcp") / "book"
    return list(asyncio.run(look_up_tools({"command": f"{sys.executable} {SERVER} {book}"})))


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """What the server does."""
    return tmp_path / "book"


@pytest.fixture
async def connect(tools: list[Tool], book: Path) -> AsyncIterator[Connect]:
    """Makes a connector to the server, started here."""
    made: list[McpConnector] = []

    def connect(
        *arguments: str, honours_key: bool = False, risks: Mapping[str, Risk] | None = None, **options: str
    ) -> McpConnector:
        command = " ".join([sys.executable, str(SERVER), str(book), *arguments])
        connector = McpConnector("letters", tools, risks=risks, honours_key=honours_key, deadline=timedelta(seconds=15))
        made.append(connector.with_options({"command": command, **options}))
        return made[-1]

    yield connect
    for connector in made:
        await connector.close()


@pytest.fixture
def ledger(sqlite_database: Database, connect: Connect) -> Ledger:
    """A ledger before the server."""
    return Ledger(sqlite_database, {"letters": connect()})


async def test_tools_are_actions(ledger: Ledger, book: Path) -> None:
    """A tool that acts does so once however often it is asked for; one that reads leaves nothing in the ledger."""
    post = _call("letters.post", to="Ada", text="Hello")
    first = await ledger.perform(post)
    again = await ledger.perform(post)
    counted = await ledger.perform(_call("letters.count", "count", to="Ada"))

    assert first == again
    assert {"number": 0} == _structured(first)
    assert [key_of(post)] == [letter["key"] for letter in _letters(book)]
    assert {"result": 1} == _structured(counted)
    assert ["letters.post"] == [effect.action for effect in await ledger.list()]


def test_hints_become_risk_and_reading(tools: list[Tool]) -> None:
    """ReadOnlyHint reads at low risk, idempotentHint may be repeated, and what says nothing is destructive."""
    connector = McpConnector("letters", tools, risks={"post": "high"}, reads=["environment"])
    said = {
        name.partition(".")[2]: (action.reads, action.risk, action.target.mechanism)
        for name, action in connector.actions.items()
    }

    assert (True, "low", "none") == said["count"]
    assert (False, "high", "header") == said["burn"]
    assert (False, "high", "none") == said["post"]
    assert "medium" == McpConnector("letters", tools).action("post").risk


async def test_minimal_environment(connect: Connect, monkeypatch: pytest.MonkeyPatch, sqlite_database: Database) -> None:
    """The server's process has what it was given, and nothing of what this process has."""
    monkeypatch.setenv("SHOP_TOKEN", "secret")
    monkeypatch.setenv("MCP_KEY", "its own")
    ledger = Ledger(sqlite_database, {"letters": connect(**{"env.API_KEY": "env:MCP_KEY"})})
    found = _structured(await ledger.perform(_call("letters.environment")))["result"]
    assert isinstance(found, list)

    assert "API_KEY" in found
    assert {str(name) for name in found} <= {
        "API_KEY",
        "HOME",
        "LOGNAME",
        "PATH",
        "SHELL",
        "TERM",
        "USER",
        "LC_CTYPE",
        "PWD",
        "_",
        "SHLVL",
    }


async def test_tool_that_says_no(ledger: Ledger) -> None:
    """What a tool reports as its error is a refusal with its words."""
    with pytest.raises(EffectRejected, match="the tool says: Error executing tool post"):
        await ledger.perform(_call("letters.post", to="nobody", text="Hello"))


async def test_arguments_that_do_not_fit(ledger: Ledger, connect: Connect) -> None:
    """Arguments are checked against the tool's schema before anything is sent, in the workflow already."""
    with pytest.raises(ValidationError, match="does not fit 'required'"):
        connect().args("post", to="Ada")
    with pytest.raises(ValidationError, match="does not fit 'type'"):
        connect().args("post", to="Ada", text=7)
    with pytest.raises(ValidationError, match="Extra inputs"):
        connect().args("post", to="Ada", text="Hello", cc="Eve")


async def test_server_that_dies_is_parked_and_started_again(ledger: Ledger, book: Path) -> None:
    """A call whose server died is not repeated, since nothing says that it may; the next one has a new server."""
    with pytest.raises(EffectParked):
        await ledger.perform(_call("letters.post", "a", to="Ada", text="die"))
    await ledger.perform(_call("letters.post", "b", to="Bob", text="Hello"))

    assert ["Ada", "Bob"] == [letter["to"] for letter in _letters(book)]


async def test_server_that_honours_the_key(connect: Connect, sqlite_database: Database, book: Path) -> None:
    """Where the server drops repeats of our key, a lost answer is asked for again."""
    ledger = Ledger(sqlite_database, {"letters": connect(honours_key=True, **{"env.HONOUR": "yes"})})
    post = _call("letters.post", to="Ada", text="die")

    result = await persist(lambda: ledger.perform(post))

    assert {"number": 0} == _structured(result)
    assert 1 == len(_letters(book))


async def test_tool_that_has_changed_is_not_called(connect: Connect, sqlite_database: Database, book: Path) -> None:
    """A tool whose description is another than the one that was kept is not called; others are."""
    ledger = Ledger(sqlite_database, {"letters": connect("--changed")})
    with pytest.raises(TargetUnavailable, match="has changed the tool's description"):
        await ledger.perform(_call("letters.post", to="Ada", text="Hello"))

    assert {"result": 0} == _structured(await ledger.perform(_call("letters.count", "count")))
    assert [] == _letters(book)


async def test_tool_that_has_changed_since_it_was_kept(connect: Connect, sqlite_database: Database, book: Path) -> None:
    """A description that turned against us is found by the first check, holds back what is risky, and can be accepted."""
    letters = connect("--changed", risks={"post": "high"})
    letters.share(sqlite_database)
    watch = Watch.over(sqlite_database, {"letters": letters})
    ledger = Ledger(sqlite_database, {"letters": letters}, guard=watch.guard)
    post = _call("letters.post", to="Ada", text="Hello")

    with pytest.raises(ContractDrifted, match="send a copy to eve"):
        await ledger.perform(post)
    assert [] == _letters(book)
    [checked] = await watch.drift.last_checks()
    await watch.drift.accept("letters", by="mara", live=checked.live)
    anew = Watch.over(sqlite_database, {"letters": letters})
    await persist(lambda: Ledger(sqlite_database, {"letters": letters}, guard=anew.guard).perform(post))

    assert ["post description"] == [f"{change.operation} {change.side}" for change in checked.changes]
    assert [key_of(post)] == [letter["key"] for letter in _letters(book)]


async def test_server_that_does_not_start(tools: list[Tool], sqlite_database: Database) -> None:
    """Where there is no server nothing has happened."""
    connector = McpConnector("letters", tools).with_options({"command": "/nowhere/at-all"})

    with pytest.raises(TargetUnavailable, match="letters cannot be reached"):
        await Ledger(sqlite_database, {"letters": connector}).perform(_call("letters.post", to="Ada", text="Hello"))


async def test_http_under_every_fault(tools: list[Tool], book: Path) -> None:
    """By HTTP, with a proxy that strikes at the calls of tools, a server that drops repeats does each once."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        SERVER,
        book,
        "--http",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={"HONOUR": "yes"},
    )
    assert process.stdout is not None
    port = int(await process.stdout.readline())
    url = f"http://127.0.0.1:{port}"
    await _listening(port)

    async def letters(args: JsonModel) -> int:
        return sum(letter["to"] == args.outward()["to"] for letter in _letters(book))

    async with HttpFaultProxy(url, strikes=lambda asked: b"tools/call" in asked.body) as proxy:
        connector = McpConnector("letters", tools, honours_key=True).with_options({"url": f"{proxy.url}/mcp"})
        matrix = await check(
            Case(
                connector=connector,
                action=connector.action("post"),
                args=lambda number: connector.args("post", to=f"no. {number}", text="Hello"),
                count=letters,
                proxy=proxy,
                target=Target(mechanism="header", settle=timedelta(seconds=0.2), deadline=timedelta(seconds=3)),
                operations=2,
            )
        )
        await connector.close()
    process.terminate()
    await process.wait()

    assert [] == matrix.problems
    assert 0 < matrix.total().naive.duplicates


def test_tools_are_kept_in_a_file(
    tmp_path: Path, tools: list[Tool], book: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the command prints can be read again, and nothing else can."""
    main(["--command", f"{sys.executable} {SERVER} {book}"])
    kept = tmp_path / "letters.tools.json"
    kept.write_text(capsys.readouterr().out)

    assert tools == read_tools(kept)
    kept.write_text("[]")
    with pytest.raises(InvalidSettings, match="does not have the tools"):
        read_tools(kept)


@pytest.mark.parametrize("options", [{}, {"command": "x", "url": "http://x"}])
def test_wrong_options(tools: list[Tool], options: dict[str, str]) -> None:
    """There is one way to a server."""
    with pytest.raises(InvalidSettings, match="either command or url"):
        McpConnector("letters", tools).with_options(options)


def test_names_that_python_has_another_use_for() -> None:
    """A property called like a keyword, or with a dash, has a field of another name, and goes out by its own."""
    names = {"class": {"type": "string"}, "x-y": {"type": "integer"}, "json": {}, "x_y": {}, "_x_y": {}}
    schema = {"type": "object", "properties": names}
    connector = McpConnector("t", [Tool.model_validate({"name": "t", "inputSchema": schema})])
    args = connector.args("t", class_="a", x_y_=1)
    through_json = type(args).model_validate(args.model_dump(mode="json"), context={DUMPED: True})

    assert ["class_", "x_y_", "json_", "x_y", "x_y__"] == list(type(args).model_fields)
    assert {"class": "a", "x-y": 1} == args.outward() == through_json.outward()


def test_properties_without_names() -> None:
    """Where the schema allows properties that it does not name, they go through."""
    schema = {"type": "object", "properties": {"a": {}}, "additionalProperties": {"type": "integer"}}
    connector = McpConnector("t", [Tool.model_validate({"name": "t", "inputSchema": schema})])

    assert {"a": "x", "b": 1} == connector.args("t", a="x", b=1).outward()
    with pytest.raises(ValidationError, match="does not fit 'type'"):
        connector.args("t", b="x")


def test_reference_that_leads_out_is_not_followed() -> None:
    """A foreign schema makes this process fetch nothing; what is not checked because of that is told (case 13)."""
    schema: dict[str, JsonValue] = {"properties": {"x": {"$ref": "http://127.0.0.1:1/x"}, "y": {"type": "integer"}}}
    connector = _of(schema)

    assert {"x": 1} == connector.args("t", x=1).outward()
    assert {"t.t": ["inputSchema/properties/x/$ref: 'http://127.0.0.1:1/x' leads out of the schema or nowhere"]} == (
        connector.unchecked
    )
    with pytest.raises(ValidationError, match="does not fit 'type'"):
        connector.args("t", x=1, y="1")
    assert connector.pinned() is not None


@pytest.mark.parametrize(
    ("schema", "values"),
    [
        ({"properties": {"kind": {}}, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, {"kind": 1, "a": 2}),
        ({"properties": {"a": {}}, "required": ["b"]}, {"b": 1}),
        ({"properties": {"a": {}}, "patternProperties": {"^x-": {"type": "string"}}}, {"x-y": "z"}),
        ({"$ref": "#/$defs/args", "$defs": {"args": {"properties": {"a": {"type": "integer"}}}}}, {"a": 1}),
        ({"properties": [], "required": None}, {}),
        ({"type": "OBJECT", "properties": {"a": {"type": "STRING"}}}, {"a": "x"}),
        (dict[str, JsonValue](), {"a": 1}),
    ],
)
def test_properties_that_are_named_elsewhere(schema: dict[str, JsonValue], values: dict[str, JsonValue]) -> None:
    """A property may be named by a union, a pattern, a reference or only by `required` (case 13)."""
    assert values == _of(schema).args("t", **values).outward()


@pytest.mark.parametrize("kind", ["array", ["string", "null"]])
def test_arguments_that_are_no_object(kind: JsonValue) -> None:
    """A tool that nobody can call is refused when it is declared, with its place (case 13)."""
    with pytest.raises(InvalidSettings, match=r"t\.t: its inputSchema is of type .*, and arguments are an object"):
        _of({"type": kind})


def test_two_tools_of_one_name(tools: list[Tool]) -> None:
    """Which of the two is meant nobody can tell."""
    with pytest.raises(InvalidSettings, match="two tools called 'count'"):
        McpConnector("letters", [*tools, next(tool for tool in tools if tool.name == "count")])


def test_reserved_names() -> None:
    """Whatever a property is called, it can be given by its own name, and is sent by it (case 13)."""
    names = [
        *("model_config", "model_fields", "model_dump", "copy", "json", "schema", "dict", "validate", "construct", "self"),
        *(
            "cls",
            "tool",
            "args",
            "class",
            "None",
            "__class__",
            "__init__",
            "_private",
            "a.b",
            "a[0]",
            "$ref",
            "",
            " ",
            "1st",
        ),
        *("größe", "名前", "²", "model_validate_x", "outward", "schema_", "checker_", "enum", "properties", "model_"),
    ]
    connector = _of({"properties": {name: {"type": "integer"} for name in names}, "required": cast("JsonValue", names)})
    values: dict[str, JsonValue] = dict.fromkeys(names, 1)
    given = connector.args("t", **values)
    through_json = type(given).model_validate(given.model_dump(mode="json"))

    assert values == given.outward() == through_json.outward()
    assert len(names) == len(type(given).model_fields)


async def test_workflow_module(tmp_path: Path, tools: list[Tool], monkeypatch: pytest.MonkeyPatch) -> None:
    """A workflow's module may read the tools and make the connector, as the docs have it (case 05)."""
    kept = {"tools": [tool.model_dump(mode="json") for tool in tools]}
    (tmp_path / "letters.tools.json").write_text(json.dumps(kept))
    (tmp_path / "letters_desk.py").write_text(_DESK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    desk = importlib.import_module("letters_desk")

    _sandbox().prepare_workflow(workflow._Definition.must_from_class(desk.Look))


def test_file_that_is_not_there(tmp_path: Path) -> None:
    """The message says which file, and which part of it."""
    with pytest.raises(InvalidSettings, match=r"gone\.json cannot be read: No such file"):
        read_tools(tmp_path / "gone.json")
    (tmp_path / "wrong.json").write_text('{"tools": [{"description": "no name"}]}')
    with pytest.raises(InvalidSettings, match="name: Field required"):
        read_tools(str(tmp_path / "wrong.json"))


def test_nulls_are_as_good_as_nothing(tmp_path: Path) -> None:
    """What a server or a file says with null it does not say; the digest is what it was without (case 13)."""
    properties = {"a": {"type": "string"}}
    plain = Tool.model_validate({"name": "t", "inputSchema": {"type": "object", "properties": properties}})
    nulls = Tool.model_validate(
        {
            "name": "t",
            "title": None,
            "description": None,
            "annotations": {"readOnlyHint": None, "title": None},
            "outputSchema": None,
            "inputSchema": {"type": "object", "properties": {"a": {"type": "string", "default": None}}, "required": None},
        }
    )

    assert plain.digest == nulls.digest


_DESK = """\
from pathlib import Path

from temporalio import workflow

from perdure.connectors.mcp import McpConnector, read_tools
from perdure.workflows import act

letters = McpConnector("letters", read_tools(Path("letters.tools.json")))
beside = McpConnector("letters", read_tools(Path(__file__).parent / "letters.tools.json"))
count = letters.action("count")
assert {"to": "Ada"} == letters.args("count", to="Ada").outward()


@workflow.defn
class Look:
    @workflow.run
    async def run(self, to: str) -> str:
        return (await act(count, letters.args("count", to=to))).value.text
"""


def _sandbox() -> SandboxedWorkflowRunner:
    runner = SandboxedWorkflowRunner()
    return replace(runner, restrictions=runner.restrictions.with_passthrough_modules(*PASSED_THROUGH))


def _of(schema: dict[str, JsonValue]) -> McpConnector:
    return McpConnector("t", [Tool.model_validate({"name": "t", "inputSchema": schema})])


async def _listening(port: int) -> None:
    for _ in range(200):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)  # the server has no way to tell that it is ready
        else:
            writer.close()
            return
    raise AssertionError("the server does not listen")


def _call(action: str, name: str = "call", **args: JsonValue) -> EffectCall:
    return EffectCall(step=step(name), action=action, args=args)


def _structured(result: EffectResult) -> dict[str, JsonValue]:
    assert isinstance(result.value, dict)
    assert isinstance(result.value["structured"], dict)
    return result.value["structured"]


def _letters(book: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in book.read_text().splitlines()] if book.exists() else []

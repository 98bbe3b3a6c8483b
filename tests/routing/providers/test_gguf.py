"""Tests of the process that runs a GGUF file. The model has random weights; llama.cpp is the real one."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import os
import re
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Literal

import pytest
from kits.routing import HashingEmbedder, asking, rows
from kits.tiny_gguf import write_gguf
from pydantic import BaseModel, JsonValue

from perdure.errors import (
    AskAgain,
    InvalidSettings,
    ModelRefused,
    ModelUnavailable,
)
from perdure.lineage import Lineage, StepRef
from perdure.routing import OutputRef, Router, load_routes
from perdure.storage import Database


class Verdict(BaseModel):
    """What the tests ask for: a grammar leaves nothing else to say."""

    verdict: Literal["refund", "reject"]
    edge_case: bool


MODELS = """\
[tasks.triage]
tier = "small"
instructions = "Judge the return request."

[deployments.gguf]
tier = "small"
model = "perdure-local/gguf"
file = "models/tiny.gguf"
input_usd_per_mtok = 0
output_usd_per_mtok = 0
"""


@pytest.fixture
async def local(tmp_path: Path, sqlite_database: Database) -> AsyncIterator[Callable[..., Router]]:
    """Makes a router with the tiny model; OPTIONS are more lines for the deployment, TASK for the task."""
    (tmp_path / "models").mkdir()
    write_gguf(tmp_path / "models" / "tiny.gguf")
    made: list[Router] = []

    def make(options: str = "", task: str = "", more: str = "") -> Router:
        text = MODELS.replace('"small"\ninstr', f'"small"\n{task}\ninstr') + options + "\n" + more
        (tmp_path / "models.toml").write_text(text)
        made.append(Router(sqlite_database, load_routes([tmp_path / "models.toml"]), HashingEmbedder()))
        return made[-1]

    yield make
    for router in made:
        await router.close()


WANTED = OutputRef(name=f"{Verdict.__module__}:Verdict")
# So long that writing it takes much longer than any of these tests waits.
ENDLESS = OutputRef(name="endless", json_schema={"type": "string", "pattern": "^(a{50}){1000}$"})


async def sent(database: Database) -> None:
    """Wait until a call is on its way. A row is nothing that announces itself."""
    while not await rows(database):  # noqa: ASYNC110
        await asyncio.sleep(0)


async def test_it_answers_in_the_form(local: Callable[..., Router], sqlite_database: Database, tmp_path: Path) -> None:
    """Whatever the model would say, its grammar lets only an answer through that fits; the file's digest is its version."""
    router = local()

    generation = await router.generate(asking(output=WANTED), attempt=1, output=Verdict)

    [row] = await rows(sqlite_database)
    digest = hashlib.sha256((tmp_path / "models" / "tiny.gguf").read_bytes()).hexdigest()
    assert Verdict.model_validate(generation.value)
    assert (f"sha256:{digest}", "answered", 0) == (row["model_version"], row["outcome"], row["cost_nano_usd"])
    assert row["prompt_tokens"] > 100
    assert row["completion_tokens"] > 20
    assert not row["estimated"]


async def test_a_schema_beyond_grammars_is_checked_afterwards(local: Callable[..., Router]) -> None:
    """Where no grammar can be made of a schema any JSON comes through, and is an error if it does not fit."""
    schema: dict[str, JsonValue] = {"type": "array", "items": {"type": "integer"}, "minItems": 10**6}
    router = local()

    with pytest.raises(AskAgain, match="does not fit odd"):
        await router.generate(asking(output=OutputRef(name="odd", json_schema=schema)), attempt=1, output=None)


async def test_time_out_stops_the_generation(local: Callable[..., Router], sqlite_database: Database) -> None:
    """After a time-out the process generates for nobody: it is the same one, and answers the next call."""
    router = local("max_tokens = 60000\ncontext = 65000\ntimeout = 0.5")
    await router.load_files()
    before = router.processes()

    with pytest.raises(ModelUnavailable, match=r"did not answer within 0\.5 s"):
        await router.generate(asking(output=ENDLESS), attempt=1, output=None)
    answered = await router.generate(asking(output=WANTED), attempt=2, output=Verdict)

    assert ["unavailable", "answered"] == [row["outcome"] for row in await rows(sqlite_database)]
    assert before == router.processes()
    assert 2 == answered.record.provider_calls


async def test_what_does_not_stop_is_ended(
    local: Callable[..., Router], sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that does not stop when it is told, as while it reads a long prompt, is ended, and another one answers."""
    monkeypatch.setattr("perdure.routing.providers.gguf.PATIENCE", 0)
    router = local("max_tokens = 60000\ncontext = 65000\ntimeout = 0.5")
    await router.load_files()
    before = router.processes()

    with pytest.raises(ModelUnavailable):
        await router.generate(asking(output=ENDLESS), attempt=1, output=None)
    # Whoever comes next waits for the other process to be loaded, perhaps more than once within half a second each.
    router.routes.deployments["gguf"].__dict__["timeout"] = 60
    await router.generate(asking(output=WANTED), attempt=2, output=Verdict)

    assert before != router.processes()


async def test_cancelling_stops_the_generation(local: Callable[..., Router], sqlite_database: Database) -> None:
    """A cancelled step returns at once, and the next one does not wait for the rest of its answer."""
    router = local("max_tokens = 60000\ncontext = 65000")
    await router.load_files()
    asked = asyncio.create_task(router.generate(asking(output=ENDLESS), attempt=1, output=None))
    await sent(sqlite_database)

    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    await router.generate(asking(output=WANTED), attempt=2, output=Verdict)

    assert ["cancelled", "answered"] == [row["outcome"] for row in await rows(sqlite_database)]


async def test_a_crash_is_one_failed_attempt(local: Callable[..., Router], sqlite_database: Database) -> None:
    """When the process is killed in the middle, the attempt fails and the next one has a process again."""
    router = local("max_tokens = 60000\ncontext = 65000")
    await router.load_files()
    [pid] = router.processes()
    asked = asyncio.create_task(router.generate(asking(output=ENDLESS), attempt=1, output=None))
    await sent(sqlite_database)

    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ModelUnavailable, match="its process was ended by SIGKILL, perhaps for want of memory"):
        await asked
    await router.generate(asking(output=WANTED), attempt=2, output=Verdict)

    assert [pid] != router.processes()
    assert ["unavailable", "answered"] == [row["outcome"] for row in await rows(sqlite_database)]


async def test_inputs_too_long_for_the_context(local: Callable[..., Router]) -> None:
    """Inputs that do not fit into the context fail once, with what to do."""
    router = local("context = 256\nmax_tokens = 200")

    with pytest.raises(ModelRefused, match=r"has too small a `context` for the inputs\. Add a deployment"):
        await router.generate(asking(output=WANTED, message="word " * 50), attempt=1, output=Verdict)


async def test_calls_take_turns(local: Callable[..., Router], sqlite_database: Database) -> None:
    """Steps that ask at the same time all get an answer, one after the other, from one process."""
    router = local()
    calls = [asking(output=WANTED, message=f"request {number}") for number in range(8)]

    answers = await asyncio.gather(*(router.generate(call, attempt=1, output=Verdict) for call in calls))

    assert 8 == len(answers)
    assert 1 == len(router.processes())


async def test_another_file_is_another_model(local: Callable[..., Router], tmp_path: Path) -> None:
    """Answers are kept for a file's content: with another one at the same place the question is asked again."""

    def named(name: str) -> StepRef:
        return StepRef(lineage=Lineage(namespace="default", workflow_id=name, first_execution_run_id="1"), name="triage")

    call = asking(output=WANTED)
    again = [call.model_copy(update={"step": named(name)}) for name in ("one", "two", "three")]
    first = await local(task='cache = "1d"').generate(again[0], attempt=1, output=Verdict)
    second = await local(task='cache = "1d"').generate(again[1], attempt=1, output=Verdict)
    write_gguf(tmp_path / "models" / "tiny.gguf", seed=2)
    third = await local(task='cache = "1d"').generate(again[2], attempt=1, output=Verdict)

    assert [False, True, False] == [each.record.cached for each in (first, second, third)]
    assert first.record.model == second.record.model != third.record.model


async def test_it_ends_with_the_worker(local: Callable[..., Router]) -> None:
    """When its input ends, as it does however the worker dies, so does the process, in the middle of an answer as well."""
    from perdure.routing.providers import gguf

    router = local("max_tokens = 60000\ncontext = 65000")
    file = router.routes.deployments["gguf"].file
    assert file is not None
    process = await gguf._Process.start(file, 65000)
    process.ask({"messages": [{"role": "user", "content": "x"}], "max_tokens": 60000, "temperature": 0})

    process._process.stdin.close()  # type: ignore[union-attr]
    await process._reading

    assert process.gone


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('file = "none.gguf"', "none.gguf cannot be read: No such file or directory. Write the path of a GGUF file"),
        ('file = "models.toml"', "models.toml is not a GGUF file"),
        (
            'file = "models/cut.gguf"',
            "cut.gguf cannot be loaded: tensor 'output.weight' data is not within the file bounds",
        ),
        ("", "`file` names the GGUF file that"),
        ('file = "models/tiny.gguf"\nstructured = "tool"', "takes neither"),
        ('file = "models/tiny.gguf"\nmax_tokens = 9000', "`context` holds the prompt as well"),
    ],
)
async def test_what_cannot_run_is_told_at_start_up(
    local: Callable[..., Router], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str, message: str
) -> None:
    """A file that is missing, cut short or of another kind is an error with the line in models.toml, before any task."""
    whole = (tmp_path / "models" / "tiny.gguf").read_bytes()
    (tmp_path / "models" / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    monkeypatch.setattr(f"{__name__}.MODELS", MODELS.replace('file = "models/tiny.gguf"', lines))

    with pytest.raises(InvalidSettings, match=rf"models\.toml, line \d+: \[deployments\.gguf\].*{re.escape(message)}"):
        await local().load_files()


async def test_a_missing_extra_is_told(local: Callable[..., Router], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the error says how to install it, and which line of models.toml needs it."""
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "xllamacpp" else found(name))

    with pytest.raises(InvalidSettings, match=r"line 9: \[deployments\.gguf\] file: .*pip install 'perdure\[gguf\]'"):
        local()

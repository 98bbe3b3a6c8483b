"""Tests of a GGUF file behind a worker: it is loaded before the first task, answers steps, and ends with the worker."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest
from kits.model_workflows import Ask, Chooses
from kits.tiny_gguf import write_gguf
from kits.workflows import OpenWorker
from temporalio.client import Client
from temporalio.worker import Worker

from perdure.errors import InvalidSettings
from perdure.plugin import PerdurePlugin
from perdure.settings import Settings

MODELS = """\
[tasks.triage]
tier = "small"

[deployments.local]
tier = "small"
model = "perdure-local/gguf"
file = "tiny.gguf"
input_usd_per_mtok = 0
output_usd_per_mtok = 0
"""


async def test_a_file_answers_steps(governed: OpenWorker, tmp_path: Path) -> None:
    """A step is answered by the file, whose digest is the model in the history; nothing of it is left after the worker."""
    file = write_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "models.toml").write_text(MODELS)
    version = f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"

    async with governed(Chooses, settings={"models": tmp_path / "models.toml"}) as desk:
        handle = await desk.start(Chooses.run, Ask())
        assert await handle.result() in (f"refund by {version}", f"reject by {version}")
        assert await desk.replays(handle, [Chooses])
        assert running(str(file)) or not Path("/proc/self").exists()  # noqa: ASYNC240

    assert not running(str(file))


async def test_a_worker_with_a_broken_file_does_not_start(temporal_address: str, tmp_path: Path) -> None:
    """A file that was cut short ends the worker at its start, with the line that names it."""
    file = write_gguf(tmp_path / "tiny.gguf")
    file.write_bytes(file.read_bytes()[:60_000])
    (tmp_path / "models.toml").write_text(MODELS)
    plugin = PerdurePlugin(Settings(home=tmp_path, models=tmp_path / "models.toml"))
    client = await Client.connect(temporal_address, plugins=[plugin])

    with pytest.raises(InvalidSettings, match=r"models\.toml, line 7: \[deployments\.local\] file: .*cannot be loaded"):
        async with asyncio.timeout(30), Worker(client, task_queue="never", workflows=[Chooses]):
            await asyncio.Event().wait()


def running(argument: str) -> list[Path]:
    """The processes, by Linux, that were started with ARGUMENT."""
    return [path for path in Path("/proc").glob("[0-9]*/cmdline") if argument.encode() in _content(path)]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended meanwhile
        return b""

"""Tests of the worker as a process: how it starts, how it stops, and how it says that it can't start."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from kits.e2e import ROOT, TESTS, Ended, call, environment, running
from temporalio.client import Client
from temporalio.worker import Worker

from perdure.connectors.null import NullConnector
from perdure.plugin import PerdurePlugin
from perdure.settings import Settings

SLOW = '''
"""An activity that lasts as long as a test wants."""

import asyncio
import os
from datetime import timedelta
from pathlib import Path

from temporalio import activity, workflow


@activity.defn
async def work(folder: str) -> str:
    (Path(folder) / "begun").touch()
    while not (Path(folder) / "enough").exists():
        await asyncio.sleep(0.02)
    return f"done by {os.getpid()}"


@workflow.defn
class Works:
    @workflow.run
    async def run(self, folder: str) -> str:
        return await workflow.execute_activity(work, folder, start_to_close_timeout=timedelta(minutes=1))
'''


# Starting and stopping


async def test_python_worker_py_serves_and_drains(temporal_address: str, tmp_path: Path) -> None:
    """`python worker.py MODULE` in the repository serves; on SIGTERM it lets the step in flight finish and ends with 0."""
    (tmp_path / "slow.py").write_text(SLOW)
    env = environment(temporal_address, tmp_path / "home", {"PYTHONPATH": str(tmp_path), "PERDURE_TASK_QUEUE": "drains"})
    client = await Client.connect(temporal_address)
    handle = await client.start_workflow("Works", str(tmp_path), id="drains", task_queue="drains", result_type=str)
    async with running([sys.executable, "worker.py", "slow"], env, cwd=ROOT, log=tmp_path / "log") as worker:
        await worker.until((tmp_path / "begun").exists)
        worker.interrupt()
        await worker.says("worker draining")
        (tmp_path / "enough").touch()
        code = await worker.process.wait()

        assert 0 == code
        assert "worker stopped" in worker.log
        assert "Traceback" not in worker.log
    ended = [event.activity_task_completed_event_attributes async for event in handle.fetch_history_events()]
    assert [1] == [
        event.activity_task_started_event_attributes.attempt
        async for event in handle.fetch_history_events()
        if event.HasField("activity_task_started_event_attributes")
    ]
    assert any(each.identity for each in ended)
    await handle.terminate()


# Not starting


@pytest.mark.parametrize(
    ("modules", "settings", "said"),
    [
        (
            ["kits.toy_workflows"],
            {"PERDURE_DATABASE_URL": "mysql://root@localhost/x"},
            "'database_url' in perdure.toml or PERDURE_DATABASE_URL",
        ),
        (["kits.toy_workflows"], {"PERDURE_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}, "cannot be opened"),
        (["no_such_module"], {}, "module 'no_such_module' cannot be found"),
        (["empty"], {}, "module 'empty' defines no @workflow.defn class"),
        (["broken"], {}, "module 'broken' cannot be imported: ZeroDivisionError"),
        (["impure"], {}, "Failed validating workflow Impure: Cannot access random.random"),
        (["double"], {}, "More than one activity named perdure.act"),
        (["kits.toy_workflows"], {"PERDURE_MODELS": "bad.toml"}, "bad.toml"),
        (["kits.toy_workflows"], {"PERDURE_MODELS": "missing.toml"}, "missing.toml"),
        (["perdure.examples.returns_desk.desk"], {}, "needs the address of the system"),
        (["kits.toy_workflows"], {"TEMPORAL_NAMESPACE": "nowhere"}, "Temporal has no namespace 'nowhere'"),
        (["kits.toy_workflows"], {"TEMPORAL_ADDRESS": "nonsense"}, "TEMPORAL_ADDRESS"),
        (["kits.toy_workflows"], {"PERDURE_TASK_QUEUE": ""}, "task_queue"),
    ],
    ids=[
        "database-kind",
        "database-unreachable",
        "unknown-module",
        "nothing-to-serve",
        "broken-module",
        "impure-workflow",
        "a-name-twice",
        "bad-models",
        "missing-models",
        "connector-without-url",
        "unknown-namespace",
        "bad-address",
        "no-task-queue",
    ],
)
async def test_a_bad_start_ends_with_one_message(
    temporal_address: str, tmp_path: Path, modules: list[str], settings: Mapping[str, str], said: str
) -> None:
    """What is wrong with the configuration is said once, without a traceback, and the process ends with an error's code."""
    (tmp_path / "empty.py").write_text("NOTHING = 1\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "impure.py").write_text(IMPURE)
    (tmp_path / "double.py").write_text(DOUBLE)
    (tmp_path / "bad.toml").write_text("[tasks.triage]\ntier = 'huge'\n")
    ended = await start(temporal_address, tmp_path, modules, settings)

    assert ended.code in (1, 3)
    assert_one_message(ended, said)


async def test_an_unreachable_server_ends_with_3(tmp_path: Path) -> None:
    """A worker waits for the server as long as `patience` says, then tells where nobody answered."""
    ended = await start("127.0.0.1:1", tmp_path, ["kits.toy_workflows"], {})

    assert 3 == ended.code
    assert_one_message(ended, "no Temporal server answers at 127.0.0.1:1")


async def test_an_index_has_one_owner(temporal_address: str, tmp_path: Path) -> None:
    """A second worker in the folder of another one says that the memory index is in use."""
    plugin = PerdurePlugin(Settings(home=tmp_path / "home"), connectors=[NullConnector()])
    client = await Client.connect(temporal_address, plugins=[plugin])
    async with Worker(client, task_queue="owner"):
        while not (tmp_path / "home/index/owner.lock").exists():  # noqa: ASYNC110  a file gives no event
            await asyncio.sleep(0.02)
        ended = await start(temporal_address, tmp_path, ["kits.toy_workflows"], {})

    assert 1 == ended.code
    assert_one_message(ended, "index")


IMPURE = """
import random
from temporalio import workflow

LUCK = random.random()


@workflow.defn
class Impure:
    @workflow.run
    async def run(self) -> None:
        return None
"""

DOUBLE = """
from temporalio import activity


@activity.defn(name="perdure.act")
async def mine() -> None:
    return None
"""


async def start(address: str, folder: Path, modules: list[str], settings: Mapping[str, str]) -> Ended:
    """Start a worker in FOLDER and return how it ended."""
    env = environment(address, folder / "home", {"PYTHONPATH": f"{folder}:{TESTS}", "PERDURE_PATIENCE": "PT1S", **settings})
    return await call([sys.executable, "-m", "perdure.worker", *modules], env, cwd=folder)


def assert_one_message(ended: Ended, said: str) -> None:
    """Check that stderr is one message that has SAID in it, besides the log's lines."""
    lines = [line for line in ended.err.splitlines() if not line.startswith("{")]
    assert lines, ended
    assert lines[0].startswith("perdure worker: "), ended.err
    assert said in ended.err
    assert "Traceback" not in ended.err + ended.out
    assert 3 >= len(lines), ended.err

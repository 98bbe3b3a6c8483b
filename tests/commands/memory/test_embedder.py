"""A worker whose settings name another embedder than before: what it answers until that one is ready, also when killed."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kits.cli import TESTS, Perdure, environment, until

from perdure.commands.exits import Exit
from perdure.lineage import Lineage, StepRef
from perdure.memory import RememberCall, customer, open_memory
from perdure.settings import load_settings
from perdure.storage import open_database

RECORDS = 70


@contextmanager
def _worker(address: str, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    given = environment(address, home) | {
        "PERDURE_EMBEDDER": "kits.memory:Gated",
        "TEST_GATE": str(home / "gate.open"),
        "PERDURE_TASK_QUEUE": "embedder",
    }
    with (home / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "perdure.worker", "kits.cli_workflows"], cwd=TESTS, env=given, stderr=log
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def _remember(settings_of: Path) -> None:
    settings = load_settings(home=settings_of, embedder="kits.memory:Letters")
    async with open_database(settings.database) as database, open_memory(settings, database) as memory:
        for number in range(RECORDS):
            run = Lineage(namespace="test", workflow_id="embedder", first_execution_run_id="1")
            step = StepRef(lineage=run, name=f"{number}")
            await memory.remember(RememberCall(step=step, scope=customer("ada"), content=f"order {number}"))


def _in_force(home: Path) -> str:
    with sqlite3.connect(home / "perdure.db") as connection:
        return str(connection.execute("SELECT generation FROM memory_index").fetchone()[0])


def _found(desk: Perdure) -> int:
    found = desk("memory", "search", "order", "--user", "ada", "-n", "100", "-o", "json")
    assert Exit.OK == found.code, found.err
    return len(found.rows)


@pytest.mark.timeout(180)
def test_worker_with_another_embedder_recalls_on(
    perdure: Perdure, temporal_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is started with another embedder answers from the old index; killed, it goes on; then it switches."""
    asyncio.run(_remember(tmp_path))
    monkeypatch.setenv("PERDURE_HOME", str(tmp_path))
    monkeypatch.setenv("PERDURE_TASK_QUEUE", "embedder")
    monkeypatch.setenv("PERDURE_EMBEDDER", "kits.memory:Gated")
    with _worker(temporal_address, tmp_path):
        until((tmp_path / "gate.waits").exists, seconds=60)
        amid, in_force = _found(perdure), _in_force(tmp_path)
    (tmp_path / "gate.open").touch()
    before = (tmp_path / "gate.embedded").read_text().split()
    with _worker(temporal_address, tmp_path):
        until(lambda: _in_force(tmp_path) != in_force, seconds=60)
        since = (tmp_path / "gate.embedded").read_text().split()[len(before) :]
        after, verified = _found(perdure), perdure("memory", "verify", "-o", "json")

    assert (RECORDS, "1-") == (amid, in_force[:2])
    assert (RECORDS, "2-") == (after, _in_force(tmp_path)[:2])
    # The first 64 were in the new index already when the worker was killed.
    assert RECORDS - 64 == sum(map(int, since))
    assert (True, RECORDS) == (verified.json["sound"], verified.json["points"])

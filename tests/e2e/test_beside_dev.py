"""A program beside a running `perdure dev`, as docs/authoring.md has it: it works, and no process hangs when it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pytest
from kits.cli import environment, until
from kits.doc_pages import Page

import perdure

pytestmark = pytest.mark.timeout(300)  # many processes, each of which takes seconds to start on a busy machine

AUTHORING = Page(Path(perdure.__file__).parent / "docs" / "authoring.md")
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Run a Python program in the page's folder, while `perdure dev` runs there."""
    folder = tmp_path_factory.mktemp("authoring")
    for block in AUTHORING.blocks:
        if block.file:
            (folder / PurePosixPath(block.file)).parent.mkdir(parents=True, exist_ok=True)
            (folder / PurePosixPath(block.file)).write_text(block.text)
    env = environment("", folder / ".perdure")
    command = [sys.executable, "-m", "perdure.cli", "dev", "my_desk.workflows", "--port", "0", "--headless", "-o", "json"]
    with (folder / "dev.log").open("w") as log:
        dev = subprocess.Popen(command, env=env, cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True)
    assert dev.stdout is not None
    env["TEMPORAL_ADDRESS"] = json.loads(dev.stdout.readline())["address"]

    def start(*program: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *program], env=env, cwd=folder, capture_output=True, text=True, timeout=90, check=False
        )

    until((folder / ".perdure/index/owner.lock").exists)
    try:
        yield start
    finally:
        dev.terminate()
        dev.communicate(timeout=60)


def test_a_client_needs_no_worker_of_its_own(run: Run) -> None:
    """The page's client starts a run on the worker of `perdure dev`, and a second one is refused (case 80: beside dev)."""
    first, second = run("pay.py"), run("pay.py")

    assert 0 == first.returncode, first.stderr
    assert "paid=True" in first.stdout
    assert "WorkflowAlreadyStartedError" in second.stderr.splitlines()[-1]


def test_a_worker_with_a_home_of_its_own_runs_beside(run: Run) -> None:
    """The page's program with a worker runs beside `perdure dev`, and ends (case 80: beside dev)."""
    # Its last line counts the payments in the folder's books, where the client of the page has paid as well.
    program = AUTHORING.script.partition("import sysconfig")[0].rpartition('assert ["b1"]')[0]

    ended = run("-c", program)

    assert "async with Worker(" in program
    assert 0 == ended.returncode, ended.stderr


WORKER = """
import asyncio
from perdure import PerdurePlugin, connect, load_settings
from temporalio.worker import Worker
from my_desk.models import Invoice
from my_desk.workflows import PayInvoice

async def main():
    client = await connect(PerdurePlugin(load_settings()))
    async with Worker(client, task_queue="second", workflows=[PayInvoice]):
        invoice = Invoice(number="F-9", supplier="x" * 50_000, cents=1, text="y")
        await client.execute_workflow(PayInvoice.run, invoice, id="F-9", task_queue="second")

asyncio.run(main())
"""


@pytest.mark.parametrize(
    "program",
    [("-c", WORKER), ("-m", "perdure.worker", "my_desk.workflows")],
    ids=["worker-in-a-program", "perdure-worker"],
)
def test_a_second_worker_in_the_same_home_says_what_is_wrong(run: Run, program: tuple[str, ...]) -> None:
    """It ends by itself, and its last line says that another worker runs and what to do (case 80: beside dev)."""
    ended = run(*program)

    assert 1 == ended.returncode
    last = ended.stderr.strip().splitlines()[-1]
    assert "another worker runs on this database" in last
    assert "a client is enough" in last

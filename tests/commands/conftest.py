"""The command line, run inside the test process, against a real server and a real worker process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kits.cli import TESTS, Ended, Perdure, environment

from perdure.cli import call


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the worker and the commands keep their state."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def worker(temporal_address: str, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that serves `cli_workflows`, as `perdure worker` starts it."""
    with (home / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "perdure.worker", "kits.cli_workflows"],
            cwd=TESTS,
            env=environment(temporal_address, home),
            stderr=log,
        )
    yield process
    alive = process.poll() is None
    process.terminate()
    process.wait(30)
    assert alive, (home / "worker.log").read_text()


@pytest.fixture
def perdure(
    temporal_address: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Perdure:
    """Run `perdure` with arguments, as JSON with `-o json` among them, and return how it ended."""
    for name, value in environment(temporal_address, home).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("COLUMNS", raising=False)  # what runs the tests may set it
    monkeypatch.syspath_prepend(str(TESTS))

    def run(*arguments: str) -> Ended:
        capsys.readouterr()
        code = call(arguments)
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return run


@pytest.fixture
def desk(perdure: Perdure, worker: subprocess.Popen[bytes]) -> Perdure:
    """Run `perdure` while a worker runs."""
    return perdure

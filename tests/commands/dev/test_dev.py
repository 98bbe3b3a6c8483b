"""`perdure dev` with everything real: the server, the worker, kill -9."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kits.cli import TESTS, environment, until

from perdure.commands.exits import Exit

pytestmark = pytest.mark.timeout(300)  # many processes, each of which takes seconds to start on a busy machine

CLI = [sys.executable, "-m", "perdure.cli"]


class Dev:
    """A running `perdure dev`."""

    def __init__(self, process: subprocess.Popen[str], home: Path) -> None:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (home / "dev.log").read_text()
        self.facts = json.loads(line)
        self.process = process
        self.home = home

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command against it."""
        env = environment(self.facts["address"], self.home)
        return subprocess.run(
            [*CLI, *arguments], env=env, cwd=TESTS, capture_output=True, text=True, timeout=60, check=False
        )

    def children(self) -> list[int]:
        """The processes it has started."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def worker(self) -> int:
        """The worker's process."""
        [pid] = [pid for pid in self.children() if pid != self.facts["pid"]]
        return pid


@contextmanager
def dev(home: Path, *arguments: str) -> Iterator[Dev]:
    """Run `perdure dev` with ARGUMENTS in HOME."""
    with (home / "dev.log").open("w") as log:
        process = subprocess.Popen(
            [*CLI, "dev", "--port", "0", "--headless", "-o", "json", *arguments],
            env=environment("", home),
            cwd=TESTS,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        yield Dev(process, home)
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


def test_it_serves_and_survives(tmp_path: Path) -> None:
    """A killed worker is started again and runs go on; SIGTERM ends everything; the next start has the same runs."""
    with dev(tmp_path, "kits.cli_workflows") as running:
        first = running.run("run", "Knocks", "-i", "1", "--id", "one")
        assert (0, '"open"\n') == (first.returncode, first.stdout), first.stderr
        running.run("run", "Asks", "--id", "two", "-d")
        until(lambda: "two" in running.run("approval", "list").stdout)
        before = running.worker()

        os.kill(before, signal.SIGKILL)
        until(lambda: before not in running.children() and len(running.children()) == 2)
        decided = running.run("approval", "approve", "two", "--as", "bob")

        assert 0 == decided.returncode, decided.stderr
        assert "was ended by SIGKILL" in (tmp_path / "dev.log").read_text()
        children = running.children()
        running.process.send_signal(signal.SIGTERM)
        assert 0 == running.process.wait(60)
        assert [] == [pid for pid in children if Path(f"/proc/{pid}").exists()]

    with dev(tmp_path, "kits.cli_workflows") as again:
        assert "completed" in again.run("list", "--plan", "Knocks").stdout
        until(lambda: "second" in again.run("approval", "list").stdout)
        assert 0 == again.run("approval", "approve", "two", "second", "--as", "eve").returncode


def test_nothing_is_left_behind_when_it_is_killed(tmp_path: Path) -> None:
    """Kill -9 of `perdure dev` takes server and worker along."""
    with dev(tmp_path, "kits.cli_workflows") as running:
        until(lambda: len(running.children()) == 2)
        children = running.children()

        running.process.kill()

        until(lambda: not [pid for pid in children if Path(f"/proc/{pid}").exists()])


def test_a_worker_that_cannot_start_ends_it(tmp_path: Path) -> None:
    """A module that is not there ends `perdure dev` with the worker's message instead of a loop."""
    with dev(tmp_path, "no_such_module") as running:
        assert Exit.ERROR == running.process.wait(60)

    log = (tmp_path / "dev.log").read_text()
    assert "module 'no_such_module' cannot be found" in log
    assert "the worker cannot start" in log


def test_one_home_has_one_server(tmp_path: Path) -> None:
    """A second `perdure dev` in the same folder says who is there."""
    with dev(tmp_path, "--no-worker") as running:
        second = running.run("dev", "--port", "0")

        assert Exit.ERROR == second.returncode
        assert f"another `perdure dev` (pid {running.process.pid})" in second.stderr


@pytest.mark.parametrize("option", ["--port", "--ui-port"])
def test_a_taken_port_is_told(tmp_path: Path, option: str) -> None:
    """A port that somebody else has is told with a way out."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])

        arguments = [option, port] if option == "--port" else ["--port", "0", option, port]
        ended = subprocess.run(
            [*CLI, "dev", *arguments],
            env=environment("", tmp_path),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert Exit.ERROR == ended.returncode
    assert f"port {port} is taken" in ended.stderr


def test_search_attributes_are_there(tmp_path: Path) -> None:
    """The server starts with perdure's search attributes."""
    with dev(tmp_path, "--no-worker") as running:
        said = running.run("doctor", "-o", "json")

    states = {row["name"]: row["state"] for row in json.loads(said.stdout)}
    assert "ok" == states["search attributes"]

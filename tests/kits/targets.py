"""How the systems that the marked tests act on are started and ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import httpx

import perdure

TARGETS = Path(perdure.__file__).parent / ".targets"
HERE = Path(__file__).parent.parent / "targets"


def free_port() -> int:
    """Return a port that nobody listens on."""
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def wait_for(url: str, process: subprocess.Popen[bytes], within: float = 120) -> None:
    """Return when something answers at URL, which PROCESS is to serve. They have no way to tell that they are ready."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        assert process.poll() is None, f"{process.args!r} ended at once"
        try:
            httpx.get(url, timeout=30)
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"nothing listens at {url}")


@contextmanager
def running(
    command: list[str], folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run COMMAND in FOLDER, where its output goes to a file, until the block ends."""
    given = {"PATH": os.environ["PATH"], "HOME": str(folder), **(environment or {})}
    with (folder / f"{Path(command[0]).name}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=given, start_new_session=True)
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # PHP's server has workers
        process.wait(30)

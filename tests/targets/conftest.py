"""The systems that the marked tests act on: `make test-targets` installs them."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

import perdure

TARGETS = Path(perdure.__file__).parent / ".targets"


@pytest.fixture(scope="session")
def localstripe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of localstripe, a process of its own."""
    port = _free_port()
    command = [str(TARGETS / "venv/bin/localstripe"), "--port", str(port), "--from-scratch"]
    folder = tmp_path_factory.mktemp("localstripe")
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={"PATH": os.environ["PATH"]}
    )
    url = f"http://127.0.0.1:{port}"
    _wait_for(url, process)
    yield url
    process.terminate()
    process.wait(10)


def _free_port() -> int:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    # It has no way to tell that it is ready.
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, "it ended at once"
        try:
            httpx.get(url, timeout=5)
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"nothing listens at {url}")

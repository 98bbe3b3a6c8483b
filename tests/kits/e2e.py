"""What end-to-end tests share: processes with an environment of their own, and how they ended."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import perdure

ROOT = Path(perdure.__file__).parent
TESTS = ROOT / "tests"
PYTHON = (sys.executable,)


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON value on stdout."""
        return json.loads(self.out)


@dataclass
class Running:
    """A process, and its two streams in files."""

    process: asyncio.subprocess.Process
    err: Path

    def interrupt(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Return when HOLDS says so. Raises `AssertionError` if it ends, or after half a minute."""
        for _ in range(600):
            if holds():
                return
            assert self.process.returncode is None, f"it ended with {self.process.returncode}: {self.log}"
            await asyncio.sleep(0.05)  # a file gives no event
        raise AssertionError(f"it did not come about: {self.log}")

    async def says(self, text: str) -> None:
        """Return when it has said TEXT in its log. Raises as `until` does."""
        await self.until(lambda: text in self.log)

    @property
    def log(self) -> str:
        """What it has written to stderr and stdout so far."""
        return self.err.read_text()


def environment(address: str, home: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a process that uses the server at ADDRESS and keeps its files in HOME."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PERDURE_", "TEMPORAL_"))}
    ours = {"TEMPORAL_ADDRESS": address, "TEMPORAL_CONFIG_FILE": os.devnull, "PERDURE_HOME": str(home)}
    return kept | ours | {"PERDURE_LOG_FORMAT": "json", "PYTHONUNBUFFERED": "1", **(more or {})}


async def call(command: Sequence[str | Path], env: Mapping[str, str], *, cwd: Path) -> Ended:
    """Run COMMAND to its end, which is an error if it takes more than 40 seconds."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env=env,
        cwd=cwd,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(40):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Ended(process.returncode or 0, out.decode(), err.decode())


@asynccontextmanager
async def running(command: Sequence[str | Path], env: Mapping[str, str], *, cwd: Path, log: Path) -> AsyncIterator[Running]:
    """Run COMMAND for as long as the block lasts, its output in the file LOG."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command, env=env, cwd=cwd, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        yield Running(process, log)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()

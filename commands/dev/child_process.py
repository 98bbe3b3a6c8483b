"""How a child process is started that goes when its parent goes, even if that is killed with -9."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# Linux only (PR_SET_PDEATHSIG is 1); elsewhere a killed parent leaves its children behind, as is usual there.
_LAUNCH = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


async def start(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, stdout: int | None = None, stderr: int | None = None
) -> asyncio.subprocess.Process:
    """Start COMMAND, first the path of a program, in a session of its own: a Ctrl-C at this terminal does not reach it."""
    launch = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid())]
    return await asyncio.create_subprocess_exec(
        *launch, *command, env=env, stdin=asyncio.subprocess.DEVNULL, stdout=stdout, stderr=stderr, start_new_session=True
    )


async def stop(process: asyncio.subprocess.Process, *, patience: float) -> int:
    """End PROCESS with SIGTERM, and after PATIENCE seconds with SIGKILL; return its exit code."""
    if process.returncode is None:
        _send(process, signal.SIGTERM)
        try:
            async with asyncio.timeout(patience):
                await process.wait()
        except TimeoutError:
            _send(process, signal.SIGKILL)
    return await process.wait()


def last_lines(log: Path, count: int = 5) -> str:
    """Return the end of LOG, for an error message."""
    try:
        return "\n".join(log.read_text("utf-8", errors="replace").splitlines()[-count:])
    except OSError as error:
        return f"({log}: {error.strerror})"


def _send(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except ProcessLookupError:
        return  # gone in between, which is what was wanted

"""A worker in a process of its own, started again when it dies."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence

from perdure.commands.dev import child_process
from perdure.errors import InvalidSettings

HEALTHY = 10.0
"""Seconds after which a worker counts as one that had started well."""

_LONGEST = 10.0


class WorkerProcess:
    """`python -m perdure.worker MODULES` against the server at ADDRESS; SAY tells people what becomes of it."""

    def __init__(self, modules: Sequence[str], *, address: str, namespace: str, say: Callable[[str], None]) -> None:
        self._modules = list(modules)
        self._env = child_environment(address, namespace)
        self._say = say
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self.starts = 0

    @property
    def pid(self) -> int | None:
        """The process that runs at this moment."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        """Start it."""
        self._process = await child_process.start([sys.executable, "-m", "perdure.worker", *self._modules], env=self._env)
        self.starts += 1

    async def supervise(self) -> None:
        """Start it and start it again whenever it dies, at once if it had been up for a while, else after a growing pause.

        Raises `InvalidSettings` if the first one cannot start at all: then something has to be put right.
        """
        quick = 0
        while not self._stopping:
            began = time.monotonic()
            await self.start()
            assert self._process is not None
            code = await self._process.wait()
            if self._stopping:
                return
            lived = time.monotonic() - began
            if code == 1 and self.starts == 1 and lived < HEALTHY:
                raise InvalidSettings("the worker cannot start; it says why above")
            quick = 0 if lived >= HEALTHY else quick + 1
            pause = 0.0 if quick <= 1 else min(0.5 * 2 ** (quick - 2), _LONGEST)
            self._say(f"the worker {_describe_exit(code)}; starting another{f' in {pause:g} s' if pause else ''}")
            await asyncio.sleep(pause)

    async def stop(self, *, patience: float) -> None:
        """End it: it lets running steps finish, for PATIENCE seconds at most."""
        self._stopping = True
        if self._process is not None:
            await child_process.stop(self._process, patience=patience)

    def kill(self) -> None:
        """End it at once, steps in flight or not."""
        self._stopping = True
        if self._process is not None and self._process.returncode is None:
            self._process.kill()


def child_environment(address: str, namespace: str) -> dict[str, str]:
    """Return this process's environment for a child that uses the server at ADDRESS and no other."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TEMPORAL_")}
    # A profile of the user's may hold TLS files or keys for another server.
    return kept | {
        "TEMPORAL_ADDRESS": address,
        "TEMPORAL_NAMESPACE": namespace,
        "TEMPORAL_CONFIG_FILE": os.devnull,
    }


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"

"""How this process talks to the one that owns a shard: many callers at once, one answer each."""

from __future__ import annotations

import asyncio
import itertools
import marshal
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from perdure.errors import Unreachable

SCRIPT = Path(__file__).with_name("_shard.py")


class ShardProcess:
    """A running process of `_shard.py`. Made by `start`."""

    def __init__(self, folder: Path, process: asyncio.subprocess.Process) -> None:
        self.folder = folder
        self.remade = ""
        """Why the shard that was there had to be made anew; empty if it didn't."""
        self._process = process
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._gone = False
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, folder: Path, dimensions: int) -> ShardProcess:
        """Start the process that owns the shard in FOLDER, with vectors of DIMENSIONS numbers, and wait for it."""
        process = await asyncio.create_subprocess_exec(
            # -P: our modules lie beside the script, and must not be found by their short names.
            *(sys.executable, "-P", str(SCRIPT), str(folder), str(dimensions)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        started = cls(folder, process)
        try:
            started.remade = await started._answer(0)
        except BaseException:
            await started.kill()
            raise
        return started

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    @property
    def gone(self) -> bool:
        """Whether it has ended."""
        return self._gone

    async def call(self, name: str, *arguments: Any) -> Any:
        """Return what the shard's method NAME gives for ARGUMENTS. Raises `Unreachable` if it fails or is gone."""
        if self._gone:
            raise self._ended()
        number = next(self._numbers)
        data = marshal.dumps((number, name, arguments))
        assert self._process.stdin is not None
        self._process.stdin.write(struct.pack(">Q", len(data)) + data)
        answer = self._answer(number)
        with suppress(ConnectionError):  # the reader tells that it is gone
            await self._process.stdin.drain()
        return await answer

    async def close(self) -> None:
        """Let it write everything out and end."""
        with suppress(Unreachable):  # it is gone already
            await self.call("close")
        await self._ending()

    async def kill(self) -> None:
        """End it at once. What it had confirmed is in its log, and there when it is started again."""
        if self._process.returncode is None:
            self._process.kill()
        await self._ending()

    def _answer(self, number: int) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._gone:
            future.set_exception(self._ended())
        else:
            self._waiting[number] = future
        return future

    async def _ending(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        await self._reading

    async def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            while True:
                (length,) = struct.unpack(">Q", await self._process.stdout.readexactly(8))
                data = await self._process.stdout.readexactly(length)
                number, ok, value = marshal.loads(data)  # noqa: S302  # of the process that we started
                waiting = self._waiting.pop(number)
                if waiting.done():  # who asked has given up
                    continue
                if ok:
                    waiting.set_result(value)
                else:
                    waiting.set_exception(self._failed(value))
        except asyncio.IncompleteReadError:
            pass
        finally:
            self._gone = True
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(self._ended())
                    waiting.exception()  # nobody may be waiting any more

    def _ended(self) -> Unreachable:
        return Unreachable(
            f"the process that owns the vector index in {self.folder.parent} has ended; the next try starts it"
        )

    def _failed(self, why: str) -> Unreachable:
        return Unreachable(
            f"the vector index in {self.folder.parent} failed: {why}. Check the disk; if it goes on, stop the worker, "
            "delete that folder and start again: the index is filled from the database"
        )

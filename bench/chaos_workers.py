"""Worker processes of bench/chaos.py: forked, killed with -9 where the schedule says, and followed by another one.

    python -m bench.chaos_workers '{"client": "perdure", ...}'

Ends when every operation of its client has come to an end, and prints how many processes were killed where.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import resource
import signal
import sys
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import sqlalchemy as sa
from bench.chaos_clients import Client, Told, opened, operations_in
from bench.chaos_connectors import Doom
from bench.chaos_plan import Operation
from sqlalchemy.ext.asyncio import create_async_engine

TOGETHER = 3
"""How many operations share a process that is killed: one dies at its point, the others wherever they are then."""
AT_ONCE = 32
"""How many processes of operations to be killed live at once."""
CONCURRENCY = 60
"""How many operations a process that nobody kills has in hand."""


@dataclass
class Job:
    """What a process is to do, and where those that do it are killed, one after the other."""

    operations: Sequence[Operation]
    ledger: str
    asker: int = 0
    begins: float = 0.0
    """When to begin, for those that are to come at the same time; 0 means now."""
    deaths: deque[str] = field(default_factory=deque)


def jobs(told: Told, operations: Sequence[Operation]) -> Iterator[Job]:
    """Yield the jobs of OPERATIONS: some steady processes, three that ask for the same, and many that are killed."""
    by_ledger = defaultdict(list)
    for each in operations:
        by_ledger[each.ledger].append(each)
    begins = time.time() + 1
    for ledger, own in by_ledger.items():
        steady = [each for each in own if each.fault not in ("kill -9", "triple delivery")]
        for half in (steady[::2], steady[1::2]):
            if half:
                yield Job(half, ledger)
        triple = [each for each in own if each.fault == "triple delivery"]
        for asker in range(3 if triple else 0):
            yield Job(triple, ledger, asker, begins)
    for ledger, own in by_ledger.items():
        killed = [each for each in own if each.fault == "kill -9"]
        for start in range(0, len(killed), TOGETHER):
            few = killed[start : start + TOGETHER]
            deaths = few[0].dies if told.client == "perdure" else tuple(filter(None, map(_for_naive, few[0].dies)))
            yield Job(few, ledger, deaths=deque(deaths))


def _for_naive(point: str) -> str:
    """Return POINT for a client that has no ledger: before the request where the intent is written, else after it."""
    side, what, number = point.split()[:3]
    if side == "at" or what == "send":
        return point
    if what == "look":
        return ""
    return f"before send {number}" if int(number) <= TOGETHER else f"after send {int(number) - TOGETHER}"


async def work(told: Told, job: Job, point: str) -> None:
    """Do JOB, and die at POINT."""
    doom = Doom(point)
    slots = asyncio.Semaphore(CONCURRENCY)
    results = os.open(told.results, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    doom.live()
    async with opened(told, job.ledger, doom, job.operations) as client:
        await asyncio.sleep(max(0.0, job.begins - time.time()))

        async def one(operation: Operation) -> None:
            async with slots:
                ending = await _performed(client, operation, job.asker)
            line = {"op": operation.name, "ending": ending}
            os.write(results, (json.dumps(line) + "\n").encode())

        await asyncio.gather(*(one(each) for each in job.operations))
        surprises = getattr(client, "surprises", [])
        if surprises:
            os.write(results, (json.dumps({"surprises": Counter(surprises)}) + "\n").encode())
    os.close(results)


async def _performed(client: Client, operation: Operation, asker: int) -> str:
    if operation.fault == "reset":
        return await client.reset(operation)
    if operation.fault == "cancel":
        return await client.cancel(operation)
    return await client.act(operation, asker)


async def import_everything() -> None:
    """Have imported what the processes need, so that none of the many has to: much of it comes with a first connection."""
    with suppress(httpx.ConnectError):
        async with httpx.AsyncClient() as client:
            await client.get("http://127.0.0.1:9")
    for url in ("sqlite+aiosqlite:///:memory:", "postgresql+asyncpg://nobody@127.0.0.1:9/nothing"):
        engine = create_async_engine(url)
        with suppress(OSError):
            async with engine.begin() as connection:
                await connection.execute(sa.text("SELECT 1"))
        await engine.dispose()


class Host:
    """Forks the processes and waits for them. It has no loop and no threads, so that a fork of it is whole."""

    def __init__(self, told: Told) -> None:
        self._told = told
        self._living: dict[int, tuple[Job, str]] = {}
        self._ended: set[str] = set()
        self._read_to = 0
        self.killed: Counter[str] = Counter()

    def run(self, waiting: deque[Job]) -> None:
        """Do all jobs that are WAITING."""
        while waiting or self._living:
            while waiting and (not waiting[0].deaths or len(self._living) < AT_ONCE):
                self._start(waiting.popleft())
            pid, status = os.wait()
            job, point = self._living.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            if code == -signal.SIGKILL:
                self.killed[point] += 1
                waiting.appendleft(self._left(job))
            elif code:
                raise SystemExit(f"a worker process of {self._told.client} ended with {code}; it says why above")

    def stop(self) -> None:
        """End all processes."""
        for pid in self._living:
            os.kill(pid, signal.SIGKILL)

    def _left(self, job: Job) -> Job:
        # As a queue does: what was reported as ended is not handed out again.
        with Path(self._told.results).open("rb") as results:
            results.seek(self._read_to)
            for line in results:
                self._ended.add(json.loads(line).get("op", ""))
                self._read_to += len(line)
        return replace(job, operations=[each for each in job.operations if each.name not in self._ended])

    def _start(self, job: Job) -> None:
        point = job.deaths.popleft() if job.deaths else ""
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _go_with(parent)
            code = 1
            try:
                asyncio.run(work(self._told, job, point))
                code = 0
            except BaseException:  # noqa: BLE001  it must not get into the parent's code
                sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
            os._exit(code)
        self._living[pid] = job, point


def _go_with(parent: int) -> None:
    """Have this process end when PARENT does."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def main() -> None:
    """Do what the one argument says."""
    told = Told.model_validate_json(sys.argv[1])
    operations = operations_in(told.operations)
    if told.client == "perdure":
        operations = [each for each in operations if each.lane == "workers"]
    asyncio.run(import_everything())
    host = Host(told)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        host.run(deque(jobs(told, operations)))
    finally:
        host.stop()
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    cpu = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
    print(json.dumps({"killed": host.killed, "cpu_seconds": round(cpu, 1)}), flush=True)


if __name__ == "__main__":
    main()

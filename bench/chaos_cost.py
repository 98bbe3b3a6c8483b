"""What the ledger adds to one effect when nothing goes wrong: time, and writes to its database."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from bench.chaos_clients import DoomedDatabase, Ledgered, Naive
from bench.chaos_connectors import Doom, connectors
from bench.chaos_plan import Operation, Pace
from bench.chaos_world import World

from perdure.connectors.ledger import Ledger

ONE_BY_ONE = 150
AT_ONCE = 25


@dataclass(frozen=True)
class Cost:
    """Milliseconds are of effects on `http-listed` without its proxy, the ledger in SQLite."""

    ledger_ms: float
    """Median of one effect at a time, its request included."""
    naive_ms: float
    """The same without a ledger."""
    added_ms: float
    ledger_ms_at_once: float
    """Of each effect when 25 go on at the same time: wall-clock time divided by effects."""
    naive_ms_at_once: float
    database_writes: float
    """Transactions an effect."""
    naive_database_writes: int = 0


async def measure(home: Path, pace: Pace) -> Cost:
    """Measure it, one client after the other, in turns."""
    folder = home / "cost"
    folder.mkdir()
    operations = [
        Operation(name=f"c-{number}", target="http-listed", fault="429", lane="workers", ledger="sqlite")
        for number in range(4 * ONE_BY_ONE)
    ]
    given = folder / "operations.jsonl"
    given.write_text("".join(f"{each.model_dump_json()}\n" for each in operations))
    told = {"operations": str(given), "books": str(folder / "books.db"), "postgres": "", "database": "", "seed": 1}
    database = DoomedDatabase(f"sqlite+aiosqlite:///{folder / 'ledger.db'}")
    doom = database.doom = Doom()
    await database.migrate()
    async with World(told | {"pace": vars(pace)}) as world:
        addresses = {"http_listed": world.direct}
        through = connectors(addresses, pace, doom=doom, operations=operations)
        ledgered = Ledgered(Ledger(database, through))
        naive = Naive(addresses, pace, Doom(), operations)
        half = len(operations) // 2
        writes = doom.seen["write"]
        ours, ours_at_once = await _timed(ledgered.act, operations[:half])
        writes = doom.seen["write"] - writes
        theirs, theirs_at_once = await _timed(naive.act, operations[half:])
        await naive.close()
        for connector in through.values():
            await connector.close()
    await database.close()
    return Cost(
        ledger_ms=round(ours, 2),
        naive_ms=round(theirs, 2),
        added_ms=round(ours - theirs, 2),
        ledger_ms_at_once=round(ours_at_once, 2),
        naive_ms_at_once=round(theirs_at_once, 2),
        database_writes=round(writes / half, 2),
    )


async def _timed(act: Callable[[Operation], Awaitable[object]], operations: list[Operation]) -> tuple[float, float]:
    """Return the milliseconds of an operation: the median one by one, and each of many at the same time."""
    alone, together = operations[:ONE_BY_ONE], operations[ONE_BY_ONE:]
    taken = []
    for each in alone:
        began = time.perf_counter()
        await act(each)
        taken.append(time.perf_counter() - began)
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(operation: Operation) -> None:
        async with slots:
            await act(operation)

    began = time.perf_counter()
    await asyncio.gather(*(one(each) for each in together))
    return statistics.median(taken) * 1000, (time.perf_counter() - began) / len(together) * 1000

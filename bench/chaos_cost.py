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

MOST = 150
"""How many effects are measured of each kind: one by one, and at once."""
AT_ONCE = 25


@dataclass(frozen=True)
class Measured:
    """What one client took for effects on a healthy target."""

    ms: float
    """Median of one effect at a time."""
    ms_at_once: float
    """Of each when 25 go on at the same time: wall-clock time divided by effects."""
    writes: float
    """Transactions in the ledger's database for each."""
    writes_at_once: float
    """The same when 25 share them."""


@dataclass(frozen=True)
class Cost:
    """What an effect costs on `http-listed` without its proxy, the ledger in SQLite, and the call without a ledger."""

    perdure: Measured
    naive: Measured


async def measure(home: Path, pace: Pace, *, effects: int = MOST) -> Cost:
    """Measure it with so many EFFECTS of each kind, one client after the other."""
    folder = home / "cost"
    folder.mkdir()
    operations = [
        Operation(name=f"c-{number}", target="http-listed", fault="429", lane="workers", ledger="sqlite")
        for number in range(4 * effects)
    ]
    given = folder / "operations.jsonl"
    given.write_text("".join(f"{each.model_dump_json()}\n" for each in operations))
    told = {
        "operations": str(given),
        "books": str(folder / "books.db"),
        "postgres": "",
        "database": "",
        "seed": 1,
        "work": 0,
    }
    database = DoomedDatabase(f"sqlite+aiosqlite:///{folder / 'ledger.db'}")
    doom = database.doom = Doom()
    await database.migrate()
    async with World(told | {"pace": vars(pace)}) as world:
        addresses = {"http_listed": world.direct}
        through = connectors(addresses, pace, doom=doom, operations=operations)
        ledgered = Ledgered(Ledger(database, through))
        naive = Naive(addresses, pace, Doom(), operations)
        half = len(operations) // 2
        cost = Cost(
            perdure=await _measured(ledgered.act, operations[:half], doom),
            naive=await _measured(naive.act, operations[half:], Doom()),
        )
        await naive.close()
        for connector in through.values():
            await connector.close()
    await database.close()
    return cost


async def _measured(act: Callable[[Operation], Awaitable[object]], operations: list[Operation], doom: Doom) -> Measured:
    half = len(operations) // 2
    alone, together = operations[:half], operations[half:]
    await act(alone[0])  # opens connections
    taken = []
    before = doom.seen["write"]
    for each in alone[1:]:
        began = time.perf_counter()
        await act(each)
        taken.append(time.perf_counter() - began)
    one_by_one = doom.seen["write"]
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(operation: Operation) -> None:
        async with slots:
            await act(operation)

    began = time.perf_counter()
    await asyncio.gather(*(one(each) for each in together))
    return Measured(
        ms=round(statistics.median(taken or [0]) * 1000, 2),
        ms_at_once=round((time.perf_counter() - began) / half * 1000, 2),
        writes=round((one_by_one - before) / max(1, half - 1), 2),
        writes_at_once=round((doom.seen["write"] - one_by_one) / half, 2),
    )

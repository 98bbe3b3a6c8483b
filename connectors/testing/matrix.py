"""What becomes of a connector's effects under every fault: through the ledger, and beside it with a client that retries."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, cast

from perdure.connectors.contracts import (
    Action,
    AnyAction,
    Connector,
    In,
    Out,
    Target,
)
from perdure.connectors.ledger import Ledger
from perdure.connectors.testing.at_the_seam import AT_THE_SEAM, Seam
from perdure.connectors.testing.clients import Ending, LedgerClient, NaiveClient
from perdure.connectors.testing.faults import EVERY_FAULT, Fault, Faults
from perdure.connectors.testing.promises import Count, find_broken_offers, find_broken_promises
from perdure.storage import Database, open_database


class FaultProxy(Protocol):
    """What stands before the target and holds the faults."""

    @property
    def faults(self) -> Faults:
        """The faults."""
        ...


@dataclass(frozen=True)
class Case(Generic[In, Out]):
    """A connector to try, by one action that has an effect."""

    connector: Connector
    """Configured, and talking to the proxy's address if there is a proxy."""
    action: Action[In, Out]
    args: Callable[[int], In]
    """Makes the arguments of the effect with that number. No two numbers may have the same; about a hundred are used."""
    count: Callable[[In], Awaitable[int]]
    """Tells how many effects with these arguments there are at the target: ask the target itself, not the connector."""
    proxy: FaultProxy | None = None
    """Without one, faults strike between the ledger and the connector: fewer of them, and less like the real ones."""
    target: Target | None = None
    """Replaces what the action says of its target, e.g. with times that a test can wait for."""
    operations: int = 3
    """How many effects each fault gets."""
    tries: int = 4
    """How often the naive client tries."""
    database: Database | None = None
    """Where the ledger is; by default a SQLite file of the run's own."""


@dataclass
class Tally:
    """What became of OPERATIONS effects."""

    operations: int = 0
    duplicates: int = 0
    """Effects at the target beyond the one that was wanted."""
    lost: int = 0
    """Effects that are said to have happened and have not, or that nobody pursues any more."""
    unknown_unparked: int = 0
    """Effects of which the client does not know what became, or believes the wrong thing, without anyone being told."""
    parked: int = 0
    """Effects put before a person, because nobody could tell."""

    def add(self, ending: Ending, effects: int) -> None:
        """Count one operation that ended for the client as ENDING, with EFFECTS of it at the target."""
        self.operations += 1
        self.duplicates += max(0, effects - 1)
        self.parked += ending == "parked"
        self.lost += effects == 0 and ending in ("done", "given up")
        self.unknown_unparked += ending == "unknown" or (effects > 0 and ending in ("given up", "refused"))


@dataclass
class Row:
    """One fault, what became of the effects that went through the ledger, and of those of a client that retries."""

    fault: str
    perdure: Tally = field(default_factory=Tally)
    naive: Tally = field(default_factory=Tally)


@dataclass
class Matrix:
    """What the connector did under every fault. `assert not matrix.problems`; printing it gives the table."""

    action: str
    rows: list[Row]
    problems: list[str]
    """What is wrong, in words. Empty: the connector keeps its word."""

    def total(self) -> Row:
        """Return the sums of all rows."""
        total = Row("all")
        for row in self.rows:
            for one, other in ((total.perdure, row.perdure), (total.naive, row.naive)):
                for name in vars(one):
                    setattr(one, name, getattr(one, name) + getattr(other, name))
        return total

    def __str__(self) -> str:
        head = f"{self.action:<28}{'through the ledger':<38}{'a client that retries'}"
        kinds = "".join(f"{name:<10}" for name in ("effects", "double", "lost", "unknown"))
        lines = [head, f"{'':<28}{kinds[:-2]}{kinds[:-2]}{'parked'}"]
        lines += [
            f"{row.fault:<28}{_show(row.perdure)}{_show(row.naive)}{row.perdure.parked}"
            for row in [*self.rows, self.total()]
        ]
        return "\n".join([*lines, *(f"PROBLEM: {problem}" for problem in self.problems)])

    __repr__ = __str__


async def check(case: Case[In, Out]) -> Matrix:
    """Run the fault matrix of CASE and return what came of it. Nothing is raised for a connector that fails it.

    It takes a few of the target's settle times, and for the rows where a worker dies its deadline on top.
    """
    target = case.target or case.action.target
    if case.action.reads:
        raise ValueError(f"{case.action.name} only reads: it has no effect that could happen twice")
    async with _database(case) as database:
        lab = _Lab(case, target, database)
        count = cast(Count, case.count)
        problems = await find_broken_promises(lab.seam(), cast(AnyAction, case.action), case.args(next(lab.numbers)), count)
        problems += await find_broken_offers(
            case.connector, cast(AnyAction, case.action), case.args(next(lab.numbers)), target
        )
        rows = [await lab.row(fault, _act, strike=fault) for fault in _possible_faults(case)]
        rows += await asyncio.gather(*(lab.row(fault, scene) for fault, scene in _AT_THE_WORKER.items()))
    matrix = Matrix(case.action.name, rows, problems)
    matrix.problems.extend(_find_problems(matrix, target))
    return matrix


_Scene = Callable[[LedgerClient | NaiveClient], Awaitable[Ending]]


class _Lab(Generic[In, Out]):
    def __init__(self, case: Case[In, Out], target: Target, database: Database) -> None:
        self.case = case
        self.numbers = itertools.count()
        self._database = database
        # Late enough to come after the client has noticed, early enough for the target's promise.
        self._faults = case.proxy.faults if case.proxy else Faults(possible=AT_THE_SEAM)
        self._faults.late = target.settle / 2

    def seam(self) -> Seam:
        """Return the connector as another worker has it."""
        return Seam(self.case.connector, self.case.target, None if self.case.proxy else self._faults)

    async def row(self, name: str, scene: _Scene, *, strike: Fault | None = None) -> Row:
        """Return what becomes of the effects of both clients in SCENE, when STRIKE meets their first requests."""
        row = Row(name)
        for tally, client in ((row.perdure, self._ledgered), (row.naive, self._naive)):
            strikes: list[Fault] = [] if strike is None else [strike] * self.case.operations
            self._faults.script(*strikes)
            args = [self.case.args(next(self.numbers)) for _ in range(self.case.operations)]
            endings = await asyncio.gather(*(scene(client(each)) for each in args))
            self._faults.script()
            await self._faults.wait_until_settled()
            for each, ending in zip(args, endings, strict=True):
                tally.add(ending, await self.case.count(each))
        return row

    def _ledgered(self, args: In) -> LedgerClient:
        workers = [(seam, Ledger(self._database, {seam.name: seam})) for seam in (self.seam(), self.seam())]
        return LedgerClient(workers, self.case.action.name, args)

    def _naive(self, args: In) -> NaiveClient:
        return NaiveClient(self.seam(), self.case.action.name, args, tries=self.case.tries)


def _act(client: LedgerClient | NaiveClient) -> Awaitable[Ending]:
    return client.act()


_AT_THE_WORKER: dict[str, _Scene] = {
    "worker dies before sending": lambda client: client.act_after_death("before sending"),
    "worker dies after sending": lambda client: client.act_after_death("after sending"),
    "delivered three times": lambda client: client.act_three_times(),
    "done again after a reset": lambda client: client.act_again(),
    "cancelled on its way": lambda client: client.act_after_cancel(),
}


def _possible_faults(case: Case[In, Out]) -> Sequence[Fault]:
    possible = case.proxy.faults.possible if case.proxy else AT_THE_SEAM
    return [fault for fault in EVERY_FAULT if fault in possible]


def _find_problems(matrix: Matrix, target: Target) -> list[str]:
    problems: list[str] = []
    for row in matrix.rows:
        ours = row.perdure
        if ours.duplicates:
            problems.append(f"{row.fault}: {ours.duplicates} happened more than once")
        if ours.lost:
            problems.append(f"{row.fault}: {ours.lost} did not happen, and the ledger thinks otherwise")
        if ours.unknown_unparked:
            problems.append(f"{row.fault}: {ours.unknown_unparked} came to no end, or to a wrong one")
        if ours.parked and target.mechanism != "none":
            problems.append(f"{row.fault}: {ours.parked} had to be parked, although the target is {target.mechanism}")
    return problems


def _show(tally: Tally) -> str:
    return f"{tally.operations:<10}{tally.duplicates:<10}{tally.lost:<10}{tally.unknown_unparked:<8}"


@asynccontextmanager
async def _database(case: Case[In, Out]) -> AsyncIterator[Database]:
    if case.database is not None:
        yield case.database
        return
    with tempfile.TemporaryDirectory(prefix="perdure-matrix-") as folder:
        async with open_database(f"sqlite+aiosqlite:///{Path(folder) / 'ledger.db'}") as database:
            yield database

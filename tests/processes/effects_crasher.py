"""Dies where it is told to: a process that forks a child for each job and has it killed with -9 at a named point.

    python -m processes.effects_crasher '{"database": URL, "shop": URL, "jobs": [{"call": {...}, "die": "before write 2"}]}'

A point is `before` or `after` the Nth `write`, `send` or `look`. Without a point the child finishes. Prints the exit codes.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx  # noqa: F401  imported before the forks, so that each of them does not have to
import sqlalchemy as sa
from kits.connectors import QuickInventory, QuickPayments, persist
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure.connectors import (
    AnyAction,
    Attempt,
    EffectCall,
    Executed,
    HttpConnector,
    Probe,
    UndoCall,
)
from perdure.connectors.ledger import Ledger
from perdure.storage import Database

T = TypeVar("T")


class Doom:
    """Counts what happens and kills the process at its point."""

    def __init__(self, point: str) -> None:
        self.point = point
        self.seen: Counter[str] = Counter()

    def before(self, what: str) -> None:
        """Note that WHAT is about to happen."""
        self.seen[what] += 1
        self._strike("before", what)

    def after(self, what: str) -> None:
        """Note that WHAT has happened."""
        self._strike("after", what)

    def _strike(self, side: str, what: str) -> None:
        if self.point == f"{side} {what} {self.seen[what]}":
            os.kill(os.getpid(), signal.SIGKILL)


class DoomedDatabase(Database):
    """A database whose process may die around a commit."""

    doom: Doom

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Do as any database does, and note it."""
        self.doom.before("write")
        async with super().write() as connection:
            yield connection
        self.doom.after("write")

    async def transact(self, work: Callable[[sa.Connection], T]) -> T:
        """Do as any database does, and note it; PostgreSQL comes through `write` anyway."""
        if not self.sqlite:
            return await super().transact(work)
        self.doom.before("write")
        done = await super().transact(work)
        self.doom.after("write")
        return done


class Doomed:
    """A connector whose process may die around a request."""

    def __init__(self, inner: HttpConnector, doom: Doom) -> None:
        self.name, self.actions, self.close = inner.name, inner.actions, inner.close
        self._inner, self._doom = inner, doom

    async def execute(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Executed:
        """Send as the connector does, and note it."""
        self._doom.before("send")
        try:
            return await self._inner.execute(action, args, attempt)
        finally:
            self._doom.after("send")

    async def probe(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Probe:
        """Look as the connector does, and note it."""
        self._doom.before("look")
        found = await self._inner.probe(action, args, attempt)
        self._doom.after("look")
        return found


async def work(database_url: str, shop_url: str, job: dict[str, Any]) -> None:
    """Do one job to its end, if it lives that long."""
    doom = Doom(job.get("die", ""))
    database = DoomedDatabase(database_url)
    database.doom = doom
    inner = [connector.with_options({"url": shop_url}) for connector in (QuickPayments(), QuickInventory())]
    ledger = Ledger(database, {connector.name: Doomed(connector, doom) for connector in inner})
    if "undo" in job:
        await persist(lambda: ledger.undo(UndoCall.model_validate(job["undo"])))
    else:
        await persist(lambda: ledger.perform(EffectCall.model_validate(job["call"])))
    for connector in inner:
        await connector.close()
    await database.close()


def main() -> None:
    """Fork a child for each job, wait for all, and print how they ended."""
    told = json.loads(sys.argv[1])
    children = []
    for job in told["jobs"]:
        child = os.fork()
        if child == 0:
            asyncio.run(work(told["database"], told["shop"], job))
            os._exit(0)
        children.append(child)
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]))  # noqa: T201


if __name__ == "__main__":
    main()

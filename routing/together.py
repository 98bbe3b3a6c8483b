"""Which writes about models share a transaction: those that come while another is being committed (docs/decisions/0007)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import sqlalchemy as sa

from perdure.storage import AdvisoryLock, Database

T = TypeVar("T")

_LOCK = sa.text(f"SELECT pg_advisory_xact_lock({AdvisoryLock.MODEL_CALLS:d})")


@dataclass(frozen=True)
class _Work(Generic[T]):
    do: Callable[[sa.Connection], T]
    exclusive: bool
    done: asyncio.Future[T] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Together:
    """Does work in write transactions of DATABASE, and in one for all that came during the one before.

    What is exclusive is done by one process at a time. On SQLite everything is.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[_Work[object]] = []
        self._committing: asyncio.Task[None] | None = None

    async def do(self, work: Callable[[sa.Connection], T], *, exclusive: bool = False) -> T:
        """Return what WORK returns, once it is committed. It waits for nothing but the database, and may be done twice."""
        mine: _Work[T] = _Work(work, exclusive and not self._database.sqlite)
        self._waiting.append(mine)  # type: ignore[arg-type]  # a queue of works of any type
        if self._committing is None:
            self._committing = asyncio.get_running_loop().create_task(self._commit_all())
        return await mine.done

    async def _commit_all(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                await self._commit(batch)
        finally:
            self._committing = None

    async def _commit(self, batch: Sequence[_Work[object]]) -> None:
        def all_of_it(connection: sa.Connection) -> list[object]:
            if any(work.exclusive for work in batch):
                connection.execute(_LOCK)
            return [work.do(connection) for work in batch]

        try:
            results = await self._database.transact(all_of_it)
        except Exception as error:  # noqa: BLE001  whoever waits for the work gets it
            if len(batch) == 1:
                if not batch[0].done.done():
                    batch[0].done.set_exception(error)
                return
            # What the database refuses must not take the others along.
            for work in batch:
                await self._commit([work])
            return
        for work, result in zip(batch, results, strict=True):
            if not work.done.done():  # its caller was cancelled
                work.done.set_result(result)

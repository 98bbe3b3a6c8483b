"""Which changes share a transaction: those that arrive while another is being committed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from perdure.storage import Database


@dataclass(frozen=True)
class Change:
    """A write to one row, and the event that goes with it if the row was written."""

    key: str
    statement: sa.Insert | sa.Update
    row: Mapping[str, object]
    event: Mapping[str, object]
    applied: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Commits:
    """Commits changes to DATABASE, with their events by INSERT_EVENT.

    Alone, a change is a transaction at once. Under load one commit serves all that came during the one before it, for a
    third of the CPU.
    """

    def __init__(self, database: Database, insert_event: sa.Insert) -> None:
        self._database = database
        self._insert_event = insert_event
        self._waiting: list[Change] = []
        self._committing: asyncio.Task[None] | None = None

    async def apply(self, change: Change) -> bool:
        """Commit CHANGE. Returns False if its row was not there to be written, or was there already."""
        self._waiting.append(change)
        if self._committing is None:
            self._committing = asyncio.get_running_loop().create_task(self._commit_all())
        return await change.applied

    async def _commit_all(self) -> None:
        try:
            while self._waiting:
                # In the order of keys: two processes that write the same rows wait for each other, and never in a circle.
                batch, self._waiting = sorted(self._waiting, key=lambda change: change.key), []
                await self._commit(batch)
        finally:
            self._committing = None

    async def _commit(self, batch: Sequence[Change]) -> None:
        try:
            written = await self._written(batch)
        except Exception as error:  # noqa: BLE001  whoever waits for the change gets it
            if len(batch) == 1:
                _settle(batch[0], error)
            else:
                # One change that the database refuses must not take the others along.
                for change in batch:
                    await self._commit([change])
            return
        for change, applied in zip(batch, written, strict=True):
            _settle(change, applied)

    async def _written(self, batch: Sequence[Change]) -> list[bool]:
        def write(connection: sa.Connection) -> list[bool]:
            written = [connection.execute(change.statement, change.row).rowcount == 1 for change in batch]
            events = [change.event for change, applied in zip(batch, written, strict=True) if applied]
            if events:
                connection.execute(self._insert_event, events)
            return written

        return await self._database.transact(write)


def _settle(change: Change, outcome: bool | Exception) -> None:
    if change.applied.done():  # its attempt was ended from outside, together with the process
        return
    if isinstance(outcome, Exception):
        change.applied.set_exception(outcome)
    else:
        change.applied.set_result(outcome)

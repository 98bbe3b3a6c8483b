"""Which index follows a database: one at a time, and only one that has missed nothing is believed to be complete."""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from perdure.errors import IndexOwned, Unreachable
from perdure.memory.tables import IndexRow
from perdure.storage import AdvisoryLock, Database, now

ONE = col(IndexRow.id) == 1


class Claim:
    """That this process feeds the index that follows DATABASE. Made by `claimed`.

    The outbox is there once, and what was told one index is taken off it. So a second index would lack what the first was
    told. Whoever claims keeps others out as long as it lives; whoever follows with another index has it compared with SQL
    before it is used. Several processes share a claim if they share the index.
    """

    def __init__(
        self, database: Database, row: sa.Row[IndexRow], *, holder: str, place: str, shared: bool, settled: bool
    ) -> None:
        self._database = database
        self.holder = holder
        self.place = place
        self.shared = shared
        self.database_id: str = row.database_id
        """Names the database on a server that others use too."""
        self.generation: str = row.generation
        """Whose vectors are in force: nobody feeds others, or recalls by them."""
        self.embedder: str = row.embedder
        """By which name the settings call the embedder of that generation; empty if by none."""
        self.settled = settled
        """Whether the index has all that the outbox no longer has."""
        self._becoming = ""

    async def activate(self, generation: str, embedder: str, *, settled: bool = False) -> None:
        """Have the index of GENERATION in force from now on; unless it was or is SETTLED, it has to be compared first."""
        self.settled = settled or (self.settled and generation == self.generation)
        changed = {"generation": generation, "embedder": embedder, "settled": self.settled}
        # A recall may look between the commit and our hearing of it: it is ours that is in force then.
        self._becoming = generation
        try:
            await self._change({**changed, "holder": self.holder, "place": self.place, "since": now()})
            self.generation, self.embedder = generation, embedder
        finally:
            self._becoming = ""

    async def mark_settled(self) -> None:
        """Say that the index has everything."""
        if not self.settled:
            mine = col(IndexRow.holder) == self.holder, col(IndexRow.generation) == self.generation
            await self._change({"settled": True}, *mine)
            self.settled = True

    def check(self, connection: sa.Connection, *, keep: bool = False) -> None:
        """Raise `Unreachable` if another index, or another embedder's, is in force; with KEEP none can come meanwhile."""
        query = sa.select(IndexRow).where(ONE)
        row = connection.execute(query.with_for_update(read=True) if keep else query).one()
        if row.holder != self.holder:
            raise Unreachable(
                f"the vector index in {row.place} follows this database since {row.since.isoformat(timespec='seconds')}, "
                f"and no longer the one in {self.place}. Stop one of the two workers, or set PERDURE_INDEX_URL to a Qdrant "
                "server for both"
            )
        if row.generation not in (self.generation, self._becoming):
            raise Unreachable(
                f"the memory was embedded anew with {row.embedder or 'another embedder'}, which this process does not use. "
                "Start it again with PERDURE_EMBEDDER set to the same as the other workers'"
            )

    async def _change(self, values: dict[str, object], *where: sa.ColumnElement[bool]) -> None:
        change = sa.update(IndexRow).where(ONE, *where).values(values)
        await self._database.transact(lambda connection: connection.execute(change))


@asynccontextmanager
async def claim_index(
    database: Database, *, place: str, holder: str = "", shared: bool = False, wait: timedelta = timedelta(seconds=2)
) -> AsyncIterator[Claim]:
    """Claim DATABASE for the index in PLACE, which HOLDER names; with SHARED together with others of the same HOLDER.

    An index that is not shared gets a new name each time, so that a copy of it, or one from a backup, is told from it.
    Raises `IndexOwned`, and changes nothing, if another index follows the database and its owner lives, also after WAIT.
    """
    async with _lock(database) as lock:
        row = await (_claim_shared(lock, database, holder, place, wait) if shared else _claim_alone(lock, database, wait))
        mine = holder if shared else uuid.uuid4().hex
        settled = row.settled and row.holder == holder
        yield Claim(database, row, holder=mine, place=place, shared=shared, settled=settled)


async def _claim_alone(lock: _OwnerLock, database: Database, wait: timedelta) -> sa.Row[IndexRow]:
    async def try_to() -> sa.Row[IndexRow] | None:
        return await _row(database) if await lock.take(shared=False) else None

    return await _retry(try_to, database, wait)


async def _claim_shared(lock: _OwnerLock, database: Database, holder: str, place: str, wait: timedelta) -> sa.Row[IndexRow]:
    async def try_to() -> sa.Row[IndexRow] | None:
        if not await lock.take(shared=True):
            return None
        row = await _row(database)
        # Only who is alone may put another index in force. Who fails holds nothing, so one of several gets it.
        if row.holder != holder and await lock.take(shared=False):
            values = {"holder": holder, "place": place, "settled": False, "since": now()}
            become = sa.update(IndexRow).where(ONE).values(values)
            await database.transact(lambda connection: connection.execute(become))
            row = await _row(database) if await lock.take(shared=True) else row
        return row if row.holder == holder else None

    return await _retry(try_to, database, wait)


async def _retry(
    try_to: Callable[[], Awaitable[sa.Row[IndexRow] | None]], database: Database, wait: timedelta
) -> sa.Row[IndexRow]:
    from tenacity import AsyncRetrying, RetryError, retry_if_result, stop_after_delay, wait_fixed

    retrying = AsyncRetrying(
        retry=retry_if_result(lambda row: row is None), stop=stop_after_delay(wait), wait=wait_fixed(0.05)
    )
    try:
        row: sa.Row[IndexRow] | None = await retrying(try_to)
    except RetryError:
        raise _owned_error(await _row(database)) from None
    assert row is not None, "it is tried again as long as there is none"
    return row


async def _row(database: Database) -> sa.Row[IndexRow]:
    return await database.query(lambda connection: connection.execute(sa.select(IndexRow).where(ONE)).one())


def _owned_error(row: sa.Row[IndexRow]) -> IndexOwned:
    return IndexOwned(
        f"another worker runs on this database: the vector index in {row.place or 'another place'} follows it since "
        f"{row.since.isoformat(timespec='seconds')}. A database has one index. To start runs no second worker is needed, a "
        "client is enough; for one, set PERDURE_INDEX_URL to the same Qdrant server for all workers, or give it a "
        "PERDURE_HOME and a database of its own"
    )


class _OwnerLock(Protocol):
    async def take(self, *, shared: bool) -> bool:
        """Take it, or change it to SHARED or not, if nobody is in the way."""
        ...


class _FileLock:
    def __init__(self, file: int | None) -> None:
        self._file = file

    async def take(self, *, shared: bool) -> bool:
        if self._file is None:
            return True
        try:
            fcntl.flock(self._file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


class _ServerLock:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def take(self, *, shared: bool) -> bool:
        await self._connection.execute(sa.text("SELECT pg_advisory_unlock_all()"))
        kind = "_shared" if shared else ""
        return bool(
            (await self._connection.execute(sa.text(f"SELECT pg_try_advisory_lock{kind}({AdvisoryLock.INDEX:d})"))).scalar()
        )


@asynccontextmanager
async def _lock(database: Database) -> AsyncIterator[_OwnerLock]:
    """Give the lock that goes with DATABASE, not yet taken. Kernel or server let go of it when its owner dies."""
    async with AsyncExitStack() as stack:
        if database.sqlite:
            path = sa.make_url(database.url).database
            file = None
            if path and path != ":memory:":
                file = os.open(Path(f"{path}-index"), os.O_RDWR | os.O_CREAT, 0o600)
                stack.callback(os.close, file)
            yield _FileLock(file)
            return
        connection = await stack.enter_async_context(database.read())
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        # The owner's machine may be gone without a word; the server should not wait two hours for it.
        for setting, seconds in (("idle", 20), ("interval", 10), ("count", 4)):
            await connection.execute(sa.text(f"SET tcp_keepalives_{setting} = {seconds}"))
        try:
            yield _ServerLock(connection)
        finally:
            await connection.invalidate()  # else it would go back to the pool together with the lock

"""Where the truth is kept: one SQL database, SQLite embedded or PostgreSQL by URL.

SQLite runs in WAL with one writer at a time per process; a write transaction begins IMMEDIATE, so two processes wait for
each other instead of failing half way. PostgreSQL uses its own isolation. Tables are SQLModel classes in the rooms that own
them; `migrations/` holds their history.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum, unique
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.types import TypeDecorator

from perdure.errors import InvalidSettings, Unreachable

if TYPE_CHECKING:
    import sqlite3

    from sqlalchemy.engine import Dialect

T = TypeVar("T")

HEAD = "0022"
"""The newest migration. A test holds it to what migrations/ says; here it saves importing Alembic on every start."""


@unique
class AdvisoryLock(IntEnum):
    """What is locked on PostgreSQL that is no row. One key for two things would have one wait for the other for ever."""

    MIGRATIONS = 7370647572
    EVENT_STREAM = 7370647573
    MODEL_CALLS = 7370647574
    INDEX = 7370647575
    """Held by the worker that feeds the index, for as long as it runs."""
    TARGET_TABLE = 7370647576
    """In the database that an SQL connector writes to, which may be this one."""


PATIENCE = 5
"""Seconds that cleaning the files waits for others who read or write."""


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time: TIMESTAMPTZ on PostgreSQL, ISO text that sorts on SQLite. Naive values are refused."""

    impl = sa.String(32)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> sa.types.TypeEngine[datetime]:
        """Choose the column type for DIALECT."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(sa.DateTime(timezone=True))
        return dialect.type_descriptor(sa.String(32))  # type: ignore[arg-type]  # text on SQLite

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> object:
        """Turn VALUE into what DIALECT stores."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"naive time {value!r}: give it a zone, e.g. datetime.now(UTC)")
        value = value.astimezone(UTC)
        return value if dialect.name == "postgresql" else value.isoformat(timespec="microseconds")

    def process_result_value(self, value: object, dialect: Dialect) -> datetime | None:
        """Turn what DIALECT returned into an aware UTC time."""
        if value is None:
            return None
        read = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
        return read.astimezone(UTC)


def now() -> datetime:
    """Return the current time, aware, in UTC."""
    return datetime.now(UTC)


class Database:
    """The database of one process. Rooms get a connection from `read()` or `write()` and never keep it across a call."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.sqlite = url.startswith("sqlite")
        # One writer at a time: SQLite has one anyway, and waiting here is cheaper than its busy handler.
        self._writer = asyncio.Lock() if self.sqlite else None
        self._engine = _engine(url)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="perdure-writer") if self.sqlite else None
        self._direct: sa.Connection | None = None
        self._readers = ThreadPoolExecutor(4, thread_name_prefix="perdure-reader") if self.sqlite else None
        self._reading: sa.Engine | None = None

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Yield a connection for reading."""
        async with self._connected() as connection:
            yield connection

    async def query(self, work: Callable[[sa.Connection], T]) -> T:
        """Return what WORK reads. WORK must not write, nor wait for anything but the database.

        On SQLite all of it runs in one of four threads at once, where `read` crosses to a thread and back for every call.
        """
        if self._readers is None:
            async with self.read() as connection:
                return await connection.run_sync(work)
        if self._reading is None:
            self._reading = _listening(sa.create_engine(_plain_sqlite(self.url), pool_size=4, max_overflow=0))
        return await asyncio.get_running_loop().run_in_executor(self._readers, _read_with, self._reading, work)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Yield a connection inside one transaction: committed at the end, rolled back on an exception."""
        if self._writer is None:
            async with self._connected() as connection, connection.begin():
                yield connection
            return
        async with self._writer, self._connected() as connection:
            await connection.execution_options(perdure_write=True)
            async with connection.begin():
                yield connection

    async def transact(self, work: Callable[[sa.Connection], T]) -> T:
        """Return what WORK returns, done in one write transaction. WORK must not wait for anything but the database.

        On SQLite all of it runs in the writer's thread at once, where `write` crosses to a thread and back for every
        statement: an effect's two transactions take half the CPU this way.
        """
        if self._writer is None:
            async with self.write() as connection:
                return await connection.run_sync(work)
        async with self._writer:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._at_once, work)

    def _at_once(self, work: Callable[[sa.Connection], T]) -> T:
        if self._direct is None:
            self._direct = _listening(sa.create_engine(_plain_sqlite(self.url))).connect()
            self._direct.execution_options(perdure_write=True)
        with self._direct.begin():
            return work(self._direct)

    async def scrub(self, traces: Sequence[bytes] | None, *, tables: Sequence[str]) -> bool:
        """Leave no byte of what was deleted from TABLES in the database's files. Returns False if others are in the way.

        TRACES are what may not be found afterwards; None means that nobody knows any more, so the file is written anew.
        On PostgreSQL the tables are; its write-ahead log keeps what it holds until the server recycles it.
        """
        if not self.sqlite:
            async with self._connected() as connection:
                return await _rewrite(await connection.execution_options(isolation_level="AUTOCOMMIT"), tables)
        path = sa.make_url(self.url).database
        assert path, "a database in memory has no files"
        assert self._writer is not None
        async with self._writer:
            return await asyncio.to_thread(_scrub_sqlite, Path(path), traces)

    async def migrate(self) -> None:
        """Bring the schema to `HEAD`. Several processes may do so at once; where nothing is to do it costs one query."""
        if await self.revision() == HEAD:
            return
        # Alembic keeps the migration that runs in globals of the process, so two databases take turns.
        turn = _migrating.setdefault(asyncio.get_running_loop(), asyncio.Lock())
        async with turn, self.write() as connection:
            if not self.sqlite:
                await connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({AdvisoryLock.MIGRATIONS:d})"))
            await connection.run_sync(_upgrade)

    async def revision(self) -> str | None:
        """Return the schema's migration, or None for an empty database."""
        async with self.read() as connection:
            if not await connection.run_sync(lambda sync: sa.inspect(sync).has_table("alembic_version")):
                return None
            return (await connection.execute(sa.text("SELECT version_num FROM alembic_version"))).scalar()

    async def close(self) -> None:
        """Close every connection."""
        if self._thread is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._close_direct)
            self._thread.shutdown()
        if self._readers is not None:
            self._readers.shutdown()
            if self._reading is not None:
                self._reading.dispose()
                self._reading = None
        await self._engine.dispose()

    def _close_direct(self) -> None:
        if self._direct is not None:
            self._direct.close()
            self._direct.engine.dispose()
            self._direct = None

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncConnection]:
        try:
            connection = await self._engine.connect()
        except (OSError, exc.DBAPIError) as error:
            raise Unreachable(
                f"database {without_password(self.url)} cannot be opened: "
                f"{error.__class__.__name__}: {_first_line(error)}. "
                "Check PERDURE_DATABASE_URL and that the server runs."
            ) from error
        except Exception as error:
            if type(error).__module__.startswith("asyncpg"):
                raise Unreachable(
                    f"database {without_password(self.url)} refused the connection: {_first_line(error)}"
                ) from error
            raise
        try:
            yield connection
        finally:
            await connection.close()


@dataclass(frozen=True)
class _Work(Generic[T]):
    run: Callable[[sa.Connection], T]
    key: str
    exclusive: bool
    result: asyncio.Future[T] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class GroupCommit:
    """Does work in write transactions of DATABASE: at once where it comes alone, else with all that came meanwhile.

    Under load that takes a third of the CPU, and nobody waits for a timer (docs/decisions/0007). LOCK is what exclusive
    work holds on PostgreSQL; on SQLite all writing is exclusive. FINISH gets the results of a transaction before it is
    committed, to write in one statement what goes with them.
    """

    def __init__(
        self,
        database: Database,
        *,
        lock: AdvisoryLock | None = None,
        finish: Callable[[sa.Connection, Sequence[object]], None] | None = None,
    ) -> None:
        self._database = database
        self._lock = lock
        self._finish = finish
        self._waiting: list[_Work[object]] = []
        self._committing: asyncio.Task[None] | None = None

    async def run(self, work: Callable[[sa.Connection], T], *, key: str = "", exclusive: bool = False) -> T:
        """Return what WORK returns, once it is committed. It waits for nothing but the database, and may be done twice.

        KEY names the row that it writes: within a transaction rows come in the order of their keys, so that two processes
        wait for each other and never in a circle. What is EXCLUSIVE is done by one process at a time.
        """
        mine: _Work[T] = _Work(work, key, exclusive and not self._database.sqlite)
        self._waiting.append(mine)  # type: ignore[arg-type]  # a queue of works of any type
        if self._committing is None:
            self._committing = asyncio.get_running_loop().create_task(self._commit_all())
        return await mine.result

    async def _commit_all(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = sorted(self._waiting, key=lambda work: work.key), []
                await self._commit(batch)
        finally:
            self._committing = None

    async def _commit(self, batch: Sequence[_Work[object]]) -> None:
        try:
            results = await self._database.transact(lambda connection: self._run_each(batch, connection))
        except Exception as error:  # noqa: BLE001  whoever waits for the work gets it
            if len(batch) > 1:
                # What the database refuses must not take the others along.
                for work in batch:
                    await self._commit([work])
            elif not batch[0].result.done():
                batch[0].result.set_exception(error)
            return
        for work, result in zip(batch, results, strict=True):
            if not work.result.done():  # its caller was cancelled
                work.result.set_result(result)

    def _run_each(self, batch: Sequence[_Work[object]], connection: sa.Connection) -> list[object]:
        if any(work.exclusive for work in batch):
            assert self._lock is not None, "exclusive work needs a lock"
            connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({self._lock:d})"))
        results = [work.run(connection) for work in batch]
        if self._finish is not None:
            self._finish(connection, results)
        return results


@asynccontextmanager
async def open_database(url: str) -> AsyncIterator[Database]:
    """Open the database at URL, bring its schema up to date, close it at the end."""
    database = Database(url)
    try:
        await database.migrate()
        yield database
    finally:
        await database.close()


def without_password(url: str) -> str:
    """Return URL without its password."""
    return sa.make_url(url).render_as_string(hide_password=True)


shown = without_password
"""Its name in 0.1.0. Remove after 2027-06."""


_migrating: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


def _engine(url: str) -> AsyncEngine:
    try:
        parsed = sa.make_url(url)
    except exc.ArgumentError:
        raise InvalidSettings(
            "the database URL cannot be read; write sqlite+aiosqlite:///PATH or postgresql+asyncpg://USER:PASSWORD@HOST/NAME"
        ) from None
    if not url.startswith("sqlite"):
        return create_async_engine(parsed, pool_size=10, max_overflow=20, pool_pre_ping=True)
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_async_engine(parsed, pool_size=8, max_overflow=24)
    _listening(engine.sync_engine)
    return engine


def _plain_sqlite(url: str) -> sa.URL:
    return sa.make_url(url).set(drivername="sqlite")


def _read_with(engine: sa.Engine, work: Callable[[sa.Connection], T]) -> T:
    with engine.connect() as connection:
        return work(connection)


def _listening(engine: sa.Engine) -> sa.Engine:
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: sa.engine.interfaces.DBAPIConnection, _: object) -> None:
    # The driver's own BEGIN is deferred, and a deferred transaction that turns into a write can fail at once with "locked".
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        "busy_timeout=15000",
        "journal_mode=WAL",
        "synchronous=NORMAL",  # survives kill -9; a power cut may lose the last commits
        "foreign_keys=ON",
        "secure_delete=ON",  # what is erased leaves no bytes in the file
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("perdure_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


async def _rewrite(connection: AsyncConnection, tables: Sequence[str]) -> bool:
    """Write TABLES anew. Returns False if a transaction of somebody else's, for longer than the time-out, is in the way."""
    # What an older transaction may still look at, VACUUM keeps, whichever tables it looks at.
    until = (await connection.execute(sa.text("SELECT pg_current_xact_id()::text"))).scalar_one()
    older = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
        "AND greatest(age(backend_xid), age(backend_xmin)) > age((:until)::text::xid8::xid)"
    )
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while (await connection.execute(older, {"until": until})).scalar_one():
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(0.05)  # the end of somebody else's transaction cannot be waited on
    await connection.execute(sa.text(f"SET lock_timeout = '{PATIENCE}s'"))
    try:
        for table in tables:
            await connection.execute(sa.text(f"VACUUM (FULL) {table}"))
    except exc.DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != "55P03":  # lock_not_available
            raise
        return False
    finally:
        await connection.execute(sa.text("RESET lock_timeout"))
    return True


def _scrub_sqlite(path: Path, traces: Sequence[bytes] | None) -> bool:
    import sqlite3

    connection = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
    try:
        connection.execute("PRAGMA secure_delete=ON")
        if not _checkpoint(connection):
            return False
        # Pages that were split may hold copies of cells that moved; only a file that is written anew does not.
        if traces is None or _holds(path, traces):
            connection.execute("VACUUM")
            return _checkpoint(connection)
    except sqlite3.OperationalError:  # another process holds a lock for longer than the time-out
        return False
    finally:
        connection.close()
    return True


def _checkpoint(connection: sqlite3.Connection) -> bool:
    busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not busy


_LOOK = """
import mmap, sys
with open(sys.argv[1], "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
    found = any(content.find(bytes.fromhex(trace)) >= 0 for trace in sys.stdin.read().split())
sys.exit(3 if found else 0)
"""


def _holds(path: Path, traces: Sequence[bytes]) -> bool:
    if not traces:
        return False
    # In a process of its own: closing the file here would drop the locks that SQLite holds on it in this process, and
    # another process would then take the write-ahead log away from under us (sqlite.org/howtocorrupt.html, 2.2).
    looking = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _LOOK, str(path)],
        input="\n".join(trace.hex() for trace in traces).encode(),
        check=False,
    )
    return looking.returncode != 0  # also when it could not look


def _upgrade(connection: sa.Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else error.__class__.__name__

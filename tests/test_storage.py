"""Tests of perdure.storage."""

from __future__ import annotations

import asyncio
import importlib
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from textwrap import dedent

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import StatementError
from sqlmodel import SQLModel

import perdure
from perdure import storage
from perdure.errors import InvalidSettings, Unreachable
from perdure.storage import Database, UtcDateTime

ROOT = Path(perdure.__file__).parent
CET = timezone(timedelta(hours=1))


# Migrations


def test_head() -> None:
    """`HEAD` names the newest migration, and the migrations are one chain of four-digit numbers."""
    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations"))
    scripts = ScriptDirectory.from_config(config)

    chain = [script.revision for script in scripts.walk_revisions()]

    assert storage.HEAD == chain[0]
    assert [f"{number:04}" for number in range(len(chain), 0, -1)] == chain


async def test_migrations_make_what_the_tables_say(database: Database) -> None:
    """The migrated schema is the one that the rooms' table classes declare."""
    for tables in (*ROOT.glob("*/tables.py"), *ROOT.glob("*/*/tables.py")):
        importlib.import_module(f"perdure.{'.'.join(tables.parent.relative_to(ROOT).parts)}.tables")

    async with database.read() as connection:
        differences = await connection.run_sync(
            lambda sync: compare_metadata(MigrationContext.configure(sync), SQLModel.metadata)
        )

    assert [] == differences


async def test_migrate_twice(blank_url: str) -> None:
    """A second `migrate` finds nothing to do and leaves the revision at the head."""
    database = Database(blank_url)
    assert await database.revision() is None

    await database.migrate()
    await database.migrate()

    assert storage.HEAD == await database.revision()
    await database.close()


async def test_migrate_from_several_processes(blank_url: str) -> None:
    """Workers that start at the same time all find the schema ready: one of them migrates, the others wait for it."""
    code = """
        import asyncio, sys
        from perdure.storage import open_database

        async def main():
            async with open_database(sys.argv[1]) as database:
                print(await database.revision())

        asyncio.run(main())
    """
    outputs = await asyncio.gather(*(_python(code, blank_url) for _ in range(3)))

    assert [storage.HEAD] * 3 == outputs


# Transactions


async def test_two_processes_write(database: Database) -> None:
    """Processes that write at the same time wait for each other: nothing fails as locked, nothing is lost."""
    await _create(database, "CREATE TABLE counter (value INTEGER)", "INSERT INTO counter VALUES (0)")
    code = """
        import asyncio, sys
        import sqlalchemy as sa
        from perdure.storage import Database

        async def main():
            database = Database(sys.argv[1])
            for _ in range(50):
                async with database.write() as connection:
                    # Reading first is what makes a deferred transaction fail when it turns into a write.
                    lock = "" if database.sqlite else " FOR UPDATE"
                    value = (await connection.execute(sa.text("SELECT value FROM counter" + lock))).scalar_one()
                    await connection.execute(sa.text("UPDATE counter SET value = :next"), {"next": value + 1})
            await database.close()

        asyncio.run(main())
    """

    await asyncio.gather(*(_python(code, database.url) for _ in range(3)))

    assert 150 == await _scalar(database, "SELECT value FROM counter")


async def test_tasks_write(database: Database) -> None:
    """Tasks of one process that write at the same time all succeed."""
    await _create(database, "CREATE TABLE note (value INTEGER)")

    async def write(value: int) -> None:
        async with database.write() as connection:
            await connection.execute(sa.text("INSERT INTO note VALUES (:value)"), {"value": value})

    await asyncio.gather(*(write(value) for value in range(40)))

    assert 40 == await _scalar(database, "SELECT COUNT(*) FROM note")


async def test_rollback(database: Database) -> None:
    """A write that raises leaves nothing behind."""
    await _create(database, "CREATE TABLE note (value INTEGER)")

    async def fail() -> None:
        async with database.write() as connection:
            await connection.execute(sa.text("INSERT INTO note VALUES (1)"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()

    assert 0 == await _scalar(database, "SELECT COUNT(*) FROM note")


async def test_readers_see_while_another_writes(sqlite_database: Database) -> None:
    """A reader of SQLite neither waits for a writer nor sees what is not committed."""
    await _create(sqlite_database, "CREATE TABLE note (value INTEGER)")
    async with sqlite_database.write() as connection:
        await connection.execute(sa.text("INSERT INTO note VALUES (1)"))

        seen = await _scalar(sqlite_database, "SELECT COUNT(*) FROM note")

    assert 0 == seen


# Times

MOMENTS = sa.Table("moment", sa.MetaData(), sa.Column("at", UtcDateTime()))


async def test_time_round_trip(database: Database) -> None:
    """A time in any zone comes back as the same moment, aware, in UTC, to the microsecond."""
    await _create(database, f"CREATE TABLE moment (at {'VARCHAR(32)' if database.sqlite else 'TIMESTAMPTZ'})")
    written = datetime(2026, 11, 23, 1, 30, 0, 123456, tzinfo=CET)
    async with database.write() as connection:
        await connection.execute(sa.insert(MOMENTS).values(at=written))

    async with database.read() as connection:
        read = (await connection.execute(sa.select(MOMENTS.c.at))).scalar_one()

    assert (datetime(2026, 11, 23, 0, 30, 0, 123456, tzinfo=UTC), UTC) == (read, read.tzinfo)


async def test_times_sort(database: Database) -> None:
    """Times compare and sort in SQL as they do in Python, whole seconds and other zones included."""
    await _create(database, f"CREATE TABLE moment (at {'VARCHAR(32)' if database.sqlite else 'TIMESTAMPTZ'})")
    noon = datetime(2026, 11, 23, 12, tzinfo=UTC)
    moments = [noon + timedelta(microseconds=1), noon.astimezone(CET), noon - timedelta(seconds=1)]
    async with database.write() as connection:
        await connection.execute(sa.insert(MOMENTS), [{"at": moment} for moment in moments])

    async with database.read() as connection:
        chosen = sa.select(MOMENTS.c.at).where(MOMENTS.c.at >= noon).order_by(MOMENTS.c.at)
        read = (await connection.execute(chosen)).scalars().all()

    assert [noon, noon + timedelta(microseconds=1)] == read


async def test_naive_time(database: Database) -> None:
    """A time without a zone is refused, and the message says how to give it one."""
    await _create(database, f"CREATE TABLE moment (at {'VARCHAR(32)' if database.sqlite else 'TIMESTAMPTZ'})")

    with pytest.raises(StatementError, match="give it a zone"):
        async with database.write() as connection:
            await connection.execute(sa.insert(MOMENTS).values(at=datetime(2026, 11, 23)))  # noqa: DTZ001  # the point


# Errors


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+asyncpg://perdure:hunter2@127.0.0.1:1/perdure",
        "postgresql+asyncpg://perdure:hunter2@nowhere.invalid/perdure",
    ],
)
async def test_unreachable(url: str) -> None:
    """A database that does not answer gives `Unreachable`, which names it without its password."""
    database = Database(url)

    with pytest.raises(Unreachable, match="PERDURE_DATABASE_URL") as raised:
        await database.migrate()

    assert "hunter2" not in str(raised.value)
    assert "perdure:***@" in str(raised.value)
    await database.close()


async def test_unknown_database(postgres_url: str) -> None:
    """A PostgreSQL server without that database gives `Unreachable` with what the server said."""
    database = Database(postgres_url.replace("/t", "/nosuch", 1))

    with pytest.raises(Unreachable, match="nosuch"):
        await database.revision()

    await database.close()


async def test_sqlite_needs_a_place(tmp_path: Path) -> None:
    """A SQLite file that is a folder gives `Unreachable`."""
    database = Database(f"sqlite+aiosqlite:///{tmp_path}")

    with pytest.raises(Unreachable, match="cannot be opened"):
        await database.revision()

    await database.close()


def test_unreadable_url() -> None:
    """A URL that cannot be read is `InvalidSettings`, and the message shows the forms that work."""
    with pytest.raises(InvalidSettings, match="sqlite\\+aiosqlite:///PATH"):
        Database("what is this?")


# SQLite's own promises


async def test_sqlite_settings(sqlite_database: Database) -> None:
    """SQLite runs in WAL, checks foreign keys and overwrites what is deleted."""
    found = [await _scalar(sqlite_database, f"PRAGMA {name}") for name in ("journal_mode", "foreign_keys", "secure_delete")]

    assert ["wal", 1, 1] == found


async def test_sqlite_makes_its_folder(tmp_path: Path) -> None:
    """The folder of a SQLite file is made when it is missing."""
    async with storage.open_database(f"sqlite+aiosqlite:///{tmp_path}/a/b/perdure.db") as database:
        assert storage.HEAD == await database.revision()


async def _create(database: Database, *statements: str) -> None:
    async with database.write() as connection:
        for statement in statements:
            await connection.execute(sa.text(statement))


async def _scalar(database: Database, statement: str) -> object:
    async with database.read() as connection:
        return (await connection.execute(sa.text(statement))).scalar_one()


async def _python(code: str, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", dedent(code), *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    output, errors = await process.communicate()
    assert 0 == process.returncode, errors.decode()
    return output.decode().strip()


async def test_two_databases_migrate_at_once_in_one_process(tmp_path: Path) -> None:
    """Alembic's globals are used by one migration at a time."""
    databases = [Database(f"sqlite+aiosqlite:///{tmp_path / name}.db") for name in ("a", "b")]
    await asyncio.gather(*(database.migrate() for database in databases))

    assert [storage.HEAD, storage.HEAD] == [await database.revision() for database in databases]
    for database in databases:
        await database.close()

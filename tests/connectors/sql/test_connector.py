"""Tests of the SQL connector against real databases: SQLite, and PostgreSQL behind a fault proxy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import date, timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
import sqlalchemy as sa
from kits.connectors import call, key_of, persist
from sqlalchemy.ext.asyncio import create_async_engine

from perdure.connectors import Attempt, EffectCall, Target
from perdure.connectors.drift import Drift
from perdure.connectors.ledger import Ledger
from perdure.connectors.reconciliation._compare import find_differences
from perdure.connectors.sql import DDL, SqlAction, SqlConnector
from perdure.connectors.testing import Case, TcpFaultProxy, check
from perdure.errors import (
    EffectConflict,
    EffectRejected,
    InvalidSettings,
    TargetUnavailable,
)
from perdure.lineage import Frozen
from perdure.storage import Database, now

BRISK = Target(mechanism="natural-key", settle=timedelta(seconds=0.2), deadline=timedelta(seconds=2))


class Take(Frozen):
    """What to take from the stock, for whom, until when."""

    sku: str
    count: int
    until: date = date(2026, 12, 1)


class Taken(Frozen):
    """What is left."""

    sku: str
    free: int


class Look(Frozen):
    """What to look for."""

    sku: str


class Reservations(Frozen):
    """What is reserved."""

    rows: list[dict[str, object]]


class Moved(Frozen):
    """How many rows were changed."""

    changed: int


class Warehouse(SqlConnector):
    """A stock with a book of what was taken."""

    take = SqlAction(
        "warehouse.take",
        Take,
        Taken,
        statements=[
            "INSERT INTO taken (sku, count, until, reference) VALUES (:sku, :count, :until, :effect_key)",
            "UPDATE stock SET free = free - :count WHERE sku = :sku AND free >= :count RETURNING sku, free",
        ],
        refusal="there is not enough in stock",
    )
    give_back = SqlAction(
        "warehouse.give_back",
        Take,
        Moved,
        statements=["UPDATE stock SET free = free + :count WHERE sku = :sku"],
        returns="nothing",
    )
    taken = SqlAction(
        "warehouse.taken",
        Look,
        Reservations,
        statements=["SELECT sku, count FROM taken WHERE sku = :sku AND ':no' <> ':yes' -- not a :parameter"],
        returns="rows",
        reads=True,
    )


class Shelf:
    """The database that the connector acts on, seen from beside it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = create_async_engine(url)

    async def run(self, statement: str) -> list[tuple[object, ...]]:
        """Run STATEMENT and return its rows."""
        async with self.engine.begin() as connection:
            result = await connection.execute(sa.text(statement))
            return [tuple(row) for row in result] if result.returns_rows else []


@pytest.fixture
async def shelf(blank_url: str) -> AsyncIterator[Shelf]:
    """A database with a stock: once SQLite, once PostgreSQL."""
    shelf = Shelf(blank_url)
    await shelf.run("CREATE TABLE stock (sku TEXT PRIMARY KEY, free INTEGER NOT NULL)")
    await shelf.run("CREATE TABLE taken (sku TEXT, count INTEGER CHECK (count > 0), until DATE, reference TEXT)")
    await shelf.run("INSERT INTO stock VALUES ('kettle', 1000)")
    yield shelf
    await shelf.engine.dispose()


@pytest.fixture
async def warehouse(shelf: Shelf) -> AsyncIterator[Warehouse]:
    """The connector of the stock."""
    warehouse = Warehouse().with_options({"url": shelf.url})
    yield warehouse
    await warehouse.close()


@pytest.fixture
def ledger(sqlite_database: Database, warehouse: Warehouse) -> Ledger:
    """A ledger in front of the stock."""
    return Ledger(sqlite_database, {"warehouse": warehouse})


async def test_takes_once_in_one_transaction(ledger: Ledger, shelf: Shelf) -> None:
    """All statements and the row of the key are one transaction; the same step again changes nothing."""
    first = await ledger.perform(_take(3))
    again = await ledger.perform(_take(3))

    assert first == again
    assert {"sku": "kettle", "free": 997} == first.value
    assert [(997,)] == await shelf.run("SELECT free FROM stock")
    assert [(first.receipt.key, "warehouse.take")] == await shelf.run("SELECT key, action FROM perdure_effect")
    assert [(first.receipt.key,)] == await shelf.run("SELECT reference FROM taken")


async def test_no_row_is_a_refusal(ledger: Ledger, shelf: Shelf) -> None:
    """Where the last statement answers with no row nothing is changed, not even by those before it."""
    with pytest.raises(EffectRejected, match="there is not enough in stock; nothing was changed"):
        await ledger.perform(_take(3000))

    assert [(1000,)] == await shelf.run("SELECT free FROM stock")
    assert [] == await shelf.run("SELECT * FROM taken")
    assert [] == await shelf.run("SELECT * FROM perdure_effect")


async def test_constraint_is_a_refusal_without_values(ledger: Ledger) -> None:
    """What the database refuses is rejected, and the message quotes no value."""
    with pytest.raises(EffectRejected, match=r"the database refused it \(IntegrityError") as refused:
        await ledger.perform(_take(-777))

    assert "777" not in str(refused.value)


async def test_values_are_bound(ledger: Ledger, shelf: Shelf) -> None:
    """What looks like SQL in an argument is a value."""
    with pytest.raises(EffectRejected, match="not enough"):
        await ledger.perform(call("warehouse.take", sku="kettle' OR '1'='1", count=1))

    assert [(1000,)] == await shelf.run("SELECT free FROM stock")


async def test_reads_rows(ledger: Ledger) -> None:
    """An action that reads leaves no row of its own."""
    await ledger.perform(_take(3))

    found = await ledger.perform(call("warehouse.taken", sku="kettle"))

    assert {"rows": [{"sku": "kettle", "count": 3}]} == found.value


async def test_counts_what_it_changed(ledger: Ledger) -> None:
    """An action without rows says how many it changed."""
    assert {"changed": 1} == (await ledger.perform(call("warehouse.give_back", sku="kettle", count=2))).value


async def test_repeat_of_a_key_does_nothing(warehouse: Warehouse, shelf: Shelf) -> None:
    """The database itself keeps a key from being used twice, also when both come at once."""
    attempt = Attempt(key="pe-1", fence=1, deadline=BRISK.deadline)
    action = warehouse.actions["warehouse.take"]
    args = Take(sku="kettle", count=3)

    first, second = await asyncio.gather(*(warehouse.execute(action, args, attempt) for _ in range(2)))

    assert first == second
    assert [(997,)] == await shelf.run("SELECT free FROM stock")


async def test_table_that_may_not_be_created(shelf: Shelf, sqlite_database: Database) -> None:
    """Where the connector may not create its table, it says with which statement to do so; then it works."""
    warehouse = Warehouse().with_options({"url": shelf.url, "create_table": "no"})
    ledger = Ledger(sqlite_database, {"warehouse": warehouse})
    with pytest.raises(TargetUnavailable, match="Create it: CREATE TABLE IF NOT EXISTS perdure_effect"):
        await ledger.perform(_take(1))
    await shelf.run(DDL)

    await ledger.perform(_take(1))
    await warehouse.close()

    assert [(999,)] == await shelf.run("SELECT free FROM stock")


async def test_database_that_is_down(sqlite_database: Database) -> None:
    """Where nobody listens, nothing has happened, and the address is not told."""
    warehouse = Warehouse().with_options({"url": "postgresql+asyncpg://me:secret@127.0.0.1:1/x"})
    ledger = Ledger(sqlite_database, {"warehouse": warehouse})

    with pytest.raises(TargetUnavailable, match="warehouse cannot be reached") as down:
        await ledger.perform(_take(1))

    assert "secret" not in str(down.value)


async def test_other_arguments(ledger: Ledger) -> None:
    """The same step with other arguments is a conflict, as everywhere."""
    await ledger.perform(_take(1))

    with pytest.raises(EffectConflict):
        await ledger.perform(_take(2))


async def test_postgres_under_every_fault(postgres_url: str, postgres_database: Database) -> None:
    """With a proxy that strikes at COMMIT, each thing is taken once; a client that retries takes some twice."""
    shelf = Shelf(postgres_url)
    await shelf.run("CREATE TABLE stock (sku TEXT PRIMARY KEY, free INTEGER NOT NULL)")
    await shelf.run("CREATE TABLE taken (sku TEXT, count INTEGER, until DATE, reference TEXT)")
    await shelf.run("INSERT INTO stock SELECT 'sku-' || n, 10 FROM generate_series(0, 200) AS n")

    async def taken(args: Take) -> int:
        return len(await shelf.run(f"SELECT 1 FROM taken WHERE sku = '{args.sku}'"))

    address = urlsplit(postgres_url)
    folder = parse_qs(address.query)["host"][0]
    async with TcpFaultProxy(f"{folder}/.s.PGSQL.5432", at=b"COMMIT") as proxy:
        url = f"postgresql+asyncpg://postgres@{proxy.host}:{proxy.port}{address.path}"
        warehouse = Warehouse().with_options({"url": url})
        matrix = await check(
            Case(
                connector=warehouse,
                action=Warehouse.take,
                args=lambda number: Take(sku=f"sku-{number}", count=1),
                count=taken,
                proxy=proxy,
                target=BRISK,
                database=postgres_database,
            )
        )
        await warehouse.close()
    await shelf.engine.dispose()

    assert [] == matrix.problems
    assert {"lose response", "land late"} <= {row.fault for row in matrix.rows if row.naive.duplicates}


async def test_killed_connection_before_the_commit(postgres_url: str, sqlite_database: Database) -> None:
    """A connection that ends before the commit leaves nothing, so the step may go on without a look-up."""
    shelf = Shelf(postgres_url)
    await shelf.run("CREATE TABLE stock (sku TEXT PRIMARY KEY, free INTEGER NOT NULL)")
    await shelf.run("CREATE TABLE taken (sku TEXT, count INTEGER, until DATE, reference TEXT)")
    await shelf.run("INSERT INTO stock VALUES ('kettle', 10)")
    await shelf.run(
        "CREATE FUNCTION die() RETURNS trigger AS $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); "
        "RETURN NEW; END $$ LANGUAGE plpgsql"
    )
    await shelf.run("CREATE TRIGGER die BEFORE INSERT ON taken FOR EACH ROW EXECUTE FUNCTION die()")
    warehouse = Warehouse().with_options({"url": postgres_url})
    ledger = Ledger(sqlite_database, {"warehouse": warehouse})

    with pytest.raises(TargetUnavailable, match="nothing was changed"):
        await ledger.perform(_take(1))
    await shelf.run("DROP TRIGGER die ON taken")
    result = await persist(lambda: ledger.perform(_take(1)))
    await warehouse.close()
    await shelf.engine.dispose()

    assert {"sku": "kettle", "free": 9} == result.value


def test_statement_without_its_field() -> None:
    """A parameter that the input does not have is found where the action is declared."""
    with pytest.raises(ValueError, match="Look has no field count"):
        SqlAction("warehouse.x", Look, Taken, statements=["SELECT :count, ':sku', 1::text"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "needs url"),
        ({"url": "mysql://x"}, "begin with postgresql"),
        ({"url": "env:NOT_SET_ANYWHERE"}, "variable is not set"),
        ({"uri": "x"}, "does not take 'uri'"),
    ],
)
def test_wrong_options(options: dict[str, str], said: str) -> None:
    """Options that make no sense are found at the start."""
    with pytest.raises(InvalidSettings, match=said):
        Warehouse().with_options(options)


def _take(count: int) -> EffectCall:
    return call("warehouse.take", sku="kettle", count=count)


# Reconciliation and drift


async def test_what_the_rows_say(shelf: Shelf, warehouse: SqlConnector, database: Database) -> None:
    """A database that was restored from before an effect lacks its row, and that is found; so is a row of nobody's."""
    ledger = Ledger(database, {"warehouse": warehouse})
    for name in ("kept", "lost", "edited"):
        await ledger.perform(call("warehouse.take", name, sku="kettle", count=1))
    await ledger.perform(call("warehouse.taken", "look", sku="kettle"))
    keys = {name: key_of(call("warehouse.take", name, sku="kettle", count=1)) for name in ("kept", "lost", "edited")}
    await shelf.run(f"DELETE FROM perdure_effect WHERE key = '{keys['lost']}'")
    edited = '{"sku": "kettle", "free": 0}'.replace(":", r"\:")
    await shelf.run(f"UPDATE perdure_effect SET response = '{edited}' WHERE key = '{keys['edited']}'")
    await shelf.run("INSERT INTO perdure_effect (key, action, response) VALUES ('pe-else', 'warehouse.take', '[]')")
    await shelf.run("INSERT INTO perdure_effect (key, action) VALUES ('pe-other', 'other.thing')")

    listed = [each async for each in warehouse.listing(now() - timedelta(hours=1), now())]
    effects = await ledger.list()
    window = {"since": now() - timedelta(hours=1), "until": now() + timedelta(minutes=1)}
    found = find_differences(warehouse.actions, effects, listed, **window)

    assert {("changed", keys["edited"]), ("unknown", "pe-else")} == {(each.kind, each.remote_ref) for each in found.found}
    assert [keys["lost"]] == [effect.key for effect in found.unlisted], "which is then asked for by its key"
    assert {"warehouse.take", "warehouse.give_back"} == set(warehouse.listed_actions)


@pytest.mark.parametrize(
    ("sqlite", "postgresql", "said"),
    [
        (
            "ALTER TABLE taken ADD COLUMN clerk TEXT NOT NULL",
            "ALTER TABLE taken ADD COLUMN clerk TEXT NOT NULL",
            "warehouse.take taken request /clerk: is new and needed",
        ),
        (
            "ALTER TABLE stock RENAME COLUMN free TO available",
            "ALTER TABLE stock RENAME COLUMN free TO available",
            "warehouse.take stock request /free: is no longer taken",
        ),
        ("", "ALTER TABLE stock ALTER free TYPE TEXT", "warehouse.take stock request /free: integer -> string"),
        ("DROP TABLE stock", "DROP TABLE stock", "warehouse.take stock operation: is gone"),
        (
            "ALTER TABLE taken ADD COLUMN clerk TEXT NOT NULL DEFAULT 'x'",
            "ALTER TABLE taken ADD COLUMN clerk TEXT NOT NULL DEFAULT 'x'",
            "",
        ),
    ],
)
async def test_tables_that_change(
    shelf: Shelf, warehouse: SqlConnector, sqlite_database: Database, *, sqlite: str, postgresql: str, said: str
) -> None:
    """A column that an action names, or has to give, is a part of its contract; another one is not."""
    await shelf.run("DELETE FROM taken")
    drift = Drift(sqlite_database, {"warehouse": warehouse})
    first = await drift.check("warehouse")
    if change := postgresql if shelf.url.startswith("postgresql") else sqlite:
        await shelf.run(change)
    checked = await drift.check("warehouse")

    assert first is not None
    assert checked is not None
    assert "same" == first.verdict
    if change and said:
        assert said in [str(each) for each in checked.changes if each.verdict == "breaking"]
    else:
        assert "same" == checked.verdict

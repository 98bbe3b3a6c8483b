"""What the tests of connectors/ stand on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from kits.connectors import Bank, QuickPayments, Server, ShopProcess

from perdure.connectors.ledger import Ledger
from perdure.storage import Database


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[ShopProcess]:
    """The stand-in shop, running."""
    shop = ShopProcess(tmp_path)
    shop.start()
    yield shop
    shop.stop()


@pytest.fixture
async def payments(shop: ShopProcess) -> AsyncIterator[QuickPayments]:
    """The connector of the shop's refunds."""
    payments = QuickPayments().with_options({"url": shop.url})
    yield payments
    await payments.close()


@pytest.fixture
def desk(sqlite_database: Database, payments: QuickPayments) -> Ledger:
    """A ledger in front of the shop."""
    return Ledger(sqlite_database, {"payments": payments})


@pytest.fixture
def bank() -> Bank:
    """A target in this process."""
    return Bank()


@pytest.fixture
def ledger(sqlite_database: Database, bank: Bank) -> Ledger:
    """A ledger in front of the bank."""
    return Ledger(sqlite_database, {"bank": bank})


@pytest.fixture
def any_ledger(database: Database, bank: Bank) -> Ledger:
    """The same, once on SQLite and once on PostgreSQL: for what the database has a part in."""
    return Ledger(database, {"bank": bank})


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A scripted server."""
    server = Server()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    yield server
    listening.close()

"""The connector that does nothing, and what importing the room costs."""

from __future__ import annotations

import subprocess
import sys

from kits.connectors import call, undo

from perdure.connectors.ledger import Ledger
from perdure.connectors.null import NullConnector
from perdure.storage import Database


async def test_null_connector_counts_effects(sqlite_database: Database) -> None:
    """Each effect is counted under its key: once, and its undo once."""
    null = NullConnector()
    ledger = Ledger(sqlite_database, {"null": null})
    write = call("null.write", text="x")

    results = [await ledger.perform(write) for _ in range(2)]
    undone = await ledger.undo(undo(write))

    assert results[0] == results[1]
    assert ("compensated", [1, 1]) == (undone.outcome, list(null.effects.values()))
    assert {"number": 0, "text": ""} == (await ledger.perform(call("null.read", text="x"))).value


def test_declaring_actions_loads_nothing_heavy() -> None:
    """What workflow code imports of the room brings neither httpx nor a database along."""
    heavy = "{'httpx', 'sqlalchemy', 'sqlmodel', 'aiosqlite', 'asyncpg', 'litellm', 'temporalio'}"
    code = f"import sys, perdure.examples.returns_desk.desk_connectors; print(sorted({heavy} & set(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "[]" == done.stdout.strip()

"""What models have cost, out of the recorded calls."""

from __future__ import annotations

import sqlalchemy as sa
from sqlmodel import col

from perdure.routing.tables import ModelCallRow
from perdure.storage import Database


async def spent(database: Database) -> tuple[int, int]:
    """Return how many provider calls DATABASE has recorded, and what they cost together, in nano-USD."""
    query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(col(ModelCallRow.cost_nano_usd)), 0))
    async with database.read() as connection:
        calls, cost = (await connection.execute(query)).one()
    return int(calls), int(cost)

"""Which steps of other runs rely on an effect that happens once in the world."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlmodel import col

from perdure.connectors.contracts import undo_key
from perdure.connectors.ledger.contracts import Dependent
from perdure.connectors.ledger.journal import Intent
from perdure.connectors.ledger.tables import DependentRow, EffectEventRow, EffectRow
from perdure.storage import Database


class Dependents:
    """Who asked for an effect by its business key, beside the run that made it.

    An effect that somebody still relies on is not undone. Each change locks the effect's row, so that nobody can begin to
    rely on what another is just taking back.
    """

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    async def join(self, effect: str, intent: Intent) -> bool:
        """Note that INTENT's step relies on EFFECT. Returns False if that is gone, or being undone."""
        at = self._clock()

        def write(connection: sa.Connection) -> bool:
            row = _lock(connection, effect)
            if row is None or row.state in ("failed", "compensated"):
                return False
            there = _dependents_of(connection, effect)
            if intent.key in there:
                return True
            if row.given_up and not there and not _undo_failed(connection, effect):
                return False
            step = intent.step
            connection.execute(
                sa.insert(DependentRow),
                {
                    "effect": effect,
                    "key": intent.key,
                    "workflow_id": step.lineage.workflow_id,
                    "run_id": step.run_id,
                    "step": step.name,
                    "at": at,
                },
            )
            _note(connection, row, at, f"asked for as well: {step.lineage.workflow_id}, step {step.name}")
            return True

        return await self._database.transact(write)

    async def leave(self, key: str) -> tuple[str, bool] | None:
        """Note that the step of KEY relies on nothing any more.

        Returns the effect that it relied on, and whether it was the last to do so; None if there was none.
        """
        at = self._clock()

        def write(connection: sa.Connection) -> tuple[str, bool] | None:
            effect = connection.execute(sa.select(col(DependentRow.effect)).where(col(DependentRow.key) == key)).scalar()
            row = _lock(connection, effect) if effect else None
            if effect is None or row is None:
                return None
            connection.execute(
                sa.delete(DependentRow).where(col(DependentRow.effect) == effect, col(DependentRow.key) == key)
            )
            _note(connection, row, at, f"taken back by {key}, which had asked for it")
            return effect, bool(row.given_up) and not _dependents_of(connection, effect)

        return await self._database.transact(write)

    async def give_up(self, effect: str) -> bool:
        """Note that the run that made EFFECT takes it back. Returns whether others rely on it, so that it is to stay."""
        at = self._clock()

        def write(connection: sa.Connection) -> bool:
            row = _lock(connection, effect)
            there = _dependents_of(connection, effect)
            if row is not None and not row.given_up:
                connection.execute(sa.update(EffectRow).where(col(EffectRow.key) == effect).values(given_up=True))
                if there:
                    _note(connection, row, at, f"its run has taken it back; it stays for {', '.join(sorted(there))}")
            return bool(there)

        return await self._database.transact(write)

    async def reinstate(self, effect: str) -> bool:
        """Note that EFFECT stands: the run that took it back has ended without undoing it. False: it is being undone."""
        at = self._clock()

        def write(connection: sa.Connection) -> bool:
            row = _lock(connection, effect)
            begun = connection.execute(sa.select(col(EffectRow.key)).where(col(EffectRow.key) == undo_key(effect))).scalar()
            if row is None or row.state != "succeeded" or not row.given_up or begun is not None:
                return False
            connection.execute(sa.update(EffectRow).where(col(EffectRow.key) == effect).values(given_up=False))
            _note(connection, row, at, "it stands: the run that took it back has ended without undoing it")
            return True

        return await self._database.transact(write)

    async def list(self, effect: str) -> Sequence[Dependent]:
        """Return who relies on EFFECT, the first first."""
        query = (
            sa.select(DependentRow)
            .where(col(DependentRow.effect) == effect)
            .order_by(col(DependentRow.at), col(DependentRow.key))
        )
        async with self._database.read() as connection:
            return [Dependent.model_validate(dict(row)) for row in (await connection.execute(query)).mappings()]


class _Row(NamedTuple):
    key: str
    state: str
    fence: int
    given_up: bool


def _lock(connection: sa.Connection, effect: str) -> _Row | None:
    # SQLite has one writer at a time and takes no notice of FOR UPDATE.
    query = sa.select(col(EffectRow.key), col(EffectRow.state), col(EffectRow.fence), col(EffectRow.given_up))
    row = connection.execute(query.where(col(EffectRow.key) == effect).with_for_update()).one_or_none()
    return None if row is None else _Row(*row)


def _dependents_of(connection: sa.Connection, effect: str) -> set[str]:
    return set(connection.execute(sa.select(col(DependentRow.key)).where(col(DependentRow.effect) == effect)).scalars())


def _undo_failed(connection: sa.Connection, effect: str) -> bool:
    query = sa.select(col(EffectRow.state)).where(col(EffectRow.key) == undo_key(effect))
    return connection.execute(query).scalar() == "failed"


def _note(connection: sa.Connection, row: _Row, at: datetime, note: str) -> None:
    event = {"key": row.key, "fence": row.fence, "before": row.state, "after": row.state, "at": at, "note": note}
    connection.execute(sa.insert(EffectEventRow), event)

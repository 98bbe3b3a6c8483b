"""What became of effects that ended runs have left open."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Literal

import sqlalchemy as sa
import structlog
from sqlmodel import col

from perdure.connectors.contracts import Connector, Effect
from perdure.connectors.ledger import Dependents, Journal, Ledger
from perdure.connectors.ledger.tables import EffectRow
from perdure.connectors.reconciliation.contracts import SettledOrphans, SettleOrphans
from perdure.errors import EffectBusy, EffectParked, EffectUnknown
from perdure.lineage import Lineage
from perdure.storage import Database, now

log = structlog.get_logger(__name__)

IsAlive = Callable[[Lineage], Awaitable[bool | None]]
"""Says whether a run can still ask for its effects; None if nobody knows where it would run."""

Fate = Literal["alive", "found", "absent", "parked", "unknown", "unserved", "stands"]

_MOST_KEYS = 100
"""How many keys a result names of each kind."""

_OPEN = ("proposed", "claimed", "in flight", "unknown")


class Sweeper:
    """Finds out what became of the effects of one database that no run asks for any more, through CONNECTORS.

    A run finds out by itself, however long its worker was away. One that was terminated in the middle of an effect does
    not, and what it left would stay unknown without anybody being told.
    """

    def __init__(
        self, database: Database, connectors: Mapping[str, Connector], *, clock: Callable[[], datetime] = now
    ) -> None:
        self._database = database
        self._journal = Journal(database, clock)
        self._ledger = Ledger(database, connectors, clock=clock)
        self._dependents = Dependents(database, clock)

    async def sweep(self, call: SettleOrphans, alive: IsAlive) -> SettledOrphans:
        """Look up every effect of CALL's connector that is open and whose run is not ALIVE any more. Nothing is sent.

        What can neither be found nor be said to be absent is parked for a person, and so is an undo that did not happen.
        """
        known: dict[Lineage, bool | None] = {}
        fates: defaultdict[Fate, list[str]] = defaultdict(list)
        for effect in await self._select_open(call):
            fates[await self._settle(effect, call, known, alive)].append(effect.key)
        for effect in await self._select_given_up(call):
            if not await self._is_wanted(effect, call, known, alive) and await self._dependents.reinstate(effect.key):
                fates["stands"].append(effect.key)
        counts: dict[str, int] = {fate: len(keys) for fate, keys in fates.items()}
        return SettledOrphans(
            connector=call.connector,
            counts=counts,
            keys={fate: tuple(keys[:_MOST_KEYS]) for fate, keys in fates.items() if fate != "alive"},
            open=await self._count_by_state(),
        )

    async def _select_open(self, call: SettleOrphans) -> Sequence[Effect]:
        ours = f"{call.connector}." if call.connector else ""
        of_connector = col(EffectRow.action).startswith(ours, autoescape=True)
        return await self._journal.select_where(sa.and_(col(EffectRow.state).in_(_OPEN), of_connector))

    async def _select_given_up(self, call: SettleOrphans) -> Sequence[Effect]:
        """Return what runs have taken back and not undone: as long as that is so, nobody else can rely on it."""
        ours = f"{call.connector}." if call.connector else ""
        of_connector = col(EffectRow.action).startswith(ours, autoescape=True)
        taken_back = sa.and_(col(EffectRow.state) == "succeeded", col(EffectRow.given_up))
        return await self._journal.select_where(sa.and_(taken_back, of_connector))

    async def _settle(self, effect: Effect, call: SettleOrphans, known: dict[Lineage, bool | None], alive: IsAlive) -> Fate:
        if not self._ledger.serves(effect.action):
            return "unserved"
        if await self._is_wanted(effect, call, known, alive):
            return "alive"
        try:
            found = await self._ledger.find_out(effect)
        except EffectParked:
            return "parked"
        except EffectBusy:
            return "alive"  # whoever has just taken it finds out
        except EffectUnknown as error:
            log.warning(
                "the outcome of an orphaned effect is unknown", key=effect.key, action=effect.action, why=error.message
            )
            return "unknown"
        return "absent" if found.state == "proposed" else "found"

    async def _is_wanted(
        self, effect: Effect, call: SettleOrphans, known: dict[Lineage, bool | None], alive: IsAlive
    ) -> bool:
        """Say whether somebody still asks for EFFECT: its run, or another that relies on it."""
        lineages = [effect.step.lineage]
        for asker in await self._ledger.dependents(effect.key):
            # Which chain of runs has this id is not known of an asker, so any that is alive will do.
            changes = {"workflow_id": asker.workflow_id, "first_execution_run_id": ""}
            lineages.append(effect.step.lineage.model_copy(update=changes))
        for lineage in lineages:
            if lineage not in known:
                known[lineage] = await alive(lineage)
        if any(known[each] for each in lineages):
            return True
        # Of a run that nobody knows nobody can say that it has ended. One that asks does so every minute.
        unheard = any(known[each] is None for each in lineages)
        return unheard and self._journal.clock() - effect.updated_at < call.quiet

    async def _count_by_state(self) -> dict[str, int]:
        """Return how many effects there are in each state that is not an end, or that waits for a person."""
        states = (*_OPEN, "parked")
        query = (
            sa.select(col(EffectRow.state), sa.func.count())
            .where(col(EffectRow.state).in_(states))
            .group_by(col(EffectRow.state))
        )
        async with self._database.read() as connection:
            found = {str(row[0]): int(row[1]) for row in await connection.execute(query)}
        return {state: found.get(state, 0) for state in states}

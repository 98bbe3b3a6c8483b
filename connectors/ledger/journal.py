"""How the ledger's rows are written: each change under its fence, with its event, in one transaction."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import cast

import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import col

from perdure.connectors.contracts import (
    AnyAction,
    Effect,
    EffectEvent,
    EffectState,
)
from perdure.connectors.ledger.states import TRANSITIONS, doubt_duration, lease_duration
from perdure.connectors.ledger.tables import EffectEventRow, EffectRow, LedgerRow
from perdure.connectors.wire import storable_text
from perdure.errors import EffectBusy, NotFound
from perdure.lineage import Lineage, StepRef
from perdure.storage import Database, GroupCommit, now


@dataclass(frozen=True)
class Intent:
    """What is to be done under a key."""

    key: str
    action: AnyAction
    args: BaseModel
    args_json: str
    args_digest: str
    step: StepRef
    item: str = ""
    generation: int = 0
    undo_of: str | None = None
    business_key: str | None = None
    must: bool = False
    """Whether a refusal is parked for a person, because the run can only go forward."""


@dataclass(frozen=True)
class Claim:
    """An attempt's hold on an effect: what it writes counts while FENCE is still the row's."""

    key: str
    action: str
    state: EffectState
    fence: int
    sent: int
    looks: int
    lease_until: datetime
    doubt_until: datetime | None
    """Until when a request from before this claim may still land; None if there is none."""


class Journal:
    """The rows of effects and their events."""

    def __init__(self, database: Database, clock: Callable[[], datetime] = now) -> None:
        self.clock = clock
        self._database = database
        self._commits = GroupCommit(database, finish=_insert_events)
        self._insert_effect: sa.Insert = _INSERT_SQLITE if database.sqlite else _INSERT_POSTGRES

    async def open(self, intent: Intent) -> Claim | None:
        """Write INTENT as an effect in flight, held by the caller. Returns None if its key is there already.

        Or its business key, in another effect that stands or may yet.
        """
        at = self.clock()
        target = intent.action.target
        lease_until = at + lease_duration(target)
        row = _new_row(intent, "in flight", at) | {
            "lease_until": lease_until,
            "doubt_until": at + doubt_duration(target),
            "sent": 1,
            "first_sent_at": at,
            "last_sent_at": at,
        }
        event = _event_row(intent.key, 1, (None, "in flight"), at)
        if not await self._apply(intent.key, self._insert_effect, row, event):
            return None
        return Claim(intent.key, intent.action.name, "in flight", 1, 1, 0, lease_until, None)

    async def close(self, intent: Intent, *, error: str) -> bool:
        """Write INTENT as an effect that has failed before it began. Returns False if its key is there already."""
        return await self._insert_ended(intent, "failed", error)

    async def contradict(self, intent: Intent, other: Effect, *, why: str) -> bool:
        """Write INTENT as a changed intent that waits for a person, beside OTHER. Returns False if its key is there."""
        return await self._insert_ended(intent, "parked", why, contradicts=other.key, beside=True)

    async def _insert_ended(self, intent: Intent, state: EffectState, error: str, **columns: object) -> bool:
        at = self.clock()
        row = _new_row(intent, state, at) | {"error": error} | columns
        event = _event_row(intent.key, 1, (None, state), at, error)
        return await self._apply(intent.key, self._insert_effect, row, event)

    async def resend(self, held: Effect | Claim, intent: Intent, *, proven_absent: bool = False) -> Claim:
        """Take HELD into flight under a new fence. PROVEN_ABSENT: nothing of it can be at the target any more."""
        at = self.clock()
        target = intent.action.target
        lease_until = at + lease_duration(target)
        fence = held.fence + 1
        changes: dict[str, object] = {
            "fence": fence,
            "lease_until": lease_until,
            "doubt_until": at + doubt_duration(target),
            "sent": held.sent + 1,
            "last_sent_at": at,
        }
        if held.sent == 0:
            changes["first_sent_at"] = at
        await self.move(held, "in flight", changes, at=at)
        doubt_until = None if proven_absent else held.doubt_until
        return Claim(held.key, held.action, "in flight", fence, held.sent + 1, held.looks, lease_until, doubt_until)

    async def claim(self, effect: Effect, intent: Intent) -> Claim:
        """Take EFFECT under a new fence in order to look it up."""
        at = self.clock()
        lease_until = at + lease_duration(intent.action.target)
        fence = effect.fence + 1
        await self.move(effect, "claimed", {"fence": fence, "lease_until": lease_until}, at=at, note="looking it up")
        return Claim(
            effect.key, effect.action, "claimed", fence, effect.sent, effect.looks, lease_until, effect.doubt_until
        )

    async def move(
        self,
        held: Effect | Claim,
        after: EffectState,
        changes: Mapping[str, object],
        *,
        at: datetime | None = None,
        note: str = "",
        by: str | None = None,
        verified: bool | None = None,
    ) -> None:
        """Bring the effect HELD to the state AFTER with CHANGES, BY a person where one says so.

        Raises `EffectBusy` if its fence is no longer in force, or if its holder has written how it ended meanwhile.
        """
        if after not in TRANSITIONS[held.state]:
            raise AssertionError(f"effect {held.key}: {after!r} does not follow {held.state!r}")
        at = at or self.clock()
        held_as = {"held_key": held.key, "held_fence": held.fence, "held_state": held.state}
        row = held_as | {"state": after, "updated_at": at}
        row |= {name: storable_text(value) if isinstance(value, str) else value for name, value in changes.items()}
        fence = changes.get("fence", held.fence)
        event = _event_row(held.key, fence, (held.state, after), at, storable_text(note)) | {"by": by, "verified": verified}
        if not await self._apply(held.key, _UPDATE, row, event):
            raise EffectBusy(
                f"effect {held.key} of {held.action} was taken over by another attempt, which finds out what happened"
            )

    async def _apply(
        self, key: str, statement: sa.Insert | sa.Update, row: Mapping[str, object], event: Mapping[str, object]
    ) -> bool:
        """Write one row, and its EVENT if it was written. Returns False if it was not there, or was there already."""

        def write(connection: sa.Connection) -> Mapping[str, object] | None:
            return event if connection.execute(statement, row).rowcount == 1 else None

        return await self._commits.run(write, key=key) is not None

    async def note(self, held: Effect | Claim, state: EffectState, note: str) -> None:
        """Add an event that changes nothing: what was learnt about HELD, found in STATE."""
        async with self._database.write() as connection:
            event = _event_row(held.key, held.fence, (state, state), self.clock(), storable_text(note))
            await connection.execute(_INSERT_EVENT, event)

    async def identity(self) -> str:
        """Return the id of the database that these rows are in."""
        async with self._database.read() as connection:
            return str((await connection.execute(sa.select(col(LedgerRow.id)))).scalar_one())

    async def find(self, key: str) -> Effect | None:
        """Return the effect under KEY, if there is one."""
        async with self._database.read() as connection:
            row = (await connection.execute(_SELECT, {"key": key})).mappings().one_or_none()
        return None if row is None else _to_effect(row)

    async def get(self, key: str) -> Effect:
        """Return the effect under KEY. Raises `NotFound`."""
        effect = await self.find(key)
        if effect is None:
            raise NotFound(f"the ledger has no effect {key!r}")
        return effect

    async def find_holder(self, business_key: str) -> Effect | None:
        """Return the effect that holds BUSINESS_KEY, if one does."""
        async with self._database.read() as connection:
            row = (await connection.execute(_SELECT_HOLDER, {"business_key": business_key})).mappings().one_or_none()
        return None if row is None else _to_effect(row)

    async def later_generations(self, effect: Effect) -> Sequence[Effect]:
        """Return the later generations of EFFECT, the newest first: changed intents of the same step, and repairs."""
        one = effect.step.lineage.model_dump() | {
            "step": effect.step.name,
            "item": effect.item,
            "generation": effect.generation,
        }
        async with self._database.read() as connection:
            rows = (await connection.execute(_SELECT_LATER, one)).mappings().all()
        return [_to_effect(row) for row in rows]

    async def release_business_key(self, effect: Effect, to: str) -> bool:
        """Let go of EFFECT's business key for the effect under the key TO, which a person has sent in its place."""
        event = _event_row(effect.key, effect.fence, (effect.state, effect.state), self.clock(), f"sent again as {to}")
        row = {"held_key": effect.key, "held_state": effect.state, "beside": True}
        return await self._apply(effect.key, _RELEASE_BUSINESS_KEY, row, event)

    async def find_by_prefix(self, prefix: str) -> Sequence[Effect]:
        """Return up to two effects whose keys start with PREFIX."""
        query = sa.select(EffectRow).where(col(EffectRow.key).startswith(prefix, autoescape=True)).limit(2)
        async with self._database.read() as connection:
            return [_to_effect(row) for row in (await connection.execute(query)).mappings()]

    async def select(self, state: EffectState | None, workflow_id: str | None, limit: int) -> Sequence[Effect]:
        """Return the newest effects first, of one STATE and WORKFLOW_ID if given."""
        query = sa.select(EffectRow).order_by(col(EffectRow.created_at).desc(), col(EffectRow.key)).limit(limit)
        if state is not None:
            query = query.where(col(EffectRow.state) == state)
        if workflow_id is not None:
            query = query.where(col(EffectRow.workflow_id) == workflow_id)
        async with self._database.read() as connection:
            return [_to_effect(row) for row in (await connection.execute(query)).mappings()]

    async def select_where(self, condition: sa.ColumnElement[bool]) -> Sequence[Effect]:
        """Return every effect of which CONDITION holds, the oldest first."""
        query = sa.select(EffectRow).where(condition).order_by(col(EffectRow.created_at), col(EffectRow.key))
        async with self._database.read() as connection:
            return [_to_effect(row) for row in (await connection.execute(query)).mappings()]

    async def count_losses(self, key: str) -> int:
        """Return how many requests for the effect under KEY got no answer that tells what came of it."""
        async with self._database.read() as connection:
            return int((await connection.execute(_COUNT_LOSSES, {"key": key})).scalar_one())

    async def events(self, key: str) -> Sequence[EffectEvent]:
        """Return the transitions of the effect under KEY, oldest first."""
        async with self._database.read() as connection:
            rows = (await connection.execute(_SELECT_EVENTS, {"key": key})).mappings()
            return [EffectEvent.model_validate(dict(row)) for row in rows]


# Built once: SQLAlchemy compiles each of them once a process.
_INSERT_SQLITE = sqlite.insert(EffectRow).on_conflict_do_nothing()
_INSERT_POSTGRES = postgresql.insert(EffectRow).on_conflict_do_nothing()
_INSERT_EVENT = sa.insert(EffectEventRow)
_UPDATE = sa.update(EffectRow).where(
    col(EffectRow.key) == sa.bindparam("held_key"),
    col(EffectRow.fence) == sa.bindparam("held_fence"),
    # A holder writes its last word without a new fence. Who read the row before that must not write over it.
    col(EffectRow.state) == sa.bindparam("held_state"),
)
_SELECT = sa.select(EffectRow).where(col(EffectRow.key) == sa.bindparam("key"))
_SELECT_HOLDER = sa.select(EffectRow).where(
    col(EffectRow.business_key) == sa.bindparam("business_key"),
    col(EffectRow.state).not_in(("failed", "compensated")),
    sa.not_(col(EffectRow.beside)),
)
_SELECT_LATER = (
    sa.select(EffectRow)
    .where(*(col(getattr(EffectRow, name)) == sa.bindparam(name) for name in (*Lineage.model_fields, "step", "item")))
    .where(col(EffectRow.generation) > sa.bindparam("generation"))
    .order_by(col(EffectRow.generation).desc())
)
_RELEASE_BUSINESS_KEY = sa.update(EffectRow).where(
    col(EffectRow.key) == sa.bindparam("held_key"),
    col(EffectRow.state) == sa.bindparam("held_state"),
    sa.not_(col(EffectRow.beside)),
)
_COUNT_LOSSES = sa.select(sa.func.count()).where(
    col(EffectEventRow.key) == sa.bindparam("key"),
    col(EffectEventRow.before) == "in flight",
    col(EffectEventRow.after) == "unknown",
)
_SELECT_EVENTS = (
    sa.select(EffectEventRow).where(col(EffectEventRow.key) == sa.bindparam("key")).order_by(col(EffectEventRow.id))
)


def _insert_events(connection: sa.Connection, events: Sequence[object]) -> None:
    # With many effects at once, one statement for all of their events is a fifth of what a transition costs.
    written = [cast(Mapping[str, object], event) for event in events if event is not None]
    if written:
        connection.execute(_INSERT_EVENT, written)


def _new_row(intent: Intent, state: EffectState, at: datetime) -> dict[str, object]:
    step = intent.step
    return {
        "key": intent.key,
        "action": intent.action.name,
        "args": intent.args_json,
        "args_digest": intent.args_digest,
        "namespace": step.lineage.namespace,
        "workflow_id": step.lineage.workflow_id,
        "first_execution_run_id": step.lineage.first_execution_run_id,
        "run_id": step.run_id,
        "workflow_type": step.workflow_type,
        "step": step.name,
        "item": intent.item,
        "generation": intent.generation,
        "state": state,
        "fence": 1,
        "sent": 0,
        "looks": 0,
        "response_digest": "",
        "remote_ref": "",
        "error": "",
        "undo_of": intent.undo_of,
        "business_key": intent.business_key,
        "contradicts": None,
        "beside": False,
        "given_up": False,
        "created_at": at,
        "updated_at": at,
    }


def _event_row(
    key: str, fence: object, step: tuple[EffectState | None, EffectState], at: datetime, note: str = ""
) -> dict[str, object]:
    before, after = step
    event: dict[str, object] = {"key": key, "fence": fence, "before": before, "after": after, "at": at, "note": note}
    return event | {"by": None, "verified": None}


def _to_effect(row: sa.RowMapping) -> Effect:
    values = dict(row)
    lineage = Lineage(**{name: values.pop(name) for name in Lineage.model_fields})
    step = StepRef(
        lineage=lineage,
        name=values.pop("step"),
        run_id=values.pop("run_id"),
        workflow_type=values.pop("workflow_type"),
    )
    values["args"] = json.loads(values["args"])
    values["response"] = None if values["response"] is None else json.loads(values["response"])
    return Effect(step=step, **values)

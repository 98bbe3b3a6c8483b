"""Which calls went to providers, how they ended, and what they cost: the record that outlives a crash."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, cast

import sqlalchemy as sa

from perdure.lineage import StepRef
from perdure.routing.calls.budgets import (
    BudgetAccount,
    BudgetDenial,
    dump_accounts,
    reserve,
    settle,
)
from perdure.routing.calls.cache import CachedAnswer, CacheEntry, InFlight
from perdure.routing.canary import CanaryAssignment, CanaryStateChanged
from perdure.routing.contracts import (
    Attempt,
    GenerateCall,
    Tier,
    Usage,
)
from perdure.routing.routes import Deployment
from perdure.routing.tables import ModelCallRow
from perdure.storage import Database, now

Outcome = Literal["answered", "invalid", "unsure", "refused", "unavailable", "ambiguous", "cancelled", "cached", "denied"]

_TABLE = ModelCallRow.__table__  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # SQLModel's
_INSERT = sa.insert(_TABLE)
_SETTLE = sa.update(_TABLE).where(_TABLE.c.call_id == sa.bindparam("of_call"), _TABLE.c.outcome == sa.bindparam("was"))
_ROW = sa.select(_TABLE.c.outcome, _TABLE.c.error, _TABLE.c.sent_at, _TABLE.c.reserved_nano_usd, _TABLE.c.held_in).where(
    _TABLE.c.call_id == sa.bindparam("of_call")
)

# Not a parameter: a partial index serves a query only if the database sees the value when it plans.
_ON_ITS_WAY = _TABLE.c.outcome == sa.literal_column("'sent'")

UNSETTLED = "not settled"
"""What is noted as the error of a call that nobody has settled in time. Who comes late still may."""

GRACE = timedelta(minutes=1)
"""How much longer than it may take a call counts as being on its way: for the writing around it."""


@dataclass(frozen=True)
class Settlement:
    """How a call ended."""

    outcome: Outcome
    error: str = ""
    status: int | None = None
    model_version: str = ""
    usage: Usage = Usage()  # noqa: RUF009  # frozen
    cached_tokens: int = 0
    estimated: bool = False
    answer_digest: str = ""
    repairs: str = ""
    saved_nano_usd: int = 0
    confidence: float | None = None


@dataclass
class ModelCall:
    """One provider call of ATTEMPT: `begin` before it, `settle` after it. It can cost RESERVED_NANO_USD at most."""

    call: GenerateCall
    deployment: Deployment
    attempt: int
    prompt_digest: str
    switched: str = ""
    lane: str = ""
    prompt_version: str = ""
    prompt_bytes: int = 0
    escalation: str = ""
    reserved_nano_usd: int = 0
    spare_nano_usd: int = 0
    """What the budgets have to have left besides."""
    accounts: tuple[BudgetAccount, ...] = ()
    """The budgets that it draws on."""
    cache_entry: CacheEntry | None = None
    """Where its answer is kept, if it is to be."""
    within: timedelta = timedelta(hours=1)
    """How long it may take."""
    assignment: CanaryAssignment | None = None
    """The part that it has in a canary, if there is one."""
    rolled_back: str = ""
    """Why the canary is rolled back by how it ended; empty: it is not."""
    call_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    _since: float = field(default_factory=time.monotonic)
    _held_in: str = ""

    @property
    def milliseconds(self) -> int:
        """How long it has taken so far."""
        return round((time.monotonic() - self._since) * 1000)

    @property
    def arm(self) -> str:
        """The arm of its run, where there is a canary."""
        return self.assignment.arm if self.assignment is not None else ""

    @property
    def tries_canary(self) -> bool:
        """Whether it asks what a canary tries."""
        return self.assignment is not None and self.assignment.tries_canary

    @property
    def canary(self) -> str:
        """That canary, as NAME@VERSION."""
        return self.assignment.canary.id if self.assignment is not None else ""

    def begin(self, connection: sa.Connection) -> BudgetDenial | CachedAnswer | InFlight | CanaryStateChanged | None:
        """Write that the call goes out now, and hold back what it may cost, unless there is something against it.

        Returns what: the kept answer, somebody who is asking the same, a budget that is too empty, or that the
        canary's state changed.
        """
        changed = self.assignment.check_state(connection) if self.assignment is not None else None
        if changed is not None:
            return changed
        found = self.cache_entry.look_up(connection) if self.cache_entry is not None else None
        if isinstance(found, InFlight):
            return found
        if found is not None:
            self.write_uncalled(connection, _settle_from_cache(found))
            return found
        denial = self._reserve(connection) if self.accounts else None
        if denial is not None:
            self.write_uncalled(connection, Settlement("denied", error=f"budget {denial.account.budget.name}"))
            return denial
        if self.cache_entry is not None:
            self.cache_entry.claim(connection)
        self._held_in = dump_accounts(self.accounts)
        sent_at = now()
        row = {"sent_at": sent_at, "due_at": sent_at + self.within + GRACE, "held_in": self._held_in}
        connection.execute(_INSERT, self._row("sent") | row)
        self._since = time.monotonic()
        return None

    def settle(
        self, connection: sa.Connection, settled: Settlement, kept: CachedAnswer | None = None, *, answer: str | None = None
    ) -> None:
        """Write how the call ended, what of the money that was held back it has cost, and the answer that is KEPT.

        ANSWER is that for a later attempt of its own step.

        A call that was not sent has no end, and one that has ended, no other one: a cancellation may come at any time.
        """
        row = {"of_call": self.call_id, "was": "sent", **_columns_of(settled, self.milliseconds), "answer": answer}
        first = bool(connection.execute(_SETTLE, row).rowcount)
        if first:
            settle(connection, self._held_in, self.reserved_nano_usd, _amount_spent(settled, self.reserved_nano_usd))
        else:
            first = settle_late(connection, self.call_id, settled, milliseconds=self.milliseconds)
        if first and self.assignment is not None:
            took, cost = self.milliseconds, settled.usage.cost_nano_usd
            self.rolled_back = self.assignment.settle(connection, settled.outcome, milliseconds=took, nano_usd=cost)
        if self.cache_entry is not None and kept is not None:
            self.cache_entry.store(connection, kept)
        elif self.cache_entry is not None:
            self.cache_entry.release(connection)

    def _reserve(self, connection: sa.Connection) -> BudgetDenial | None:
        wanted, spare = self.reserved_nano_usd, self.spare_nano_usd
        denial = reserve(connection, self.accounts, wanted, spare=spare)
        # What is held back for workers that have died is not on its way any more, so there is nothing to wait for.
        if denial is not None and denial.temporary and give_up(connection, overdue_calls()):
            denial = reserve(connection, self.accounts, wanted, spare=spare)
        return denial

    @property
    def exclusive(self) -> bool:
        """Whether other processes must not write the same rows meanwhile."""
        return bool(self.accounts) or self.cache_entry is not None or self.assignment is not None

    def write_uncalled(self, connection: sa.Connection, settled: Settlement) -> None:
        """Write what was over before it began: a call that the cache answered or a budget denied."""
        row = self._row(settled.outcome) | _columns_of(settled, 0)
        connection.execute(_INSERT, {**row, "reserved_nano_usd": 0, "trial": False})

    def as_attempt(self, settled: Settlement) -> Attempt:
        """Return what the history keeps of it."""
        return Attempt(
            attempt=self.attempt,
            deployment=self.deployment.name,
            tier=self.deployment.tier,
            outcome=settled.outcome,
            error=settled.error,
            cost_nano_usd=settled.usage.cost_nano_usd,
            at_risk_nano_usd=self.reserved_nano_usd if settled.outcome in _UNSEEN else 0,
            switched=self.switched,
            milliseconds=self.milliseconds,
            arm=self.arm,
            canary=self.tries_canary,
        )

    def _row(self, outcome: str) -> dict[str, object]:
        step = self.call.step
        return {
            "call_id": self.call_id,
            "namespace": step.lineage.namespace,
            "workflow_id": step.lineage.workflow_id,
            "first_execution_run_id": step.lineage.first_execution_run_id,
            "run_id": step.run_id,
            "workflow_type": step.workflow_type,
            "tenant": self.call.tenant,
            "agent": self.call.agent,
            "step": step.name,
            "attempt": self.attempt,
            "ordinal": 1,
            "task": self.call.task,
            "tier": self.deployment.tier,
            "deployment": self.deployment.name,
            "model": self.deployment.model,
            "model_version": "",
            "outcome": outcome,
            "error": "",
            "switched": self.switched,
            "lane": self.lane,
            "arm": self.arm,
            "canary": self.canary,
            "trial": self.assignment is not None and (self.assignment.tries_canary or self.assignment.is_compared),
            "prompt_version": self.prompt_version,
            "prompt_bytes": self.prompt_bytes,
            "escalation": self.escalation,
            "reserved_nano_usd": self.reserved_nano_usd,
            "prompt_tokens": 0,
            "completion_tokens": 0,
            "estimated": False,
            "cost_nano_usd": 0,
            "prompt_digest": self.prompt_digest,
            "answer_digest": "",
            "sent_at": now(),
            "milliseconds": 0,
        }


_UNSEEN = ("sent", "ambiguous", "cancelled")
"""How calls end whose answer nobody saw. The provider may have charged them."""


def _settle_from_cache(kept: CachedAnswer) -> Settlement:
    return Settlement(
        "cached",
        model_version=kept.model_version,
        answer_digest=kept.answer_digest,
        saved_nano_usd=kept.usage.cost_nano_usd,
        confidence=kept.confidence,
    )


def _columns_of(settled: Settlement, milliseconds: int) -> dict[str, object]:
    return {
        "outcome": settled.outcome,
        "error": settled.error[:500],
        "status": settled.status,
        "model_version": settled.model_version,
        "prompt_tokens": settled.usage.prompt_tokens,
        "completion_tokens": settled.usage.completion_tokens,
        "cached_tokens": settled.cached_tokens,
        "cost_nano_usd": settled.usage.cost_nano_usd,
        "saved_nano_usd": settled.saved_nano_usd,
        "estimated": settled.estimated,
        "answer_digest": settled.answer_digest,
        "repairs": settled.repairs,
        "confidence": settled.confidence,
        "settled_at": now(),
        "milliseconds": milliseconds,
    }


def _amount_spent(settled: Settlement, reserved: int) -> int:
    # What may have been charged counts as spent: a budget is kept, also where nobody can know.
    return reserved if settled.outcome in _UNSEEN else settled.usage.cost_nano_usd


def settle_late(connection: sa.Connection, call_id: str, settled: Settlement, *, milliseconds: int = 0) -> bool:
    """Write how a call ended that another process has sent, or that was given up meanwhile; return whether it was first."""
    row = connection.execute(_ROW, {"of_call": call_id}).one_or_none()
    if row is None or row.outcome not in ("sent", "ambiguous") or (row.outcome != "sent" and row.error != UNSETTLED):
        return False
    ended = {"of_call": call_id, "was": row.outcome, **_columns_of(settled, milliseconds)}
    if not connection.execute(_SETTLE, ended).rowcount:
        return False
    spent = _amount_spent(settled, row.reserved_nano_usd)
    if row.outcome == "sent":
        settle(connection, row.held_in, row.reserved_nano_usd, spent)
    else:  # its budgets have counted the most that it could cost
        settle(connection, row.held_in, 0, spent - row.reserved_nano_usd)
    return True


def give_up(connection: sa.Connection, *which: sa.ColumnElement[bool]) -> int:
    """Note of the calls on their way that are WHICH says that nobody will settle them, and return how many they were."""
    lost = connection.execute(sa.select(_TABLE.c.call_id).where(_ON_ITS_WAY, *which).limit(500)).scalars()
    ids = list(lost)
    for call_id in ids:
        settle_late(connection, call_id, Settlement("ambiguous", error=UNSETTLED))
    return len(ids)


def overdue_calls() -> sa.ColumnElement[bool]:
    """Return which calls would have ended by now, had nothing happened to who made them."""
    due: sa.ColumnElement[bool] = _TABLE.c.due_at < now()
    return due


def calls_before(step: StepRef, attempt: int) -> sa.ColumnElement[bool]:
    """Return which calls belong to the attempts of STEP before ATTEMPT, which has begun since Temporal gave them up."""
    return sa.and_(_of_step(step), _TABLE.c.attempt < attempt)


def load_state(connection: sa.Connection, call_id: str) -> tuple[str, datetime] | None:
    """Return the outcome of a recorded call and when it was sent; None: it is not recorded."""
    row = connection.execute(_ROW, {"of_call": call_id}).one_or_none()
    return (row.outcome, row.sent_at) if row is not None else None


async def load_sent_times(database: Database, call_ids: Sequence[str]) -> dict[str, datetime]:
    """Return when the calls with CALL_IDS were sent, as far as they are recorded."""
    found: dict[str, datetime] = {}
    async with database.read() as connection:
        for first in range(0, len(call_ids), 500):
            some = _TABLE.c.call_id.in_(call_ids[first : first + 500])
            query = sa.select(_TABLE.c.call_id, _TABLE.c.sent_at).where(some)
            found |= {row.call_id: row.sent_at for row in await connection.execute(query)}
    return found


def _of_step(step: StepRef) -> sa.ColumnElement[bool]:
    return sa.and_(
        _TABLE.c.namespace == step.lineage.namespace,
        _TABLE.c.workflow_id == step.lineage.workflow_id,
        _TABLE.c.first_execution_run_id == step.lineage.first_execution_run_id,
        _TABLE.c.step == step.name,
        # A reset runs the step anew, under a run id of its own.
        _TABLE.c.run_id == step.run_id,
    )


@dataclass(frozen=True)
class PastAttempts:
    """What came of the attempts of a step so far, in their order, and what they took together."""

    attempts: tuple[Attempt, ...] = ()
    usage: Usage = Usage()  # noqa: RUF009  # frozen


async def load_past_attempts(database: Database, step: StepRef, attempt: int) -> PastAttempts:
    """Return what is recorded of the attempts of STEP before ATTEMPT."""
    query = sa.select(_TABLE).where(calls_before(step, attempt)).order_by(_TABLE.c.attempt, _TABLE.c.sent_at)
    async with database.read() as connection:
        found = list((await connection.execute(query)).mappings())
    usage = Usage(
        prompt_tokens=sum(row["prompt_tokens"] for row in found),
        completion_tokens=sum(row["completion_tokens"] for row in found),
        cost_nano_usd=sum(row["cost_nano_usd"] for row in found),
    )
    return PastAttempts(tuple(_as_attempt(row) for row in found), usage)


def _as_attempt(row: Mapping[str, object] | sa.RowMapping) -> Attempt:
    outcome = str(row["outcome"])
    return Attempt(
        attempt=cast(int, row["attempt"]),
        deployment=str(row["deployment"]),
        tier=cast(Tier, row["tier"]),
        outcome=outcome,
        error=str(row["error"]),
        cost_nano_usd=cast(int, row["cost_nano_usd"]),
        at_risk_nano_usd=cast(int, row["reserved_nano_usd"]) if outcome in _UNSEEN else 0,
        switched=str(row["switched"]),
        milliseconds=cast(int, row["milliseconds"]),
        arm=str(row["arm"]),
        canary=row["arm"] == "canary" and bool(row["trial"]),
    )

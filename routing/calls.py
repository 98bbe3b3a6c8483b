"""Which calls went to providers, how they ended, and what they cost: the record that outlives a crash."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

import sqlalchemy as sa
from sqlmodel import col

from perdure.routing.config import Deployment
from perdure.routing.contracts import GenerateCall, Usage
from perdure.routing.tables import ModelCallRow
from perdure.storage import Database, now

Outcome = Literal["answered", "invalid", "refused", "unavailable", "ambiguous", "cancelled"]


@dataclass
class ModelCall:
    """One provider call: `send` before it, `settle` after it."""

    database: Database
    call: GenerateCall
    deployment: Deployment
    attempt: int
    ordinal: int
    prompt_digest: str
    call_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    _since: float = field(default_factory=time.monotonic)

    async def send(self) -> None:
        """Write that the call goes out now."""
        step = self.call.step
        async with self.database.write() as connection:
            await connection.execute(
                sa.insert(ModelCallRow).values(
                    call_id=self.call_id,
                    namespace=step.lineage.namespace,
                    workflow_id=step.lineage.workflow_id,
                    first_execution_run_id=step.lineage.first_execution_run_id,
                    run_id=step.run_id,
                    step=step.name,
                    attempt=self.attempt,
                    ordinal=self.ordinal,
                    task=self.call.task,
                    tier=self.deployment.tier,
                    deployment=self.deployment.name,
                    model=self.deployment.model,
                    model_version="",
                    outcome="sent",
                    error="",
                    prompt_tokens=0,
                    completion_tokens=0,
                    estimated=False,
                    cost_nano_usd=0,
                    prompt_digest=self.prompt_digest,
                    answer_digest="",
                    sent_at=now(),
                    milliseconds=0,
                )
            )
        self._since = time.monotonic()

    async def settle(
        self,
        outcome: Outcome,
        *,
        error: str = "",
        status: int | None = None,
        model_version: str = "",
        usage: Usage = Usage(),  # noqa: B008  # frozen
        estimated: bool = False,
        answer_digest: str = "",
    ) -> int:
        """Write how the call ended. Returns the milliseconds that it took."""
        took = round((time.monotonic() - self._since) * 1000)
        async with self.database.write() as connection:
            await connection.execute(
                sa.update(ModelCallRow)
                .where(col(ModelCallRow.call_id) == self.call_id)
                .values(
                    outcome=outcome,
                    error=error,
                    status=status,
                    model_version=model_version,
                    prompt_tokens=usage.prompt_tokens,
                    completion_tokens=usage.completion_tokens,
                    cost_nano_usd=usage.cost_nano_usd,
                    estimated=estimated,
                    answer_digest=answer_digest,
                    settled_at=now(),
                    milliseconds=took,
                )
            )
        return took


async def ambiguous_calls(database: Database, *, older_than: timedelta) -> list[str]:
    """Return the ids of calls whose end nobody saw: lost, cancelled, or sent OLDER_THAN ago and never settled."""
    query = sa.select(col(ModelCallRow.call_id)).where(
        sa.or_(
            col(ModelCallRow.outcome).in_(["ambiguous", "cancelled"]),
            sa.and_(col(ModelCallRow.outcome) == "sent", col(ModelCallRow.sent_at) < now() - older_than),
        )
    )
    async with database.read() as connection:
        return list((await connection.execute(query.order_by(col(ModelCallRow.sent_at)))).scalars())

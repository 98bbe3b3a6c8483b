"""Which answer a step has had already, although its worker died before it could say so: it is not paid for twice."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa

from perdure.lineage import StepRef
from perdure.routing.calls import ModelCall, before
from perdure.routing.contracts import Generation
from perdure.routing.tables import AnswerRow, ModelCallRow
from perdure.storage import now

KEPT = timedelta(hours=1)
"""How long an answer is kept for its own step. Then the step asks anew."""

_ANSWERS = AnswerRow.__table__  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # SQLModel's
_CALLS = ModelCallRow.__table__  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # as above
_INSERT = sa.insert(_ANSWERS)
_EXPIRED = sa.delete(_ANSWERS).where(
    _ANSWERS.c.expires_at < sa.bindparam("before"), _ANSWERS.c.held_until < sa.bindparam("before")
)


def keep(connection: sa.Connection, call: ModelCall, generation: Generation) -> None:
    """Keep what CALL has brought, should its step not get to know of it."""
    time = now()
    usage = generation.record.usage
    connection.execute(
        _INSERT,
        {
            # A key of the cache is a digest, so no question has this one.
            "key": f"call/{call.call_id}",
            "tenant": call.call.tenant,
            "task": call.call.task,
            "model": call.deployment.model,
            "model_version": generation.record.model,
            "value": generation.model_dump_json(),
            "answer_digest": generation.record.answer_digest,
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "cost_nano_usd": usage.cost_nano_usd,
            "expires_at": time + KEPT,
            "holder": call.call_id,
            "held_until": time,
        },
    )


def kept(connection: sa.Connection, step: StepRef, attempt: int) -> Generation | None:
    """Return what an attempt of STEP before ATTEMPT has brought, if it is still there."""
    query = (
        sa.select(_ANSWERS.c.value)
        .join(_CALLS, _ANSWERS.c.key == "call/" + _CALLS.c.call_id)
        .where(before(step, attempt), _CALLS.c.outcome == "answered", _ANSWERS.c.expires_at > now())
        .order_by(_CALLS.c.attempt)
    )
    found = connection.execute(query).scalars().first()
    return Generation.model_validate_json(found) if found is not None else None


def forget(connection: sa.Connection) -> None:
    """Delete the answers whose time is up, those of the cache among them."""
    connection.execute(_EXPIRED, {"before": now()})

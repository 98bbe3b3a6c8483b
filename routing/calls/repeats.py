"""Which answer a step has had already, although its worker died before it could say so: it is not paid for twice."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa

from perdure.lineage import StepRef
from perdure.routing.calls.calls import calls_before
from perdure.routing.contracts import Generation
from perdure.routing.tables import ModelCallRow
from perdure.storage import now

KEPT = timedelta(hours=1)
"""How long an answer is kept for its own step. Then the step asks anew."""

_CALLS = ModelCallRow.__table__  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # SQLModel's
_KEPT = _CALLS.c.answer.is_not(None)


def load_answer(connection: sa.Connection, step: StepRef, attempt: int) -> Generation | None:
    """Return what an attempt of STEP before ATTEMPT has brought, if it is still there."""
    query = sa.select(_CALLS.c.answer).where(calls_before(step, attempt), _KEPT, _CALLS.c.settled_at > now() - KEPT)
    found = connection.execute(query.order_by(_CALLS.c.attempt)).scalars().first()
    return Generation.model_validate_json(found) if found is not None else None


def forget_answers(connection: sa.Connection) -> None:
    """Delete the answers that are kept no longer."""
    connection.execute(sa.update(_CALLS).where(_KEPT, _CALLS.c.settled_at <= now() - KEPT).values(answer=None))

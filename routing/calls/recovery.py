"""What attempts have left behind whose worker died: calls that nobody settled, and answers that Temporal was not told."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa

from perdure.lineage import StepRef
from perdure.routing.calls.calls import calls_before, give_up, overdue_calls
from perdure.routing.contracts import Generation
from perdure.routing.tables import ModelCallRow
from perdure.storage import now

KEPT = timedelta(hours=1)
"""How long an answer is kept for its own step. Then the step asks anew."""

_CALLS = ModelCallRow.__table__  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # SQLModel's
_KEPT = _CALLS.c.answer.is_not(None)


def recover(connection: sa.Connection, step: StepRef, attempt: int) -> Generation | None:
    """Give up what attempts of STEP before ATTEMPT have left unsettled, and return what one of them has brought, if any."""
    give_up(connection, calls_before(step, attempt))
    query = sa.select(_CALLS.c.answer).where(calls_before(step, attempt), _KEPT, _CALLS.c.settled_at > now() - KEPT)
    found = connection.execute(query.order_by(_CALLS.c.attempt)).scalars().first()
    return Generation.model_validate_json(found) if found is not None else None


def sweep(connection: sa.Connection) -> None:
    """Give up all calls that nobody has settled in time, and delete the answers that are kept no longer."""
    give_up(connection, overdue_calls())
    connection.execute(sa.update(_CALLS).where(_KEPT, _CALLS.c.settled_at <= now() - KEPT).values(answer=None))

"""Which calls were made, what they cost, and what may still be spent.

Must not break: a call is written down and its price held back before it is sent, and settled once, by whoever comes
later at the latest. A new figure is a column in `perdure.routing.tables` and a migration; what people see of it goes
into `spending`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.lazy import lazy

if TYPE_CHECKING:
    from perdure.routing.calls.budgets import (
        Denial,
        known,
        lift,
        purses,
        raise_by_hand,
    )
    from perdure.routing.calls.cache import (
        Asked,
        Flights,
        Kept,
        Question,
    )
    from perdure.routing.calls.calls import (
        ModelCall,
        Outcome,
        Settled,
        before,
        earlier_attempts,
        give_up,
        overdue,
        sent_at,
        settle_late,
        state_of,
    )
    from perdure.routing.calls.spans import ended, span_of
    from perdure.routing.calls.spending import (
        BudgetState,
        By,
        Cost,
        Quality,
        budget_states,
        costs,
        qualities,
        spent,
        together,
    )
else:
    __getattr__ = lazy(
        __name__,
        {
            "budgets": ["Denial", "known", "lift", "purses", "raise_by_hand"],
            "cache": ["Asked", "Flights", "Kept", "Question"],
            "calls": [
                "ModelCall",
                "Outcome",
                "Settled",
                "before",
                "earlier_attempts",
                "give_up",
                "overdue",
                "sent_at",
                "settle_late",
                "state_of",
            ],
            "spans": ["ended", "span_of"],
            "spending": [
                "BudgetState",
                "By",
                "Cost",
                "Quality",
                "budget_states",
                "costs",
                "qualities",
                "spent",
                "together",
            ],
        },
    )

__all__ = [
    "Asked",
    "BudgetState",
    "By",
    "Cost",
    "Denial",
    "Flights",
    "Kept",
    "ModelCall",
    "Outcome",
    "Quality",
    "Question",
    "Settled",
    "before",
    "budget_states",
    "costs",
    "earlier_attempts",
    "ended",
    "give_up",
    "known",
    "lift",
    "overdue",
    "purses",
    "qualities",
    "raise_by_hand",
    "sent_at",
    "settle_late",
    "span_of",
    "spent",
    "state_of",
    "together",
]

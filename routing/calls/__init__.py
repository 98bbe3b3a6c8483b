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
        BudgetDenial,
        find_accounts,
        find_budget,
        raise_budget,
        raise_by_hand,
    )
    from perdure.routing.calls.cache import (
        CachedAnswer,
        CacheEntry,
        InFlight,
        SingleFlight,
    )
    from perdure.routing.calls.calls import (
        ModelCall,
        Outcome,
        PastAttempts,
        Settlement,
        calls_before,
        give_up,
        load_past_attempts,
        load_sent_times,
        load_state,
        overdue_calls,
        settle_late,
    )
    from perdure.routing.calls.recovery import recover, sweep
    from perdure.routing.calls.spans import end_span, start_span
    from perdure.routing.calls.spending import (
        BudgetState,
        By,
        Cost,
        Quality,
        add_up,
        budget_states,
        costs,
        qualities,
        total_spending,
    )
else:
    __getattr__ = lazy(
        __name__,
        {
            "budgets": ["BudgetDenial", "find_accounts", "find_budget", "raise_budget", "raise_by_hand"],
            "cache": ["CacheEntry", "CachedAnswer", "InFlight", "SingleFlight"],
            "calls": [
                "ModelCall",
                "Outcome",
                "PastAttempts",
                "Settlement",
                "calls_before",
                "give_up",
                "load_past_attempts",
                "load_sent_times",
                "load_state",
                "overdue_calls",
                "settle_late",
            ],
            "recovery": ["recover", "sweep"],
            "spans": ["end_span", "start_span"],
            "spending": [
                "BudgetState",
                "By",
                "Cost",
                "Quality",
                "add_up",
                "budget_states",
                "costs",
                "qualities",
                "total_spending",
            ],
        },
    )

__all__ = [
    "BudgetDenial",
    "BudgetState",
    "By",
    "CacheEntry",
    "CachedAnswer",
    "Cost",
    "InFlight",
    "ModelCall",
    "Outcome",
    "PastAttempts",
    "Quality",
    "Settlement",
    "SingleFlight",
    "add_up",
    "budget_states",
    "calls_before",
    "costs",
    "end_span",
    "find_accounts",
    "find_budget",
    "give_up",
    "load_past_attempts",
    "load_sent_times",
    "load_state",
    "overdue_calls",
    "qualities",
    "raise_budget",
    "raise_by_hand",
    "recover",
    "settle_late",
    "start_span",
    "sweep",
    "total_spending",
]

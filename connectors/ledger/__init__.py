"""Whether an effect has happened, and how it happens only once.

`Ledger` is the way in; `EffectExecution` takes one effect from its intent to what is known of it, `Journal` writes
each change. Must not break: an intent is committed before a request goes out, every write is under its fence with its
event in the same transaction, and what cannot be known is parked. A new state goes into `states`, a new column into
`tables` and a migration; what workflows may see is in `contracts`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.lazy import lazy

if TYPE_CHECKING:
    from perdure.connectors.ledger.dependents import Dependents
    from perdure.connectors.ledger.journal import Journal
    from perdure.connectors.ledger.ledger import Ledger
    from perdure.connectors.ledger.states import lease_duration
else:
    __getattr__ = lazy(
        __name__,
        {
            "dependents": ["Dependents"],
            "journal": ["Journal"],
            "ledger": ["Ledger"],
            "states": ["lease_duration"],
        },
    )

__all__ = [
    "Dependents",
    "Journal",
    "Ledger",
    "lease_duration",
]

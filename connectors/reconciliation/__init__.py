"""Whether the ledger and the targets agree, and what is done where they do not.

`Reconciler` compares, `Findings` stores what differed, `Repairs` proposes what a person approves, `Sweeper` settles the
effects of runs that have ended. Must not break: nothing is repaired without an approval, and a target that cannot tell is
never taken for one that has nothing. A new kind of difference goes into `_compare` and `contracts`, what may be done
about it into `repair`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.lazy import lazy

if TYPE_CHECKING:
    from perdure.connectors.reconciliation.findings import Findings
    from perdure.connectors.reconciliation.orphans import Sweeper
    from perdure.connectors.reconciliation.reconcile import Reconciler
    from perdure.connectors.reconciliation.repair import Repairs
else:
    __getattr__ = lazy(
        __name__,
        {
            "findings": ["Findings"],
            "orphans": ["Sweeper"],
            "reconcile": ["Reconciler"],
            "repair": ["Repairs"],
        },
    )

__all__ = [
    "Findings",
    "Reconciler",
    "Repairs",
    "Sweeper",
]

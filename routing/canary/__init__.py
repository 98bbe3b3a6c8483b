"""What a canary tries, how both arms do, and when it is rolled back.

Must not break: a canary never fails a run that would have worked, and a rollback holds in all workers at once. The
rule is in `rollback` with its proof in `_evidence`; who stands where is in `trials`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.lazy import lazy

if TYPE_CHECKING:
    from perdure.routing.canary.canary import Arm, Canary, CanaryTable
    from perdure.routing.canary.comparison import (
        Report,
        Standing,
        report,
        standings,
    )
    from perdure.routing.canary.rollback import Counts
    from perdure.routing.canary.trials import (
        Moved,
        Part,
        State,
        decide,
        override,
    )
else:
    __getattr__ = lazy(
        __name__,
        {
            "canary": ["Arm", "Canary", "CanaryTable"],
            "comparison": ["Report", "Standing", "report", "standings"],
            "rollback": ["Counts"],
            "trials": ["Moved", "Part", "State", "decide", "override"],
        },
    )

__all__ = [
    "Arm",
    "Canary",
    "CanaryTable",
    "Counts",
    "Moved",
    "Part",
    "Report",
    "Standing",
    "State",
    "decide",
    "override",
    "report",
    "standings",
]

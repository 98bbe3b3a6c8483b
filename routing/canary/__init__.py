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
        CanaryStatus,
        Report,
        list_canaries,
        report,
    )
    from perdure.routing.canary.rollback import Counts
    from perdure.routing.canary.trials import (
        CanaryAssignment,
        CanaryStateChanged,
        State,
        decide,
        record_verdict,
    )
else:
    __getattr__ = lazy(
        __name__,
        {
            "canary": ["Arm", "Canary", "CanaryTable"],
            "comparison": ["CanaryStatus", "Report", "list_canaries", "report"],
            "rollback": ["Counts"],
            "trials": ["CanaryAssignment", "CanaryStateChanged", "State", "decide", "record_verdict"],
        },
    )

__all__ = [
    "Arm",
    "Canary",
    "CanaryAssignment",
    "CanaryStateChanged",
    "CanaryStatus",
    "CanaryTable",
    "Counts",
    "Report",
    "State",
    "decide",
    "list_canaries",
    "record_verdict",
    "report",
]

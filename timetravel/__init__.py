"""What happened in a run, as its history tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.lazy import lazy
from perdure.timetravel.contracts import (
    Failure,
    RunFacts,
    Step,
    Timeline,
)

if TYPE_CHECKING:
    from perdure.timetravel.timeline import Scribe, read_timeline

else:
    __getattr__ = lazy(
        __name__,
        {
            "timeline": ["Scribe", "read_timeline"],
        },
    )

__all__ = ["Failure", "RunFacts", "Scribe", "Step", "Timeline", "read_timeline"]

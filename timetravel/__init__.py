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
    from perdure.timetravel.timeline import TimelineBuilder, read_timeline

else:
    __getattr__ = lazy(
        __name__,
        {
            "timeline": ["TimelineBuilder", "read_timeline"],
        },
    )

__all__ = ["Failure", "RunFacts", "Step", "Timeline", "TimelineBuilder", "read_timeline"]

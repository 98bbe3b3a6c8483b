"""What happened in a run, as its history tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.timetravel.contracts import (
    Failure,
    RunFacts,
    Step,
    Timeline,
)

if TYPE_CHECKING:
    from perdure.timetravel.timeline import Scribe, read_timeline

__all__ = ["Failure", "RunFacts", "Scribe", "Step", "Timeline", "read_timeline"]


def __getattr__(name: str) -> object:
    if name in ("Scribe", "read_timeline"):
        from perdure.timetravel import timeline

        return getattr(timeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

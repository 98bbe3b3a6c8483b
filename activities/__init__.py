"""How a step reaches the world: thin translations between Temporal and the rooms."""

from perdure.activities.steps import StepActivities

__all__ = ["StepActivities"]

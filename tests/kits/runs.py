"""What tests read out of a history."""

from __future__ import annotations

import json

from temporalio.client import WorkflowHistory


def activity_names(history: WorkflowHistory) -> list[str]:
    """Return the types of the activities that were scheduled, in order."""
    return [
        event.activity_task_scheduled_event_attributes.activity_type.name
        for event in history.events
        if event.HasField("activity_task_scheduled_event_attributes")
    ]


def step_summaries(history: WorkflowHistory) -> list[str]:
    """Return the summaries of the activities that were scheduled, in order."""
    return [
        json.loads(event.user_metadata.summary.data)
        for event in history.events
        if event.HasField("activity_task_scheduled_event_attributes")
    ]

"""What is said about an effect that waits for a person, and by steps that rely on it. Safe to import in workflow code."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field, JsonValue

from perdure.lineage import Frozen

Verdict = Literal["happened", "did not happen", "send again", "new generation"]

RESOLVED = "perdure.resolved"
"""The signal that tells a run that a person has resolved an effect it waits for: `{"key": KEY}`, or just the key."""

PARKED = "perdure.parked"
"""The query that lists what a run waits for a person to resolve."""


class Dependent(Frozen):
    """A step of another run that asked for an effect by its business key, and relies on it."""

    effect: str
    key: str
    """The key that its own effect would have had."""
    workflow_id: str
    run_id: str
    step: str
    at: datetime


class Resolution(Frozen):
    """What a person says about a parked effect, having looked at the target."""

    effect: str
    verdict: Verdict
    by: str = Field(min_length=1, max_length=200)
    comment: str = Field(min_length=1, max_length=4000)
    """Why: what was seen at the target."""
    verified: bool = False
    remote_ref: str = ""
    """How the target calls it, if it happened."""
    answer: dict[str, JsonValue] | None = None
    """What the target would have answered, if it happened. None: what was asked for, with REMOTE_REF as its `id`."""


class ParkedEffect(Frozen):
    """An effect that a run waits for a person to resolve."""

    key: str
    step: str
    action: str
    why: str
    since: datetime
    until: datetime

"""What is asked of people and what they answer. Pure models: safe to import in workflow code."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Literal

from pydantic import Field, JsonValue, model_validator

from perdure.lazy import lazy
from perdure.lineage import (
    Frozen,
    Lineage,
    StepRef,
    digest,
)

Verdict = Literal["approve", "reject", "request changes"]
Via = Literal["update", "signal"]

DECIDE = "perdure.decide"
"""The update that decides an approval, and the signal of the same name for the Temporal Web UI."""

APPROVALS = "perdure.approvals"
"""The query that lists the open approvals of a run."""


PLACEHOLDER = "YOUR NAME"
"""What stands for a name in the JSON that the Temporal Web UI shows; a decision in this name is refused."""


class ApprovalRequest(Frozen):
    """The request to people: what to decide, about what exactly, who may, until when."""

    approval: str
    """Its name, unique within the run."""
    question: str
    of: str
    """The role or person that is asked."""
    about: JsonValue = None
    risk: Literal["low", "medium", "high"] = "medium"
    asked_at: datetime
    deadline: datetime
    digest: str
    """What a decision binds to: change anything above, or the run, and an old decision fits no longer."""


def digest_request(request: ApprovalRequest, lineage: Lineage) -> str:
    """Return the digest that a decision on REQUEST has to repeat."""
    bound = request.model_dump(mode="json", exclude={"digest", "asked_at"})
    # The first run's id is unique everywhere. The namespace would add nothing, and a Replayer calls its own another name.
    run = lineage.model_dump(mode="json", exclude={"namespace"})
    return digest({"request": bound, "run": run})


class DecisionCall(Frozen):
    """The argument of the update and of the signal `perdure.decide`."""

    approval: str
    digest: str
    verdict: Verdict
    by: str = Field(min_length=1, max_length=200)
    comment: str = Field(default="", max_length=4000)

    @model_validator(mode="after")
    def _require_comment(self) -> DecisionCall:
        if self.verdict != "approve" and not self.comment.strip():
            raise ValueError(f"{self.verdict!r} needs a comment that says why")
        return self


class Decision(Frozen):
    """What one person said."""

    approval: str
    digest: str
    verdict: Verdict
    by: str
    comment: str = ""
    verified: bool = False
    """Whether somebody checked that BY really sent it. A name typed into the Web UI or the CLI is not verified."""
    via: Via = "update"
    decided_at: datetime


class AskCall(Frozen):
    """The argument of the activity `perdure.ask`: put a request before the reviewers."""

    step: StepRef
    request: ApprovalRequest


class AskResult(Frozen):
    """The result of the activity `perdure.ask`."""

    accept_unverified: bool
    """Whether this worker's policy lets a decision count whose sender nobody verified."""


class RecordCall(Frozen):
    """The argument of the activity `perdure.record_decision`. No decision: the deadline passed or the run was cancelled."""

    step: StepRef
    approval: str
    digest: str
    decision: Decision | None = None
    ended: Literal["decided", "expired", "withdrawn"] = "decided"
    at: datetime


class RecordResult(Frozen):
    """The result of the activity `perdure.record_decision`."""

    approval: str
    ended: str


if not TYPE_CHECKING:
    # Names of 0.1.0; `perdure.moved` has them. Remove after 2027-06.
    __getattr__ = lazy(__name__, {})

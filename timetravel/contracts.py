"""What a timeline is made of: facts of the run, and its steps in the order in which they began. Pure models."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Literal

from pydantic import JsonValue

from perdure.connectors.contracts import Receipt
from perdure.governance.contracts import ApprovalRequest, Decision
from perdure.lineage import Frozen
from perdure.memory.contracts import RecallReceipt, RememberResult
from perdure.routing.contracts import ModelRecord

StepKind = Literal[
    "generate",
    "recall",
    "remember",
    "act",
    "undo",
    "ask",
    "decision",
    "check",
    "activity",
    "child",
    "timer",
    "signal",
    "update",
    "cancel",
    "sent",
]
"""The steps of perdure, then what any workflow can do: `sent` is a signal or a cancellation to another run."""

StepState = Literal["scheduled", "running", "retrying", "done", "failed", "cancelled"]
RunState = Literal["running", "completed", "failed", "cancelled", "terminated", "timed out", "continued"]

NANO = 1_000_000_000

_PARKED_STATES = ("parked", "partially_compensated")
_PARKED_KEY = re.compile(r"effect (\S+) of ")


class Failure(Frozen):
    """Why something failed: the error's type as it stands in the history, what it said, and what caused it."""

    type: str
    message: str
    cause: Failure | None = None

    @property
    def chain(self) -> list[Failure]:
        """This failure, then its causes."""
        return [self, *(self.cause.chain if self.cause else [])]

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


class Step(Frozen):
    """One recorded unit of a run."""

    id: int
    """The history event with which it began."""
    kind: StepKind
    name: str
    """The step's name for perdure's steps; else the activity, workflow, signal or update it is."""
    summary: str = ""
    state: StepState
    local: bool = False
    """Whether it ran inside a workflow task, as look-ups do."""
    scheduled: datetime
    started: datetime | None = None
    """When the last attempt started. Temporal writes it down when the attempt ends; before that it comes from `pending`."""
    ended: datetime | None = None
    attempts: int = 0
    failure: Failure | None = None
    """What it failed with; for a step that went well or goes on, why the attempt before failed."""
    next_attempt: datetime | None = None
    by: str = ""
    """The worker that ran it, or the client that sent it."""
    inputs: JsonValue = None
    """What it was called with: one argument as it is, several as a list, and without the step's own reference."""
    result: JsonValue = None

    # What matters of perdure's own results. None where the step is of another kind, or was recorded in another format.
    model: ModelRecord | None = None
    confidence: float | None = None
    memory: RecallReceipt | None = None
    remembered: RememberResult | None = None
    receipt: Receipt | None = None
    request: ApprovalRequest | None = None
    decision: Decision | None = None
    outcome: str = ""
    """How an undo or a request to people ended: compensated, nothing to undo, stands; decided, expired, withdrawn."""
    child: str = ""
    """The workflow id of a child, or of the run that was signalled."""

    @property
    def open(self) -> bool:
        """Whether it has not ended."""
        return self.state in ("scheduled", "running", "retrying")


class RunFacts(Frozen):
    """What the history says of the run as a whole."""

    workflow_id: str = ""
    run_id: str = ""
    first_run_id: str = ""
    workflow_type: str = ""
    plan: str = ""
    state: RunState = "running"
    summary: str = ""
    task_queue: str = ""
    started_by: str = ""
    started: datetime | None = None
    ended: datetime | None = None
    inputs: JsonValue = None
    result: JsonValue = None
    failure: Failure | None = None
    attributes: dict[str, JsonValue] = {}
    """The search attributes as they stand."""
    cost_nano_usd: int = 0
    model_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    events: int = 0
    worked: bool = False
    """Whether a worker has run any of its code."""
    blocked: Failure | None = None
    """Why the workflow's code cannot go on: Temporal tries it again until the code is put right."""
    parent: str = ""
    continued_from: str = ""
    continued_to: str = ""
    """The run id of its continuation."""
    reset_from: str = ""
    namespace: str = ""
    """Where it was recorded, once a step of perdure has said so; Temporal's own events do not."""

    @property
    def cost_usd(self) -> float:
        """What its model calls cost, in US dollars."""
        return self.cost_nano_usd / NANO

    @property
    def rejected(self) -> bool:
        """Whether it failed because a reviewer said no or wanted changes."""
        return any(each.type in ("Rejected", "ChangesRequested") for each in (self.failure.chain if self.failure else []))


class ParkedStep(Frozen):
    """A step whose effect waits for a person to say what became of it."""

    step: str
    effect: str
    """The effect's key."""
    why: str
    changed: bool = False
    """Whether it asks for something else than it did under this key before."""


class Timeline(Frozen):
    """One run as its history tells it."""

    run: RunFacts
    steps: tuple[Step, ...] = ()

    @property
    def open_approvals(self) -> list[ApprovalRequest]:
        """What people are asked at this moment, the nearest deadline first."""
        if self.run.state != "running":
            return []
        # A step's name is unique in the lineage, and the request has the name of its step.
        closed = {step.name for step in self.steps if step.kind == "decision"}
        asked = [step.request for step in self.steps if step.request and step.state == "done" and step.name not in closed]
        return sorted(asked, key=lambda request: request.deadline)

    @property
    def parked(self) -> list[ParkedStep]:
        """The steps that wait at this moment for a person to resolve an effect."""
        if self.run.state != "running" or self.run.attributes.get("PerdureState") not in _PARKED_STATES:
            return []
        # A step that was told that its effect is resolved begins anew, under its name.
        last = {step.name: step for step in self.steps if step.kind in ("act", "undo")}
        return [parked for step in last.values() if (parked := _parked(step)) is not None]

    @property
    def decisions(self) -> list[Step]:
        """The steps that wrote down how a request ended."""
        return [step for step in self.steps if step.kind == "decision"]


def _parked(step: Step) -> ParkedStep | None:
    for each in step.failure.chain if step.failure and step.state == "failed" else ():
        # The key is in the message: the failure's details are not read here.
        if each.type in ("EffectParked", "EffectConflict") and (found := _PARKED_KEY.search(each.message)):
            return ParkedStep(step=step.name, effect=found[1], why=each.message, changed=each.type == "EffectConflict")
    return None

"""What a canary tries, in which runs, and how much worse than the rest it may turn out to be.

[canaries.newer]
task = "triage"                        # or tier = "small": all tasks of that tier
deployment = "next"                    # a deployment that serves nothing but this canary,
instructions_file = "triage-2.md"      # or other instructions, or both
weight = 0.1                           # the share of runs that try it
max_drop = 0.02
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, JsonValue, field_validator, model_validator

from perdure.lineage import digest
from perdure.routing.canary.rollback import Rule
from perdure.routing.contracts import GenerateCall, Tier
from perdure.routing.routes import (
    Deployment,
    Fraction,
    Names,
    Table,
    Task,
    as_float,
)

Arm = Literal["canary", "control"]

Ratio = Annotated[float, BeforeValidator(as_float), Field(gt=1)]


class CanaryTable(Table):
    """A canary as the file has it."""

    task: str = ""
    tier: Tier | None = None
    """All tasks of this tier, in place of one task."""
    deployment: str = ""
    """Who is asked first in the runs that try it; empty: whom the others ask."""
    instructions: str | None = Field(default=None, min_length=1)
    """What the model is told instead; inline, or from `instructions_file`."""
    per: Literal["run", "workflow", "agent", "tenant"] = "run"
    """What is in one arm or the other as a whole."""
    weight: Annotated[Fraction | None, Field(gt=0, lt=1)] = None
    """The share of these that try it."""
    of: Names = ()
    """In place of `weight`: the workflow types, agents or tenants that try it."""
    max_drop: Fraction = 0.02
    """By how much fewer of its answers may be valid, or more of its calls fail or answers be overridden: a share of all."""
    false_rollback: Annotated[Fraction, Field(gt=0, lt=1)] = 0.01
    """How probable it may be, at most, that a canary is rolled back which is within `max_drop`."""
    min_calls: int = Field(default=50, ge=10, strict=True)
    """Latency and cost are compared once both arms have so many answers."""
    max_latency_ratio: Ratio | None = 3.0
    """How many times as long its answers may take; None: however long."""
    max_cost_ratio: Ratio | None = None
    """How many times as much its answers may cost; None: whatever they cost."""

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        if "@" in name:
            raise ValueError("take a name without @, which stands before the version")
        return name

    @model_validator(mode="after")
    def _is_clear(self) -> CanaryTable:
        if bool(self.task) == bool(self.tier):
            raise ValueError("write `task`, or `tier` for all tasks of that tier")
        if not self.deployment and self.instructions is None:
            raise ValueError("there is nothing to try: write `deployment`, `instructions` or `instructions_file`")
        if self.tier and self.instructions is not None:
            raise ValueError("instructions belong to one task: write `task` in place of `tier`")
        if (self.weight is None) == (not self.of):
            raise ValueError("write `weight`, the share of runs that try it, or `of`, who tries it")
        if self.of and self.per == "run":
            raise ValueError("`of` names workflow types, agents or tenants: say which with `per`")
        return self

    @property
    def rule(self) -> Rule:
        """What it is rolled back by."""
        return Rule.model_validate({name: getattr(self, name) for name in Rule.model_fields})


@dataclass(frozen=True)
class Canary:
    """A canary that is tried: TABLE, the DEPLOYMENT that it names, if any, and the TIER of its tasks."""

    table: CanaryTable
    deployment: Deployment | None
    tier: Tier

    @property
    def name(self) -> str:
        """Its name in the file."""
        return self.table.name

    @cached_property
    def id(self) -> str:
        """NAME@VERSION, which changes with what it tries, and not with who tries it or what is asked of it."""
        tried = self.deployment
        about: list[JsonValue] = [
            self.table.task,
            self.table.tier,
            self.table.instructions,
            None if tried is None else [tried.model, tried.api_base, tried.max_tokens, tried.structured],
        ]
        return f"{self.name}@{digest(about).removeprefix('sha256:')[:12]}"

    def covers(self, task: Task) -> bool:
        """Return whether TASK takes part in it."""
        return self.table.task == task.name if self.table.task else self.table.tier == task.tier

    def arm(self, call: GenerateCall) -> Arm:
        """Return the arm that CALL belongs to: the same in every step, attempt, reset and replay of its run."""
        subject = self._subject(call)
        if self.table.weight is None:
            return "canary" if subject in self.table.of else "control"
        drawn = int.from_bytes(hashlib.sha256(f"{self.name}\0{subject}".encode()).digest()[:8], "big")
        return "canary" if drawn < self.table.weight * 2**64 else "control"

    def apply_to(self, task: Task) -> Task:
        """Return TASK as it is with the canary."""
        told = self.table.instructions
        return task if told is None else task.model_copy(update={"instructions": told})

    @property
    def adopting(self) -> str:
        """What to write into models.toml to have for good what it tries."""
        parts = []
        if self.table.instructions is not None:
            parts.append(f"give [tasks.{self.table.task}] the instructions of [canaries.{self.name}]")
        if self.deployment is not None:
            tier = self.deployment.tier
            parts.append(f"put [deployments.{self.deployment.name}] before the other deployments of tier {tier!r}")
        return f"In models.toml {', '.join(parts)}, and take [canaries.{self.name}] out."

    def _subject(self, call: GenerateCall) -> str:
        if self.table.per == "run":
            lineage = call.step.lineage
            # Not the namespace: a run that is forked or replayed elsewhere stays in its arm.
            return f"{lineage.workflow_id}/{lineage.first_execution_run_id}"
        subjects = {"workflow": call.step.workflow_type, "agent": call.agent, "tenant": call.tenant}
        return subjects[self.table.per]

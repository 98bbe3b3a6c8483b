"""Which learned escalation is in force for a task: when a larger tier is asked although there is a valid answer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import sqlalchemy as sa
from pydantic import Field

from perdure.lineage import Frozen
from perdure.routing.contracts import GenerateCall, Tier
from perdure.routing.routes import Deployment
from perdure.routing.tables import EscalationRow, ModelCallRow
from perdure.storage import Database, now

STATIC = "static"
"""Stands in a call's record for a version where none was in force."""

_ROWS = EscalationRow.__table__  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # SQLModel's
_CALLS = ModelCallRow.__table__  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # as above


def features(confidence: float | None, prompt_bytes: int) -> tuple[float, float, float]:
    """Return what is looked at: the stated confidence, whether there is none, and the length on a logarithmic scale."""
    stated = confidence is not None
    return (confidence if confidence is not None else 0.0, 0.0 if stated else 1.0, math.log2(1 + prompt_bytes))


class Escalation(Frozen):
    """What was learned: two logistic regressions, and from which difference between them on the larger tier is asked."""

    tier: Tier
    """The tier whose answers it judges."""
    models: tuple[str, ...]
    """The models it knows. What others answer it does not judge."""
    centre: tuple[float, float, float]
    spread: tuple[float, float, float]
    """What `features` are brought to one scale by."""
    small: tuple[float, float, float, float]
    """How likely the answer is right: an intercept, and a weight for each of `features`."""
    large: tuple[float, float, float, float]
    """How likely that of the larger tier would be."""
    threshold: float = Field(allow_inf_nan=False)
    """The larger tier is asked where it is so much more likely right."""

    def judges(self, deployment: Deployment) -> bool:
        """Return whether it knows answers of DEPLOYMENT."""
        return deployment.tier == self.tier and deployment.model in self.models

    def gain(self, confidence: float | None, prompt_bytes: int) -> float:
        """Return how much more likely the larger tier is right than an answer of CONFIDENCE to so long a question."""
        found = features(confidence, prompt_bytes)
        scaled = [(each - centre) / spread for each, centre, spread in zip(found, self.centre, self.spread, strict=True)]
        return _likely(self.large, scaled) - _likely(self.small, scaled)

    def escalates(self, confidence: float | None, prompt_bytes: int) -> bool:
        """Return whether the larger tier is to be asked."""
        return self.gain(confidence, prompt_bytes) >= self.threshold


@dataclass(frozen=True)
class ActiveEscalation:
    """What judges the answers of a call: VERSION as its record has it, empty if the task does not ask for it."""

    version: str = ""
    escalation: Escalation | None = None

    @property
    def reason(self) -> str:
        """Why an answer does not count that it judges too likely wrong."""
        return f"learned escalation {self.version}"

    def escalates(self, confidence: float | None, prompt_bytes: int) -> bool:
        """Return whether the larger tier is to be asked."""
        return self.escalation is not None and self.escalation.escalates(confidence, prompt_bytes)


class Version(Frozen):
    """One learned version of a task's escalation, as it is kept."""

    task: str
    version: int
    adopted: bool
    escalation: Escalation | None
    evidence: str
    by: str


async def load_active(database: Database, call: GenerateCall) -> ActiveEscalation:
    """Return the version that judges the answers of CALL: the one that its run began with, else the newest."""
    step = call.step
    begun = (
        sa.select(_CALLS.c.escalation)
        .where(
            _CALLS.c.namespace == step.lineage.namespace,
            _CALLS.c.workflow_id == step.lineage.workflow_id,
            _CALLS.c.first_execution_run_id == step.lineage.first_execution_run_id,
            _CALLS.c.run_id == step.run_id,
            _CALLS.c.task == call.task,
            _CALLS.c.escalation != "",
        )
        # Two steps at once may have begun with two versions; each goes on with its own.
        .order_by(sa.case((_CALLS.c.step == step.name, 0), else_=1), _CALLS.c.sent_at)
        .limit(1)
    )

    def read(connection: sa.Connection) -> ActiveEscalation:
        pinned = connection.execute(begun).scalar()
        if pinned == STATIC:
            return ActiveEscalation(STATIC)
        query = sa.select(_ROWS).where(_ROWS.c.task == call.task).order_by(_ROWS.c.version.desc()).limit(1)
        row = connection.execute(query if pinned is None else query.where(_ROWS.c.version == int(pinned))).one_or_none()
        if row is None or not row.adopted:
            return ActiveEscalation(STATIC)
        return ActiveEscalation(str(row.version), Escalation.model_validate_json(row.parameters))

    return await database.query(read)


async def list_versions(database: Database, task: str | None = None) -> list[Version]:
    """Return what was learned about TASK, or about all tasks, the newest first."""
    query = sa.select(_ROWS).order_by(_ROWS.c.task, _ROWS.c.version.desc())
    if task is not None:
        query = query.where(_ROWS.c.task == task)
    async with database.read() as connection:
        return [
            Version(
                task=row.task,
                version=row.version,
                adopted=row.adopted,
                escalation=Escalation.model_validate_json(row.parameters) if row.parameters else None,
                evidence=row.evidence,
                by=row.by,
            )
            for row in await connection.execute(query)
        ]


async def save_version(
    database: Database, task: str, escalation: Escalation | None, *, adopted: bool, evidence: str, by: str
) -> int:
    """Write what was learned about TASK as its next version, which decides from now on, and return that."""

    def write(connection: sa.Connection) -> int:
        newest = connection.execute(sa.select(sa.func.max(_ROWS.c.version)).where(_ROWS.c.task == task)).scalar()
        version = int(newest or 0) + 1
        row = {
            "task": task,
            "version": version,
            "adopted": adopted,
            "parameters": escalation.model_dump_json() if escalation else "",
            "evidence": evidence,
            "by": by,
            "at": now(),
        }
        connection.execute(sa.insert(_ROWS), row)
        return version

    return await database.transact(write)


def _likely(weights: tuple[float, ...], scaled: list[float]) -> float:
    score = weights[0] + sum(weight * each for weight, each in zip(weights[1:], scaled, strict=True))
    return 1 / (1 + math.exp(-score)) if score >= 0 else math.exp(score) / (1 + math.exp(score))

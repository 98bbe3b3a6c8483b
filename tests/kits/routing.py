"""What the tests of routing share: an output, a call, a small embedder, and what was recorded."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence

import sqlalchemy as sa
from pydantic import BaseModel, JsonValue

from perdure.lineage import Lineage, StepRef
from perdure.routing import GenerateCall, OutputRef
from perdure.routing.tables import ModelCallRow
from perdure.storage import Database

KEY = "sk-canary-key"
PROMPT = "canary-prompt-4711"


class Triage(BaseModel):
    """What the tests ask a model for."""

    verdict: str
    why: str = ""


class HashingEmbedder:
    """Words hashed into 64 dimensions: enough to tell texts with other words apart."""

    version = "hashing-1"

    def __init__(self) -> None:
        self.embedded: list[str] = []

    async def embed(self, texts: Sequence[str]) -> list[tuple[float, ...]]:
        self.embedded.extend(texts)
        return [self._one(text) for text in texts]

    def _one(self, text: str) -> tuple[float, ...]:
        vector = [0.0] * 64
        for word in re.findall(r"\w+", text.casefold()):
            vector[hashlib.sha256(word.encode()).digest()[0] % 64] += 1
        length = math.sqrt(sum(value * value for value in vector)) or 1.0
        return tuple(value / length for value in vector)


def asking(task: str = "triage", *, output: OutputRef | None = None, **inputs: JsonValue) -> GenerateCall:
    """A call of TASK with INPUTS."""
    lineage = Lineage(namespace="default", workflow_id="returns-1", first_execution_run_id="run-1")
    return GenerateCall(
        step=StepRef(lineage=lineage, name="triage#1", run_id="run-2", workflow_type="ReturnsTriage"),
        task=task,
        inputs=inputs or {"message": PROMPT},
        output=output or OutputRef(name=f"{Triage.__module__}:Triage"),
    )


def of_run(number: int, *, tenant: str = "default", message: str = "") -> GenerateCall:
    """A call of run NUMBER, with MESSAGE or a question of its own."""
    lineage = Lineage(namespace="default", workflow_id=f"run-{number}", first_execution_run_id=f"first-{number}")
    step = StepRef(lineage=lineage, name="triage", run_id=f"first-{number}", workflow_type="ReturnsTriage")
    call = asking(message=message or f"question {number}")
    return call.model_copy(update={"step": step, "tenant": tenant})


async def rows(database: Database) -> list[sa.RowMapping]:
    """What the database holds about model calls, in the order they were sent."""
    async with database.read() as connection:
        query = sa.select(ModelCallRow).order_by(sa.text("sent_at"), sa.text("ordinal"))
        return list((await connection.execute(query)).mappings())


async def lost_calls(database: Database) -> list[str]:
    """The ids of the recorded calls whose end nobody saw, or none has been written down."""
    unseen = ("sent", "ambiguous", "cancelled")
    return [str(row["call_id"]) for row in await rows(database) if row["outcome"] in unseen]

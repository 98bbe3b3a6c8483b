"""Workflows that ask models, in a module of their own: the sandbox imports a workflow's module anew for each run."""

from __future__ import annotations

from typing import Literal

from temporalio import workflow

from perdure.errors import ModelError
from perdure.lineage import Frozen
from perdure.workflows import generate


class Judgement(Frozen):
    """What the model is asked for."""

    verdict: str
    why: str = ""


class Ask(Frozen):
    """What to ask, for whom."""

    message: str = "a return"
    task: str = "triage"
    tenant: str = "default"
    agent: str = ""
    times: int = 1
    or_ask: str = ""
    lane: Literal["now", "batch"] = "now"


class Judged(Frozen):
    """What came of it."""

    verdicts: tuple[str, ...] = ()
    error: str = ""
    message: str = ""
    attempts: tuple[str, ...] = ()
    arms: tuple[str, ...] = ()
    """The arm of each answer, and its canary."""


@workflow.defn
class Judges:
    """Asks a model, once or several times."""

    @workflow.run
    async def run(self, ask: Ask) -> Judged:
        verdicts: list[str] = []
        attempts: list[str] = []
        arms: list[str] = []
        for _ in range(ask.times):
            try:
                found = await generate(
                    ask.task,
                    Judgement,
                    inputs={"message": ask.message},
                    tenant=ask.tenant,
                    agent=ask.agent,
                    or_ask=ask.or_ask,
                    lane=ask.lane,
                )
            except ModelError as error:
                return Judged(
                    verdicts=tuple(verdicts), error=type(error).__name__, message=error.message, attempts=tuple(attempts)
                )
            verdicts.append(found.value.verdict)
            attempts += [f"{each.deployment}: {each.error}" for each in found.record.earlier]
            attempts.append(f"{found.record.deployment}: {found.record.switched}")
            arms.append(f"{found.record.arm} {found.record.canary}")
        return Judged(verdicts=tuple(verdicts), attempts=tuple(attempts), arms=tuple(arms))


class Verdict(Frozen):
    """What a model with random weights is asked for: a grammar leaves nothing else to say."""

    verdict: Literal["refund", "reject"]


@workflow.defn
class Chooses:
    """Asks a model for one of two words."""

    @workflow.run
    async def run(self, ask: Ask) -> str:
        found = await generate(ask.task, Verdict, inputs={"message": ask.message})
        return f"{found.value.verdict} by {found.record.model}"

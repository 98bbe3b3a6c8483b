"""Which model answers a task: the face of routing. `perdure.routing.attempts.attempt` is one attempt, top to bottom."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from pydantic import BaseModel

from perdure.errors import InvalidInput
from perdure.routing.attempts import Attempts, Question, Questions
from perdure.routing.calls import find_budget, raise_budget
from perdure.routing.canary import record_verdict
from perdure.routing.contracts import (
    GenerateCall,
    Generation,
    JudgeCall,
    LabelResult,
    RaiseCall,
    RaiseResult,
)
from perdure.routing.escalation import ActiveEscalation, label_answer, last_verdict
from perdure.routing.load import Routes
from perdure.routing.providers import CircuitBreakers, Embedder, Models
from perdure.storage import AdvisoryLock, Database, GroupCommit


class Router:
    """Answers tasks by ROUTES and records every provider call in DATABASE.

    Raises `InvalidSettings` if a task's validators cannot be imported.

    EMBEDDER serves local deployments. The vectors of their examples are kept in the folder CACHE, if given. One router is
    to serve all that a worker does: BREAKERS, its circuit breakers, learn from every run.
    """

    def __init__(
        self,
        database: Database,
        routes: Routes,
        embedder: Embedder,
        *,
        cache: Path | None = None,
        breakers: CircuitBreakers | None = None,
    ) -> None:
        self.routes = routes
        self._models = Models(routes, embedder, cache=cache)
        breakers = breakers or CircuitBreakers()
        self._questions = Questions(routes, breakers)
        self._commits = GroupCommit(database, lock=AdvisoryLock.MODEL_CALLS)
        self._attempts = Attempts(database, routes, self._models, breakers, commits=self._commits)

    async def load_files(self) -> None:
        """Load the GGUF files of local models, one after the other. `generate` loads those that nobody did before.

        Raises `InvalidSettings` with the line that names the file, if one cannot be run.
        """
        await self._models.load_files()

    def processes(self) -> list[int]:
        """Return the processes that run local models now."""
        return self._models.processes()

    async def close(self) -> None:
        """End the processes that run local models."""
        await self._models.close()

    async def warm_up(self) -> None:
        """Import LiteLLM, which takes seconds, and learn the examples. `generate` does it when nobody did before.

        Raises `InvalidSettings` if the examples of a task cannot be learned.
        """
        await self._models.warm_up()

    async def generate(self, call: GenerateCall, *, attempt: int, output: type[BaseModel] | None) -> Generation:
        """Return an answer to CALL that fits OUTPUT, or the JSON schema of CALL if OUTPUT is None.

        It makes one provider call. Where that goes depends on ATTEMPT, counted from 1, on what is recorded of the attempts
        before it, and on the circuit breakers.

        Raises `NoRoute`, `ModelRefused`, `InvalidAnswer`, `BudgetSpent`, `InvalidInput`, `InvalidSettings`; and where the
        next attempt may do better, after `retry_after` if that is set, `ModelUnavailable`, `AskAgain`, `BudgetReserved`.
        """
        if attempt < 1:
            raise InvalidInput(f"attempt {attempt} of step {call.step.name!r}: attempts count from 1.")
        return await self._attempts.make(self.prepare(call, output), attempt)

    def prepare(self, call: GenerateCall, output: type[BaseModel] | None) -> Question:
        """Return what CALL asks, in which form, and whom it may ask. Raises `NoRoute`, `ModelRefused`, `InvalidInput`."""
        return self._questions.prepare(call, output)

    async def load_escalation(self, call: GenerateCall) -> ActiveEscalation:
        """Return what was learned about the task of CALL, if the task wants to know."""
        return await self._attempts.load_escalation(call)

    def take_rollbacks(self) -> list[str]:
        """Return the canaries that calls of this router have rolled back since this was asked last."""
        return self._attempts.canaries.take_rollbacks()

    async def raise_budget(self, call: RaiseCall) -> RaiseResult:
        """Raise a budget by what a person has granted, once for the step of CALL. Raises `InvalidInput`."""
        limit = find_budget(self.routes, call.budget).limit
        return await self._commits.run(lambda connection: raise_budget(connection, call, limit), exclusive=True)

    async def label_answer(self, call: JudgeCall) -> LabelResult:
        """Write down whether an answer was right, once for the step of CALL. Raises `InvalidInput`."""

        def write(connection: sa.Connection) -> tuple[LabelResult, tuple[str, str]]:
            label = label_answer(connection, call)
            return label, record_verdict(connection, label.call_id, correct=last_verdict(connection, label.call_id))

        label, (canary, why) = await self._commits.run(write, exclusive=True)
        self._attempts.canaries.note_rollback(canary, why)
        return label

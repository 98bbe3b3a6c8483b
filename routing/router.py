"""Which model answers a task: one attempt, one deployment, one provider call, and an answer that fits or an error."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import sqlalchemy as sa
from pydantic import BaseModel

from perdure.errors import InvalidInput, ModelRefused, NoRoute
from perdure.lineage import StepRef, digest
from perdure.routing.attempts import CanaryStates, Choice, Exchange, Ladder
from perdure.routing.calls import (
    BudgetDenial,
    CachedAnswer,
    CacheEntry,
    InFlight,
    ModelCall,
    Settlement,
    SingleFlight,
    calls_before,
    end_span,
    find_accounts,
    find_budget,
    give_up,
    load_earlier_attempts,
    overdue_calls,
    raise_budget,
    repeats,
    start_span,
)
from perdure.routing.canary import CanaryStateChanged, record_verdict
from perdure.routing.contracts import (
    Attempt,
    GenerateCall,
    Generation,
    JudgeCall,
    LabelResult,
    RaiseCall,
    RaiseResult,
    Usage,
)
from perdure.routing.escalation import ActiveEscalation, label_answer, last_verdict, load_active
from perdure.routing.load import Routes
from perdure.routing.prompts import (
    Answer,
    Form,
    Messages,
    ask_again,
    check_inputs,
    load_checks,
    may_fit,
    refuse_secrets,
    render,
    size_in_bytes,
)
from perdure.routing.providers import CircuitBreakers, Embedder, Gguf, LocalModel, ProviderFailed, ProviderFailure, Reply
from perdure.routing.providers import litellm as provider
from perdure.routing.routes import Task
from perdure.storage import AdvisoryLock, Database, GroupCommit, now

_SWEEP = 60.0
"""Seconds between two looks for calls that nobody has settled and answers that nobody may have any more."""


@dataclass(frozen=True)
class Asking:
    """What a call asks: the prompt, the form of the answer, and who may be asked."""

    task: Task
    form: Form
    messages: Messages
    ladder: Ladder


@dataclass(frozen=True)
class _SoFar:
    """Which attempt it is, and what came before."""

    attempt: int
    earlier: tuple[Attempt, ...]
    before: Usage
    learned: ActiveEscalation


class Router:
    """Answers tasks by ROUTES and records every provider call in DATABASE.

    Raises `InvalidSettings` if a task's validators cannot be imported.

    EMBEDDER serves local deployments. The vectors of their examples are kept in the folder CACHE, if given. One router is
    to serve all that a worker does: its circuit breakers learn from every run.
    """

    def __init__(self, database: Database, routes: Routes, embedder: Embedder, *, cache: Path | None = None) -> None:
        self.routes = routes
        self.breakers = CircuitBreakers()
        self._database = database
        self._commits = GroupCommit(database, lock=AdvisoryLock.MODEL_CALLS)
        self._flights = SingleFlight()
        self._checks = {task.name: load_checks(task) for task in routes.tasks.values()}
        self._arms = CanaryStates(routes, self.breakers)
        self._embedder = embedder
        self._cache = cache
        self._local: Mapping[str, LocalModel] | None = None
        self._warming = asyncio.Lock()
        self._sweep_at = 0.0
        self._files = {name: Gguf(routes.deployments[name], place) for name, place in routes.files.items()}

    async def load_files(self) -> None:
        """Load the GGUF files of local models, one after the other. `generate` loads those that nobody did before.

        Raises `InvalidSettings` with the line that names the file, if one cannot be run.
        """
        for model in self._files.values():
            await model.start()

    def processes(self) -> list[int]:
        """Return the processes that run local models now."""
        return [pid for model in self._files.values() if (pid := model.pid) is not None]

    async def close(self) -> None:
        """End the processes that run local models."""
        for model in self._files.values():
            await model.close()

    async def warm_up(self) -> None:
        """Import LiteLLM, which takes seconds, and learn the examples. `generate` does it when nobody did before.

        Raises `InvalidSettings` if the examples of a task cannot be learned.
        """
        async with self._warming:
            if self._local is not None:
                return
            serving = [
                one
                for task in self.routes.tasks.values()
                for tier in task.tiers
                for one in self.routes.deployments_for(task, tier)
            ]
            if all(one.gguf for one in serving):  # or there are none, so there is no need to spend seconds on LiteLLM
                self._local = {}
                return
            _, examples = await asyncio.to_thread(provider.load)
            learned = {}
            for task in self.routes.tasks.values():
                if any(one.local for one in self.routes.all_deployments_for(task)):
                    learned[task.name] = await LocalModel.learn(task, self._embedder, cache=self._cache)
                    examples.add(learned[task.name])
            self._local = learned

    async def generate(self, call: GenerateCall, *, attempt: int, output: type[BaseModel] | None) -> Generation:
        """Return an answer to CALL that fits OUTPUT, or the JSON schema of CALL if OUTPUT is None.

        It makes one provider call. Where that goes depends on ATTEMPT, counted from 1, on what is recorded of the attempts
        before it, and on the circuit breakers.

        Raises `NoRoute`, `ModelRefused`, `InvalidAnswer`, `BudgetSpent`, `InvalidInput`, `InvalidSettings`; and where the
        next attempt may do better, after `retry_after` if that is set, `ModelUnavailable`, `AskAgain`, `BudgetReserved`.
        """
        if attempt < 1:
            raise InvalidInput(f"attempt {attempt} of step {call.step.name!r}: attempts count from 1.")
        asked = self.question(call, output)
        earlier: tuple[Attempt, ...] = ()
        spent = Usage()
        if attempt > 1:
            answered = await self._commits.run(lambda connection: _pick_up(connection, call.step, attempt), exclusive=True)
            if answered is not None:
                return answered
            earlier, spent = await load_earlier_attempts(self._database, call.step, attempt)
        so_far = _SoFar(attempt, earlier, spent, await self.learned(call))
        passed_over = ""
        while True:
            exchange, messages = self._exchange(asked, call, so_far, passed_over)
            if self._local is None and not exchange.deployment.gguf:
                await self.warm_up()
            found = await self._ask(exchange, messages)
            if isinstance(found, Generation):
                return found
            if isinstance(found, CanaryStateChanged):
                self._arms.update_state(exchange.part, found)
            else:  # the budget need not stand in the way of the others
                passed_over = f"{exchange.deployment.name} exceeds {found.account.title}"

    def _exchange(self, asked: Asking, call: GenerateCall, so_far: _SoFar, passed_over: str) -> tuple[Exchange, Messages]:
        """Return the exchange that comes after those SO_FAR, and what it asks. PASSED_OVER is why it tries no canary."""
        choice = asked.ladder.choose(so_far.earlier, so_far.attempt)
        if choice is None:
            raise ModelRefused(
                f"every deployment for task {asked.task.name!r} has refused it. Look at what they said: "
                "`perdure show` lists the attempts."
            )
        attempt, earlier, before = so_far.attempt, so_far.earlier, so_far.before
        part = self._arms.assign(asked.task, call, attempt, earlier)
        exchange = Exchange(
            call,
            asked.task,
            asked.form,
            asked.ladder,
            choice.with_prices_at(now()),
            attempt,
            earlier,
            before,
            prompt_bytes=size_in_bytes(asked.messages),
            learned=so_far.learned,
            part=part,
        )
        if part is None or not part.tries_canary:
            return exchange, asked.messages
        trial = passed_over or self._arms.prepare_trial(part.canary, asked.task, call.inputs, asked.form.text, choice)
        if isinstance(trial, str):
            why = "; ".join(filter(None, (f"no canary: {trial}", choice.switched)))
            passed = replace(exchange.choice, switched=why)
            return replace(exchange, choice=passed, part=replace(part, tries_canary=False)), asked.messages
        spare = exchange.most_cost(asked.messages)
        return replace(exchange, task=trial.task, choice=trial.choice.with_prices_at(now()), spare=spare), trial.messages

    async def learned(self, call: GenerateCall) -> ActiveEscalation:
        """Return what was learned about the task of CALL, if the task wants to know; its run uses one version of it."""
        if self.routes.task(call.task).escalate is None:
            return ActiveEscalation()
        return await load_active(self._database, call)

    def question(self, call: GenerateCall, output: type[BaseModel] | None) -> Asking:
        """Return what CALL asks, in which form, and whom it may ask. Raises `NoRoute`, `ModelRefused`, `InvalidInput`."""
        task = self.routes.task(call.task)
        checks = self._checks[task.name]

        def problems(answer: object) -> list[str]:
            return [said for check in checks if (said := check.problem(answer, call.inputs))]

        form = Form(output, call.output.json_schema, problems=problems)
        check_inputs(task, call.inputs)
        messages = render(task.instructions, call.inputs, form.text)
        refuse_secrets(task.name, messages)
        return Asking(task, form, messages, self._ladder(task, messages))

    def _ladder(self, task: Task, question: Messages) -> Ladder:
        serving = [self.routes.deployments_for(task, tier) for tier in task.tiers]
        if not any(serving):
            raise NoRoute(f"no deployment serves task {task.name!r}: tier {task.tier!r} has none. Add one to models.toml.")
        fitting = [[one for one in rung if may_fit(one, question)] for rung in serving]
        if not any(fitting):
            raise ModelRefused(
                f"the inputs of task {task.name!r} are longer than the context of every deployment of "
                f"{' and '.join(f'tier {tier!r}' for tier in task.tiers)}. Send less, or add a deployment with a larger "
                "`context`."
            )
        first = next(one for rung in serving for one in rung)
        skipped = "" if any(first in rung for rung in fitting) else f"the inputs are too long for {first.name}"
        return Ladder(fitting, self.breakers, first=first, skipped=skipped, slow_after=task.slow_after)

    async def _ask(self, exchange: Exchange, question: Messages) -> Generation | CanaryStateChanged | BudgetDenial:
        """Make the one provider call of EXCHANGE and record it. Raises what its failure means.

        Returns how the canary stands if otherwise than was thought, and the budget that a canary exceeds: nobody
        was called then.
        """
        choice = exchange.choice
        deployment = choice.deployment
        messages = ask_again(question, choice.problems) if choice.problems else question
        most = exchange.most_cost(messages)
        asked = digest([[message["role"], message["content"]] for message in question])
        call = ModelCall(
            exchange.call,
            deployment,
            exchange.attempt,
            prompt_digest=asked if messages is question else digest([[m["role"], m["content"]] for m in messages]),
            switched=choice.switched,
            prompt_version=exchange.task.prompt_version,
            prompt_bytes=exchange.prompt_bytes,
            escalation=exchange.learned.version,
            reserved_nano_usd=most,
            accounts=find_accounts(self.routes, exchange.call) if most and self.routes.budgets else (),
            spare_nano_usd=exchange.spare,
            part=exchange.part,
            within=timedelta(seconds=choice.timeout),
        )
        file = self._files.get(deployment.name)
        call.question = CacheEntry.of(
            exchange.call,
            exchange.task,
            deployment,
            prompt=asked,
            holder=call.call_id,
            timeout=choice.timeout,
            canary=call.canary if exchange.tries else "",
            version=await file.version() if file is not None and exchange.task.cache else "",
        )
        local = (self._local or {})[exchange.task.name] if deployment.local else None
        key = None if deployment.local or deployment.gguf else provider.read_key(deployment)
        try:
            async with self._flights.turn(call.question):
                found = await self._begin(call)
                if isinstance(found, CachedAnswer):
                    return exchange.kept(call, found)
                if isinstance(found, CanaryStateChanged) or (found is not None and exchange.tries):
                    return found
                if found is not None:
                    raise found.as_error(exchange.earlier)
                self.breakers.note_call(deployment.name)
                return await self._make(exchange, call, messages, key=key, local=local)
        except asyncio.CancelledError:
            await self._settle(call, lambda connection: call.settle(connection, Settlement("cancelled", error="cancelled")))
            raise

    async def _begin(self, call: ModelCall) -> CachedAnswer | BudgetDenial | CanaryStateChanged | None:
        """Write that CALL goes out now. Returns what makes it needless or forbids it, if anything does."""
        if time.monotonic() > self._sweep_at:
            self._sweep_at = time.monotonic() + _SWEEP
            await self._commits.run(_sweep, exclusive=True)
        wait = 0.02
        while True:
            found = await self._commits.run(call.begin, exclusive=call.exclusive)
            if not isinstance(found, InFlight):
                return found
            # Another process asks the same. Its answer is a row, which nobody announces.
            await asyncio.sleep(min(wait, max((found.until - now()).total_seconds(), 0.001)))
            wait = min(wait * 1.5, 0.5)

    async def _make(
        self, exchange: Exchange, call: ModelCall, messages: Messages, *, key: str | None, local: LocalModel | None
    ) -> Generation:
        """Make CALL and record how it ended. Raises what its failure means."""
        with start_span(call, messages, temperature=exchange.task.temperature) as span:
            try:
                reply = await self._reply(exchange, exchange.choice, messages, key=key, local=local)
            except ProviderFailed as error:
                failure = error.failure
            else:
                settled, answer = exchange.read(reply, messages)
                self.breakers.note_success(call.deployment.name)
                generation = await self._record(exchange, call, settled, answer, reply)
                end_span(span, call, settled, reply)
                return generation or exchange.ended(call, settled, answer, reply)
            settled = Settlement(failure.outcome, error=failure.kind, status=failure.status)
            self._note(call.deployment.name, failure)
            await self._settle(call, lambda connection: call.settle(connection, settled))
            end_span(span, call, settled)
            raise exchange.failed(call, settled, failure)

    async def _reply(
        self, exchange: Exchange, choice: Choice, messages: Messages, *, key: str | None, local: LocalModel | None
    ) -> Reply:
        if (model := self._files.get(choice.deployment.name)) is not None:
            temperature = exchange.task.temperature
            return await model.complete(messages, exchange.form, timeout=choice.timeout, temperature=temperature)
        return await provider.complete(
            choice.deployment,
            messages,
            exchange.form,
            timeout=choice.timeout,
            temperature=exchange.task.temperature,
            key=key,
            local=local,
        )

    async def _record(
        self, exchange: Exchange, call: ModelCall, settled: Settlement, answer: Answer | None, reply: Reply
    ) -> Generation | None:
        """Write what CALL has cost, and what it has brought: for others, or else for an attempt that comes after this."""
        to_keep = exchange.to_keep(settled, answer, reply)
        generation = exchange.ended(call, settled, answer, reply) if to_keep is not None else None
        # The cache has it anyway, and asking a local deployment again costs nothing.
        repeated = generation if call.question is None and not call.deployment.local else None
        kept = repeated.model_dump_json() if repeated else None
        await self._settle(call, lambda connection: call.settle(connection, settled, to_keep, answer=kept))
        return generation

    async def _settle(self, call: ModelCall, write: Callable[[sa.Connection], None]) -> None:
        await self._commits.run(write, exclusive=call.exclusive)
        self._arms.note_rollback(call.canary, call.rolled_back)

    async def override(self, call_id: str, *, correct: bool) -> None:
        """Note whether a person found the answer of a recorded call CORRECT, for the canary that it took part in."""
        canary, why = await self._commits.run(lambda one: record_verdict(one, call_id, correct=correct), exclusive=True)
        self._arms.note_rollback(canary, why)

    def take_rollbacks(self) -> list[str]:
        """Return the canaries that calls of this router have rolled back since this was asked last."""
        return self._arms.take_rollbacks()

    async def raise_budget(self, call: RaiseCall) -> RaiseResult:
        """Raise a budget by what a person has granted, once for the step of CALL. Raises `InvalidInput`."""
        limit = find_budget(self.routes, call.budget).limit
        return await self._commits.run(lambda connection: raise_budget(connection, call, limit), exclusive=True)

    async def label_answer(self, call: JudgeCall) -> LabelResult:
        """Write down whether an answer was right, once for the step of CALL. Raises `InvalidInput`."""

        def say(connection: sa.Connection) -> tuple[LabelResult, tuple[str, str]]:
            said = label_answer(connection, call)
            return said, record_verdict(connection, said.call_id, correct=last_verdict(connection, said.call_id))

        labelled, (canary, why) = await self._commits.run(say, exclusive=True)
        self._arms.note_rollback(canary, why)
        return labelled

    def _note(self, deployment: str, failure: ProviderFailure) -> None:
        """Tell the breakers of FAILURE, if it says something of DEPLOYMENT and not only of the request."""
        if failure.verdict == "again" or failure.out_of_credit:
            self.breakers.note_failure(deployment, failure.kind, at_least=failure.cooldown)


def _pick_up(connection: sa.Connection, step: StepRef, attempt: int) -> Generation | None:
    """Give up what attempts of STEP before ATTEMPT have left unsettled, and return what one of them has brought."""
    give_up(connection, calls_before(step, attempt))
    return repeats.load_answer(connection, step, attempt)


def _sweep(connection: sa.Connection) -> None:
    give_up(connection, overdue_calls())
    repeats.forget_answers(connection)

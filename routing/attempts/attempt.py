"""One attempt, from top to bottom: choose, hold back, write down, send, read, settle, and say what happens next."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from perdure.errors import AskAgain, InvalidAnswer, InvalidSettings, ModelError, ModelRefused, ModelUnavailable
from perdure.lineage import digest
from perdure.routing.attempts._reading import as_kept, as_record, confidence_of, read_reply
from perdure.routing.attempts.canaries import CanaryStates
from perdure.routing.attempts.ladder import Choice
from perdure.routing.attempts.question import Question
from perdure.routing.calls import (
    BudgetDenial,
    CachedAnswer,
    CacheEntry,
    InFlight,
    ModelCall,
    PastAttempts,
    Settlement,
    SingleFlight,
    end_span,
    find_accounts,
    load_past_attempts,
    recover,
    start_span,
    sweep,
)
from perdure.routing.canary import CanaryAssignment, CanaryStateChanged
from perdure.routing.contracts import Attempt, GenerateCall, Generation
from perdure.routing.escalation import ActiveEscalation, load_active
from perdure.routing.load import Routes
from perdure.routing.prompts import Answer, Messages, ask_again
from perdure.routing.providers import CircuitBreakers, Claim, Model, Models, ProviderFailed, ProviderFailure, Reply
from perdure.routing.routes import Deployment
from perdure.storage import Database, GroupCommit, now

_SWEEP = 60.0
"""Seconds between two looks for calls that nobody has settled and answers that nobody may have any more."""

AT_ONCE = timedelta(milliseconds=1)
"""The delay of an attempt that goes to another deployment: there is nothing to wait for."""


@dataclass(frozen=True)
class ModelAttempt:
    """What one attempt knows: the QUESTION, the RECORD of its call, the MESSAGES it sends, and what came before."""

    question: Question
    record: ModelCall
    messages: Messages
    past: PastAttempts = PastAttempts()  # noqa: RUF009  # frozen
    escalation: ActiveEscalation = ActiveEscalation()  # noqa: RUF009  # frozen
    """What was learned about the task, if it wants to know."""
    asks_again: bool = False
    """Whether it says what was wrong with an earlier answer."""

    def read(self, reply: Reply) -> tuple[Settlement, Answer | None]:
        """Return how the call that brought REPLY ended, and the answer if there is one that fits."""
        settlement, answer = read_reply(reply, self.record.deployment, self.question.form, self.messages)
        if answer is not None and (doubt := self._doubt(settlement.confidence)):
            return replace(settlement, outcome="unsure", error=doubt), answer
        return settlement, answer

    def _doubt(self, confidence: float | None) -> str:
        """Return why an answer of CONFIDENCE does not count while there is a larger tier to ask; empty: it counts."""
        below = self.question.task.escalate_below
        learned = self.escalation.escalation
        doubt = ""
        if learned is not None and learned.judges(self.record.deployment):
            doubt = self.escalation.reason if self.escalation.escalates(confidence, self.record.prompt_bytes) else ""
        elif below is not None and confidence is not None and confidence < below:
            doubt = f"confidence below {below}"
        unsure = Attempt(
            attempt=self.record.attempt,
            deployment=self.record.deployment.name,
            outcome="unsure",
            canary=self.record.tries_canary,
        )
        return doubt if doubt and self._next((*self.past.attempts, unsure)) is not None else ""

    def generation(self, settlement: Settlement, answer: Answer, reply: Reply) -> Generation:
        """Return the result that ANSWER makes."""
        return Generation(
            value=answer.value,
            confidence=confidence_of(reply, answer),
            ask_below=self.question.task.ask_below,
            record=as_record(self.record, self.past, settlement),
        )

    def from_cache(self, kept: CachedAnswer) -> Generation:
        """Return the result that a KEPT answer makes, without a call."""
        return Generation(
            value=kept.value,
            confidence=kept.confidence,
            ask_below=self.question.task.ask_below,
            record=as_record(self.record, self.past, kept),
        )

    # What happens next

    def after_answer(self, settlement: Settlement) -> ModelError:
        """Return the error that says what happens after an answer that does not count."""
        attempts = (*self.past.attempts, self.record.as_attempt(settlement))
        after = self._next(attempts)
        facts = _facts(attempts)
        if settlement.outcome == "refused":
            said = f"{self._where} {settlement.error}"
            if after is None:
                return ModelRefused(f"{said}. A person has to look at the inputs.", facts=facts)
            return ModelUnavailable(f"{said}.{_announce(after)}", retry_after=AT_ONCE, facts=facts)
        if settlement.outcome == "unsure" and after is not None:
            return AskAgain(f"{self._where} is not sure of its answer.{_announce(after)}", retry_after=AT_ONCE, facts=facts)
        said = f"the answer of {self._where} does not fit {self.question.call.output.name}"
        if after is None:
            again = ", also when asked again" if self.asks_again else ""
            return InvalidAnswer(
                f"{said}{again}: {settlement.error}. Make the instructions plainer, the output simpler, or give the task a "
                "larger tier.",
                facts=facts,
            )
        return AskAgain(f"{said}: {settlement.error}.{_announce(after)}", retry_after=AT_ONCE, facts=facts)

    def after_failure(self, settlement: Settlement, failure: ProviderFailure) -> ModelError:
        """Return the error that says what happens after a call that FAILURE has ended."""
        attempts = (*self.past.attempts, self.record.as_attempt(settlement))
        facts = _facts(attempts)
        said = f"{self._where} {failure.what}"
        # What is wrong with a canary's request need not be wrong with the others'.
        final = failure.verdict == "never" and not self.record.tries_canary
        after = None if final else self._next(attempts)
        if after is None:
            return ModelRefused(f"{said}. {failure.remedy}", facts=facts)
        if after.deployment.name == self.record.deployment.name:
            return ModelUnavailable(f"{said}. It is tried again.", retry_after=failure.retry_after, facts=facts)
        return ModelUnavailable(f"{said}.{_announce(after)}", retry_after=AT_ONCE, facts=facts)

    def _next(self, attempts: tuple[Attempt, ...]) -> Choice | None:
        return self.question.ladder.choose(attempts, self.record.attempt + 1)

    @property
    def _where(self) -> str:
        deployment = self.record.deployment
        return f"deployment {deployment.name!r} ({deployment.model}) for task {self.question.task.name!r}"


@dataclass(frozen=True)
class _Plan:
    """Whom attempt NUMBER asks, and how: QUESTION as it is put, to whom by CHOICE, and its part in a canary."""

    number: int
    question: Question
    choice: Choice
    size: int
    """How many bytes the question has, as it was asked."""
    assignment: CanaryAssignment | None
    spare: int = 0
    """What budgets have to have left besides, in nano-USD."""

    @property
    def messages(self) -> Messages:
        """What is sent."""
        problems = self.choice.problems
        return ask_again(self.question.messages, problems) if problems else self.question.messages


class Attempts:
    """Makes the attempts of a worker at ROUTES with MODELS, and records them in DATABASE by COMMITS."""

    def __init__(
        self, database: Database, routes: Routes, models: Models, breakers: CircuitBreakers, *, commits: GroupCommit
    ) -> None:
        self.canaries = CanaryStates(routes, breakers)
        self._database = database
        self._routes = routes
        self._models = models
        self._breakers = breakers
        self._commits = commits
        self._single_flight = SingleFlight()
        self._sweep_at = 0.0

    async def make(self, question: Question, number: int) -> Generation:
        """Make attempt NUMBER at QUESTION, one provider call, and return the answer. Raises what happens next instead."""
        call = question.call
        past = PastAttempts()
        if number > 1:
            # A worker may have died with the answer in its hands.
            brought = await self._commits.run(lambda connection: recover(connection, call.step, number), exclusive=True)
            if brought is not None:
                return brought
            past = await load_past_attempts(self._database, call.step, number)
        escalation = await self.load_escalation(call)
        no_canary = ""
        while True:
            attempt, model, claim = await self._choose(question, number, past, escalation, no_canary)
            with claim:
                try:
                    async with self._single_flight.turn(attempt.record.cache_entry):
                        obstacle = await self._begin(attempt.record)
                        if obstacle is None:
                            return await self._call(attempt, model, claim)
                except asyncio.CancelledError:
                    await self._settle(attempt.record, Settlement("cancelled", error="cancelled"))
                    raise
            if isinstance(obstacle, CachedAnswer):
                return attempt.from_cache(obstacle)
            if isinstance(obstacle, CanaryStateChanged):
                self.canaries.update_state(attempt.record.assignment, obstacle)
            elif attempt.record.tries_canary:  # the budget need not stand in the way of the others
                no_canary = f"{attempt.record.deployment.name} exceeds {obstacle.account.title}"
            else:
                raise obstacle.as_error(past.attempts)

    async def _choose(
        self, question: Question, number: int, past: PastAttempts, escalation: ActiveEscalation, no_canary: str
    ) -> tuple[ModelAttempt, Model, Claim]:
        """Return the attempt that comes after those PAST, the model that it calls, and the right to call that once.

        NO_CANARY is why it tries none. Raises `ModelUnavailable` where all that may be asked are out of service.
        """
        broken: dict[str, InvalidSettings] = {}
        while True:
            plan = self._plan(question, number, past, no_canary, broken)
            deployment = plan.choice.deployment.with_prices_at(now())
            try:
                model = await self._models.prepare(deployment, plan.question.task)
            except InvalidSettings as error:
                broken[deployment.name] = error
                continue
            if (claim := self._breakers.claim(deployment.name)) is not None:
                break
            # Another call finds out whether it is back, or it is to be left alone, and there is nobody else.
            if not await self._breakers.wait_for_trial(deployment.name):
                self._refuse_while_open(question, past, deployment)
        try:
            record = self._record(plan, deployment, escalation, model.version)
        except BaseException:
            claim.release()
            raise
        asks_again = bool(plan.choice.problems)
        return ModelAttempt(plan.question, record, plan.messages, past, escalation, asks_again), model, claim

    def _plan(
        self,
        question: Question,
        number: int,
        past: PastAttempts,
        no_canary: str,
        broken: Mapping[str, InvalidSettings],
    ) -> _Plan:
        """Return whom attempt NUMBER at QUESTION asks after those PAST, and how. BROKEN cannot be asked here."""
        whys = {name: error.message for name, error in broken.items()}
        choice = question.ladder.choose(past.attempts, number, broken=whys)
        if choice is None and broken:
            raise next(iter(broken.values()))
        if choice is None:
            raise ModelRefused(
                f"every deployment for task {question.task.name!r} has refused it. Look at what they said: "
                "`perdure show` lists the attempts."
            )
        assignment = self.canaries.assign(question, past, number)
        if assignment is None or not assignment.tries_canary:
            return _Plan(number, question, choice, question.size, assignment)
        trial = no_canary or self.canaries.prepare_trial(assignment.canary, question, choice)
        if isinstance(trial, str):
            switched = "; ".join(filter(None, (f"no canary: {trial}", choice.switched)))
            assignment = replace(assignment, tries_canary=False)
            return _Plan(number, question, replace(choice, switched=switched), question.size, assignment)
        # A canary must not use up a budget: the call that comes after it if it fails has to fit in as well.
        spare = question.most_cost(choice.deployment.with_prices_at(now()), question.messages)
        return _Plan(number, *trial, question.size, assignment, spare)

    def _refuse_while_open(self, question: Question, past: PastAttempts, deployment: Deployment) -> None:
        """Raise `ModelUnavailable` for as long as DEPLOYMENT, which comes back before the others, is out of service."""
        why, wait = self._breakers.why_open(deployment.name), self._breakers.opens_for(deployment.name)
        if why:
            raise ModelUnavailable(
                f"every deployment that may answer task {question.task.name!r} is out of service; the first to be tried "
                f"again is {deployment.name!r}, in {wait.total_seconds():.0f} s: {why}.",
                retry_after=max(wait, AT_ONCE),
                facts=_facts(past.attempts),
            )

    def _record(self, plan: _Plan, deployment: Deployment, escalation: ActiveEscalation, version: str) -> ModelCall:
        """Return the record of the call that PLAN is, of DEPLOYMENT at today's price, by the VERSION of its model."""
        question, choice = plan.question, plan.choice
        most = question.most_cost(deployment, plan.messages)
        record = ModelCall(
            question.call,
            deployment,
            plan.number,
            prompt_digest=digest_of(plan.messages),
            switched=choice.switched,
            prompt_version=question.task.prompt_version,
            prompt_bytes=plan.size,
            escalation=escalation.version,
            reserved_nano_usd=most,
            spare_nano_usd=plan.spare,
            accounts=find_accounts(self._routes, question.call) if most and self._routes.budgets else (),
            assignment=plan.assignment,
            within=timedelta(seconds=choice.timeout),
        )
        record.cache_entry = CacheEntry.of(
            question.call,
            question.task,
            deployment,
            prompt=digest_of(question.messages) if choice.problems else record.prompt_digest,
            holder=record.call_id,
            timeout=choice.timeout,
            canary=record.canary if record.tries_canary else "",
            version=version,
        )
        return record

    async def _begin(self, record: ModelCall) -> CachedAnswer | BudgetDenial | CanaryStateChanged | None:
        """Write RECORD down and hold back what it may cost. Returns what makes it needless or forbids it, if anything."""
        if time.monotonic() > self._sweep_at:
            self._sweep_at = time.monotonic() + _SWEEP
            await self._commits.run(sweep, exclusive=True)
        wait = 0.02
        while True:
            found = await self._commits.run(record.begin, exclusive=record.exclusive)
            if not isinstance(found, InFlight):
                return found
            # Another process asks the same. Its answer is a row, which nobody announces.
            await asyncio.sleep(min(wait, max((found.until - now()).total_seconds(), 0.001)))
            wait = min(wait * 1.5, 0.5)

    async def _call(self, attempt: ModelAttempt, model: Model, claim: Claim) -> Generation:
        """Send what ATTEMPT asks to MODEL, read the answer, settle, and return it. Raises what happens next instead."""
        record, task = attempt.record, attempt.question.task
        with start_span(record, attempt.messages, temperature=task.temperature) as span:
            failure: ProviderFailure
            try:
                reply = await model.complete(
                    attempt.messages,
                    attempt.question.form,
                    timeout=record.within.total_seconds(),
                    temperature=task.temperature,
                )
            except ProviderFailed as error:
                failure = error.failure
            else:
                claim.note_success()
                settlement, answer = attempt.read(reply)
                if answer is None or settlement.outcome != "answered":
                    await self._settle(record, settlement)
                    end_span(span, record, settlement, reply)
                    raise attempt.after_answer(settlement)
                generation = attempt.generation(settlement, answer, reply)
                await self._settle(record, settlement, as_kept(settlement, answer, reply), generation)
                end_span(span, record, settlement, reply)
                return generation
            settlement = Settlement(failure.outcome, error=failure.kind, status=failure.status)
            if failure.about_deployment:
                claim.note_failure(failure.kind, at_least=failure.cooldown)
            else:
                claim.note_success()
            await self._settle(record, settlement)
            end_span(span, record, settlement)
            raise attempt.after_failure(settlement, failure)

    async def _settle(
        self,
        record: ModelCall,
        settlement: Settlement,
        kept: CachedAnswer | None = None,
        generation: Generation | None = None,
    ) -> None:
        """Write what RECORD has cost, and what it has brought: for others, or else for an attempt that comes after this."""
        # The cache has it anyway, and asking a local deployment again costs nothing.
        repeated = generation if record.cache_entry is None and not record.deployment.local else None
        answer = repeated.model_dump_json() if repeated else None
        await self._commits.run(
            lambda connection: record.settle(connection, settlement, kept, answer=answer), exclusive=record.exclusive
        )
        self.canaries.note_rollback(record.canary, record.rolled_back)

    async def load_escalation(self, call: GenerateCall) -> ActiveEscalation:
        """Return what was learned about the task of CALL, if the task wants to know; its run uses one version of it."""
        if self._routes.task(call.task).escalate is None:
            return ActiveEscalation()
        return await load_active(self._database, call)


def digest_of(messages: Messages) -> str:
    """Return what a record keeps of MESSAGES in place of them."""
    return digest([[message["role"], message["content"]] for message in messages])


def _facts(attempts: tuple[Attempt, ...]) -> Mapping[str, object]:
    return {"attempts": [each.model_dump(mode="json", exclude_defaults=True) for each in attempts]}


def _announce(choice: Choice) -> str:
    if choice.problems:
        return f" The next attempt asks deployment {choice.deployment.name!r} again."
    return f" The next attempt goes to deployment {choice.deployment.name!r}."

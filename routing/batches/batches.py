"""What becomes of calls that can wait: sent together at a lower price, and each answer read as if it had come alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import sqlalchemy as sa
from pydantic import JsonValue

from perdure.errors import (
    ModelRefused,
    ModelUnavailable,
    NoRoute,
    PerdureError,
)
from perdure.lineage import StepRef
from perdure.routing.attempts import ModelAttempt, digest_of
from perdure.routing.batches._batch_api import BatchAnswers, BatchApi
from perdure.routing.calls import (
    ModelCall,
    Outcome,
    Settlement,
    find_accounts,
    load_sent_times,
    load_state,
    settle_late,
)
from perdure.routing.contracts import (
    BatchAnswer,
    BatchCall,
    CollectorState,
    EnqueueResult,
    GenerateCall,
    PollResult,
    SubmitResult,
)
from perdure.routing.prompts import resolve_output
from perdure.routing.providers import ProviderFailed, Reply, rehearse
from perdure.routing.router import Router
from perdure.routing.routes import Deployment
from perdure.storage import AdvisoryLock, Database, GroupCommit, now


@dataclass(frozen=True)
class _BatchedCall:
    """One call of a batch, ready to be asked or read."""

    attempt: ModelAttempt
    full: Deployment
    """The deployment at the price of a call by itself."""


class Batches:
    """The batch lane of ROUTER, with its books in DATABASE."""

    def __init__(self, database: Database, router: Router) -> None:
        self._database = database
        self._router = router
        self._commits = GroupCommit(database, lock=AdvisoryLock.MODEL_CALLS)

    def choose_deployment(self, call: GenerateCall) -> Deployment | None:
        """Return the deployment whose batches CALL can go into: the first of its tier that takes any. None: there is none.

        Raises what `Router.generate` would raise of the call itself: it must not take a batch along.
        """
        self._router.prepare(call, resolve_output(call.output))
        task = self._router.routes.task(call.task)
        serving = self._router.routes.deployments_for(task)
        return next((one for one in serving if one.batch_price is not None and not one.local), None)

    def describe_deployment(self, deployment: Deployment | None) -> EnqueueResult:
        """Return what the run of a call that went to DEPLOYMENT is told."""
        return EnqueueResult(deployment=deployment.name, within=deployment.batch_within) if deployment else EnqueueResult()

    def new_collector(self, deployment: Deployment) -> CollectorState:
        """Return the state of a collector for DEPLOYMENT that has nothing yet."""
        return CollectorState(
            deployment=deployment.name,
            size=deployment.batch_size,
            wait=deployment.batch_wait,
            poll=deployment.batch_poll,
        )

    async def submit(self, batch: BatchCall, *, attempt: int) -> SubmitResult:
        """Send BATCH, once: a later ATTEMPT looks whether an earlier one has sent it.

        Calls that a budget denies, or that cannot be asked so, stay out. Raises `ModelUnavailable` or `ModelRefused`.
        """
        self._deployment(batch)
        bodies: dict[str, dict[str, JsonValue]] = {}
        for call in batch.calls:
            item = await self._item(call, batch, now())
            if isinstance(item, _BatchedCall) and (body := await _body_of(item)) and await self._reserve(item):
                bodies[item.attempt.record.call_id] = body
        if not bodies:
            return SubmitResult(at_provider="")
        api = self._api(batch)
        try:
            # The answer to the earlier attempt's request may have got lost together with the worker.
            known = await api.find_batch(batch.batch) if attempt > 1 else None
            if known is not None:
                return SubmitResult(at_provider=known, adopted=True)
            return SubmitResult(at_provider=await api.submit(batch.batch, bodies))
        except ProviderFailed as error:
            raise _as_error(batch, error) from None

    async def poll(self, batch: BatchCall) -> PollResult:
        """Return whether the provider has done with BATCH."""
        try:
            state = await self._api(batch).state(batch.at_provider)
        except ProviderFailed as error:
            raise _as_error(batch, error) from None
        return PollResult(ended=state.ended, status=state.status)

    async def fetch(self, batch: BatchCall) -> list[BatchAnswer]:
        """Return what BATCH has brought for each of its calls, and book it."""
        if batch.deployment not in self._router.routes.deployments:
            return [
                _unanswered(call, f"models.toml has no deployment {batch.deployment!r} any more") for call in batch.calls
            ]
        sent = await load_sent_times(self._database, [_call_id(call.step, batch.batch) for call in batch.calls])
        items = [await self._item(call, batch, sent.get(_call_id(call.step, batch.batch), now())) for call in batch.calls]
        found = BatchAnswers()
        # Without an id nobody knows whether the provider has taken the batch.
        status, seen = ("not sent", False) if not batch.at_provider else ("", True)
        if batch.at_provider:
            try:
                api = self._api(batch)
                state = await api.state(batch.at_provider)
                status = state.status
                found = await api.answers(state)
            except ProviderFailed as error:
                if error.failure.verdict == "again":
                    raise _as_error(batch, error) from None
                # Nobody will ever know what it has brought: each run asks by itself.
                status, seen = error.failure.kind, False
        answers = []
        for call, item in zip(batch.calls, items, strict=True):
            if not isinstance(item, _BatchedCall):
                answers.append(_unanswered(call, item))
            elif (reply := found.replies.get(item.attempt.record.call_id)) is not None:
                answers.append(await self._answer(item, batch, reply))
            else:
                why = found.unreadable.get(item.attempt.record.call_id, "")
                # A line without an id may be the answer to any of those that have none.
                lost: Outcome = "ambiguous" if why or found.strays or not seen else "unavailable"
                await self._settle(item, Settlement(lost, error=why or f"batch {status}, without an answer"))
                answers.append(_unanswered(call, why or f"batch {batch.batch} ({status}) has no answer to it"))
        return answers

    async def _answer(self, item: _BatchedCall, batch: BatchCall, reply: Reply) -> BatchAnswer:
        """Return what REPLY means for the run of ITEM, and book it."""
        attempt = item.attempt
        settled, answer = attempt.read(reply)
        await self._settle(item, _with_savings(item, settled))
        if answer is None or settled.outcome != "answered":
            why = f"the answer of batch {batch.batch} does not count: {settled.error}"
            return _unanswered(attempt.question.call, why, cost=settled.usage.cost_nano_usd)
        generation = attempt.generation(settled, answer, reply)
        record = generation.record.model_copy(update={"batch": batch.batch, "saved_nano_usd": _savings(item, settled)})
        generation = generation.model_copy(update={"record": record})
        return _answer_to(attempt.question.call).model_copy(update={"generation": generation})

    async def _item(self, call: GenerateCall, batch: BatchCall, at: datetime) -> _BatchedCall | str:
        """Return what CALL of BATCH asks, at the prices AT that time, or why it cannot be asked: its task may be gone."""
        try:
            question = self._router.prepare(call, resolve_output(call.output))
        except PerdureError as error:
            return error.message
        full = self._deployment(batch).with_prices_at(at)
        deployment = full.with_batch_prices()
        escalation = await self._router.load_escalation(call)
        most = question.most_cost(deployment, question.messages)
        record = ModelCall(
            call,
            deployment,
            1,
            prompt_digest=digest_of(question.messages),
            lane="batch",
            prompt_version=question.task.prompt_version,
            prompt_bytes=question.size,
            escalation=escalation.version,
            reserved_nano_usd=most,
            accounts=find_accounts(self._router.routes, call) if most else (),
            within=full.batch_within,
            # The same in every attempt and process, so that a call is booked once.
            call_id=_call_id(call.step, batch.batch),
        )
        return _BatchedCall(ModelAttempt(question, record, question.messages, escalation=escalation), full)

    async def _reserve(self, item: _BatchedCall) -> bool:
        """Book that ITEM goes out and return whether it does: a budget may deny it."""

        def reserve(connection: sa.Connection) -> bool:
            found = load_state(connection, item.attempt.record.call_id)
            if found is not None:
                return found[0] == "sent"
            return item.attempt.record.begin(connection) is None

        return await self._commits.run(reserve, exclusive=True)

    async def _settle(self, item: _BatchedCall, settled: Settlement) -> None:
        call_id = item.attempt.record.call_id
        await self._commits.run(lambda connection: settle_late(connection, call_id, settled), exclusive=True)

    def _deployment(self, batch: BatchCall) -> Deployment:
        deployments: Mapping[str, Deployment] = self._router.routes.deployments
        if batch.deployment not in deployments:
            raise NoRoute(
                f"batch {batch.batch} belongs to deployment {batch.deployment!r}, which models.toml has no more. Put it "
                "back until its batches have ended."
            )
        return deployments[batch.deployment]

    def _api(self, batch: BatchCall) -> BatchApi:
        return BatchApi(self._deployment(batch))


async def _body_of(item: _BatchedCall) -> dict[str, JsonValue] | None:
    """Return the request that ITEM would be by itself: providers want different ones of different models."""
    question = item.attempt.question
    return await rehearse(item.full, item.attempt.messages, question.form, temperature=question.task.temperature)


def _answer_to(call: GenerateCall) -> BatchAnswer:
    return BatchAnswer(first_execution_run_id=call.step.lineage.first_execution_run_id, step=call.step.name)


def _unanswered(call: GenerateCall, why: str, *, cost: int = 0) -> BatchAnswer:
    return _answer_to(call).model_copy(update={"why": why, "cost_nano_usd": cost})


def _call_id(step: StepRef, batch: str) -> str:
    return hashlib.sha256(f"{step}/{batch}".encode()).hexdigest()[:32]


def _savings(item: _BatchedCall, settled: Settlement) -> int:
    usage = settled.usage
    alone = item.full.cost(usage.prompt_tokens, usage.completion_tokens, cached_tokens=settled.cached_tokens)
    return alone - usage.cost_nano_usd


def _with_savings(item: _BatchedCall, settled: Settlement) -> Settlement:
    return replace(settled, saved_nano_usd=_savings(item, settled))


def _as_error(batch: BatchCall, error: ProviderFailed) -> ModelUnavailable | ModelRefused:
    said = f"batch {batch.batch} of deployment {batch.deployment!r}: the provider {error.failure.what}."
    if error.failure.verdict == "again":
        return ModelUnavailable(f"{said} It is tried again.", retry_after=error.failure.retry_after)
    return ModelRefused(f"{said} {error.failure.remedy}")

"""How a run asks a person, and which answers count."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from pydantic import JsonValue, ValidationError
from temporalio import workflow
from temporalio.exceptions import ApplicationError

from perdure.errors import (
    ApprovalExpired,
    ChangesRequested,
    InvalidInput,
    Rejected,
)
from perdure.governance.contracts import (
    APPROVALS,
    DECIDE,
    PLACEHOLDER,
    ApprovalRequest,
    AskCall,
    AskResult,
    Decision,
    DecisionCall,
    RecordCall,
    RecordResult,
    Via,
    digest_request,
)
from perdure.lineage import StepRef
from perdure.workflows import attributes
from perdure.workflows.call import EFFECT_RETRIES, Value, as_json, execute
from perdure.workflows.labels import ModelAnswer, label_answer
from perdure.workflows.run import OpenApproval, Run, current_run

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


async def approval(
    question: str,
    *,
    of: str,
    within: timedelta = timedelta(days=2),
    about: Value = None,
    risk: Literal["low", "medium", "high"] = "medium",
    judges: ModelAnswer | None = None,
    name: str | None = None,
) -> Decision:
    """Ask OF the QUESTION and wait for a decision, at most WITHIN; return it if it approves.

    The decision binds to a digest over the question, ABOUT, the deadline and this run. Raises `Rejected`,
    `ChangesRequested` or `ApprovalExpired` otherwise; each says who, why and when. With JUDGES the decision is about that
    model's answer as well: to approve says that it was right, to reject that it was wrong.
    """
    run = current_run()
    step = run.step(name or "approval")
    request = _request(run, step, question, of=of, within=within, about=as_json(about), risk=risk)
    # Open before it is written down: a reviewer who reads the table may decide before this run hears that it was written.
    waiting = run.approvals[request.approval] = OpenApproval(request)
    asked = await execute(
        "perdure.ask",
        AskCall(step=step, request=request),
        AskResult,
        id=f"ask:{step.name}",
        summary=f"Ask {of}: {question}",
        timeout=timedelta(seconds=60),
        retries=EFFECT_RETRIES,
    )
    waiting.accept_unverified = asked.accept_unverified
    _show(run)
    try:
        await workflow.wait_condition(
            lambda: waiting.decision is not None,
            timeout=max(request.deadline - workflow.now(), timedelta(0)),
            timeout_summary=f"Deadline for {of}",
        )
        ended: Literal["decided", "expired", "withdrawn"] = "decided"
    except TimeoutError:
        ended = "expired"
    except asyncio.CancelledError:
        await _close(run, step, waiting, "withdrawn")
        raise
    await _close(run, step, waiting, ended)
    if judges is not None:
        await _label_judged_answer(judges, waiting.decision)
    return _approval_or_error(waiting)


def install_handlers(run: Run) -> None:
    """Give the run the update, the signal and the query that reviewers use. Called before the run starts."""

    def validate(*given: JsonValue) -> None:
        call = _parse_decision(given)
        # Only here, where no replay comes: before 0.2 the placeholder was taken for a name.
        refusal = call if isinstance(call, str) else _placeholder_refusal(call) or _refusal(run, call)
        if refusal:
            raise _DecisionRefused(refusal)

    async def decide(*given: JsonValue) -> Decision:
        """Decide an open approval: approve, reject or request changes."""
        call = _parse_decision(given)
        assert isinstance(call, DecisionCall), "the validator has let it through"
        await _wait_until_recorded(run, call)
        refusal = _refusal(run, call)
        if refusal:
            raise _DecisionRefused(refusal)
        return _accept(run, call, "update")

    async def decide_by_signal(*given: JsonValue) -> None:
        """Decide an open approval from the Temporal Web UI. The name in it is not verified."""
        # A signal cannot be refused, so what did not count is told where the reviewer looks. One without an input, or with
        # two, has to come this far, too: in the SDK it would fail every workflow task from then on.
        call = _parse_decision(given)
        if isinstance(call, str):
            _note_ignored(run, call)
            return
        await _wait_until_recorded(run, call)
        refusal = _refusal(run, call)
        placeholder = _placeholder_refusal(call)
        # Histories before 0.2 took the placeholder for a name. Remove the patch after 2027-06.
        if refusal is None and placeholder and workflow.patched("perdure.refuse-placeholder"):
            refusal = placeholder
        if refusal is None:
            _accept(run, call, "signal")
        else:
            _note_ignored(run, refusal)

    def approvals() -> list[ApprovalRequest]:
        """List the open approvals of this run."""
        return [
            each.request for each in run.approvals.values() if each.decision is None and each.accept_unverified is not None
        ]

    workflow.set_update_handler(DECIDE, decide, validator=validate)
    workflow.set_signal_handler(DECIDE, decide_by_signal)
    workflow.set_query_handler(APPROVALS, approvals)


def _request(
    run: Run,
    step: StepRef,
    question: str,
    *,
    of: str,
    within: timedelta,
    about: object,
    risk: Literal["low", "medium", "high"],
) -> ApprovalRequest:
    asked_at = workflow.now()
    draft = ApprovalRequest.model_validate(
        {
            "approval": step.name,
            "question": question,
            "of": of,
            "about": about,
            "risk": risk,
            "asked_at": asked_at,
            "deadline": asked_at + within,
            "digest": "",
        }
    )
    return draft.model_copy(update={"digest": digest_request(draft, run.lineage)})


class _DecisionRefused(ApplicationError):
    """What the sender of an update is answered; without a traceback, which the Temporal Web UI would show."""

    def __init__(self, refusal: str) -> None:
        super().__init__(refusal, type="DecisionRefused", non_retryable=True)

    @property
    def __traceback__(self) -> None:
        return None

    @__traceback__.setter
    def __traceback__(self, traceback: object) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]  # on purpose
        return None


def _parse_decision(given: Sequence[JsonValue]) -> DecisionCall | str:
    """Return what was sent as a decision, or why it is none, in words for who typed it."""
    if len(given) != 1:
        return f"a decision is one JSON object; {len(given) or 'nothing'} came"
    try:
        return DecisionCall.model_validate(given[0])
    except ValidationError as error:
        return "; ".join(_wrong(each) for each in error.errors(include_url=False, include_input=False))


def _wrong(each: ErrorDetails) -> str:
    place = ".".join(map(str, each["loc"]))
    if each["type"] == "missing":
        return f"{place!r} is missing"
    if each["type"] == "extra_forbidden":
        return f"there is no field {place!r}"
    said = each["msg"].removeprefix("Value error, ")
    return f"{place}: {said}" if place else said


def _placeholder_refusal(call: DecisionCall) -> str | None:
    if call.by.strip().casefold() == PLACEHOLDER.casefold():
        return f"write your name in place of {PLACEHOLDER!r}"
    return None


def _refusal(run: Run, call: DecisionCall) -> str | None:
    """Return why CALL does not count, or None if it does."""
    decided = run.decisions.get(call.approval)
    if decided is not None and not _repeats(decided, call):
        return f"approval {call.approval!r} was already decided: {decided.verdict} by {decided.by}"
    if decided is not None:
        return None
    waiting = run.approvals.get(call.approval)
    if waiting is None:
        names = ", ".join(run.approvals) or "none"
        return f"no approval {call.approval!r} is open in this run; open: {names}"
    if call.digest != waiting.request.digest:
        return f"the digest does not fit approval {call.approval!r}: what was asked has changed; read it again"
    if waiting.accept_unverified is False:
        return f"the decision by {call.by!r} is not verified, and this worker's policy refuses those (unverified_decisions)"
    if workflow.now() >= waiting.request.deadline:
        return f"approval {call.approval!r} expired at {waiting.request.deadline.isoformat()}"
    return None


async def _wait_until_recorded(run: Run, call: DecisionCall) -> None:
    """Wait until the request that CALL is about is written down, if it is open."""
    waiting = run.approvals.get(call.approval)
    if waiting is not None and waiting.accept_unverified is None:
        await workflow.wait_condition(lambda: waiting.accept_unverified is not None)


def _note_ignored(run: Run, why: str) -> None:
    workflow.logger.warning("decision by signal ignored: %s", why)
    for waiting in run.approvals.values():
        waiting.ignored.append(why)
    run.show()


def _accept(run: Run, call: DecisionCall, via: Via) -> Decision:
    decided = run.decisions.get(call.approval)
    if decided is not None:
        return decided
    decision = Decision(**call.model_dump(), via=via, decided_at=workflow.now())
    run.approvals[call.approval].decision = run.decisions[call.approval] = decision
    return decision


def _repeats(decided: Decision, call: DecisionCall) -> bool:
    return (decided.digest, decided.verdict, decided.by) == (call.digest, call.verdict, call.by)


async def _close(run: Run, step: StepRef, waiting: OpenApproval, ended: Literal["decided", "expired", "withdrawn"]) -> None:
    request, decision = waiting.request, waiting.decision
    del run.approvals[request.approval]
    _show(run)
    what = f"{decision.verdict} by {decision.by}" if decision else ended
    await execute(
        "perdure.record_decision",
        RecordCall(
            step=step, approval=request.approval, digest=request.digest, decision=decision, ended=ended, at=workflow.now()
        ),
        RecordResult,
        id=f"decision:{step.name}",
        summary=f"Decision: {what}",
        timeout=timedelta(seconds=60),
        retries=EFFECT_RETRIES,
    )


async def _label_judged_answer(answer: ModelAnswer, decision: Decision | None) -> None:
    # Whoever wants changes may want them of the rest; and what a person has answered is no model's.
    if decision is None or decision.verdict == "request changes" or not answer.record.prompt_digest:
        return
    try:
        await label_answer(answer, correct=decision.verdict == "approve", by=decision.by, source="approval")
    except InvalidInput as error:
        # What was decided holds, whether it can be learned from or not.
        workflow.logger.warning(
            "the decision cannot be recorded as a label: %s", error.message, extra={"prompt": answer.record.prompt_digest}
        )


def _approval_or_error(waiting: OpenApproval) -> Decision:
    request, decision = waiting.request, waiting.decision
    if decision is None:
        raise ApprovalExpired(f"nobody of {request.of} decided {request.question!r} before {request.deadline.isoformat()}")
    if decision.verdict == "reject":
        raise Rejected(f"{decision.by} rejected {request.question!r}: {decision.comment}")
    if decision.verdict == "request changes":
        raise ChangesRequested(f"{decision.by} wants changes to {request.question!r}: {decision.comment}")
    return decision


def _show(run: Run) -> None:
    """Tell the list and the run's page who is waited for."""
    run.show()
    waiting = sorted(run.approvals.values(), key=lambda each: each.request.deadline)
    if not waiting:
        workflow.upsert_search_attributes(
            [
                attributes.STATE.value_set(run.state),
                attributes.APPROVAL_OWNER.value_unset(),
                attributes.APPROVAL_DEADLINE.value_unset(),
            ]
        )
        return
    first = waiting[0].request
    workflow.upsert_search_attributes(
        [
            attributes.STATE.value_set("waiting_approval"),
            attributes.APPROVAL_OWNER.value_set(first.of),
            attributes.APPROVAL_DEADLINE.value_set(first.deadline),
            *run.note_risk(first.risk),
            *run.cost_update(),
        ]
    )

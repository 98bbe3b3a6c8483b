"""What a reply says: its answer, what it took, and the record of how it came."""

from __future__ import annotations

from perdure.routing.calls import CachedAnswer, ModelCall, Outcome, PastAttempts, Settlement
from perdure.routing.contracts import ModelRecord, Usage
from perdure.routing.prompts import Answer, Form, Messages, Misfit, most_prompt_tokens, size_in_bytes
from perdure.routing.providers import Reply, as_confidence
from perdure.routing.routes import Deployment

_WITHHELD = {
    "content_filter": "withheld its answer by its content filter",
    "refusal": "refused to answer",
}
"""How a call ends that was answered without an answer, and what is said of it."""

_LONGEST_TOKEN = 16
"""So many bytes a token has at most, in practice."""


def read_reply(reply: Reply, deployment: Deployment, form: Form, messages: Messages) -> tuple[Settlement, Answer | None]:
    """Return how the call of MESSAGES that brought REPLY ended, and the answer if there is one that fits FORM."""
    usage, estimated = _usage(deployment, reply, form, messages)
    outcome: Outcome = "answered"
    error = ""
    answer = None
    try:
        if reply.finish in _WITHHELD:
            raise Misfit(_WITHHELD[reply.finish])
        if reply.finish == "length":
            raise Misfit(f"the answer is cut off after {deployment.max_tokens} tokens")
        answer = form.read(reply.text)
    except Misfit as misfit:
        outcome, error = ("refused" if reply.finish in _WITHHELD else "invalid"), misfit.problems
    settlement = Settlement(
        outcome,
        error=error,
        model_version=reply.model,
        usage=usage,
        cached_tokens=reply.cached_tokens,
        estimated=estimated,
        answer_digest=answer.digest if answer else "",
        repairs=answer.repairs if answer else "",
        confidence=confidence_of(reply, answer) if answer else None,
    )
    return settlement, answer


def _usage(deployment: Deployment, reply: Reply, form: Form, messages: Messages) -> tuple[Usage, bool]:
    """Return what REPLY took, and whether any of that is our estimate.

    What a provider counts is believed where it can be true. Else a token counts for each byte, which is never too low.
    """
    if deployment.local:
        return Usage(), False
    told_prompt, told_completion = reply.tokens or (None, None)
    asked, most = size_in_bytes(messages), most_prompt_tokens(messages, form)
    written = max(reply.written, len(reply.text.encode("utf-8", "surrogatepass")))
    prompt = _believe(told_prompt, at_least=asked // (2 * _LONGEST_TOKEN), at_most=max(most, deployment.context))
    completion = _believe(told_completion, at_least=-(-written // _LONGEST_TOKEN), at_most=max(written, deployment.context))
    if completion is None and not written:
        completion = 0
    estimated = prompt is None or completion is None
    prompt = min(asked, deployment.context) if prompt is None else prompt
    completion = written if completion is None else completion
    cost = deployment.cost(prompt, completion, cached_tokens=min(reply.cached_tokens, prompt))
    return Usage(prompt_tokens=prompt, completion_tokens=completion, cost_nano_usd=cost), estimated


def _believe(told: int | None, *, at_least: int, at_most: int) -> int | None:
    return told if told is not None and at_least <= told <= at_most else None


def confidence_of(reply: Reply, answer: Answer) -> float | None:
    """Return how sure REPLY says that it is of ANSWER; None: it does not say."""
    if reply.confidence is not None:
        return reply.confidence
    return as_confidence(answer.value.get("confidence")) if isinstance(answer.value, dict) else None


def as_kept(settlement: Settlement, answer: Answer, reply: Reply) -> CachedAnswer:
    """Return what the cache may keep of ANSWER."""
    confidence = confidence_of(reply, answer)
    return CachedAnswer(answer.value, answer.digest, confidence, settlement.model_version, settlement.usage)


def as_record(call: ModelCall, past: PastAttempts, end: Settlement | CachedAnswer) -> ModelRecord:
    """Return the record of a step whose last CALL, after those PAST, came to this END; a kept answer is no call."""
    calls_before = sum(each.outcome not in ("not recorded", "denied", "cached") for each in past.attempts)
    cached = isinstance(end, CachedAnswer)
    return ModelRecord(
        call_id=call.call_id,
        task=call.call.task,
        tier=call.deployment.tier,
        deployment=call.deployment.name,
        model=end.model_version or call.deployment.model,
        usage=past.usage if cached else _sum(past.usage, end.usage),
        attempt=call.attempt,
        provider_calls=calls_before + (not cached),
        repaired=False if isinstance(end, CachedAnswer) else bool(end.repairs),
        repairs="" if isinstance(end, CachedAnswer) else end.repairs,
        prompt_digest=call.prompt_digest,
        prompt_version=call.prompt_version,
        arm=call.arm,
        escalation=call.escalation,
        canary=call.canary,
        answer_digest=end.answer_digest,
        milliseconds=sum(each.milliseconds for each in past.attempts) + call.milliseconds,
        switched=call.switched,
        earlier=past.attempts,
        cached=cached,
        saved_nano_usd=end.usage.cost_nano_usd if isinstance(end, CachedAnswer) else 0,
    )


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(
        prompt_tokens=one.prompt_tokens + other.prompt_tokens,
        completion_tokens=one.completion_tokens + other.completion_tokens,
        cost_nano_usd=one.cost_nano_usd + other.cost_nano_usd,
    )

"""What came of one attempt: an answer with its record, or an error that says what happens next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from perdure.errors import (
    AskAgain,
    InvalidAnswer,
    ModelError,
    ModelRefused,
    ModelUnavailable,
)
from perdure.routing.attempts.ladder import Choice, Ladder
from perdure.routing.calls import CachedAnswer, ModelCall, Outcome, Settlement
from perdure.routing.canary import CanaryAssignment
from perdure.routing.contracts import (
    Attempt,
    GenerateCall,
    Generation,
    ModelRecord,
    Usage,
)
from perdure.routing.escalation import ActiveEscalation
from perdure.routing.prompts import Answer, Form, Messages, Misfit, estimate_tokens, size_in_bytes
from perdure.routing.providers import ProviderFailure, Reply, as_confidence
from perdure.routing.routes import Deployment, Task

AT_ONCE = timedelta(milliseconds=1)
"""The delay of an attempt that goes to another deployment: there is nothing to wait for."""

_WITHHELD = {
    "content_filter": "withheld its answer by its content filter",
    "refusal": "refused to answer",
}
"""How a call ends that was answered without an answer, and what is said of it."""


@dataclass(frozen=True)
class Exchange:
    """One attempt: what is asked, of whom, and what came before."""

    call: GenerateCall
    task: Task
    form: Form
    ladder: Ladder
    choice: Choice
    attempt: int
    earlier: tuple[Attempt, ...]
    before: Usage
    """What the earlier attempts took."""
    prompt_bytes: int = 0
    """How long the question is."""
    learned: ActiveEscalation = ActiveEscalation()  # noqa: RUF009  # frozen
    """What was learned about the task, if it wants to know."""
    part: CanaryAssignment | None = None
    """The part that it has in a canary, if there is one."""
    spare: int = 0
    """The most that the call costs that comes after it if it fails, in nano-USD: a canary must not use up a budget."""

    @property
    def tries(self) -> bool:
        """Whether it tries what a canary tries."""
        return self.part is not None and self.part.tries_canary

    @property
    def deployment(self) -> Deployment:
        """Who is asked."""
        return self.choice.deployment

    @property
    def where(self) -> str:
        """Who is asked, for messages."""
        return f"deployment {self.deployment.name!r} ({self.deployment.model}) for task {self.task.name!r}"

    def most_cost(self, messages: Messages) -> int:
        """Return the most that asking MESSAGES can cost, in nano-USD."""
        # A token has one byte at least. Providers put a few of their own around each message and into the schema.
        prompt = size_in_bytes(messages) + self.form.size + 32 * (len(messages) + 1)
        return self.deployment.cost(min(prompt, self.deployment.context), self.deployment.max_tokens)

    def read(self, reply: Reply, messages: Messages) -> tuple[Settlement, Answer | None]:
        """Return how the call that brought REPLY ended, and the answer if there is one that counts."""
        usage, estimated = _usage(self.deployment, reply, messages)
        outcome: Outcome = "answered"
        error = ""
        answer = None
        try:
            if reply.finish in _WITHHELD:
                raise Misfit(_WITHHELD[reply.finish])
            if reply.finish == "length":
                raise Misfit(f"the answer is cut off after {self.deployment.max_tokens} tokens")
            answer = self.form.read(reply.text)
        except Misfit as misfit:
            outcome, error = ("refused" if reply.finish in _WITHHELD else "invalid"), misfit.problems
        confidence = _confidence(reply, answer) if answer is not None else None
        if answer is not None and (doubt := self._doubt(confidence)):
            outcome, error = "unsure", doubt
        return (
            Settlement(
                outcome,
                error=error,
                model_version=reply.model,
                usage=usage,
                cached_tokens=reply.cached_tokens,
                estimated=estimated,
                answer_digest=answer.digest if answer else "",
                repairs=answer.repairs if answer else "",
                confidence=confidence,
            ),
            answer,
        )

    def to_keep(self, settled: Settlement, answer: Answer | None, reply: Reply) -> CachedAnswer | None:
        """Return what the cache may keep of a call that ended so."""
        if answer is None or settled.outcome != "answered":
            return None
        return CachedAnswer(answer.value, answer.digest, _confidence(reply, answer), settled.model_version, settled.usage)

    def kept(self, call: ModelCall, kept: CachedAnswer) -> Generation:
        """Return the generation that a KEPT answer makes, instead of CALL."""
        return Generation(
            value=kept.value,
            confidence=kept.confidence,
            ask_below=self.task.ask_below,
            record=self._record(
                call,
                model=kept.model_version or self.deployment.model,
                usage=self.before,
                provider_calls=self._calls_before,
                answer_digest=kept.answer_digest,
                cached=True,
                saved_nano_usd=kept.usage.cost_nano_usd,
            ),
        )

    def ended(self, call: ModelCall, settled: Settlement, answer: Answer | None, reply: Reply) -> Generation:
        """Return the generation that ANSWER makes. Raises what it means that there is none, or that it does not count."""
        if answer is not None and settled.outcome == "answered":
            return self._generation(call, settled, answer, reply)
        attempts = (*self.earlier, call.as_attempt(settled))
        after = self.ladder.choose(attempts, self.attempt + 1)
        facts = _facts(attempts)
        if settled.outcome == "refused":
            said = f"{self.where} {settled.error}"
            if after is None:
                raise ModelRefused(f"{said}. A person has to look at the inputs.", facts=facts)
            raise ModelUnavailable(f"{said}.{_next(after)}", retry_after=AT_ONCE, facts=facts)
        if settled.outcome == "unsure" and after is not None:
            raise AskAgain(f"{self.where} is not sure of its answer.{_next(after)}", retry_after=AT_ONCE, facts=facts)
        said = f"the answer of {self.where} does not fit {self.call.output.name}"
        if after is None:
            again = ", also when asked again" if self.choice.problems else ""
            raise InvalidAnswer(
                f"{said}{again}: {settled.error}. Make the instructions plainer, the output simpler, or give the task a "
                "larger tier.",
                facts=facts,
            )
        raise AskAgain(f"{said}: {settled.error}.{_next(after)}", retry_after=AT_ONCE, facts=facts)

    def failed(self, call: ModelCall, settled: Settlement, failure: ProviderFailure) -> ModelError:
        """Return the error that FAILURE means for the caller."""
        attempts = (*self.earlier, call.as_attempt(settled))
        facts = _facts(attempts)
        said = f"{self.where} {failure.what}"
        # What is wrong with a canary's request need not be wrong with the others'.
        final = failure.verdict == "never" and not self.tries
        after = None if final else self.ladder.choose(attempts, self.attempt + 1)
        if after is None:
            return ModelRefused(f"{said}. {failure.remedy}", facts=facts)
        if after.deployment.name == self.deployment.name:
            return ModelUnavailable(f"{said}. It is tried again.", retry_after=failure.retry_after, facts=facts)
        return ModelUnavailable(f"{said}.{_next(after)}", retry_after=AT_ONCE, facts=facts)

    def _doubt(self, confidence: float | None) -> str:
        """Return why an answer of CONFIDENCE does not count while there is a larger tier to ask; empty: it counts."""
        below = self.task.escalate_below
        learned = self.learned.escalation
        if learned is not None and learned.judges(self.deployment):
            doubt = self.learned.reason if learned.escalates(confidence, self.prompt_bytes) else ""
        else:
            doubt = (
                f"confidence below {below}" if below is not None and confidence is not None and confidence < below else ""
            )
        unsure = Attempt(attempt=self.attempt, deployment=self.deployment.name, outcome="unsure", canary=self.tries)
        if not doubt or self.ladder.choose((*self.earlier, unsure), self.attempt + 1) is None:
            return ""
        return doubt

    def _generation(self, call: ModelCall, settled: Settlement, answer: Answer, reply: Reply) -> Generation:
        return Generation(
            value=answer.value,
            confidence=_confidence(reply, answer),
            ask_below=self.task.ask_below,
            record=self._record(
                call,
                model=settled.model_version or self.deployment.model,
                usage=_sum(self.before, settled.usage),
                provider_calls=self._calls_before + 1,
                answer_digest=answer.digest,
                repaired=bool(answer.repairs),
                repairs=answer.repairs,
            ),
        )

    @property
    def _calls_before(self) -> int:
        return sum(each.outcome not in ("not recorded", "denied", "cached") for each in self.earlier)

    def _record(
        self,
        call: ModelCall,
        *,
        model: str,
        usage: Usage,
        provider_calls: int,
        answer_digest: str,
        repaired: bool = False,
        repairs: str = "",
        cached: bool = False,
        saved_nano_usd: int = 0,
    ) -> ModelRecord:
        return ModelRecord(
            call_id=call.call_id,
            task=self.task.name,
            tier=self.deployment.tier,
            deployment=self.deployment.name,
            model=model,
            usage=usage,
            attempt=self.attempt,
            provider_calls=provider_calls,
            repaired=repaired,
            repairs=repairs,
            prompt_digest=call.prompt_digest,
            prompt_version=call.prompt_version,
            arm=call.arm,
            escalation=call.escalation,
            canary=call.canary,
            answer_digest=answer_digest,
            milliseconds=sum(each.milliseconds for each in self.earlier) + call.milliseconds,
            switched=self.choice.switched,
            earlier=self.earlier,
            cached=cached,
            saved_nano_usd=saved_nano_usd,
        )


def _facts(attempts: tuple[Attempt, ...]) -> Mapping[str, object]:
    return {"attempts": [each.model_dump(mode="json", exclude_defaults=True) for each in attempts]}


def _next(choice: Choice) -> str:
    if choice.problems:
        return f" The next attempt asks deployment {choice.deployment.name!r} again."
    return f" The next attempt goes to deployment {choice.deployment.name!r}."


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(
        prompt_tokens=one.prompt_tokens + other.prompt_tokens,
        completion_tokens=one.completion_tokens + other.completion_tokens,
        cost_nano_usd=one.cost_nano_usd + other.cost_nano_usd,
    )


def _usage(deployment: Deployment, reply: Reply, messages: Messages) -> tuple[Usage, bool]:
    """Return what REPLY took, and whether that is our estimate."""
    estimated = reply.tokens is None and not deployment.local
    prompt, completion = reply.tokens or (0, 0)
    if estimated:
        prompt, completion = sum(estimate_tokens(message["content"]) for message in messages), estimate_tokens(reply.text)
    cost = deployment.cost(prompt, completion, cached_tokens=min(reply.cached_tokens, prompt))
    return Usage(prompt_tokens=prompt, completion_tokens=completion, cost_nano_usd=cost), estimated


def _confidence(reply: Reply, answer: Answer) -> float | None:
    if reply.confidence is not None:
        return reply.confidence
    return as_confidence(answer.value.get("confidence")) if isinstance(answer.value, dict) else None

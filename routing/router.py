"""Which model answers a task: one attempt, one deployment, and an answer that fits or an error."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel

from perdure.errors import InvalidAnswer, InvalidInput, ModelRefused, ModelUnavailable, NoRoute, PerdureError
from perdure.lineage import digest
from perdure.routing import provider
from perdure.routing.answers import Answer, Form, Misfit
from perdure.routing.calls import ModelCall, Outcome
from perdure.routing.config import Deployment, Routes, Task
from perdure.routing.contracts import GenerateCall, Generation, ModelRecord, Usage
from perdure.routing.failures import ProviderFailure
from perdure.routing.local import Embedder, LocalModel
from perdure.routing.prompts import Messages, ask_again, most_tokens, render
from perdure.routing.provider import ProviderFailed, Reply, as_confidence
from perdure.storage import Database


class Router:
    """Answers tasks by ROUTES and records every provider call in DATABASE.

    EMBEDDER serves local deployments. The vectors of their examples are kept in the folder CACHE, if given.
    """

    def __init__(self, database: Database, routes: Routes, embedder: Embedder, *, cache: Path | None = None) -> None:
        self.routes = routes
        self._database = database
        self._embedder = embedder
        self._cache = cache
        self._local: Mapping[str, LocalModel] | None = None
        self._warming = asyncio.Lock()

    async def warm_up(self) -> None:
        """Import LiteLLM, which takes seconds, and learn the examples. `generate` does it when nobody did before.

        Raises `InvalidSettings` if the examples of a task cannot be learned.
        """
        async with self._warming:
            if self._local is not None:
                return
            _, examples = await asyncio.to_thread(provider.load)
            learned = {}
            for task in self.routes.tasks.values():
                if any(deployment.local for deployment in self.routes.serving(task)):
                    learned[task.name] = await LocalModel.learn(task, self._embedder, cache=self._cache)
                    examples.add(learned[task.name])
            self._local = learned

    async def generate(self, call: GenerateCall, *, attempt: int, output: type[BaseModel] | None) -> Generation:
        """Return an answer to CALL that fits OUTPUT, or the JSON schema of CALL if OUTPUT is None.

        ATTEMPT, counted from 1, chooses the deployment: the n-th of the tier, and the last one from there on. An answer
        that does not fit is asked for once more, at the same deployment.

        Raises `NoRoute`, `ModelUnavailable` (try again, after its `retry_after`), `ModelRefused`, `InvalidAnswer`,
        `InvalidInput`, `InvalidSettings`.
        """
        task = self.routes.task(call.task)
        form = Form(output, call.output.json_schema)
        messages = render(task.instructions, call.inputs, form.schema)
        exchange = self._choose(call, task, messages, form, attempt)
        if self._local is None:
            await self.warm_up()
        turn = await self._turn(exchange, messages, 1)
        calls = [turn]
        # The local deployment says the same to the same question.
        if turn.answer is None and not exchange.deployment.local:
            turn = await self._turn(exchange, ask_again(messages, turn.reply.text, turn.problems), 2)
            calls.append(turn)
        if turn.answer is None:
            raise InvalidAnswer(
                f"the answer of {exchange.where} does not fit {call.output.name}"
                f"{', also when asked again' if len(calls) > 1 else ''}: {turn.problems}. "
                "Make the instructions plainer, the output simpler, or give the task a larger tier."
            )
        return Generation(
            value=turn.answer.value,
            confidence=_confidence(turn),
            ask_below=task.ask_below,
            record=ModelRecord(
                call_id=turn.call_id,
                task=task.name,
                tier=task.tier,
                deployment=exchange.deployment.name,
                model=turn.reply.model or exchange.deployment.model,
                usage=Usage(
                    prompt_tokens=sum(one.usage.prompt_tokens for one in calls),
                    completion_tokens=sum(one.usage.completion_tokens for one in calls),
                    cost_nano_usd=sum(one.usage.cost_nano_usd for one in calls),
                ),
                attempt=attempt,
                provider_calls=len(calls),
                repaired=turn.answer.repaired,
                prompt_digest=turn.prompt_digest,
                answer_digest=turn.answer.digest,
                milliseconds=sum(one.milliseconds for one in calls),
                switched=exchange.switched,
            ),
        )

    def _choose(self, call: GenerateCall, task: Task, messages: Messages, form: Form, attempt: int) -> _Exchange:
        if attempt < 1:
            raise InvalidInput(f"attempt {attempt} of step {call.step.name!r}: attempts count from 1.")
        serving = self.routes.serving(task)
        # Only what is sure not to fit is left out: a token has 16 bytes at most, in practice.
        fitting = [one for one in serving if one.local or _size(messages) / 16 + one.max_tokens <= one.context]
        if not serving:
            raise NoRoute(f"no deployment serves task {task.name!r}: tier {task.tier!r} has none. Add one to models.toml.")
        if not fitting:
            raise ModelRefused(
                f"the inputs of task {task.name!r} are longer than the context of every deployment of tier {task.tier!r}. "
                "Send less, or add a deployment with a larger `context`."
            )
        at = min(attempt, len(fitting)) - 1
        switched = "" if fitting[at] is serving[0] else f"attempt {attempt}, after {serving[0].name}"
        if fitting[at] is not serving[0] and fitting[0] is not serving[0]:
            switched = f"attempt {attempt}; the inputs are too long for {serving[0].name}"
        return _Exchange(call, task, form, fitting[at], attempt, switched, tuple(fitting[at + 1 :]))

    async def _turn(self, exchange: _Exchange, messages: Messages, ordinal: int) -> _Turn:
        """Make one provider call and record it. Raises what its failure means."""
        deployment = exchange.deployment
        prompt_digest = digest([[message["role"], message["content"]] for message in messages])
        call = ModelCall(self._database, exchange.call, deployment, exchange.attempt, ordinal, prompt_digest)
        local = (self._local or {})[exchange.task.name] if deployment.local else None
        key = None if deployment.local else provider.key_of(deployment)
        await call.send()
        try:
            reply = await provider.complete(deployment, messages, exchange.form, key=key, local=local)
        except asyncio.CancelledError:
            await call.settle("cancelled", error="cancelled")
            raise
        except ProviderFailed as error:
            failure = error.failure
        else:
            return await self._read(exchange, call, reply, messages)
        await call.settle(_outcome(failure), error=failure.kind, status=failure.status)
        raise exchange.failed(failure)

    async def _read(self, exchange: _Exchange, call: ModelCall, reply: Reply, messages: Messages) -> _Turn:
        usage, estimated = _usage(exchange.deployment, reply, messages)
        turn = _Turn(call.call_id, reply, usage, call.prompt_digest)
        outcome: Outcome = "answered"
        try:
            if reply.finish == "length":
                raise Misfit(f"the answer is cut off after {exchange.deployment.max_tokens} tokens")
            turn = replace(turn, answer=exchange.form.read(reply.text))
        except Misfit as misfit:
            turn = replace(turn, problems=misfit.problems)
            outcome = "refused" if reply.finish == "content_filter" else "invalid"
        took = await call.settle(
            outcome,
            error=turn.problems[:500],
            model_version=reply.model,
            usage=usage,
            estimated=estimated,
            answer_digest=turn.answer.digest if turn.answer else "",
        )
        if outcome == "refused":
            raise ModelRefused(
                f"{exchange.where} withheld its answer by its content filter. A person has to look at the inputs."
            )
        return replace(turn, milliseconds=took)


@dataclass(frozen=True)
class _Exchange:
    """One attempt: what is asked, and of whom."""

    call: GenerateCall
    task: Task
    form: Form
    deployment: Deployment
    attempt: int
    switched: str
    later: tuple[Deployment, ...]
    """The deployments of later attempts."""

    @property
    def where(self) -> str:
        return f"deployment {self.deployment.name!r} ({self.deployment.model}) for task {self.task.name!r}"

    def failed(self, failure: ProviderFailure) -> PerdureError:
        """Return the error that FAILURE means for the caller."""
        if failure.verdict == "again":
            return ModelUnavailable(
                f"{self.where} {failure.what}. It is tried again{self._at()}.", retry_after=failure.retry_after
            )
        if failure.verdict == "elsewhere" and self.later:
            return ModelUnavailable(f"{self.where} {failure.what}. The next attempt goes{self._at()}.")
        return ModelRefused(f"{self.where} {failure.what}. {_remedy(failure)}")

    def _at(self) -> str:
        return f" to deployment {self.later[0].name!r}" if self.later else ""


@dataclass(frozen=True)
class _Turn:
    """One provider call and what came of it."""

    call_id: str
    reply: Reply
    usage: Usage
    prompt_digest: str
    answer: Answer | None = None
    problems: str = ""
    milliseconds: int = 0


def _size(messages: Messages) -> int:
    return sum(len(message["content"].encode()) for message in messages)


def _usage(deployment: Deployment, reply: Reply, messages: Messages) -> tuple[Usage, bool]:
    """Return what REPLY took, and whether that is our estimate."""
    estimated = reply.tokens is None and not deployment.local
    prompt, completion = reply.tokens or (0, 0)
    if estimated:
        prompt, completion = sum(most_tokens(message["content"]) for message in messages), most_tokens(reply.text)
    return Usage(
        prompt_tokens=prompt, completion_tokens=completion, cost_nano_usd=deployment.cost(prompt, completion)
    ), estimated


def _confidence(turn: _Turn) -> float | None:
    if turn.reply.confidence is not None:
        return turn.reply.confidence
    value = turn.answer.value if turn.answer else None
    return as_confidence(value.get("confidence")) if isinstance(value, dict) else None


def _outcome(failure: ProviderFailure) -> Outcome:
    if failure.ambiguous:
        return "ambiguous"
    return "unavailable" if failure.verdict == "again" else "refused"


def _remedy(failure: ProviderFailure) -> str:
    if failure.status in {401, 403}:
        return "Check the variable that `api_key` names in models.toml, and what the key may do."
    if failure.status == 404:
        return "Check `model` and `api_base` in models.toml."
    if failure.verdict == "elsewhere":
        return "Add a deployment to the tier: another provider, or one with a larger `context`."
    return "The same request would be refused again: check the deployment in models.toml and the inputs."

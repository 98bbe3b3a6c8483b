"""What a call asks: the prompt, the form of its answer, and the deployments that may be asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel

from perdure.errors import ModelRefused, NoRoute
from perdure.routing.attempts.ladder import Ladder
from perdure.routing.contracts import GenerateCall
from perdure.routing.load import Routes
from perdure.routing.prompts import (
    Form,
    Messages,
    check_inputs,
    load_checks,
    may_fit,
    most_prompt_tokens,
    refuse_secrets,
    render,
    size_in_bytes,
)
from perdure.routing.prompts.checks import Check
from perdure.routing.providers import CircuitBreakers
from perdure.routing.routes import Deployment, Task


@dataclass(frozen=True)
class Question:
    """What CALL asks: TASK as MESSAGES, for an answer of FORM, from a deployment of LADDER."""

    call: GenerateCall
    task: Task
    form: Form
    messages: Messages
    ladder: Ladder

    @property
    def size(self) -> int:
        """How many bytes the prompt has."""
        return size_in_bytes(self.messages)

    def most_cost(self, deployment: Deployment, messages: Messages) -> int:
        """Return the most that asking DEPLOYMENT by MESSAGES can cost, in nano-USD."""
        prompt = min(most_prompt_tokens(messages, self.form), deployment.context)
        return deployment.cost(prompt, deployment.max_tokens)


class Questions:
    """Makes questions of calls, by ROUTES. Raises `InvalidSettings` if a task's validators cannot be imported."""

    def __init__(self, routes: Routes, breakers: CircuitBreakers) -> None:
        self._routes = routes
        self._breakers = breakers
        self._checks: Mapping[str, Sequence[Check]] = {task.name: load_checks(task) for task in routes.tasks.values()}

    def prepare(self, call: GenerateCall, output: type[BaseModel] | None) -> Question:
        """Return what CALL asks, for an answer that fits OUTPUT or else the schema that comes with the call.

        Raises `NoRoute`, `ModelRefused` if it fits into no context, and `InvalidInput`.
        """
        task = self._routes.task(call.task)
        checks = self._checks[task.name]

        def problems(answer: object) -> list[str]:
            return [said for check in checks if (said := check.problem(answer, call.inputs))]

        form = Form(output, call.output.json_schema, problems=problems)
        check_inputs(task, call.inputs)
        messages = render(task.instructions, call.inputs, form.text)
        refuse_secrets(task.name, messages)
        return Question(call, task, form, messages, self._ladder(task, messages))

    def _ladder(self, task: Task, messages: Messages) -> Ladder:
        serving = [self._routes.deployments_for(task, tier) for tier in task.tiers]
        if not any(serving):
            raise NoRoute(f"no deployment serves task {task.name!r}: tier {task.tier!r} has none. Add one to models.toml.")
        fitting = [[one for one in rung if may_fit(one, messages)] for rung in serving]
        if not any(fitting):
            raise ModelRefused(
                f"the inputs of task {task.name!r} are longer than the context of every deployment of "
                f"{' and '.join(f'tier {tier!r}' for tier in task.tiers)}. Send less, or add a deployment with a larger "
                "`context`."
            )
        first = next(one for rung in serving for one in rung)
        skipped = "" if any(first in rung for rung in fitting) else f"the inputs are too long for {first.name}"
        return Ladder(fitting, self._breakers, first=first, skipped=skipped, slow_after=task.slow_after)

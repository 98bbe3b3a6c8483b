"""Whether a call tries what a canary tries, as far as this process knows how the canary stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from pydantic import JsonValue

from perdure.errors import InvalidSettings
from perdure.routing.attempts.ladder import Choice
from perdure.routing.canary import Arm, Canary, CanaryAssignment, CanaryStateChanged, State
from perdure.routing.contracts import Attempt, GenerateCall
from perdure.routing.load import Routes
from perdure.routing.prompts import Messages, may_fit, render
from perdure.routing.providers import CircuitBreakers
from perdure.routing.providers import litellm as provider
from perdure.routing.routes import Task

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Trial:
    """How a question is put to a canary: the TASK as it is then, its MESSAGES, and whom they go to."""

    task: Task
    messages: Messages
    choice: Choice


class CanaryStates:
    """The canaries of ROUTES and their states as last seen: `CanaryAssignment.check_state` looks before each."""

    def __init__(self, routes: Routes, breakers: CircuitBreakers) -> None:
        self._routes = routes
        self._breakers = breakers
        self._states: dict[str, State] = {}
        self._rolled_back: list[str] = []

    def assign(self, task: Task, call: GenerateCall, attempt: int, earlier: Sequence[Attempt]) -> CanaryAssignment | None:
        """Return the part that ATTEMPT of CALL, which came after the EARLIER ones, has in a canary; None: there is none."""
        canary = self._routes.canary(task)
        if canary is None:
            return None
        state = self._states.get(canary.id, "running")
        arm: Arm = canary.arm(call)
        if state != "running":
            arm = "canary" if state == "promoted" or any(each.canary for each in earlier) else "control"
        # Tried once, at first: what comes after that is as if there were no canary.
        return CanaryAssignment(canary, arm, state, first=attempt == 1, tries_canary=attempt == 1 and arm == "canary")

    def prepare_trial(
        self, canary: Canary, task: Task, inputs: dict[str, JsonValue], schema: str, choice: Choice
    ) -> Trial | str:
        """Return how INPUTS are put to CANARY in place of the CHOICE for TASK, or why they are not."""
        deployment = canary.deployment or choice.deployment
        tried = canary.apply_to(task)
        messages = render(tried.instructions, inputs, schema)
        if why := self._breakers.why_open(deployment.name):
            return f"{deployment.name} is out of service: {why}"
        if not may_fit(deployment, messages):
            return f"the inputs are too long for {deployment.name}"
        if not deployment.local:
            try:
                provider.read_key(deployment)
            except InvalidSettings as error:
                log.warning("canary is not tried", canary=canary.id, why=error.message)
                return error.message
        timeout = deployment.timeout if task.slow_after is None else min(deployment.timeout, task.slow_after)
        return Trial(tried, messages, Choice(deployment, f"canary {canary.name}", "", timeout))

    def update_state(self, part: CanaryAssignment | None, moved: CanaryStateChanged) -> None:
        """Remember how the canary of PART stands."""
        assert part is not None, "only a call that has part in a canary finds that one has moved"
        self._states[part.canary.id] = moved.state
        log.info("the canary's state changed", canary=part.canary.id, state=moved.state)

    def note_rollback(self, canary: str, why: str) -> None:
        """Tell that CANARY is rolled back, if there is a WHY."""
        if why:
            self._states[canary] = "rolled back"
            self._rolled_back.append(canary)
            log.warning("canary rolled back", canary=canary, why=why)

    def take_rollbacks(self) -> list[str]:
        """Return the canaries that were rolled back here since this was asked last."""
        found, self._rolled_back = self._rolled_back, []
        return found

"""Whether an attempt tries what a canary tries, as far as this process knows the canary's state."""

from __future__ import annotations

from dataclasses import replace

import structlog

from perdure.errors import InvalidSettings
from perdure.routing.attempts.ladder import Choice
from perdure.routing.attempts.question import Question
from perdure.routing.calls import PastAttempts
from perdure.routing.canary import Arm, Canary, CanaryAssignment, CanaryStateChanged, State
from perdure.routing.load import Routes
from perdure.routing.prompts import may_fit, render
from perdure.routing.providers import CircuitBreakers
from perdure.routing.providers import litellm as provider

log = structlog.get_logger(__name__)


class CanaryStates:
    """The canaries of ROUTES and their states as last seen: `CanaryAssignment.check_state` looks before each call."""

    def __init__(self, routes: Routes, breakers: CircuitBreakers) -> None:
        self._routes = routes
        self._breakers = breakers
        self._states: dict[str, State] = {}
        self._rolled_back: list[str] = []

    def assign(self, question: Question, past: PastAttempts, number: int) -> CanaryAssignment | None:
        """Return the part that attempt NUMBER at QUESTION, after those PAST, has in a canary; None: there is none."""
        canary = self._routes.canary(question.task)
        if canary is None:
            return None
        state = self._states.get(canary.id, "running")
        arm: Arm = canary.arm(question.call)
        if state != "running":
            arm = "canary" if state == "promoted" or any(each.canary for each in past.attempts) else "control"
        # Tried once, at first: what comes after that is as if there were no canary.
        return CanaryAssignment(canary, arm, state, first=number == 1, tries_canary=number == 1 and arm == "canary")

    def prepare_trial(self, canary: Canary, question: Question, choice: Choice) -> tuple[Question, Choice] | str:
        """Return QUESTION as CANARY puts it and whom it asks in place of CHOICE, or why it is not tried."""
        deployment = canary.deployment or choice.deployment
        task = canary.apply_to(question.task)
        messages = render(task.instructions, question.call.inputs, question.form.text)
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
        tried = replace(question, task=task, messages=messages)
        return tried, Choice(deployment, f"canary {canary.name}", "", timeout)

    def update_state(self, assignment: CanaryAssignment | None, changed: CanaryStateChanged) -> None:
        """Remember the state of the canary of ASSIGNMENT."""
        assert assignment is not None, "only a call that takes part in a canary finds that its state changed"
        self._states[assignment.canary.id] = changed.state
        log.info("the canary's state changed", canary=assignment.canary.id, state=changed.state)

    def note_rollback(self, canary: str, why: str) -> None:
        """Remember that CANARY is rolled back, if there is a WHY."""
        if why:
            self._states[canary] = "rolled back"
            self._rolled_back.append(canary)
            log.warning("canary rolled back", canary=canary, why=why)

    def take_rollbacks(self) -> list[str]:
        """Return the canaries that were rolled back here since this was asked last."""
        found, self._rolled_back = self._rolled_back, []
        return found

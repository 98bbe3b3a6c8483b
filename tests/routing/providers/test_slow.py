"""Tests of providers that become slow: steps go to another one, breakers learn it, and what was given up is booked."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kits.routing import Triage, asking, rows
from stand_ins.provider import Answers, Behaviour, Hangs, Stub

from perdure.errors import ModelUnavailable
from perdure.routing import Generation, Router
from perdure.routing.providers import CircuitBreakers
from perdure.routing.providers.breakers import COOLDOWN, FAILURES
from perdure.storage import Database


class Provider:
    """Two deployments of one stub, of which the first may be slow, and a clock for the breakers."""

    def __init__(self, stub: Stub, routed: Callable[..., Router]) -> None:
        self.slow = True
        self.time = 0.0
        self._stub = stub
        breakers = CircuitBreakers(lambda: self.time)
        self._router = routed(deployments=("first", "second"), task="slow_after = 0.3", breakers=breakers)
        self._steps = 0
        stub.choose = self._behaviour

    def _behaviour(self, model: str) -> Behaviour:
        return Hangs() if self.slow and model == "stub-first" else Answers('{"verdict": "refund"}')

    async def step(self) -> list[str]:
        """Make a step as Temporal does, attempt by attempt; return whom it asked."""
        self._steps += 1
        before = len(self._stub.models)
        call = asking()
        call = call.model_copy(update={"step": call.step.model_copy(update={"name": f"triage#{self._steps}"})})
        answer: Generation | None = None
        attempt = 1
        while answer is None:
            try:
                answer = await self._router.generate(call, attempt=attempt, output=Triage)
            except ModelUnavailable:
                attempt += 1
        return [model.removeprefix("stub-") for model in self._stub.models[before:]]


@pytest.fixture
def provider(stub: Stub, routed: Callable[..., Router]) -> Provider:
    """Two deployments, and a task that does not wait long for the first."""
    return Provider(stub, routed)


async def test_a_slow_provider_is_left_alone(provider: Provider) -> None:
    """After some slow calls in a row no step asks the slow one any more."""
    asked = [await provider.step() for _ in range(FAILURES + 3)]

    assert [["first", "second"]] * FAILURES + [["second"]] * 3 == asked


async def test_a_slow_provider_is_tried_again(provider: Provider) -> None:
    """One step at a time tries whether it is quick again; once it is, it is asked first as before."""
    for _ in range(FAILURES):
        await provider.step()
    provider.time += COOLDOWN.total_seconds() + 1
    still_slow = [await provider.step() for _ in range(3)]
    provider.slow = False
    provider.time += COOLDOWN.total_seconds() + 1
    quick = [await provider.step() for _ in range(2)]

    assert [["first", "second"], ["second"], ["second"]] == still_slow
    assert [["first"], ["first"]] == quick


async def test_what_was_given_up_is_on_the_books(provider: Provider, sqlite_database: Database) -> None:
    """A call that was given up for its slowness may be charged: it is ambiguous, with the most that it may cost."""
    await provider.step()

    given_up, answered = await rows(sqlite_database)
    assert ("first", "ambiguous", "time-out") == (given_up["deployment"], given_up["outcome"], given_up["error"])
    assert ("second", "answered", "after first: time-out") == tuple(
        answered[key] for key in ("deployment", "outcome", "switched")
    )
    assert 0 < answered["cost_nano_usd"] < given_up["reserved_nano_usd"]

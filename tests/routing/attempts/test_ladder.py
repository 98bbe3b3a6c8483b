"""Which deployment an attempt goes to, as a function of what came before."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from perdure.routing import Attempt, Deployment
from perdure.routing.attempts import Choice, Ladder
from perdure.routing.providers import CircuitBreakers, Claim
from perdure.routing.providers.breakers import COOLDOWN, FAILURES


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def deployment(name: str) -> Deployment:
    """A hosted deployment called NAME."""
    return Deployment.model_validate(
        {"name": name, "tier": "small", "model": f"openai/{name}", "input_usd_per_mtok": 1, "output_usd_per_mtok": 1}
    )


A, B, C = deployment("a"), deployment("b"), deployment("c")


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


def chosen(
    *outcomes: tuple[str, str],
    rungs: tuple[tuple[Deployment, ...], ...] = ((A, B), (C,)),
    breakers: CircuitBreakers | None = None,
) -> Choice:
    """Who is asked after attempts at these deployments that ended so."""
    earlier = [
        Attempt(attempt=number, deployment=name, outcome=outcome, error="e")
        for number, (name, outcome) in enumerate(outcomes, start=1)
    ]
    choice = Ladder(rungs, breakers or CircuitBreakers(), slow_after=2).choose(earlier, len(earlier) + 1)
    assert choice is not None
    return choice


@pytest.mark.parametrize(
    ("outcomes", "name", "switched"),
    [
        ([], "a", ""),
        ([("a", "unavailable")], "b", "after a: e"),
        ([("a", "sent")], "b", "after a: e"),
        ([("a", "ambiguous"), ("b", "unavailable")], "a", ""),
        ([("a", "invalid")], "a", "after a: e"),
        ([("a", "invalid"), ("a", "invalid")], "c", "after a: e"),
        ([("a", "invalid"), ("a", "unavailable")], "b", "after a: e"),
        ([("a", "invalid"), ("a", "unavailable"), ("b", "invalid")], "c", "after b: e"),
        ([("a", "unsure")], "c", "after a: e"),
        ([("a", "refused"), ("b", "unavailable"), ("b", "unavailable")], "b", "after b: e"),
        ([("a", "refused"), ("b", "refused")], "c", "after b: e"),
    ],
)
def test_who_comes_next(outcomes: list[tuple[str, str]], name: str, switched: str) -> None:
    """Failures move on in turn, misfits are asked again and then go up a tier, refusals bar a deployment."""
    choice = chosen(*outcomes)

    assert (name, switched) == (choice.deployment.name, choice.switched)


def test_problems_go_along(clock: Clock) -> None:
    """Only the attempt that asks again is told what was wrong, wherever it goes."""
    assert "" == chosen(("a", "unavailable")).problems
    assert "e" == chosen(("a", "invalid")).problems
    assert "e" == chosen(("a", "invalid"), ("a", "unavailable")).problems
    assert "" == chosen(("a", "invalid"), ("a", "invalid")).problems


def test_nobody_left() -> None:
    """When every deployment has refused, or the last tier's answer did not fit twice, there is nobody to ask."""
    ladder = Ladder([(A,)], CircuitBreakers())

    assert None is ladder.choose([Attempt(attempt=1, deployment="a", outcome="refused")], 2)
    assert None is ladder.choose([Attempt(attempt=n, deployment="a", outcome="invalid", error="e") for n in (1, 2)], 3)


def test_limit_of_patience() -> None:
    """The latency limit of a task holds while there is somebody else to ask; the last one gets its full time."""
    assert (2, 60) == (chosen().timeout, chosen(("a", "ambiguous")).timeout)
    assert 60 == chosen(("a", "ambiguous"), ("b", "ambiguous")).timeout


def claim(breakers: CircuitBreakers, name: str) -> Claim:
    """The right to call a deployment that is in service, or is to be tried."""
    found = breakers.claim(name)
    assert found is not None
    return found


def fail(breakers: CircuitBreakers, name: str, kind: str, *, times: int = 1, at_least: timedelta | None = None) -> None:
    """Let so many calls fail, which were all begun before."""
    for each in [claim(breakers, name) for _ in range(times)]:
        each.note_failure(kind, at_least=at_least)


def test_breaker_opens(clock: Clock) -> None:
    """After several failures in a row a deployment is left alone, by all runs, and the reason says why."""
    breakers = CircuitBreakers(clock)
    fail(breakers, "a", "503", times=FAILURES)

    choice = chosen(breakers=breakers)

    assert ("b", f"a is out of service: {FAILURES} failures in a row, the last: 503") == (
        choice.deployment.name,
        choice.switched,
    )


def test_breaker_lets_one_try(clock: Clock) -> None:
    """After the cooldown one call tries the deployment while others stay away; an answer closes the breaker."""
    breakers = CircuitBreakers(clock)
    fail(breakers, "a", "503", times=FAILURES)
    clock.time = COOLDOWN.total_seconds() + 1

    assert "a" == chosen(breakers=breakers).deployment.name
    with claim(breakers, "a") as trial:
        assert ("b", None) == (chosen(breakers=breakers).deployment.name, breakers.claim("a"))
        trial.note_success()
    assert "a" == chosen(breakers=breakers).deployment.name


@pytest.mark.parametrize("waiting", [5, 20, 100])
async def test_one_call_after_a_cooldown(clock: Clock, waiting: int) -> None:
    """After a cooldown one call tries the deployment, whatever waits, and the others wait for what comes of it.

    (case 40: three 503s, then 5, 20 or 100 runs at once)
    """
    breakers = CircuitBreakers(clock)
    fail(breakers, "a", "503", times=FAILURES)
    clock.time = COOLDOWN.total_seconds() + 1

    claims = [breakers.claim("a") for _ in range(waiting)]
    [trial] = [each for each in claims if each is not None]
    others = [asyncio.create_task(breakers.wait_for_trial("a")) for _ in range(waiting)]
    with trial:
        await asyncio.sleep(0)  # they begin to wait
        trial.note_failure("503")

    assert [True] * waiting == await asyncio.gather(*others)
    assert (None, COOLDOWN) == (breakers.claim("a"), breakers.opens_for("a"))


def test_a_trial_that_says_nothing(clock: Clock) -> None:
    """Where the call that was to try it does not come about, the next one does."""
    breakers = CircuitBreakers(clock)
    fail(breakers, "a", "429", at_least=timedelta(seconds=7))
    clock.time = 8

    with claim(breakers, "a"):
        assert None is breakers.claim("a")

    assert None is not breakers.claim("a")


def test_broken_here() -> None:
    """What cannot be called here, for want of its key, is passed over, and the reason says so."""
    choice = Ladder([(A, B), (C,)], CircuitBreakers()).choose([], 1, broken={"a": "its key is not set"})

    assert choice is not None
    assert ("b", "a: its key is not set") == (choice.deployment.name, choice.switched)
    assert None is Ladder([(A,)], CircuitBreakers()).choose([], 1, broken={"a": "its key is not set"})


def test_an_answer_starts_the_count_anew(clock: Clock) -> None:
    """Failures count in a row only."""
    breakers = CircuitBreakers(clock)
    fail(breakers, "a", "503", times=FAILURES - 1)
    claim(breakers, "a").note_success()
    fail(breakers, "a", "503")

    assert "" == breakers.why_open("a")


def test_left_alone_as_told(clock: Clock) -> None:
    """A provider that says how long to stay away is left alone for so long, by all runs, at once."""
    breakers = CircuitBreakers(clock)
    fail(breakers, "a", "429", at_least=timedelta(seconds=7))

    assert "b" == chosen(breakers=breakers).deployment.name
    clock.time = 7.5
    assert "a" == chosen(breakers=breakers).deployment.name


def test_all_out_of_service(clock: Clock) -> None:
    """When every deployment of a tier is out of service, the one that comes back first is waited for."""
    breakers = CircuitBreakers(clock)
    fail(breakers, "a", "429", at_least=timedelta(seconds=9))
    fail(breakers, "b", "429", at_least=timedelta(seconds=3))

    assert "b" == chosen(breakers=breakers).deployment.name


@pytest.mark.parametrize("outcome", ["sent", "unavailable", "invalid", "unsure", "refused", "cancelled"])
def test_after_a_canary(outcome: str) -> None:
    """Whatever came of what a canary tried, also if that was the same deployment, the ladder begins at its first rung."""
    tried = Attempt(attempt=1, deployment="a", outcome=outcome, error="e", canary=True)
    ladder = Ladder([(A, B), (C,)], CircuitBreakers())

    first = ladder.choose([tried], 2)
    then = ladder.choose([tried, Attempt(attempt=2, deployment="a", outcome="unavailable", error="busy")], 3)

    assert first is not None and then is not None
    assert (("a", "after a: e", ""), "b") == ((first.deployment.name, first.switched, first.problems), then.deployment.name)


def test_a_late_answer_closes_no_breaker(clock: Clock) -> None:
    """What was asked before a deployment became slow and is answered at last does not bring it back before its time."""
    breakers = CircuitBreakers(clock)
    late = claim(breakers, "a")
    fail(breakers, "a", "time-out", times=FAILURES)

    late.note_success()

    assert "b" == chosen(breakers=breakers).deployment.name
    clock.time = COOLDOWN.total_seconds() + 1
    with claim(breakers, "a") as trial:
        trial.note_success()
    assert "a" == chosen(breakers=breakers).deployment.name


def test_the_last_in_service_is_waited_for(clock: Clock) -> None:
    """An answer is not given up for a deployment that is out of service."""
    breakers = CircuitBreakers(clock)
    assert 2 == chosen(breakers=breakers).timeout
    fail(breakers, "a", "time-out", times=FAILURES)

    choice = chosen(breakers=breakers)

    assert ("b", 60) == (choice.deployment.name, choice.timeout)

"""Which deployment an attempt goes to: a function of its number, of what came of those before it, and of the breakers.

A rung is a tier's deployments, in the order of the file. An attempt that failed moves on to the next of the rung and,
after the last, to the first again. One whose answer did not fit stays, and asks again with what is wrong; when that does
not fit either, the next rung is asked. A deployment that has no credit, too small a context or a filter that withheld the
answer is not asked again by the same step. Where a breaker is open the next one is taken. What a canary tried comes before
all of them and counts for none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType

from perdure.routing.contracts import Attempt
from perdure.routing.providers import CircuitBreakers
from perdure.routing.routes import Deployment


@dataclass(frozen=True)
class Choice:
    """Whom an attempt asks, and how."""

    deployment: Deployment
    switched: str
    """Why not the first deployment of the first rung; empty if it is that."""
    problems: str
    """What was wrong with the last answer to the same question; empty: it is asked for the first time."""
    timeout: float
    """Seconds until it counts as failed."""

    def with_prices_at(self, at: datetime) -> Choice:
        """Return this choice with the prices that hold AT that time."""
        return replace(self, deployment=self.deployment.with_prices_at(at))


@dataclass
class _Progress:
    """Where the attempts so far have led."""

    rung: int = 0
    moves: int = 0
    problems: str = ""
    stay: str = ""
    """The deployment whose answer is asked for again."""
    barred: dict[str, str] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    tried: set[str] = field(default_factory=set)
    why: str = ""
    after_canary: bool = False


class Ladder:
    """The deployments that may answer one call: RUNGS from the cheapest up.

    FIRST is the one that would be asked if nothing stood against it, and SKIPPED why it is none of them. SLOW_AFTER are the
    seconds after which an answer is not waited for as long as the rung has a deployment in service that was not asked yet.
    """

    def __init__(
        self,
        rungs: Sequence[Sequence[Deployment]],
        breakers: CircuitBreakers,
        *,
        first: Deployment | None = None,
        skipped: str = "",
        slow_after: float | None = None,
    ) -> None:
        self._rungs = rungs
        self._breakers = breakers
        self._first = first or next((one for rung in rungs for one in rung), None)
        self._skipped = skipped
        self._slow_after = slow_after
        self._local = {one.name for rung in rungs for one in rung if one.local}

    def choose(
        self, earlier: Sequence[Attempt], attempt: int, *, broken: Mapping[str, str] = MappingProxyType({})
    ) -> Choice | None:
        """Return whom ATTEMPT asks after the EARLIER ones. None: there is nobody left.

        BROKEN are deployments that cannot be called here, and why.
        """
        standing = self._progress(earlier, attempt)
        standing.barred |= broken
        standing.broken = [f"{name}: {why}" for name, why in broken.items()]
        for number in range(standing.rung, len(self._rungs)):
            rung = [one for one in self._rungs[number] if one.name not in standing.barred]
            if rung:
                moves = standing.moves if number == standing.rung else 0
                return self._choose_in(rung, moves, standing)
        return None

    def _choose_in(self, rung: list[Deployment], moves: int, standing: _Progress) -> Choice:
        whys = [*filter(None, [standing.why]), *standing.broken]
        at = next((number for number, one in enumerate(rung) if one.name == standing.stay), moves % len(rung))
        order = rung[at:] + rung[:at]
        closed = [one for one in order if not self._breakers.why_open(one.name)]
        # When all of them are out of service, it is the one that comes back first: whoever asks has to wait for it.
        chosen = closed[0] if closed else min(order, key=lambda one: self._breakers.closes_at(one.name))
        if chosen is not order[0]:
            whys.append(f"{order[0].name} is out of service: {self._breakers.why_open(order[0].name)}")
        if self._skipped and not standing.why:
            whys.append(self._skipped)
        tried = standing.tried | {chosen.name}
        others = [one for one in rung if one.name not in tried and not self._breakers.why_open(one.name)]
        hasty = self._slow_after is not None and bool(others)
        timeout = min(chosen.timeout, self._slow_after) if hasty and self._slow_after is not None else chosen.timeout
        plain = chosen is self._first and not standing.problems and not standing.after_canary
        switched = "" if plain else "; ".join(whys)
        return Choice(chosen, switched, standing.problems, timeout)

    def _progress(self, earlier: Sequence[Attempt], attempt: int) -> _Progress:
        known = {each.attempt: each for each in earlier}
        standing = _Progress()
        for number in range(1, attempt):
            self._follow(standing, known.get(number) or Attempt(attempt=number))
        return standing

    def _follow(self, standing: _Progress, each: Attempt) -> None:
        """Move STANDING on by what came of EACH attempt."""
        # A budget denied it, so nobody was asked; or the answer was there and the worker died before it said so.
        if each.outcome in ("denied", "answered", "cached"):
            return
        who = each.deployment or f"attempt {each.attempt}"
        standing.why = f"after {who}: {each.error or each.outcome}"
        if each.canary:
            # Whatever came of it, the others are asked as if nobody had been: a canary takes nothing from a run.
            standing.after_canary = True
            return
        standing.tried.add(each.deployment)
        if each.outcome == "unsure" or (each.outcome == "invalid" and self._is_used_up(standing, each)):
            standing.rung += 1
            standing.moves, standing.problems, standing.stay = 0, "", ""
        elif each.outcome == "invalid":
            standing.problems, standing.stay = each.error, each.deployment
        elif each.outcome == "refused":
            standing.barred[each.deployment] = each.error
            standing.stay = ""
        else:
            standing.moves += 1
            standing.stay = ""

    def _is_used_up(self, standing: _Progress, each: Attempt) -> bool:
        # The local deployment says the same to the same question.
        return bool(standing.problems) or each.deployment in self._local

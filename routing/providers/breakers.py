"""Which deployments are left alone for a while, because they have just failed: one memory for all runs of a worker."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

FAILURES = 3
"""So many failures in a row, with no answer between them, take a deployment out of service."""

COOLDOWN = timedelta(seconds=30)
"""For so long. Then one call tries it; if that fails as well, the time begins anew."""

QUOTA = timedelta(minutes=5)
"""For so long a deployment is left alone whose credit is used up."""


@dataclass
class _Breaker:
    failures: int = 0
    until: float = 0.0
    why: str = ""
    tried: bool = False
    """Whether it was called since it was taken out of service."""


class CircuitBreakers:
    """The circuit breakers of a worker's deployments. CLOCK counts seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._breakers: dict[str, _Breaker] = {}

    def why_open(self, deployment: str) -> str:
        """Return why DEPLOYMENT is to be left alone now, empty if it is not."""
        breaker = self._breakers.get(deployment)
        return breaker.why if breaker is not None and breaker.until > self._clock() else ""

    def closes_at(self, deployment: str) -> float:
        """Return when DEPLOYMENT may be called again, by the clock."""
        breaker = self._breakers.get(deployment)
        return breaker.until if breaker is not None else 0.0

    def note_call(self, deployment: str) -> None:
        """Note that DEPLOYMENT is called. After a cooldown that is the one call that tries it."""
        breaker = self._breakers.get(deployment)
        if breaker is None or not breaker.until:
            return
        breaker.tried = True
        if breaker.until <= self._clock():
            breaker.until = self._clock() + COOLDOWN.total_seconds()

    def note_failure(self, deployment: str, kind: str, *, at_least: timedelta | None = None) -> None:
        """Count a failure of DEPLOYMENT. With AT_LEAST it is left alone at once, and for so long."""
        breaker = self._breakers.setdefault(deployment, _Breaker())
        breaker.failures += 1
        wait = COOLDOWN.total_seconds() if breaker.failures >= FAILURES else 0.0
        wait = max(wait, at_least.total_seconds() if at_least else 0.0)
        if wait:
            breaker.until = max(breaker.until, self._clock() + wait)
            breaker.tried = False
            breaker.why = f"{breaker.failures} failures in a row, the last: {kind}" if breaker.failures > 1 else kind

    def note_success(self, deployment: str) -> None:
        """Note that DEPLOYMENT has answered."""
        breaker = self._breakers.get(deployment)
        # An answer to a call from before says nothing: where a provider has become slow, the last ones come late.
        if breaker is not None and (breaker.tried or breaker.until <= self._clock()):
            del self._breakers[deployment]

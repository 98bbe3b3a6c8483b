"""Which deployments are left alone for a while, because they have just failed: one memory for all runs of a worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

FAILURES = 3
"""So many failures in a row, with no answer between them, take a deployment out of service."""

COOLDOWN = timedelta(seconds=30)
"""For so long. Then one call tries it; if that fails as well, the time begins anew."""

QUOTA = timedelta(minutes=5)
"""For so long a deployment is left alone that needs a person: its credit is used up, or its key is not taken."""


@dataclass
class _Breaker:
    failures: int = 0
    until: float = 0.0
    why: str = ""
    trial: asyncio.Event | None = None
    """Set when the call has ended that tries it after a cooldown; None: none does."""


class Claim:
    """The right to call a deployment once, which says how that ended: it served, it failed, or, if neither, nothing.

    Leave it when the call has ended: `with claim:`.
    """

    def __init__(self, breakers: CircuitBreakers, deployment: str, *, trial: bool) -> None:
        self._breakers = breakers
        self._deployment = deployment
        self._trial = trial

    def note_success(self) -> None:
        """Note that the deployment is in service: it has answered, be it that it refuses this request."""
        self._breakers._succeed(self._deployment, trial=self._trial)  # noqa: SLF001  # a part of it

    def note_failure(self, kind: str, *, at_least: timedelta | None = None) -> None:
        """Count a failure. With AT_LEAST the deployment is left alone at once, and for so long."""
        self._breakers._fail(self._deployment, kind, at_least=at_least)  # noqa: SLF001  # as above

    def release(self) -> None:
        """Give it back: the call has ended, or there was none."""
        if self._trial:
            self._breakers._end_trial(self._deployment)  # noqa: SLF001  # as above

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class CircuitBreakers:
    """The circuit breakers of a worker's deployments. CLOCK counts seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._breakers: dict[str, _Breaker] = {}

    def why_open(self, deployment: str) -> str:
        """Return why DEPLOYMENT is to be left alone now, empty if it is not."""
        breaker = self._breakers.get(deployment)
        if breaker is None or (breaker.trial is None and breaker.until <= self._clock()):
            return ""
        return breaker.why

    def closes_at(self, deployment: str) -> float:
        """Return when DEPLOYMENT may be called again, by the clock."""
        breaker = self._breakers.get(deployment)
        return breaker.until if breaker is not None else 0.0

    def opens_for(self, deployment: str) -> timedelta:
        """Return for how long DEPLOYMENT is still left alone."""
        return timedelta(seconds=max(self.closes_at(deployment) - self._clock(), 0.0))

    def claim(self, deployment: str) -> Claim | None:
        """Return the right to call DEPLOYMENT; None: it is to be left alone. After a cooldown one call gets it."""
        breaker = self._breakers.get(deployment)
        if breaker is None or not breaker.until:
            return Claim(self, deployment, trial=False)
        if breaker.trial is not None or breaker.until > self._clock():
            return None
        breaker.trial = asyncio.Event()
        return Claim(self, deployment, trial=True)

    async def wait_for_trial(self, deployment: str) -> bool:
        """Wait for the end of the call that tries DEPLOYMENT. Return at once, and False, if none does."""
        breaker = self._breakers.get(deployment)
        if breaker is None or breaker.trial is None:
            return False
        await breaker.trial.wait()
        return True

    def _fail(self, deployment: str, kind: str, *, at_least: timedelta | None) -> None:
        breaker = self._breakers.setdefault(deployment, _Breaker())
        breaker.failures += 1
        wait = COOLDOWN.total_seconds() if breaker.failures >= FAILURES else 0.0
        wait = max(wait, at_least.total_seconds() if at_least else 0.0)
        if wait:
            breaker.until = max(breaker.until, self._clock() + wait)
            breaker.why = f"{breaker.failures} failures in a row, the last: {kind}" if breaker.failures > 1 else kind

    def _succeed(self, deployment: str, *, trial: bool) -> None:
        breaker = self._breakers.get(deployment)
        # An answer to a call from before says nothing: where a provider has become slow, the last ones come late.
        if breaker is not None and (trial or not breaker.until):
            breaker.failures, breaker.until, breaker.why = 0, 0.0, ""

    def _end_trial(self, deployment: str) -> None:
        breaker = self._breakers[deployment]
        if breaker.trial is not None:
            breaker.trial.set()
            breaker.trial = None

"""What goes wrong next: by script, then by chance."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Collection, Coroutine, Mapping
from datetime import timedelta
from typing import Final, Literal, get_args

Fault = Literal["none", "lose request", "lose response", "land late", "500 after commit", "503", "429", "truncate"]
"""`lose request`: the connection drops before the target hears of it. `lose response`: it drops after the target has acted.
`land late`: it drops at once, and the target acts some time after. `500 after commit`: the target acts and an error comes
back. `503`, `429`: an error comes back and the target hears nothing. `truncate`: the target acts, and half of its answer
comes back."""

EVERY_FAULT: Final[tuple[Fault, ...]] = get_args(Fault)


class Faults:
    """The faults of one proxy. Those that are scripted come first, in order; after that ODDS and SEED decide.

    ODDS are shares of the requests, between 0 and 1 and no more than 1 together. LATE is how long after its connection is
    gone a late request lands; RETRY_AFTER is what comes with a 429 or 503, in whole seconds.
    """

    def __init__(
        self,
        *,
        odds: Mapping[Fault, float] | None = None,
        seed: int | None = None,
        late: timedelta = timedelta(milliseconds=500),
        retry_after: timedelta = timedelta(seconds=1),
        possible: Collection[Fault] = EVERY_FAULT,
    ) -> None:
        self.late = late
        self.retry_after = retry_after
        self.possible = frozenset(possible)
        self.drawn: Counter[Fault] = Counter()
        """How often which fault came."""
        self._next: deque[Fault] = deque()
        self._landing: set[asyncio.Task[None]] = set()
        self._odds: Mapping[Fault, float] = {}
        self._random = random.Random()  # noqa: S311  faults, not secrets
        self.set_odds(odds or {}, seed=seed)

    def set_odds(self, odds: Mapping[Fault, float], *, seed: int | None = None) -> None:
        """Let chance have ODDS from now on. Raises `ValueError` for shares that make no sense."""
        self._refuse_impossible(odds)
        if any(share < 0 for share in odds.values()) or sum(odds.values()) > 1:
            raise ValueError(f"the shares of faults are between 0 and 1, and no more than 1 together; not {dict(odds)}")
        self._odds = dict(odds)
        if seed is not None:
            self._random.seed(seed)

    def script(self, *faults: Fault) -> None:
        """Have FAULTS come next, one a request, and forget what is left of an earlier script."""
        self._refuse_impossible(faults)
        self._next = deque(faults)

    def draw(self) -> Fault:
        """Return what goes wrong with the next request."""
        fault = self._next.popleft() if self._next else self._chance()
        self.drawn[fault] += 1
        return fault

    def land_later(self, landing: Coroutine[None, None, None]) -> None:
        """Run LANDING when it is late enough; `settled` waits for it."""

        async def late() -> None:
            await asyncio.sleep(self.late.total_seconds())
            await landing

        task = asyncio.create_task(late(), name="a late landing")
        self._landing.add(task)
        task.add_done_callback(self._landing.discard)

    async def wait_until_settled(self) -> None:
        """Return when everything that was to land late has landed. Raises what a landing failed with."""
        while self._landing:
            await asyncio.gather(*self._landing)

    def _chance(self) -> Fault:
        point = self._random.random()
        for fault, share in self._odds.items():
            if point < share:
                return fault
            point -= share
        return "none"

    def _refuse_impossible(self, faults: Collection[Fault]) -> None:
        impossible = [fault for fault in faults if fault not in self.possible]
        if impossible:
            raise ValueError(f"{impossible[0]!r} cannot happen here; what can: {', '.join(sorted(self.possible))}")

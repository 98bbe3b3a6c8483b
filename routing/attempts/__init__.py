"""One attempt: which deployment it goes to, and what came of it.

`Ladder` chooses by the attempt's number and the breakers, `Arms` says whether a canary is tried, `Exchange` makes the
record or the error. Must not break: the choice is a function of what is recorded, so that a retry chooses as the
first try would have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.lazy import lazy

if TYPE_CHECKING:
    from perdure.routing.attempts.arms import CanaryStates
    from perdure.routing.attempts.exchange import Exchange
    from perdure.routing.attempts.ladder import Choice, Ladder
else:
    __getattr__ = lazy(
        __name__,
        {
            "arms": ["CanaryStates"],
            "exchange": ["Exchange"],
            "ladder": ["Choice", "Ladder"],
        },
    )

__all__ = [
    "CanaryStates",
    "Choice",
    "Exchange",
    "Ladder",
]

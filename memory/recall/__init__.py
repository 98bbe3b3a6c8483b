"""Which records bear on a question, and in which order.

Must not break: nothing is returned that SQL does not hold in the scope at that moment, and equal inputs rank equally.
A new signal goes into `ranking`, with its weight in `Ranking` and its name in `Why`; what it needs to know of a
candidate into `recalling`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.lazy import lazy

if TYPE_CHECKING:
    from perdure.memory.recall.ranking import Ranking
    from perdure.memory.recall.recalling import find_nearest
else:
    __getattr__ = lazy(
        __name__,
        {
            "ranking": ["Ranking"],
            "recalling": ["find_nearest"],
        },
    )

__all__ = [
    "Ranking",
    "find_nearest",
]

"""What bears on a question: candidates of the index, weighed, and checked against SQL.

Must not break: nothing is returned that SQL does not hold in exactly that scope at that moment, and equal inputs rank
equally. A new signal goes into `ranking`, with its weight in `Ranking` and its name in `Why`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.lazy import lazy

if TYPE_CHECKING:
    from perdure.memory.recall.ranking import Ranking
    from perdure.memory.recall.recalling import nearest
else:
    __getattr__ = lazy(
        __name__,
        {
            "ranking": ["Ranking"],
            "recalling": ["nearest"],
        },
    )

__all__ = [
    "Ranking",
    "nearest",
]

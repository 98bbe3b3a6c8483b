"""What becomes of calls that can wait: sent together at a lower price, each answer read as if it had come alone.

Must not break: a batch is submitted once, whatever dies, and each of its calls is booked. Another provider's batches
go beside `_batch_api`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.lazy import lazy

if TYPE_CHECKING:
    from perdure.routing.batches.batches import Batches
else:
    __getattr__ = lazy(
        __name__,
        {
            "batches": ["Batches"],
        },
    )

__all__ = [
    "Batches",
]

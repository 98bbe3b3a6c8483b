"""What the agents know: records that hold the truth in SQL, found through a vector index."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.lazy import lazy
from perdure.memory.contracts import (
    Kind,
    MemoryRecord,
    Recall,
    RecallCall,
    RecallHit,
    RecallReceipt,
    RememberCall,
    Remembered,
    Scope,
    customer,
)

if TYPE_CHECKING:
    from perdure.memory.index import Embedder, MiniLm
    from perdure.memory.opening import open_memory
    from perdure.memory.store import Memory
else:
    __getattr__ = lazy(
        __name__,
        {
            "index": ["Embedder", "MiniLm"],
            "opening": ["open_memory"],
            "store": ["Memory"],
        },
    )

__all__ = [
    "Embedder",
    "Kind",
    "Memory",
    "MemoryRecord",
    "MiniLm",
    "Recall",
    "RecallCall",
    "RecallHit",
    "RecallReceipt",
    "RememberCall",
    "Remembered",
    "Scope",
    "customer",
    "open_memory",
]

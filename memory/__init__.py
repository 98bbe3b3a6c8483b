"""What the agents know: records that hold the truth in SQL, found through an index.

Must not break: no stale, expired, erased or foreign record is ever returned, and any recall can be repeated as of then.
A verb goes into `store` and, if it is more than a query, into the package that does it; its argument and result into
`records.requests`; what workflow code imports stays in `contracts` and there.
"""

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
    RememberResult,
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
    "RememberResult",
    "Scope",
    "customer",
    "open_memory",
]

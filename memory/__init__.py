"""What the agents know: records that hold the truth in SQL, found through a vector index."""

from __future__ import annotations

from typing import TYPE_CHECKING

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

_LAZY = {"Embedder": "embed", "MiniLm": "embed", "Memory": "store", "open_memory": "opening"}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)

"""Whether a target still offers what its connector relies on.

`Drift` fetches, compares and stores contracts, `Guard` holds writes back, `_compatibility` tells which changes break
whom. Must not break: a high-risk write to a target whose contract changed waits until a person has accepted the change.
A new rule about changes goes into `_compatibility`; how a target describes itself into `perdure.connectors.schemas`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.lazy import lazy

if TYPE_CHECKING:
    from perdure.connectors.drift.drift import Drift, version
    from perdure.connectors.drift.guard import Guard
else:
    __getattr__ = lazy(
        __name__,
        {
            "drift": ["Drift", "version"],
            "guard": ["Guard"],
        },
    )

__all__ = [
    "Drift",
    "Guard",
    "version",
]

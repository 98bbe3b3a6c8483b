"""What the agents can do: actions on other systems, each of which happens once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.connectors.contracts import (
    Absent,
    Action,
    AnyAction,
    Attempt,
    CannotTell,
    Connector,
    Done,
    Effect,
    EffectCall,
    EffectEvent,
    EffectResult,
    EffectState,
    Executed,
    Found,
    Listed,
    Probe,
    Receipt,
    Reconcilable,
    Target,
    Undo,
    UndoCall,
    UndoResult,
    business_key,
    effect_key,
    undo_by,
    undo_key,
)
from perdure.connectors.drift.contracts import (
    Contract,
    HasContract,
    HasPinnedContract,
    Operation,
)
from perdure.connectors.http import HttpAction, HttpConnector, Listing
from perdure.connectors.ledger.contracts import Dependent, Resolution
from perdure.lazy import lazy

if TYPE_CHECKING:
    from perdure.connectors.events import Stream
    from perdure.connectors.ledger import Ledger
else:
    __getattr__ = lazy(
        __name__,
        {
            "events": ["Stream"],
            "ledger": ["Ledger"],
        },
    )

__all__ = [
    "Absent",
    "Action",
    "AnyAction",
    "Attempt",
    "CannotTell",
    "Connector",
    "Contract",
    "Dependent",
    "Done",
    "Effect",
    "EffectCall",
    "EffectEvent",
    "EffectResult",
    "EffectState",
    "Executed",
    "Found",
    "HasContract",
    "HasPinnedContract",
    "HttpAction",
    "HttpConnector",
    "Ledger",
    "Listed",
    "Listing",
    "Operation",
    "Probe",
    "Receipt",
    "Reconcilable",
    "Resolution",
    "Stream",
    "Target",
    "Undo",
    "UndoCall",
    "UndoResult",
    "business_key",
    "effect_key",
    "undo_by",
    "undo_key",
]

"""What keeps ledger, targets and contracts in agreement, opened together by whoever runs activities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from perdure.connectors.contracts import Connector
from perdure.connectors.drift import Drift, Guard
from perdure.connectors.events import Stream
from perdure.connectors.reconciliation import Reconciler, Repairs, Sweeper
from perdure.storage import Database


@dataclass(frozen=True)
class Watch:
    """The parts, over one database and the connectors of this process."""

    reconciler: Reconciler
    repairs: Repairs
    sweeper: Sweeper
    drift: Drift
    guard: Guard
    stream: Stream

    @classmethod
    def over(
        cls, database: Database, connectors: Mapping[str, Connector], *, fresh: timedelta | None = timedelta(seconds=10)
    ) -> Watch:
        """Return them. FRESH: how old the last look at a contract may be when a high-risk write relies on it."""
        drift = Drift(database, connectors)
        return cls(
            reconciler=Reconciler(database, connectors),
            repairs=Repairs(database, connectors),
            sweeper=Sweeper(database, connectors),
            drift=drift,
            guard=Guard(drift, fresh=fresh),
            stream=Stream(database),
        )

"""Whether a connector keeps its word when things go wrong: the test kit for connectors, perdure's own and yours.

`check` runs every fault of the matrix against a connector, through a real ledger and beside a client that simply
retries. The faults come from a proxy before the target (`HttpFaultProxy`, `TcpFaultProxy`), or, where there is no
network to put one into, from around the connector itself. Must not break: a connector that lies fails the check, and
nothing of perdure imports this. A new fault goes into `faults` and the proxies, a new promise into `promises`.
"""

from __future__ import annotations

from perdure.connectors.testing.faults import Fault, Faults
from perdure.connectors.testing.http_proxy import HttpFaultProxy
from perdure.connectors.testing.matrix import (
    Case,
    Matrix,
    Row,
    Tally,
    check,
)
from perdure.connectors.testing.tcp_proxy import TcpFaultProxy

__all__ = ["Case", "Fault", "Faults", "HttpFaultProxy", "Matrix", "Row", "Tally", "TcpFaultProxy", "check"]

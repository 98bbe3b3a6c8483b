"""How actions reach a SQL database: one transaction each, with a row of its own that says it was done.

`SqlConnector` runs what a `SqlAction` writes down. Must not break: the statements and the row that proves them are
committed together. How statements and rows are written goes into `_action`, what is relied on into `_contract`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.lazy import lazy

if TYPE_CHECKING:
    from perdure.connectors.sql._connector import DDL, SqlAction, SqlConnector
else:
    __getattr__ = lazy(
        __name__,
        {
            "_connector": ["DDL", "SqlAction", "SqlConnector"],
        },
    )

__all__ = [
    "DDL",
    "SqlAction",
    "SqlConnector",
]

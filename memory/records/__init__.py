"""How memories are written to SQL and read from it.

Must not break: a version is written once and never changed, every query names its scopes, and the outbox row is
committed with the version. How a record is written goes into `records`, which versions count at a moment into
`reading`, a new request of callers into `requests`, which workflow code imports, so it stays pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.lazy import lazy

if TYPE_CHECKING:
    from perdure.memory.records.changing import consolidate, update
    from perdure.memory.records.forgetting import Retention
    from perdure.memory.records.reading import (
        Moment,
        as_record,
        index_interval,
        is_memory,
        is_visible,
        list_query,
        records_of,
        require_storable,
        scope_of,
    )
    from perdure.memory.records.records import (
        NAMES,
        WriteResult,
        enqueue,
        lock,
        memory_key,
        require_zone,
        scope_key,
        step_key,
        version_id_of,
    )
    from perdure.memory.records.run_scopes import is_in_scope, record_run_scopes
else:
    __getattr__ = lazy(
        __name__,
        {
            "changing": ["consolidate", "update"],
            "forgetting": ["Retention"],
            "reading": [
                "Moment",
                "as_record",
                "index_interval",
                "is_memory",
                "is_visible",
                "list_query",
                "records_of",
                "require_storable",
                "scope_of",
            ],
            "records": [
                "NAMES",
                "WriteResult",
                "enqueue",
                "lock",
                "memory_key",
                "require_zone",
                "scope_key",
                "step_key",
                "version_id_of",
            ],
            "run_scopes": ["is_in_scope", "record_run_scopes"],
        },
    )

__all__ = [
    "NAMES",
    "Moment",
    "Retention",
    "WriteResult",
    "as_record",
    "consolidate",
    "enqueue",
    "index_interval",
    "is_in_scope",
    "is_memory",
    "is_visible",
    "list_query",
    "lock",
    "memory_key",
    "record_run_scopes",
    "records_of",
    "require_storable",
    "require_zone",
    "scope_key",
    "scope_of",
    "step_key",
    "update",
    "version_id_of",
]

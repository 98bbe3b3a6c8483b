"""How memories are written to SQL and read from it: the truth about what the agents know.

Must not break: a version is written once and never changed, every query names exactly one scope, and the outbox row
is committed with the version. How a record is written goes into `records`, which versions count at a moment into
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
        interval,
        listed,
        named,
        records_of,
        sayable,
        scope_of,
        visible,
    )
    from perdure.memory.records.records import (
        NAMES,
        Written,
        aware,
        lock,
        memory_key,
        queue,
        scope_key,
        step_key,
        version_id_of,
    )
    from perdure.memory.records.run_scopes import had_to_do, within
else:
    __getattr__ = lazy(
        __name__,
        {
            "changing": ["consolidate", "update"],
            "forgetting": ["Retention"],
            "reading": [
                "Moment",
                "as_record",
                "interval",
                "listed",
                "named",
                "records_of",
                "sayable",
                "scope_of",
                "visible",
            ],
            "records": [
                "NAMES",
                "Written",
                "aware",
                "lock",
                "memory_key",
                "queue",
                "scope_key",
                "step_key",
                "version_id_of",
            ],
            "run_scopes": ["had_to_do", "within"],
        },
    )

__all__ = [
    "NAMES",
    "Moment",
    "Retention",
    "Written",
    "as_record",
    "aware",
    "consolidate",
    "had_to_do",
    "interval",
    "listed",
    "lock",
    "memory_key",
    "named",
    "queue",
    "records_of",
    "sayable",
    "scope_key",
    "scope_of",
    "step_key",
    "update",
    "version_id_of",
    "visible",
    "within",
]

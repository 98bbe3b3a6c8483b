"""When a larger tier is asked although there is a valid answer, as learned from labelled answers.

Must not break: a label has neither prompt nor answer in it, and what was learned is in force only after it has beaten
the tier on questions kept aside. Features go into `escalation`, how they are weighed into `_learning`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.lazy import lazy

if TYPE_CHECKING:
    from perdure.routing.escalation.escalation import (
        ActiveEscalation,
        list_versions,
        load_active,
        save_version,
    )
    from perdure.routing.escalation.evaluation import Point, Study, study
    from perdure.routing.escalation.labels import (
        count_labels,
        import_labels,
        label_answer,
        label_call,
        labels_of,
        last_verdict,
    )
else:
    __getattr__ = lazy(
        __name__,
        {
            "escalation": ["ActiveEscalation", "list_versions", "load_active", "save_version"],
            "evaluation": ["Point", "Study", "study"],
            "labels": ["count_labels", "import_labels", "label_answer", "label_call", "labels_of", "last_verdict"],
        },
    )

__all__ = [
    "ActiveEscalation",
    "Point",
    "Study",
    "count_labels",
    "import_labels",
    "label_answer",
    "label_call",
    "labels_of",
    "last_verdict",
    "list_versions",
    "load_active",
    "save_version",
    "study",
]

"""When a larger tier is asked although there is a valid answer, as learned from labelled answers.

Must not break: a label has neither prompt nor answer in it, and what was learned is in force only after it has beaten
the tier on questions kept aside. Features go into `escalation`, how they are weighed into `_learning`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.lazy import lazy

if TYPE_CHECKING:
    from perdure.routing.escalation.escalation import (
        InForce,
        in_force,
        keep,
        versions,
    )
    from perdure.routing.escalation.evaluation import Point, Study, study
    from perdure.routing.escalation.labels import (
        counts,
        import_labels,
        judge,
        label,
        labels_of,
        last_word,
    )
else:
    __getattr__ = lazy(
        __name__,
        {
            "escalation": ["InForce", "in_force", "keep", "versions"],
            "evaluation": ["Point", "Study", "study"],
            "labels": ["counts", "import_labels", "judge", "label", "labels_of", "last_word"],
        },
    )

__all__ = [
    "InForce",
    "Point",
    "Study",
    "counts",
    "import_labels",
    "in_force",
    "judge",
    "keep",
    "label",
    "labels_of",
    "last_word",
    "study",
    "versions",
]

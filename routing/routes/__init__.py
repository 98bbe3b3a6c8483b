"""What a routing file can say: tasks, deployments, budgets, embeddings, and their examples.

Must not break: a key that is unknown, or a value that cannot hold, is refused with file and line before anything
runs. A new setting is a field here, with its unit in its docstring, and a sentence in docs/routing.md. Files are read
by `perdure.routing.load`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.lazy import lazy

if TYPE_CHECKING:
    from perdure.routing.routes.config import (
        LOCAL,
        SHIPPED,
        Budget,
        Deployment,
        Embeddings,
        Fraction,
        Names,
        Table,
        Task,
        as_float,
    )
    from perdure.routing.routes.examples import Example, extract_text, read_examples
else:
    __getattr__ = lazy(
        __name__,
        {
            "config": [
                "Budget",
                "Deployment",
                "Embeddings",
                "Fraction",
                "LOCAL",
                "Names",
                "SHIPPED",
                "Table",
                "Task",
                "as_float",
            ],
            "examples": ["Example", "extract_text", "read_examples"],
        },
    )

__all__ = [
    "LOCAL",
    "SHIPPED",
    "Budget",
    "Deployment",
    "Embeddings",
    "Example",
    "Fraction",
    "Names",
    "Table",
    "Task",
    "as_float",
    "extract_text",
    "read_examples",
]

"""Which model answers a task, and what it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.lazy import lazy
from perdure.routing.contracts import (
    Attempt,
    GenerateCall,
    Generated,
    Generation,
    ModelRecord,
    OutputRef,
    RaiseCall,
    RaiseResult,
    Tier,
    Usage,
)

if TYPE_CHECKING:
    from perdure.routing.embeddings import ModelEmbedder
    from perdure.routing.load import Routes, load_routes
    from perdure.routing.prompts import resolve_output
    from perdure.routing.providers import Embedder
    from perdure.routing.router import Router
    from perdure.routing.routes import (
        SHIPPED,
        Budget,
        Deployment,
        Task,
    )
else:
    __getattr__ = lazy(
        __name__,
        {
            "embeddings": ["ModelEmbedder"],
            "load": ["Routes", "load_routes"],
            "prompts": ["resolve_output"],
            "providers": ["Embedder"],
            "router": ["Router"],
            "routes": ["Budget", "Deployment", "SHIPPED", "Task"],
        },
    )

__all__ = [
    "SHIPPED",
    "Attempt",
    "Budget",
    "Deployment",
    "Embedder",
    "GenerateCall",
    "Generated",
    "Generation",
    "ModelEmbedder",
    "ModelRecord",
    "OutputRef",
    "RaiseCall",
    "RaiseResult",
    "Router",
    "Routes",
    "Task",
    "Tier",
    "Usage",
    "load_routes",
    "resolve_output",
]

"""Which model answers a task, and what it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.routing.contracts import (
    Attempt,
    GenerateCall,
    Generated,
    Generation,
    ModelRecord,
    OutputRef,
    RaiseCall,
    Raised,
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
    "Raised",
    "Router",
    "Routes",
    "Task",
    "Tier",
    "Usage",
    "load_routes",
    "resolve_output",
]

# Loaded when they are used: workflow code imports the contracts from here and must stay light.
_LAZY = {
    "SHIPPED": "config",
    "Budget": "config",
    "Deployment": "config",
    "Routes": "config",
    "Task": "config",
    "load_routes": "load",
    "Embedder": "local",
    "ModelEmbedder": "embeddings",
    "Router": "router",
    "resolve_output": "answers",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"perdure.routing.{_LAZY[name]}"), name)

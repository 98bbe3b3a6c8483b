"""How one prompt reaches one deployment, and what its failure means.

Must not break: one attempt is one call: LiteLLM neither retries nor caches nor falls back, and a call that may have
been served is never called unsent. What a provider's error means goes into `failures`, another local model beside
`gguf`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.lazy import lazy

if TYPE_CHECKING:
    from perdure.routing.providers.breakers import CircuitBreakers
    from perdure.routing.providers.failures import ProviderFailure, classify
    from perdure.routing.providers.gguf import Gguf, why_not_runnable
    from perdure.routing.providers.litellm import (
        ProviderFailed,
        Reply,
        as_confidence,
        output_arguments,
    )
    from perdure.routing.providers.local import Embedder, LocalModel
    from perdure.routing.providers.models import Model, Models
else:
    __getattr__ = lazy(
        __name__,
        {
            "breakers": ["CircuitBreakers"],
            "failures": ["ProviderFailure", "classify"],
            "gguf": ["Gguf", "why_not_runnable"],
            "litellm": ["ProviderFailed", "Reply", "as_confidence", "output_arguments"],
            "local": ["Embedder", "LocalModel"],
            "models": ["Model", "Models"],
        },
    )

__all__ = [
    "CircuitBreakers",
    "Embedder",
    "Gguf",
    "LocalModel",
    "Model",
    "Models",
    "ProviderFailed",
    "ProviderFailure",
    "Reply",
    "as_confidence",
    "classify",
    "output_arguments",
    "why_not_runnable",
]

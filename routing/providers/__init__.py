"""How one prompt reaches one deployment, and what its failure means.

Must not break: one attempt is one call: LiteLLM neither retries nor caches nor falls back, and a call that may have
been served is never called unsent. What a provider's error means goes into `failures`, another local model beside
`gguf`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.lazy import lazy

if TYPE_CHECKING:
    from perdure.routing.providers.breakers import CircuitBreakers, Claim
    from perdure.routing.providers.failures import ProviderFailure, classify
    from perdure.routing.providers.gguf import Gguf, why_not_runnable
    from perdure.routing.providers.litellm import (
        ProviderFailed,
        Reply,
        as_confidence,
        output_arguments,
        rehearse,
    )
    from perdure.routing.providers.local import Embedder, LocalModel
    from perdure.routing.providers.models import Model, Models
    from perdure.routing.providers.wire import Wire
else:
    __getattr__ = lazy(
        __name__,
        {
            "breakers": ["CircuitBreakers", "Claim"],
            "failures": ["ProviderFailure", "classify"],
            "gguf": ["Gguf", "why_not_runnable"],
            "litellm": ["ProviderFailed", "Reply", "as_confidence", "output_arguments", "rehearse"],
            "local": ["Embedder", "LocalModel"],
            "models": ["Model", "Models"],
            "wire": ["Wire"],
        },
    )

__all__ = [
    "CircuitBreakers",
    "Claim",
    "Embedder",
    "Gguf",
    "LocalModel",
    "Model",
    "Models",
    "ProviderFailed",
    "ProviderFailure",
    "Reply",
    "Wire",
    "as_confidence",
    "classify",
    "output_arguments",
    "rehearse",
    "why_not_runnable",
]

"""How operations of an OpenAPI document become actions. Safe to import in workflow code.

`OpenApiConnector` declares them; what the document leaves open is said by a `Use` or a file. Must not break: what the
document writes down is what is sent, and what cannot be sent is refused when the connector is declared. How a
parameter or body is written goes into `_operations`, what a schema means into `_schemas`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.lazy import lazy

if TYPE_CHECKING:
    from perdure.connectors.openapi._document import parsed, read_document
    from perdure.connectors.openapi.connector import (
        OpenApiAction,
        OpenApiConnector,
        Undoing,
        Use,
        Uses,
        declared_in,
        main,
    )
else:
    __getattr__ = lazy(
        __name__,
        {
            "_document": ["parsed", "read_document"],
            "connector": ["OpenApiAction", "OpenApiConnector", "Undoing", "Use", "Uses", "declared_in", "main"],
        },
    )

__all__ = [
    "OpenApiAction",
    "OpenApiConnector",
    "Undoing",
    "Use",
    "Uses",
    "declared_in",
    "main",
    "parsed",
    "read_document",
]

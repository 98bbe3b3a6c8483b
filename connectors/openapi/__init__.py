"""Which actions does an OpenAPI document describe, and how is each of them written? Safe to import in workflow code.

Must not break: what the document says is what is sent, and what perdure cannot send like that is refused when the connector
is declared, with its place in the document. Nothing that the document refers to outside itself is fetched.
How a document is read goes into `_document`, what a schema means into `_schemas`, how parameters and bodies are written
into `_operations`, what a person adds (`Use`) into `_use`, and how these become an action into `_action`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.lazy import lazy

if TYPE_CHECKING:
    from perdure.connectors.openapi._document import parse_document, read_document
    from perdure.connectors.openapi.connector import (
        OpenApiAction,
        OpenApiConnector,
        Undoing,
        Use,
        Uses,
        connector_from_settings,
        main,
    )
else:
    __getattr__ = lazy(
        __name__,
        {
            "_document": ["parse_document", "read_document"],
            "connector": ["OpenApiAction", "OpenApiConnector", "Undoing", "Use", "Uses", "connector_from_settings", "main"],
        },
    )

__all__ = [
    "OpenApiAction",
    "OpenApiConnector",
    "Undoing",
    "Use",
    "Uses",
    "connector_from_settings",
    "main",
    "parse_document",
    "read_document",
]

"""How actions reach a system that speaks JSON over HTTP. Safe to import in workflow code.

`HttpConnector` sends what an `HttpAction` writes down, `Listing` reads lists page by page, OAuth tokens are shared by
all workers. Must not break: one attempt is one request, redirects are not followed, and only what is known not to
have been sent may be called unsent. How a request is written goes into `action`, how the answer of a look-up is read
as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.lazy import lazy

if TYPE_CHECKING:
    from perdure.connectors.http.action import HttpAction, Request, in_path
    from perdure.connectors.http.connector import HttpConnector
    from perdure.connectors.http.listing import (
        Item,
        Listing,
        at,
        time_of,
    )
else:
    __getattr__ = lazy(
        __name__,
        {
            "action": ["HttpAction", "Request", "in_path"],
            "connector": ["HttpConnector"],
            "listing": ["Item", "Listing", "at", "time_of"],
        },
    )

__all__ = [
    "HttpAction",
    "HttpConnector",
    "Item",
    "Listing",
    "Request",
    "at",
    "in_path",
    "time_of",
]

"""How does an action become one HTTP request, and what does its answer prove? Safe to import in workflow code.

Must not break: one attempt is one request (no retry, no redirect, no fallback); what is written down is what is sent; only
what is known not to have been sent is called `TargetUnavailable`, everything else is unknown until a probe has looked.
How an action is written and read goes into `action`, how it travels into `connector`, lists into `listing`, access tokens
into `_oauth` (what an authorization server is asked) and `_token_cache` (whose turn it is to ask).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.lazy import lazy

if TYPE_CHECKING:
    from perdure.connectors.http.action import HttpAction, Request, quote_segment
    from perdure.connectors.http.connector import HttpConnector
    from perdure.connectors.http.listing import (
        Item,
        Listing,
        parse_time,
        value_at,
    )
else:
    __getattr__ = lazy(
        __name__,
        {
            "action": ["HttpAction", "Request", "quote_segment"],
            "connector": ["HttpConnector"],
            "listing": ["Item", "Listing", "parse_time", "value_at"],
        },
    )

__all__ = [
    "HttpAction",
    "HttpConnector",
    "Item",
    "Listing",
    "Request",
    "parse_time",
    "quote_segment",
    "value_at",
]

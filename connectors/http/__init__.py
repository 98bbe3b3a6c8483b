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
    from perdure.connectors.http._address import check_address, check_path, join
    from perdure.connectors.http._encoding import (
        FORM,
        JSON_TYPE,
        encode_form,
        encode_json,
        quote_segment,
        quote_value,
        to_text,
    )
    from perdure.connectors.http._responses import decode_json, parse_retry_after
    from perdure.connectors.http.action import PROBE_PAGES, HttpAction, Request, fill
    from perdure.connectors.http.connector import HttpConnector, build_request
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
            "_address": ["check_address", "check_path", "join"],
            "_encoding": ["FORM", "JSON_TYPE", "encode_form", "encode_json", "quote_segment", "quote_value", "to_text"],
            "_responses": ["decode_json", "parse_retry_after"],
            "action": ["HttpAction", "PROBE_PAGES", "Request", "fill"],
            "connector": ["HttpConnector", "build_request"],
            "listing": ["Item", "Listing", "parse_time", "value_at"],
        },
    )

__all__ = [
    "FORM",
    "JSON_TYPE",
    "PROBE_PAGES",
    "HttpAction",
    "HttpConnector",
    "Item",
    "Listing",
    "Request",
    "build_request",
    "check_address",
    "check_path",
    "decode_json",
    "encode_form",
    "encode_json",
    "fill",
    "join",
    "parse_retry_after",
    "parse_time",
    "quote_segment",
    "quote_value",
    "to_text",
    "value_at",
]

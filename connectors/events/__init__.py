"""What happened, in one order that others can follow, and what others send us.

`Stream` orders the events, `receiver` takes in verified webhooks, `nats` publishes. Must not break: cursors only go
up, an event has one id however often it comes, and nothing unverified enters. A new source of events calls `add` in
the transaction of the change that it tells of; a new signature scheme goes into `_inbound`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.lazy import lazy

if TYPE_CHECKING:
    from perdure.connectors.events._inbound import (
        Asgi,
        BodySignature,
        StripeSignature,
        receiver,
    )
    from perdure.connectors.events.nats import publisher
    from perdure.connectors.events.stream import Stream, add
else:
    __getattr__ = lazy(
        __name__,
        {
            "_inbound": ["Asgi", "BodySignature", "StripeSignature", "receiver"],
            "nats": ["publisher"],
            "stream": ["Stream", "add"],
        },
    )

__all__ = [
    "Asgi",
    "BodySignature",
    "Stream",
    "StripeSignature",
    "add",
    "publisher",
    "receiver",
]

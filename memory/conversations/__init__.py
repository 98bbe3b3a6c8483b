"""Where the messages of conversations are, and what of them goes into a prompt.

`Messages` keeps each message once under a digest of all before it; `pack` chooses for N tokens, the same for the same
material. Must not break: a message is never changed, and what was erased is refused readably. What workflows may see
is in `contracts`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.lazy import lazy

if TYPE_CHECKING:
    from perdure.memory.conversations.messages import (
        Message,
        Messages,
        Summary,
        Window,
        newest,
        summary_id,
    )
    from perdure.memory.conversations.packing import Entitled, labelled, pack
else:
    __getattr__ = lazy(
        __name__,
        {
            "messages": ["Message", "Messages", "Summary", "Window", "newest", "summary_id"],
            "packing": ["Entitled", "labelled", "pack"],
        },
    )

__all__ = [
    "Entitled",
    "Message",
    "Messages",
    "Summary",
    "Window",
    "labelled",
    "newest",
    "pack",
    "summary_id",
]

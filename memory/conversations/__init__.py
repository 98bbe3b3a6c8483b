"""Where the messages of conversations are, and what of them goes into a prompt.

Must not break: a message is never changed, what was erased is refused readably, and the same material packs the same.
`Messages` keeps each message once under a digest of all before it, `pack` chooses for N tokens; what workflows may see
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
        count_newest,
        summary_id,
    )
    from perdure.memory.conversations.packing import PackableRecord, label_record, pack
else:
    __getattr__ = lazy(
        __name__,
        {
            "messages": ["Message", "Messages", "Summary", "Window", "count_newest", "summary_id"],
            "packing": ["PackableRecord", "label_record", "pack"],
        },
    )

__all__ = [
    "Message",
    "Messages",
    "PackableRecord",
    "Summary",
    "Window",
    "count_newest",
    "label_record",
    "pack",
    "summary_id",
]

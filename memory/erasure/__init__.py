"""How every trace of a memory goes, and how memories leave and come back as lines of JSON.

Must not break: an erasure reaches what was made from a record, holds refuse it, and a receipt without content stays.
A new table that holds content is added to what `erasing` deletes and to `eraser.TABLES`; a new column of a record to
what `archive` reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.lazy import lazy

if TYPE_CHECKING:
    from perdure.memory.erasure.eraser import Eraser
else:
    __getattr__ = lazy(
        __name__,
        {
            "eraser": ["Eraser"],
        },
    )

__all__ = ["Eraser"]

"""A worker's process that dies by kill -9 once a model has answered, before or after it has written that down, or pauses.

python -m processes.routing_crasher URL MODELS before|after|paused
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from kits.routing import HashingEmbedder, Triage, asking

from perdure.routing import Generation, Router, load_routes
from perdure.routing.attempts import Attempts
from perdure.routing.calls import CachedAnswer, ModelCall, Settlement
from perdure.storage import open_database


def die_where_calls_settle(when: str) -> None:
    """Die, or be stopped, where an attempt writes down how its call has ended."""
    settle = Attempts._settle

    async def mortal(
        self: Attempts,
        record: ModelCall,
        settlement: Settlement,
        kept: CachedAnswer | None = None,
        generation: Generation | None = None,
    ) -> None:
        if when == "after":
            await settle(self, record, settlement, kept, generation)
        os.kill(os.getpid(), signal.SIGSTOP if when == "paused" else signal.SIGKILL)
        await settle(self, record, settlement, kept, generation)

    Attempts._settle = mortal  # type: ignore[method-assign]  # what this process is for


async def main(url: str, models: str, when: str) -> None:
    """Ask the model once."""
    die_where_calls_settle(when)
    async with open_database(url) as database:
        await Router(database, load_routes([Path(models)]), HashingEmbedder()).generate(asking(), attempt=1, output=Triage)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

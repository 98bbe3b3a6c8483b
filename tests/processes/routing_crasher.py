"""A worker's process that dies by kill -9 once a model has answered, before or after it has written that down, or pauses.

python -m processes.routing_crasher URL MODELS before|after|paused
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from kits.routing import HashingEmbedder, Triage, asking

from perdure.routing import Router, load_routes
from perdure.routing.calls import ModelCall
from perdure.storage import open_database


class Dying(Router):
    """Dies, or is stopped, where a router writes down how a call has ended."""

    def __init__(self, *given: Any, when: str) -> None:
        super().__init__(*given)
        self._when = when

    async def _settle(self, call: ModelCall, write: Callable[[sa.Connection], None]) -> None:
        if self._when == "after":
            await super()._settle(call, write)
        os.kill(os.getpid(), signal.SIGSTOP if self._when == "paused" else signal.SIGKILL)
        await super()._settle(call, write)


async def main(url: str, models: str, when: str) -> None:
    """Ask the model once."""
    async with open_database(url) as database:
        await Dying(database, load_routes([Path(models)]), HashingEmbedder(), when=when).generate(
            asking(), attempt=1, output=Triage
        )


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

"""A worker's process that dies by kill -9 when a model has answered and nothing of it is written: `URL MODELS`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from routing_kit import HashingEmbedder, Triage, asking

from perdure.routing import Router, load_routes
from perdure.routing.cache import Kept
from perdure.routing.calls import ModelCall, Settled
from perdure.storage import open_database


class Dying(Router):
    """Dies where a router writes down how a call has ended."""

    async def _settle(self, call: ModelCall, settled: Settled, kept: Kept | None = None) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


async def main(url: str, models: str) -> None:
    """Ask the model once."""
    async with open_database(url) as database:
        await Dying(database, load_routes([Path(models)]), HashingEmbedder()).generate(asking(), attempt=1, output=Triage)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

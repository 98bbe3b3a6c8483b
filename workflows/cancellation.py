"""How a run brings what it has begun to its end although it was cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from temporalio import workflow


async def wait_until_done(tasks: Sequence[asyncio.Task[None]]) -> bool:
    """Return when all TASKS have ended, and whether the caller was cancelled meanwhile: it has to raise that itself."""
    cancelled = False
    while not all(task.done() for task in tasks):
        try:
            await workflow.wait(tasks)
        except asyncio.CancelledError:
            cancelled = True
    return cancelled

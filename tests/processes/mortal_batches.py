"""A worker that is killed with -9 in the middle of a batch, again and again, and then one that lives.

    python -m processes.mortal_batches.py enqueued:20 created:1 signalled:25

Each word is a worker: it dies right after that has happened to it so many times. Prints how each one ended.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from kits import model_workflows  # noqa: F401  imported before the forks, so that each of them does not have to
from temporalio.client import Client, WorkflowHandle

from perdure import worker
from perdure.routing.batches import Batches
from perdure.routing.batches._batch_api import BatchApi
from perdure.routing.providers import litellm as provider

POINTS: dict[str, tuple[type, str]] = {
    "enqueued": (Client, "start_workflow"),
    "reserved": (Batches, "_reserve"),
    "uploaded": (BatchApi, "_call:acreate_file"),
    "created": (BatchApi, "_call:acreate_batch"),
    "polled": (Batches, "poll"),
    "fetched": (BatchApi, "_call:afile_content"),
    "settled": (Batches, "_settle"),
    "signalled": (WorkflowHandle, "signal"),
}
"""What a worker may die after: a method, of which `:` says which first argument counts."""


def die_after(doom: str) -> None:
    """Kill this process when DOOM, a point and a number, has come about."""
    point, _, number = doom.partition(":")
    owner, (name, _, first) = POINTS[point][0], POINTS[point][1].partition(":")
    seen: Counter[str] = Counter()
    method: Callable[..., Awaitable[Any]] = getattr(owner, name)

    @functools.wraps(method)
    async def mortal(self: object, *given: Any, **more: Any) -> object:
        done = await method(self, *given, **more)
        seen[point] += not first or given[0] == first
        if seen[point] == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    setattr(owner, name, mortal)


def main() -> None:
    """Have one worker after the other do the work."""
    provider.load()
    tied, parent = os.pipe()
    for doom in [*sys.argv[1:], ""]:
        child = os.fork()
        if child == 0:
            os.close(parent)
            threading.Thread(target=_end_with_parent, args=(tied,), daemon=True).start()
            if doom:
                die_after(doom)
            worker.main(["kits.model_workflows"])
            os._exit(0)
        print(json.dumps(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])), flush=True)  # noqa: T201


def _end_with_parent(tied: int) -> None:
    os.read(tied, 1)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()

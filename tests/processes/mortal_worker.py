"""A worker that is killed with -9 at a transition of the ledger, again and again, and then one that lives.

    python -m processes.mortal_worker.py before|after 1 2 3 ...

Each number is a worker: it dies before, or after, it commits its transition with that number. Prints how each one ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Sequence

from processes import mortal_desk  # noqa: F401  imported before the forks, so that each of them does not have to

from perdure import worker
from perdure.storage import GroupCommit, _Work


class Doom:
    """Counts the transitions that this process commits, and kills it at its point."""

    def __init__(self, side: str, number: int) -> None:
        self.side, self.number = side, number
        self.seen = 0

    def strike(self, side: str) -> None:
        """Kill the process if this is the SIDE of the transition on which it is to die."""
        if (side, self.seen) == (self.side, self.number):
            os.kill(os.getpid(), signal.SIGKILL)


class MortalCommit(GroupCommit):
    """Commits one transition at a time, and may die of it."""

    doom: Doom

    async def _commit(self, batch: Sequence[_Work[object]]) -> None:
        for work in batch:
            self.doom.seen += 1
            self.doom.strike("before")
            await super()._commit([work])
            self.doom.strike("after")


def main() -> None:
    """Have one worker after the other do the work."""
    side, numbers = sys.argv[1], [int(number) for number in sys.argv[2:]]
    tied, parent = os.pipe()
    for number in numbers:
        child = os.fork()
        if child == 0:
            from perdure.connectors.ledger import journal

            os.close(parent)
            threading.Thread(target=_end_with_parent, args=(tied,), daemon=True).start()
            MortalCommit.doom = Doom(side, number)
            journal.GroupCommit = MortalCommit  # type: ignore[attr-defined]  # this process is forked for that
            worker.main(["processes.mortal_desk"])
            os._exit(0)
        print(json.dumps(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])), flush=True)  # noqa: T201
    os.execv(sys.executable, [sys.executable, "-m", "perdure.worker", "processes.mortal_desk"])


def _end_with_parent(tied: int) -> None:
    os.read(tied, 1)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()

"""What goes wrong with which operation: the schedule of one run of bench/chaos.py, the same for both clients."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from perdure.connectors.testing import Fault
from perdure.lineage import Frozen

Lane = Literal["workers", "temporal"]
LedgerIn = Literal["sqlite", "postgres"]

ON_THE_WAY: Final[dict[str, Fault]] = {
    "lost request": "lose request",
    "lost response": "lose response",
    "late landing": "land late",
    "500 after commit": "500 after commit",
    "429": "429",
    "truncated body": "truncate",
}
"""The faults of requests, and how the fault proxies call them."""
AT_THE_WORKER: Final = ("kill -9", "triple delivery", "reset", "cancel")
FAULTS: Final = (*ON_THE_WAY, *AT_THE_WORKER)

_BYTES_ONLY = ("lost request", "lost response", "late landing", "truncated body", *AT_THE_WORKER)
FAULTS_OF: Final[dict[str, Sequence[str]]] = {
    "http-header": FAULTS,
    "http-listed": FAULTS,
    "http-neither": FAULTS,
    # No network to put a proxy into: what is lost, is lost between the ledger and the connector.
    "sqlite": ("lost request", "lost response", "late landing", *AT_THE_WORKER),
    "postgres": _BYTES_ONLY,
    "smtp": _BYTES_ONLY,
}
"""The targets, and what can go wrong with each: where the proxy does not know what the bytes say, no status can."""

HTTP: Final = ("http-header", "http-listed", "http-neither")
BY_BYTES: Final = ("postgres", "smtp")
"""Targets before which stands one proxy a fault, because it cannot see which operation it holds."""


@dataclass(frozen=True)
class Pace:
    """The times of one run, in seconds. LATE is less than SETTLE: that is what the targets promise."""

    settle: float = 2.0
    late: float = 0.6
    deadline: float = 5.0

    @property
    def mail_deadline(self) -> float:
        """The connector gives each step of a mail a sixth of it."""
        return 2 * self.deadline


class Operation(Frozen):
    """One thing that is wanted once."""

    name: str
    target: str
    fault: str
    lane: Lane
    """Whether the ledger is asked by a plain worker process, or by a workflow on a Temporal server."""
    ledger: LedgerIn
    strike: Fault = "none"
    """What the first requests of it meet on the way."""
    strikes: int = 0
    """How many requests that are."""
    once: bool = False
    """Whether three askers share its business key only, not its step."""
    pause: float | None = None
    """How many seconds after the start the run is reset or cancelled. None: a reset when it has ended."""
    saga: bool = False
    """Whether its run does it in a saga."""
    dies: tuple[str, ...] = ()
    """Where the processes that perform it are killed, one after the other, e.g. `before write 2`."""

    @property
    def connector(self) -> str:
        """The connector that it goes through."""
        if self.target in BY_BYTES and self.strike != "none":
            return through(self.target, self.strike)
        return self.target.replace("-", "_")

    @property
    def action(self) -> str:
        """The action that does it."""
        return f"{self.connector}.{'make_once' if self.once else 'make'}"


def through(target: str, strike: Fault) -> str:
    """Return the name of the connector that reaches TARGET by way of the proxy that has STRIKE."""
    return f"{target}_{strike.replace(' ', '_')}"


def schedule(
    count: int, seed: int, *, targets: Sequence[str], faults: Sequence[str], share: float, ledgers: Sequence[LedgerIn]
) -> list[Operation]:
    """Return COUNT operations, spread evenly over every fault of every target, in an order that SEED decides.

    SHARE of those that need no Temporal server go through workflows too; resets and cancellations always do.
    """
    chance = random.Random(seed)  # noqa: S311  faults, not secrets
    cells = [(target, fault) for target in targets for fault in FAULTS_OF[target] if fault in faults]
    if not cells:
        raise ValueError("none of these targets has any of these faults")
    turns = [chance.random() for _ in cells]
    operations = []
    for number in range(count):
        cell = number % len(cells)
        target, fault = cells[cell]
        turns[cell] += share
        through_temporal = turns[cell] >= 1
        turns[cell] -= through_temporal
        lane: Lane = "temporal" if share and (through_temporal or fault in ("reset", "cancel")) else "workers"
        ledger = ledgers[(number // len(cells)) % len(ledgers)] if lane == "workers" else "sqlite"
        begun = Operation(name=f"op-{number:06d}", target=target, fault=fault, lane=lane, ledger=ledger)
        operations.append(_drawn(begun, chance))
    chance.shuffle(operations)
    return operations


def _drawn(begun: Operation, chance: random.Random) -> Operation:
    """Return BEGUN with what CHANCE decides about it."""
    fault = begun.fault
    strike: Fault = ON_THE_WAY.get(fault, "none")
    if fault in AT_THE_WORKER and begun.target not in BY_BYTES and chance.random() < 0.5:
        # What comes together in a bad hour.
        strike = chance.choice(("lose response", "lose request", "land late"))
    strikes = 0 if strike == "none" else chance.choice((1, 1, 1, 2, 3))
    pause = None if fault == "reset" and chance.random() < 0.5 else round(chance.choice((0.3, 3)) * chance.random(), 3)
    drawn = {
        "strike": strike,
        "strikes": strikes,
        "once": fault == "triple delivery" and (begun.lane == "temporal" or chance.random() < 0.5),
        "pause": pause if fault in ("reset", "cancel") else None,
        "saga": fault == "cancel" and chance.random() < 0.5,
        "dies": tuple(_deaths(chance)) if fault == "kill -9" else (),
    }
    return begun.model_copy(update=drawn)


def _deaths(chance: random.Random) -> Iterator[str]:
    yield _death(chance, looked=False)
    while chance.random() < 0.45:
        yield _death(chance, looked=True)


def _death(chance: random.Random, *, looked: bool) -> str:
    if chance.random() < 0.15:
        return f"at {chance.randint(1, 60)} ms"
    whats = ("write", "write", "send", "look") if looked else ("write", "write", "send")
    what = chance.choice(whats)
    return f"{chance.choice(('before', 'after'))} {what} {chance.randint(1, {'write': 6, 'send': 3, 'look': 3}[what])}"

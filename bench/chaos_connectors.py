"""The actions of bench/chaos.py, one set a target, and how their connectors are made to fail. Safe in workflow code."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Final, cast

from bench.chaos_plan import BY_BYTES, HTTP, ON_THE_WAY, Operation, Pace, through
from pydantic import BaseModel

from perdure.connectors import (
    Action,
    AnyAction,
    Attempt,
    Connector,
    Executed,
    HttpAction,
    HttpConnector,
    Probe,
    Target,
)
from perdure.connectors.contracts import Mechanism
from perdure.connectors.smtp import Mail, SmtpConnector
from perdure.connectors.sql import SqlAction, SqlConnector
from perdure.connectors.testing import Fault, Faults
from perdure.errors import EffectError, EffectUnknown
from perdure.lineage import Frozen

TABLE: Final = "made"
"""Where the books of every target have what was made: one row each, with the operation in the column `op`."""
_MECHANISMS: Final[dict[str, Mechanism]] = {
    "http-header": "header",
    "http-listed": "natural-key",
    "http-neither": "none",
    "sqlite": "natural-key",
    "postgres": "natural-key",
    "smtp": "none",
}
_MAIL_TO: Final = "customer@shop.example"


class Thing(Frozen):
    """What is to be made: the one thing of an operation."""

    op: str


class Made(Frozen):
    """What was made, under which number."""

    id: int
    op: str


class Strikes:
    """What the requests of each of OPERATIONS meet, the first ones first."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._left: dict[str, list[Fault]] = {each.name: [each.strike] * each.strikes for each in operations}

    def next(self, op: str) -> Fault:
        """Return what the next request of OP meets."""
        left = self._left.get(op)
        return left.pop() if left else "none"


class Doom:
    """Counts what the process does, and kills it with -9 at POINT: `before` or `after` the Nth `write`, `send` or `look`.

    `at N ms` is that long after `live`.
    """

    def __init__(self, point: str = "") -> None:
        self.point = point
        self.seen: Counter[str] = Counter()

    def live(self) -> None:
        """Begin."""
        if self.point.startswith("at "):
            asyncio.get_running_loop().call_later(int(self.point.split()[1]) / 1000, self._die)

    def before(self, what: str) -> None:
        """Note that WHAT is about to happen."""
        self.seen[what] += 1
        self._strike("before", what)

    def after(self, what: str) -> None:
        """Note that WHAT has happened."""
        self._strike("after", what)

    def _strike(self, side: str, what: str) -> None:
        if self.point == f"{side} {what} {self.seen[what]}":
            self._die()

    def _die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Rigged:
    """INNER with ACTIONS in place of its own. Its process dies by DOOM; STRIKES, if any, come between it and the ledger."""

    def __init__(
        self, inner: Connector, actions: Sequence[AnyAction], doom: Doom, faults: Faults | None, strikes: Strikes | None
    ) -> None:
        self._inner, self._doom, self._faults, self._strikes = inner, doom, faults, strikes
        self._actions = {action.name: action for action in actions}

    @property
    def name(self) -> str:
        """The part of the action names before the dot."""
        return self._inner.name

    @property
    def actions(self) -> Mapping[str, AnyAction]:
        """The actions by full name."""
        return self._actions

    async def execute(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Executed:
        """Do it, if the process lives that long."""
        self._doom.before("send")
        try:
            return await self._through_strikes(action, args, attempt)
        finally:
            self._doom.after("send")

    async def probe(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Probe:
        """Look it up, if the process lives that long."""
        self._doom.before("look")
        found = await self._inner.probe(action, args, attempt)
        self._doom.after("look")
        return found

    async def close(self) -> None:
        """Let what is late land, then close."""
        if self._faults is not None:
            await self._faults.wait_until_settled()
        await self._inner.close()

    async def _through_strikes(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Executed:
        fault = self._strikes.next(_op(args)) if self._strikes else "none"
        if fault == "land late":
            assert self._faults is not None
            self._faults.land_later(self._land(action, args, attempt))
        if fault in ("lose request", "land late"):
            raise EffectUnknown(f"the schedule says: {fault}")
        executed = await self._inner.execute(action, args, attempt)
        if fault == "lose response":
            raise EffectUnknown(f"the schedule says: {fault}")
        return executed

    async def _land(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> None:
        with suppress(EffectError):
            await self._inner.execute(action, args, attempt)


def actions_of(target: str, connector: str, pace: Pace) -> list[AnyAction]:
    """Return the actions by which CONNECTOR makes something at TARGET: `make`, and `make_once` in the whole world."""
    deadline = pace.mail_deadline if target == "smtp" else pace.deadline
    promise = Target(
        mechanism=_MECHANISMS[target], settle=timedelta(seconds=pace.settle), deadline=timedelta(seconds=deadline)
    )
    if target == "smtp":
        send = SmtpConnector(connector).send
        make: AnyAction = cast(AnyAction, replace(send, name=f"{connector}.make", target=promise))
        return [make, replace(make, name=f"{connector}.make_once", once_per=("subject",))]
    make = cast(AnyAction, _http(target, connector, promise) if target in HTTP else _sql(connector, promise))
    return [make, replace(make, name=f"{connector}.make_once", once_per=("op",))]


def argument(operation: Operation) -> BaseModel:
    """Return what the action of OPERATION is asked with."""
    if operation.target == "smtp":
        return Mail(to=[_MAIL_TO], subject=operation.name, text="It is on its way.")
    return Thing(op=operation.name)


def every_action(pace: Pace) -> dict[str, AnyAction]:
    """Return every action of the bench by its name."""
    names = [(target, target.replace("-", "_")) for target in _MECHANISMS]
    names += [(target, through(target, strike)) for target in BY_BYTES for strike in ON_THE_WAY.values()]
    return {action.name: action for target, name in names for action in actions_of(target, name, pace)}


def connectors(
    addresses: Mapping[str, str], pace: Pace, *, doom: Doom, operations: Sequence[Operation]
) -> dict[str, Connector]:
    """Return the connectors by name, for the targets at ADDRESSES; where no proxy can, OPERATIONS say what fails."""
    made: dict[str, Connector] = {}
    for name, address in addresses.items():
        target = _target(name)
        actions = actions_of(target, name, pace)
        faults = Faults(late=timedelta(seconds=pace.late)) if target == "sqlite" else None
        strikes = Strikes([each for each in operations if each.target == "sqlite"]) if target == "sqlite" else None
        made[name] = Rigged(_inner(target, name, address, actions), actions, doom, faults, strikes)
    return made


def _inner(target: str, name: str, address: str, actions: Sequence[AnyAction]) -> Connector:
    if target == "smtp":
        host, _, port = address.rpartition(":")
        options = {"host": host, "port": port, "sender": "desk@shop.example", "tls": "none"}
        return SmtpConnector(name).with_options(options)
    if target in HTTP:
        http = HttpConnector(*cast("list[HttpAction[BaseModel, BaseModel]]", actions))
        return http.with_options({"url": address})
    orders = type("Orders", (SqlConnector,), {action.name.partition(".")[2]: action for action in actions})
    return cast(SqlConnector, orders()).with_options({"url": address})


def _http(target: str, connector: str, promise: Target) -> Action[Thing, Made]:
    listed = target == "http-listed"
    return HttpAction(
        f"{connector}.make",
        Thing,
        Made,
        request=f"POST /{target}",
        key="reference" if listed else "",
        probe=f"GET /{target}?reference={{key}}" if listed else "",
        target=promise,
    )


def _sql(connector: str, promise: Target) -> Action[Thing, Made]:
    statement = f"INSERT INTO {TABLE} (op) VALUES (:op) RETURNING id, op"  # noqa: S608  a name of ours
    return SqlAction(f"{connector}.make", Thing, Made, statements=[statement], target=promise)


def _target(connector: str) -> str:
    return next(target for target in _MECHANISMS if connector.startswith(target.replace("-", "_")))


def _op(args: BaseModel) -> str:
    return args.op if isinstance(args, Thing) else ""

"""How a connector is made to die, to lose answers and to be overtaken, where no proxy can do it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final, Literal

from pydantic import BaseModel

from perdure.connectors.contracts import (
    AnyAction,
    Attempt,
    Connector,
    Executed,
    Probe,
    Target,
)
from perdure.connectors.testing.faults import Fault, Faults
from perdure.errors import EffectUnknown, TargetUnavailable

AT_THE_SEAM: Final[tuple[Fault, ...]] = ("none", "lose request", "lose response", "land late", "429")
"""The faults that can be had without a proxy."""


class Died(BaseException):
    """The worker was killed here. No handler of errors may see it, as none would see a kill."""


class Seam:
    """CONNECTOR, its actions with TARGET if given, so that FAULTS strike and workers die between it and the ledger.

    FAULTS None: a proxy does that, and here everything passes.
    """

    def __init__(self, connector: Connector, target: Target | None, faults: Faults | None) -> None:
        self.dies: Literal["never", "before sending", "after sending"] = "never"
        """Where the worker dies."""
        self.on_the_way = asyncio.Event()
        """Set when something is about to be sent."""
        self._connector = connector
        self._faults = faults
        self._actions = {
            name: replace(action, target=target) if target else action for name, action in connector.actions.items()
        }

    @property
    def name(self) -> str:
        """The part of the action names before the dot."""
        return self._connector.name

    @property
    def actions(self) -> Mapping[str, AnyAction]:
        """The actions by full name."""
        return self._actions

    async def execute(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Executed:
        """Do it, unless something goes wrong."""
        self.on_the_way.set()
        if self.dies == "before sending":
            raise Died
        executed = await self._through_faults(action, args, attempt)
        if self.dies == "after sending":
            raise Died
        return executed

    async def probe(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Probe:
        """Look it up."""
        return await self._connector.probe(action, args, attempt)

    async def close(self) -> None:
        """Leave the connector open: it belongs to who made it."""

    async def _through_faults(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Executed:
        fault = self._faults.draw() if self._faults else "none"
        if fault == "429":
            raise TargetUnavailable("the test kit says: too many requests")
        if fault == "land late":
            assert self._faults is not None
            self._faults.land_later(self._land(action, args, attempt))
        if fault in ("land late", "lose request"):
            raise EffectUnknown(f"the test kit says: {fault}")
        executed = await self._connector.execute(action, args, attempt)
        if fault == "lose response":
            raise EffectUnknown("the test kit says: lose response")
        return executed

    async def _land(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> None:
        with suppress(Exception):  # whatever comes of it, the connection is gone and nobody hears of it
            await self._connector.execute(action, args, attempt)

"""Whether an action may act, as far as its target's contract goes. The ledger asks before each effect."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import timedelta

import structlog
from pydantic import BaseModel

from perdure.connectors.contracts import (
    AnyAction,
    Attempt,
    Connector,
    Executed,
    Probe,
)
from perdure.connectors.drift.contracts import ContractCheck
from perdure.connectors.drift.drift import Drift
from perdure.errors import ContractDrifted, PerdureError
from perdure.storage import now

log = structlog.get_logger(__name__)

_ASK_AGAIN = timedelta(seconds=30)
"""How long a target is left alone that has no contract, or does not answer."""


class Guard:
    """Holds back high-risk writes whose target has changed, and lets everything else pass with a warning.

    What is known is read from the database once in EVERY. Before a high-risk write the target is asked, unless it was
    within FRESH; None asks on schedules only. Many writes at once share one question. A connector may say, by
    `contract_age`, that asking is much to ask of its target.
    """

    def __init__(
        self,
        drift: Drift,
        *,
        every: timedelta = timedelta(seconds=2),
        fresh: timedelta | None = timedelta(seconds=10),
    ) -> None:
        self._drift = drift
        self._every = every
        self._fresh = fresh
        self._known: dict[str, ContractCheck] = {}
        self._refreshed_at: float | None = None
        self._refreshing = asyncio.Lock()
        self._checking: dict[str, asyncio.Lock] = {}
        self._asked: dict[str, float] = {}
        self._silent: dict[str, float] = {}
        self._warned: set[tuple[str, str]] = set()

    async def admit(self, connector: Connector, action: AnyAction) -> Connector:
        """Return through what ACTION may be done: CONNECTOR itself, or one that only looks things up and sends nothing."""
        risky = action.risk == "high" and not action.reads
        await self._refresh()
        if risky and self._is_stale(connector):
            await self._check(connector)
        checked = self._known.get(connector.name)
        if checked is None or checked.verdict in ("same", "compatible"):
            return connector
        changes = [
            str(change)
            for change in checked.changes
            if action.name in change.actions and change.verdict in ("breaking", "wording")
        ]
        if not changes:
            return connector
        if not risky:
            self._warn(action, checked, changes)
            return connector
        return _LookUpOnly(connector, checked, changes)

    async def _refresh(self) -> None:
        if self._refreshed_at is not None and time.monotonic() - self._refreshed_at < self._every.total_seconds():
            return
        async with self._refreshing:
            if self._refreshed_at is None or time.monotonic() - self._refreshed_at >= self._every.total_seconds():
                last = await self._drift.last_checks()
                self._known = {
                    each.connector: each for each in last if each.version == self._drift.versions.get(each.connector)
                }
                self._refreshed_at = time.monotonic()

    def _is_stale(self, connector: Connector) -> bool:
        if self._fresh is None or self._drift.find_self_describing(connector.name) is None:
            return False
        # A target without a contract leaves no check behind, and one that is down would hold up each effect.
        silent = self._silent.get(connector.name)
        if silent is not None and time.monotonic() - silent < _ASK_AGAIN.total_seconds():
            return False
        checked = self._known.get(connector.name)
        age = max(self._fresh, getattr(connector, "contract_age", timedelta(0)))
        return checked is None or now() - checked.at >= age

    async def _check(self, connector: Connector) -> None:
        name, came = connector.name, time.monotonic()
        async with self._checking.setdefault(name, asyncio.Lock()):
            # Whoever waited here may take an answer to a question that was put after they came.
            if self._asked.get(name, 0.0) >= came or not self._is_stale(connector):
                return
            self._asked[name] = time.monotonic()
            checked = None
            try:
                checked = await self._drift.check(name)
            except PerdureError as error:
                # Then what was known last holds. If the target is down, the action will find out by itself.
                log.warning("contract could not be fetched", connector=name, error=error.message)
            if checked is None:
                self._silent[name] = time.monotonic()
            else:
                self._silent.pop(name, None)
                self._known = {**self._known, name: checked}

    def _warn(self, action: AnyAction, checked: ContractCheck, changes: list[str]) -> None:
        if (action.name, checked.live) not in self._warned:
            self._warned.add((action.name, checked.live))
            log.warning("acting on a contract that has changed", action=action.name, changes=changes)


class _LookUpOnly:
    """A connector whose target has changed: it can be asked what happened, and nothing is sent to it."""

    def __init__(self, connector: Connector, checked: ContractCheck, changes: list[str]) -> None:
        self._connector = connector
        self._checked = checked
        self._changes = changes

    @property
    def name(self) -> str:
        """The connector's."""
        return self._connector.name

    @property
    def actions(self) -> Mapping[str, AnyAction]:
        """The connector's."""
        return self._connector.actions

    async def execute(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Executed:
        """Refuse."""
        shown = "; ".join(self._changes[:5]) + (f"; and {len(self._changes) - 5} more" if len(self._changes) > 5 else "")
        raise ContractDrifted(
            f"{action.name} was not sent, because the contract of {self.name} has changed: {shown}. The step goes on when "
            f"the connector is adapted, or somebody has accepted it: `perdure connectors accept {self.name} "
            f"--digest {self._checked.live}`",
            retry_after=_ASK_AGAIN,
        )

    async def probe(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Probe:
        """Ask the connector."""
        return await self._connector.probe(action, args, attempt)

    async def close(self) -> None:
        """Leave the connector open: it is not ours."""

"""Whether what the ledger says happened is what the target says happened."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from uuid import uuid4

import sqlalchemy as sa
import structlog
from sqlmodel import col

from perdure.connectors.contracts import (
    Absent,
    AnyAction,
    Attempt,
    CannotTell,
    Connector,
    Effect,
    Listed,
    Probe,
    Reconcilable,
)
from perdure.connectors.ledger import Journal, lease_duration
from perdure.connectors.ledger.tables import EffectRow
from perdure.connectors.reconciliation._compare import Differences, find_differences, missing_finding
from perdure.connectors.reconciliation.contracts import Finding, ReconcileCall, Report
from perdure.connectors.reconciliation.findings import Findings
from perdure.connectors.wire import parse_args, storable_text, whole_text, with_whole_characters
from perdure.errors import InvalidInput, NotFound, PerdureError
from perdure.storage import Database, now

log = structlog.get_logger(__name__)

_MARGIN = timedelta(minutes=1)
"""How far clocks may be apart when a target's times are compared with ours."""


class Reconciler:
    """Compares the ledger of one database with what the targets of CONNECTORS say."""

    def __init__(
        self, database: Database, connectors: Mapping[str, Connector], *, clock: Callable[[], datetime] = now
    ) -> None:
        self.clock = clock
        self._database = database
        self._journal = Journal(database)
        self._connectors = connectors
        self.findings = Findings(database)

    async def reconcile(self, call: ReconcileCall) -> Report:
        """Compare, write a report, open and close findings, and tell the stream.

        Raises `NotFound`, `InvalidInput` if the connector's target cannot be listed, `TargetUnavailable`.
        """
        connector, target, actions = self._require_listable(call.connector)
        at = self.clock()
        # What was sent before this has landed, or will not land any more.
        settled = max(lease_duration(action.target) + action.target.settle for action in actions.values())
        until = min(call.until or at - settled, at - settled)
        since = call.since or await self._since(call, until)
        listed = [_whole(each) async for each in target.listing(since - _MARGIN, at + _MARGIN) if each.action in actions]
        effects = await self._select_effects(sorted(actions), listed, since, until)
        result = find_differences(actions, effects, listed, since=since, until=until)
        found = result.found + await self._look_up_unlisted(connector, result, actions)
        report = Report(
            id=f"r-{uuid4().hex[:12]}",
            connector=call.connector,
            actions=tuple(sorted(actions)),
            since=since,
            until=until,
            at=at,
            effects=len(effects),
            listed=len(listed),
            unsettled=result.unsettled,
            findings=tuple(found),
        )
        return await self.findings.record(report)

    def listable(self) -> list[str]:
        """Return the names of the connectors that can be compared."""
        return [name for name, each in self._connectors.items() if isinstance(each, Reconcilable) and each.listed_actions]

    def connector(self, name: str) -> Connector:
        """Return the connector called NAME. Raises `NotFound` with those there are."""
        if name not in self._connectors:
            raise NotFound(
                f"this worker has no connector {name!r}; it has: {', '.join(sorted(self._connectors)) or 'none'}"
            )
        return self._connectors[name]

    def _require_listable(self, name: str) -> tuple[Connector, Reconcilable, dict[str, AnyAction]]:
        connector = self.connector(name)
        if not isinstance(connector, Reconcilable) or not connector.listed_actions:
            raise InvalidInput(
                f"connector {name!r} declares no list of its target, so there is nothing to compare the ledger with. "
                "Give its actions a `listing`, or write the method `listing` (docs/reconciliation.md)."
            )
        return connector, connector, {action: connector.actions[action] for action in connector.listed_actions}

    async def _since(self, call: ReconcileCall, until: datetime) -> datetime:
        last = await self.findings.last_report(call.connector)
        if last is not None:
            return min(last.until, until) - call.look_back
        first = sa.select(sa.func.min(col(EffectRow.created_at)))
        async with self._database.read() as connection:
            began = (await connection.execute(first.where(col(EffectRow.action).startswith(f"{call.connector}.")))).scalar()
        return min(began, until) - _MARGIN if began is not None else until - call.look_back

    async def _select_effects(
        self, actions: Sequence[str], listed: Sequence[Listed], since: datetime, until: datetime
    ) -> list[Effect]:
        sent = sa.func.coalesce(col(EffectRow.first_sent_at), col(EffectRow.created_at))
        window = sa.and_(col(EffectRow.action).in_(actions), sent >= since, sent < until)
        found = {effect.key: effect for effect in await self._journal.select_where(window)}
        keys = {each.key for each in listed if each.key} - found.keys()
        known = {effect.remote_ref for effect in found.values()}
        references = {each.remote_ref for each in listed if not each.key and each.remote_ref} - known
        for column, values in ((EffectRow.key, keys), (EffectRow.remote_ref, references)):
            wanted = sorted(values)
            for start in range(0, len(wanted), 500):
                named = sa.and_(col(EffectRow.action).in_(actions), col(column).in_(wanted[start : start + 500]))
                found |= {effect.key: effect for effect in await self._journal.select_where(named)}
        return list(found.values())

    async def _look_up_unlisted(
        self, connector: Connector, result: Differences, actions: Mapping[str, AnyAction]
    ) -> list[Finding]:
        found: list[Finding] = []
        for effect in result.unlisted:
            probe = await look_up(connector, actions[effect.action], effect)
            if isinstance(probe, Absent):
                found.append(missing_finding(effect, "the target does not list it, and a look-up finds none", certain=True))
            elif isinstance(probe, CannotTell):
                detail = f"the target does not list it, and a look-up could not tell: {probe.why}"
                found.append(missing_finding(effect, detail, certain=False))
            else:
                log.warning("the target has an effect that it does not list", key=effect.key, action=effect.action)
        return found


def _whole(listed: Listed) -> Listed:
    """Return what is LISTED as it can be stored: a target may say anything."""
    facts = {whole_text(name): with_whole_characters(value) for name, value in listed.facts.items()}
    texts = {"remote_ref": storable_text(listed.remote_ref), "key": storable_text(listed.key)}
    return listed.model_copy(update={**texts, "facts": facts})


async def look_up(connector: Connector, action: AnyAction, effect: Effect) -> Probe:
    """Ask the target of CONNECTOR for EFFECT. Whatever goes wrong is a `CannotTell`."""
    attempt = Attempt(key=effect.key, fence=effect.fence, deadline=action.target.deadline)
    try:
        args = parse_args(action, effect.args)
        async with asyncio.timeout(attempt.deadline.total_seconds()):
            return await connector.probe(action, args, attempt)
    except PerdureError as error:
        return CannotTell(error.message)
    except Exception as error:  # noqa: BLE001  a connector that breaks here must not break the comparison
        return CannotTell(f"the look-up failed: {type(error).__name__}")

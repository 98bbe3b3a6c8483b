"""The activities behind the scheduled workflows: comparing, checking, repairing. The work is in connectors/."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from temporalio import activity

from perdure.activities.run_status import is_running
from perdure.connectors.drift.contracts import CheckContractCall, ContractState
from perdure.connectors.reconciliation.contracts import (
    FINDING_KINDS,
    CloseCall,
    Proposal,
    ProposeCall,
    ReconcileCall,
    ReconcileResult,
    RepairResult,
    SettledOrphans,
    SettleOrphans,
)

if TYPE_CHECKING:
    from perdure.activities.rooms import Rooms


class MaintenanceActivities:
    """The activities that work in ROOMS. Their names are on the wire and never change."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    @activity.defn(name="perdure.reconcile")
    async def reconcile(self, call: ReconcileCall) -> ReconcileResult:
        """Find out what runs that have ended left open, then compare the ledger with a target."""
        swept = await self._sweep(SettleOrphans(connector=call.connector))
        report = await self._rooms.open.watch.reconciler.reconcile(call)
        await self._count(report.connector, {each.id: each.kind for each in report.findings}, report.opened)
        return ReconcileResult(
            report=report.id,
            connector=report.connector,
            since=report.since,
            until=report.until,
            effects=report.effects,
            listed=report.listed,
            counts=report.counts,
            opened=report.opened,
            gone=report.gone,
            swept=swept.counts,
        )

    @activity.defn(name="perdure.sweep")
    async def sweep(self, call: SettleOrphans) -> SettledOrphans:
        """Find out what became of effects that no run asks for any more."""
        return await self._sweep(call)

    @activity.defn(name="perdure.check_contract")
    async def check_contract(self, call: CheckContractCall) -> ContractState:
        """Compare the contract that a connector relies on with the live one."""
        checked = await self._rooms.open.watch.drift.check(call.connector)
        meter = activity.metric_meter().with_additional_attributes({"connector": call.connector})
        gauge = meter.create_gauge("perdure_contract_changes", "Changes of a contract that nobody has accepted yet")
        for verdict in ("compatible", "wording", "breaking"):
            changes = checked.changes if checked else ()
            gauge.set(sum(change.verdict == verdict for change in changes), {"verdict": verdict})
        return ContractState(connector=call.connector, checked=checked)

    @activity.defn(name="perdure.propose_repair")
    async def propose_repair(self, call: ProposeCall) -> Proposal:
        """Find out what can be done about a finding."""
        return await self._rooms.open.watch.repairs.propose(call)

    @activity.defn(name="perdure.close_finding")
    async def close_finding(self, call: CloseCall) -> RepairResult:
        """Write down that a finding was dealt with."""
        repaired = await self._rooms.open.watch.repairs.close(call)
        finding = await self._rooms.open.watch.reconciler.findings.finding(repaired.finding)
        await self._count(finding.connector, {}, ())
        return repaired

    def all(self) -> list[Callable[..., object]]:
        """Return the activities to register with a worker."""
        return [self.reconcile, self.sweep, self.check_contract, self.propose_repair, self.close_finding]

    async def _sweep(self, call: SettleOrphans) -> SettledOrphans:
        swept = await self._rooms.open.watch.sweeper.sweep(call, is_running)
        gauge = activity.metric_meter().create_gauge(
            "perdure_effects", "Effects that have not ended or wait for a person, by state"
        )
        for state, count in swept.open.items():
            gauge.set(count, {"state": state})
        return swept

    async def _count(self, connector: str, kinds: dict[str, str], opened: tuple[str, ...]) -> None:
        meter = activity.metric_meter().with_additional_attributes({"connector": connector})
        found = meter.create_counter("perdure_findings", "Differences between ledger and target, when they are found")
        open_now = meter.create_gauge("perdure_findings_open", "Differences that are open")
        standing = await self._rooms.open.watch.reconciler.findings.open_counts(connector)
        for kind in FINDING_KINDS:
            found.add(sum(kinds[id] == kind for id in opened), {"kind": kind})
            open_now.set(standing.get(kind, 0), {"kind": kind})

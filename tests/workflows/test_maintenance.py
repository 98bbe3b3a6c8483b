"""Tests of workflows/maintenance.py and activities/maintenance.py, against the shop."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from kits.box_workflows import Puts
from kits.cli import environment
from kits.connectors import ShopProcess
from kits.watch import ListedBank, ListedInventory, ListedPayments, everything, reserve_directly
from kits.workflows import Governed, Handle, OpenWorker, parked, reset, task_ends
from processes.watch_desk import Pays
from pydantic import BaseModel
from stand_ins.box import Box
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleIntervalSpec,
    ScheduleSpec,
    WorkflowFailureError,
)
from temporalio.exceptions import ApplicationError
from temporalio.runtime import MetricBuffer, Runtime, TelemetryConfig
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from perdure.commands.effects.work import ResolutionInput, resolve_effect
from perdure.commands.options import Options
from perdure.connectors.contracts import (
    AnyAction,
    Attempt,
    Probe,
    Target,
)
from perdure.connectors.drift.contracts import CheckContractCall, ContractState
from perdure.connectors.events import Stream
from perdure.connectors.ledger import Ledger, lease_duration
from perdure.connectors.reconciliation import Findings
from perdure.connectors.reconciliation.contracts import (
    Finding,
    ReconcileCall,
    ReconcileResult,
    RepairCall,
    RepairResult,
    SettledOrphans,
    SettleOrphans,
    repair_id,
)
from perdure.errors import EffectUnknown, TargetUnavailable
from perdure.governance.contracts import (
    APPROVALS,
    DECIDE,
    ApprovalRequest,
    Decision,
    DecisionCall,
)
from perdure.plugin import PerdurePlugin
from perdure.settings import Settings
from perdure.storage import now, open_database


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[ShopProcess]:
    """The stand-in shop, running."""
    shop = ShopProcess(tmp_path)
    shop.start()
    yield shop
    shop.stop()


@pytest.fixture
def desk(governed: OpenWorker, shop: ShopProcess) -> OpenWorker:
    """Open a worker that serves the shop's refunds and stock."""

    @asynccontextmanager
    async def open_desk(**settings: object) -> AsyncIterator[Governed]:
        inventory = ListedInventory().with_options({"url": shop.url})
        payments = ListedPayments().with_options({"url": shop.url})
        async with governed(Pays, connectors=[inventory, payments], settings=settings) as desk:
            yield desk

    return open_desk


async def reconciled(desk: Governed, connector: str) -> ReconcileResult:
    """Compare everything there is, as a run."""
    handle = await desk.start("perdure.reconcile", everything(connector))
    return ReconcileResult.model_validate(await handle.result())


async def swept(desk: Governed) -> SettledOrphans:
    """Find out what ended runs left open, as a run."""
    handle = await desk.start("perdure.sweep", SettleOrphans())
    return SettledOrphans.model_validate(await handle.result())


class ClosedBox(Box):
    """A box that cannot be looked into while it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = True
        self.asked = asyncio.Event()

    async def probe(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Probe:
        """Look into it, unless it is closed."""
        self.asked.set()
        if self.closed:
            raise TargetUnavailable("the box is closed")
        return await super().probe(action, args, attempt)


async def found(desk: Governed) -> list[Finding]:
    """Return every finding, in whatever state."""
    async with open_database(desk.settings.database) as database:
        return list(await Findings(database).findings(state=None))


async def asked(handle: Handle) -> ApprovalRequest:
    """Return what the run asks, as soon as it does."""
    while True:
        requests: list[ApprovalRequest] = await handle.query(APPROVALS, result_type=list[ApprovalRequest])
        if requests:
            return requests[0]
        await asyncio.sleep(0.05)  # a query cannot be waited on


async def decide(handle: Handle, verdict: str = "approve", comment: str = "") -> Decision:
    """Decide what the run asks."""
    request = await asked(handle)
    call = {"approval": request.approval, "digest": request.digest, "verdict": verdict, "by": "mara", "comment": comment}
    decided: Decision = await handle.execute_update(DECIDE, DecisionCall.model_validate(call), result_type=Decision)
    return decided


async def duplicate(desk: Governed, shop: ShopProcess) -> str:
    """Refund an order, have its slot reserved a second time past the ledger, and return what the shop calls that."""
    await (await desk.start(Pays.run, "R-1001")).result()
    async with open_database(desk.settings.database) as database:
        [effect] = [each for each in await Ledger(database, {}).list() if each.action == "inventory.reserve"]
    return await reserve_directly(shop, "R-1001", effect.key)


async def test_a_duplicate_is_found_repaired_and_gone(desk: OpenWorker, shop: ShopProcess) -> None:
    """From the comparison to the repair: found, approved, taken away through the ledger, not there any more."""
    async with desk() as worker:
        extra = await duplicate(worker, shop)
        before = await reconciled(worker, "inventory")
        [finding] = await found(worker)
        handle = await worker.start("perdure.repair", RepairCall(finding=finding.id, of="operations", by="ole"))
        request = await asked(handle)
        await decide(handle)
        repaired = RepairResult.model_validate(await handle.result())
        after = await reconciled(worker, "inventory")

        assert ({"missing": 0, "duplicate": 1, "changed": 0, "unknown": 0}, 1) == (before.counts, len(before.opened))
        assert ("operations", "low") == (request.of, request.risk)
        assert extra in request.question
        assert ("repaired", "mara", "remove") == (repaired.state, repaired.by, repaired.how)
        assert 0 == sum(after.counts.values())
        async with open_database(worker.settings.database) as database:
            effect = await Ledger(database, {}).get(repaired.effect)
            types = [event.type for event in await Stream(database).events() if not event.type.startswith("effect.")]
        assert ("inventory.release", {"id": extra}, "succeeded") == (effect.action, effect.args, effect.state)
        assert 2 == types.count("reconciliation.done")
        assert ["finding.opened", "finding.repaired"] == [each for each in types if each.startswith("finding.")]
        assert await worker.replays(handle, [])


async def test_a_rejected_repair_does_nothing(desk: OpenWorker, shop: ShopProcess) -> None:
    """Without an approval nothing is sent, and the finding stays open."""
    async with desk() as worker:
        extra = await duplicate(worker, shop)
        await reconciled(worker, "inventory")
        [finding] = await found(worker)
        handle = await worker.start("perdure.repair", RepairCall(finding=finding.id))
        await decide(handle, "reject", "that one is right")

        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
        assert isinstance(failed.value.cause, ApplicationError)
        assert "Rejected" == failed.value.cause.type
        assert ["open"] == [each.state for each in await found(worker)]
        _, slots = await shop.ask("GET", "/reservations")
        assert isinstance(slots, list)
        assert [None] == [slot["released_at"] for slot in slots if isinstance(slot, dict) and slot["id"] == extra]


async def test_what_was_approved_must_still_be_so(governed: OpenWorker) -> None:
    """If the missing one has come between the question and the answer, it is not sent again."""
    bank = ListedBank()
    async with governed(connectors=[bank]) as worker:
        async with open_database(worker.settings.database) as database:
            from kits.connectors import call

            await Ledger(database, {"bank": bank}).perform(call())
        kept, bank.paid = bank.paid, []
        await asyncio.sleep((lease_duration(bank.target) + bank.target.settle).total_seconds())
        await reconciled(worker, "bank")
        [finding] = await found(worker)
        handle = await worker.start("perdure.repair", RepairCall(finding=finding.id))
        await asked(handle)
        bank.paid = kept
        await decide(handle)

        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
        assert "by now" in str(failed.value.cause)
        assert 1 == len(bank.attempts)


async def test_a_parked_repair_is_woken(governed: OpenWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repair that cannot tell whether it sent something waits for a person, and goes on when that person has spoken."""
    bank = ListedBank(
        target=Target(mechanism="none", settle=timedelta(milliseconds=1), deadline=timedelta(milliseconds=50))
    )
    async with governed(connectors=[bank]) as worker:
        async with open_database(worker.settings.database) as database:
            from kits.connectors import call

            await Ledger(database, {"bank": bank}).perform(call())
        bank.paid.clear()
        await asyncio.sleep((lease_duration(bank.target) + bank.target.settle).total_seconds())
        await reconciled(worker, "bank")
        [finding] = await found(worker)
        bank.sends = [EffectUnknown("gone")]
        handle = await worker.start("perdure.repair", RepairCall(finding=finding.id), id=repair_id(finding.id))
        await decide(handle)
        waits = await parked(handle)
        address = worker.client.service_client.config.target_host
        for name, value in environment(address, worker.settings.home).items():
            monkeypatch.setenv(name, value)
        async with open_database(worker.settings.database) as database:
            doubt = (await Ledger(database, {}).get(waits.key)).doubt_until
        await asyncio.sleep(0 if doubt is None else max(0, (doubt - now()).total_seconds()))
        verdict = ResolutionInput(waits.key, ("send again",), "mara", "the bank has none", "", None, ())
        resolved = await resolve_effect(Options(), verdict)

        assert handle.id in resolved.told
        assert "repaired" == RepairResult.model_validate(await handle.result()).state
        assert 1 == len(bank.paid)


async def test_accepting_needs_no_effect(desk: OpenWorker, shop: ShopProcess) -> None:
    """A finding can be accepted as it is, which a person approves as well."""
    async with desk() as worker:
        await shop.ask("POST", "/refunds", {"order": "R-1001", "amount": 100, "reference": "by hand"})
        await reconciled(worker, "payments")
        [finding] = await found(worker)
        handle = await worker.start("perdure.repair", RepairCall(finding=finding.id, how="accept"))
        await decide(handle)

        assert "accepted" == RepairResult.model_validate(await handle.result()).state
        assert 1 == len(await shop.refunds())


async def test_what_a_terminated_run_left_is_found_out(governed: OpenWorker) -> None:
    """A run that was terminated while it did not know is swept up; reset, it gets what was found, and nothing is sent."""
    box = ClosedBox()
    box.wrong = {"put": ["silent"]}
    async with governed(Puts, connectors=[box]) as worker:
        handle = await worker.start(Puts.run, 300)
        await box.asked.wait()
        while_it_runs = await swept(worker)
        await handle.terminate()
        box.closed = False
        first, second = await swept(worker), await swept(worker)
        history = await handle.fetch_history()
        again = await reset(worker.client, handle, task_ends(history)[-1])

        assert ({"alive": 1}, {"found": 1}, {}) == (while_it_runs.counts, first.counts, second.counts)
        assert ("probe 1", ["put a"]) == (await again.result(), box.done)


async def test_a_comparison_sweeps_first(governed: OpenWorker) -> None:
    """What a schedule compares is swept before, so that nothing of ended runs stays unsettled."""
    bank = ListedBank()
    async with governed(connectors=[bank]) as worker:
        async with open_database(worker.settings.database) as database:
            from kits.connectors import call

            bank.sends = [EffectUnknown("gone")]
            with pytest.raises(EffectUnknown):
                await Ledger(database, {"bank": bank}).perform(call())
        await asyncio.sleep((lease_duration(bank.target) + bank.target.settle).total_seconds())

        assert {"absent": 1} == (await reconciled(worker, "bank")).swept


async def test_a_changed_contract_holds_a_run_back(desk: OpenWorker, shop: ShopProcess) -> None:
    """A run whose refund is blocked goes on waiting and says why, and nothing is refunded."""
    async with desk(contract_age=timedelta(0)) as worker:
        await worker.start("perdure.check_contract", CheckContractCall(connector="payments"))
        await (await worker.start(Pays.run, "R-1001")).result()
        await shop.ask("POST", "/release", {"release": "breaking"})
        handle = await worker.start(Pays.run, "R-1002")
        while True:
            [*pending] = (await handle.describe()).raw_description.pending_activities
            if pending and pending[0].HasField("last_failure"):
                break
            await asyncio.sleep(0.05)  # a description cannot be waited on
        state = ContractState.model_validate(
            await (await worker.start("perdure.check_contract", CheckContractCall(connector="payments"))).result()
        )

        assert "ContractDrifted" == pending[0].last_failure.application_failure_info.type
        assert "amount_minor: is new and needed" in pending[0].last_failure.message
        assert state.checked is not None
        assert ("breaking", ("payments.refund",)) == (state.checked.verdict, state.checked.blocked)
        assert 1 == len(await shop.refunds())
        await handle.cancel()


async def test_a_schedule_compares_again_and_again(desk: OpenWorker, shop: ShopProcess) -> None:
    """What `perdure connectors reconcile --schedule` makes: runs that follow each other and find what came between."""
    async with desk() as worker:
        extra = await duplicate(worker, shop)
        name = f"perdure.reconcile/{uuid.uuid4()}"
        action = ScheduleActionStartWorkflow(
            "perdure.reconcile", ReconcileCall(connector="inventory"), id=name, task_queue=worker.task_queue
        )
        spec = ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(seconds=1))])
        schedule = await worker.client.create_schedule(name, Schedule(action=action, spec=spec))
        async with open_database(worker.settings.database) as database:
            stream = Stream(database).follow(kind="reconciliation.done")
            for _ in range(3):
                await anext(stream)
            await stream.aclose()
            reports = await Findings(database).reports("inventory")
        await schedule.delete()

        assert [extra] == [each.remote_ref for each in await found(worker)]
        assert 1 == sum(len(report.opened) for report in reports)


async def test_findings_are_counted(temporal: WorkflowEnvironment, shop: ShopProcess, tmp_path: Path) -> None:
    """New findings are counted by connector and kind, and a gauge says how many are open."""
    buffer = MetricBuffer(10_000)
    runtime = Runtime(telemetry=TelemetryConfig(metrics=buffer))
    settings = Settings(home=tmp_path, task_queue=str(uuid.uuid4()))
    plugin = PerdurePlugin(settings, connectors=[ListedPayments().with_options({"url": shop.url})])
    address = temporal.client.service_client.config.target_host
    client = await Client.connect(address, plugins=[plugin], runtime=runtime)
    await shop.ask("POST", "/refunds", {"order": "R-1001", "amount": 100, "reference": "by hand"})
    async with Worker(client, task_queue=settings.task_queue):
        for _ in range(2):
            await client.execute_workflow(
                "perdure.reconcile", everything("payments"), id=str(uuid.uuid4()), task_queue=settings.task_queue
            )

    seen: dict[tuple[str, object], float] = {}
    for update in buffer.retrieve_updates():
        if update.metric.name.startswith("perdure_findings") and update.attributes["connector"] == "payments":
            where = (update.metric.name, update.attributes["kind"])
            counts = update.metric.name == "perdure_findings"
            seen[where] = update.value + (seen.get(where, 0) if counts else 0)
    assert (1, 1) == (seen["perdure_findings", "unknown"], seen["perdure_findings_open", "unknown"])
    assert (0, 0) == (seen["perdure_findings", "missing"], seen["perdure_findings_open", "missing"])


async def test_nobody_approves_a_repair(time_skipping: WorkflowEnvironment, tmp_path: Path) -> None:
    """After its week the repair ends as expired; nothing was sent, and the finding is open still."""
    bank = ListedBank()
    bank.lists("somebody's")
    settings = Settings(home=tmp_path, task_queue="repairs")
    plugin = PerdurePlugin(settings, connectors=[bank])
    client = await Client.connect(time_skipping.client.service_client.config.target_host, plugins=[plugin])
    async with Worker(client, task_queue="repairs"):
        skipping = time_skipping.client
        await skipping.execute_workflow("perdure.reconcile", everything("bank"), id="compare", task_queue="repairs")
        async with open_database(settings.database) as database:
            [finding] = await Findings(database).findings()
        began = await time_skipping.get_current_time()
        handle = await skipping.start_workflow(
            "perdure.repair", RepairCall(finding=finding.id, how="accept"), id="repair", task_queue="repairs"
        )

        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
        assert isinstance(failed.value.cause, ApplicationError)
        assert "ApprovalExpired" == failed.value.cause.type
        assert await time_skipping.get_current_time() - began >= timedelta(days=7)
        async with open_database(settings.database) as database:
            assert ["open"] == [each.state for each in await Findings(database).findings(state=None)]

"""The workflows that run on schedules, and the repair of what they find."""

from __future__ import annotations

from datetime import timedelta
from typing import TypeVar

from pydantic import BaseModel
from temporalio import workflow
from temporalio.common import RetryPolicy

from perdure.connectors.contracts import EffectCall
from perdure.connectors.drift.contracts import CheckContractCall, ContractState
from perdure.connectors.reconciliation.contracts import (
    CloseCall,
    Proposal,
    ProposeCall,
    ReconcileCall,
    ReconcileResult,
    RepairCall,
    RepairResult,
    SettledOrphans,
    SettleOrphans,
)
from perdure.errors import InvalidInput
from perdure.memory.records.requests import (
    ChangeCount,
    EnforceRetention,
    ExplainedReceipt,
    ForgetResult,
    IndexReport,
    MemoryAnswer,
    MemoryRequest,
    ReindexCall,
    RetentionReport,
)
from perdure.workflows.approvals import approval
from perdure.workflows.call import execute
from perdure.workflows.effect_model import ActCall
from perdure.workflows.effects import EffectRequest, perform_effect
from perdure.workflows.run import current_run

R = TypeVar("R", bound=BaseModel)

_RETRIES = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=1))
# A schedule comes again. Until then a target that is down for longer than this need not be asked.
_PATIENT = RetryPolicy(initial_interval=timedelta(seconds=2), maximum_interval=timedelta(minutes=2), maximum_attempts=15)


@workflow.defn(name="perdure.reconcile")
class Reconcile:
    """Compares the ledger with what a target says."""

    @workflow.run
    async def run(self, call: ReconcileCall) -> ReconcileResult:
        """Return how many differences there are; the report is in the database."""
        return await execute(
            "perdure.reconcile",
            call,
            ReconcileResult,
            id="reconcile",
            summary=f"Compare the ledger with {call.connector}",
            timeout=timedelta(hours=1),
            retries=_PATIENT,
        )


@workflow.defn(name="perdure.sweep")
class Sweep:
    """Finds out what became of effects that runs have left open when they ended."""

    @workflow.run
    async def run(self, call: SettleOrphans) -> SettledOrphans:
        """Return what became of them; what nobody can tell waits for a person."""
        return await execute(
            "perdure.sweep",
            call,
            SettledOrphans,
            id="sweep",
            summary=f"Look up what {call.connector or 'ended runs'} left open",
            timeout=timedelta(hours=1),
            retries=_PATIENT,
        )


@workflow.defn(name="perdure.check_contract")
class CheckContract:
    """Compares the contract that a connector relies on with the live one."""

    @workflow.run
    async def run(self, call: CheckContractCall) -> ContractState:
        """Return what has changed."""
        return await execute(
            "perdure.check_contract",
            call,
            ContractState,
            id="check",
            summary=f"Check the contract of {call.connector}",
            timeout=timedelta(minutes=5),
            retries=_PATIENT,
        )


@workflow.defn(name="perdure.repair")
class Repair:
    """Repairs one finding, once a person has approved exactly what would be done."""

    @workflow.run
    async def run(self, call: RepairCall) -> RepairResult:
        """Return what was done. A rejection leaves the finding open."""
        proposal = await self._propose(call)
        decision = await approval(
            proposal.question,
            of=call.of,
            within=call.within,
            about={"proposal": proposal, "asked by": call.by},
            risk=proposal.risk,
            name="repair",
        )
        effect = ""
        if proposal.call is not None:
            # The approval may have taken days: what was missing may have come, and what was too much may be gone.
            if (await self._propose(call)).digest != proposal.digest:
                raise InvalidInput(
                    f"finding {proposal.finding} has changed since the repair was approved; start the repair again"
                )
            effect = await self._perform(proposal, proposal.call)
        return await execute(
            "perdure.close_finding",
            CloseCall(
                step=current_run().step("close"), finding=proposal.finding, how=proposal.how, by=decision.by, effect=effect
            ),
            RepairResult,
            id="close",
            summary=f"Close finding {proposal.finding}",
            timeout=timedelta(minutes=1),
            retries=_RETRIES,
        )

    async def _perform(self, proposal: Proposal, call: EffectCall) -> str:
        """Do what was approved, under the step that the effect belongs to, and return the effect's key."""
        context = current_run().call_context()
        request = EffectRequest(
            call.step,
            call.action,
            ActCall(**context, **dict(call)),
            risk=proposal.risk,
            summary=proposal.question,
            timeout=proposal.takes,
        )
        return (await perform_effect(request)).receipt(call.action).key

    async def _propose(self, call: RepairCall) -> Proposal:
        step = current_run().step("propose")
        return await execute(
            "perdure.propose_repair",
            ProposeCall(step=step, finding=call.finding, how=call.how),
            Proposal,
            id=step.name,
            summary=f"See what can be done about {call.finding}",
            timeout=timedelta(minutes=2),
            retries=_RETRIES,
        )


@workflow.defn(name="perdure.sweep_memory")
class SweepMemory:
    """Erases the memories whose time has been over for longer than their retention class keeps them."""

    @workflow.run
    async def run(self, call: EnforceRetention) -> RetentionReport:
        """Return what was erased, or would be."""
        step = current_run().step("sweep")
        return await execute(
            "perdure.sweep_memory",
            call.model_copy(update={"step": step}),
            RetentionReport,
            id=step.name,
            summary="List what a sweep would erase" if call.dry_run else "Erase memories whose time is over",
            timeout=timedelta(hours=1),
            retries=_PATIENT,
        )


@workflow.defn(name="perdure.memory_request")
class RequestMemory:
    """Has the worker do what only the owner of the vector index can do, for a command in another process."""

    @workflow.run
    async def run(self, request: MemoryRequest) -> MemoryAnswer:
        """Return what came of it. What records say never comes back this way, for a history would keep it."""
        step = current_run().step("request")
        if request.find is not None:
            call = request.find.model_copy(update={"step": step})
            return MemoryAnswer(found=await self._do("perdure.find_memories", call, ExplainedReceipt, "Find memories"))
        if request.forget is not None:
            forget = request.forget.model_copy(update={"step": step})
            done = await self._do("perdure.forget", forget, ForgetResult, f"Forget ({forget.how}) memories")
            return MemoryAnswer(forgotten=done)
        if request.verify is not None:
            verified = await self._do("perdure.verify_memory", request.verify, IndexReport, "Compare the index with SQL")
            return MemoryAnswer(verified=verified)
        if request.erase is not None:
            erase = request.erase.model_copy(update={"step": step})
            erased = await self._do("perdure.erase_conversations", erase, ForgetResult, "Erase what a run said")
            return MemoryAnswer(forgotten=erased)
        reindexed = await self._do("perdure.reindex_memory", ReindexCall(), ChangeCount, "Fill the index anew")
        return MemoryAnswer(reindexed=reindexed)

    async def _do(self, activity: str, call: BaseModel, result: type[R], summary: str) -> R:
        return await execute(
            activity,
            call,
            result,
            id="request",
            summary=summary,
            timeout=timedelta(hours=1),
            retries=_PATIENT,
        )


WORKFLOWS = [Reconcile, Sweep, CheckContract, Repair, SweepMemory, RequestMemory]
"""What every worker serves besides its own."""

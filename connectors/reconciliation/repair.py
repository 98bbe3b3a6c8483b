"""What can be done about a finding: send the missing one again, take the extra one away, or accept it as it is."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from pydantic import BaseModel, JsonValue, ValidationError

from perdure.connectors.contracts import (
    AnyAction,
    CannotTell,
    Connector,
    Effect,
    EffectCall,
    Found,
    Undo,
)
from perdure.connectors.ledger import Journal
from perdure.connectors.reconciliation.contracts import (
    REPAIRING,
    CloseCall,
    Finding,
    FindingKind,
    FindingState,
    How,
    Proposal,
    ProposeCall,
    RepairResult,
)
from perdure.connectors.reconciliation.findings import Findings
from perdure.connectors.reconciliation.reconcile import look_up
from perdure.connectors.wire import parse_args
from perdure.errors import InvalidInput, UnknownAction
from perdure.lineage import Lineage, StepRef
from perdure.storage import Database

_DEFAULT_REPAIR: Mapping[FindingKind, How] = {
    "missing": "send again",
    "duplicate": "remove",
    "unknown": "remove",
    "changed": "accept",
}


class Repairs:
    """What can be done about the findings of one database, through CONNECTORS."""

    def __init__(self, database: Database, connectors: Mapping[str, Connector]) -> None:
        self._findings = Findings(database)
        self._journal = Journal(database)
        self._connectors = connectors

    async def propose(self, call: ProposeCall) -> Proposal:
        """Return what would be done about the finding of CALL, after looking at the target once more.

        Asked twice it proposes the same, unless the world has changed. Raises `NotFound`, and `InvalidInput` if the finding
        is closed, is no longer so, or cannot be repaired HOW it is wanted.
        """
        finding = await self._findings.finding(call.finding.rpartition("/")[2])
        if finding.state != "open":
            raise InvalidInput(f"finding {finding.id} is {finding.state}, so there is nothing to repair")
        how = call.how or _DEFAULT_REPAIR[finding.kind]
        if how == "accept":
            about = finding.key or finding.remote_ref
            question = f"Accept that {finding.action} {about} is {finding.kind}: {finding.detail}?"
            return Proposal(finding=finding.id, kind=finding.kind, how=how, question=question, detail=finding.detail)
        if how == "send again":
            return await self._propose_sending(finding)
        return await self._propose_removing(finding)

    async def close(self, call: CloseCall) -> RepairResult:
        """Write down that the finding of CALL was dealt with."""
        state: FindingState = "accepted" if call.how == "accept" else "repaired"
        finding = await self._findings.close(call.finding, state, by=call.by, repair=call.effect)
        effect = await self._journal.find(call.effect) if call.effect else None
        original = await self._journal.find(finding.key) if finding.key else None
        if original is not None:
            what = f"{finding.kind} at the target ({finding.id}): {call.how}, approved by {call.by}"
            await self._journal.note(original, original.state, f"{what}, {call.effect}" if call.effect else what)
        return RepairResult(
            finding=finding.id,
            state=finding.state,
            how=call.how,
            by=call.by,
            effect=call.effect,
            remote_ref=effect.remote_ref if effect else "",
        )

    async def _propose_sending(self, finding: Finding) -> Proposal:
        if finding.kind != "missing":
            raise InvalidInput(f"finding {finding.id} is {finding.kind}: only what is missing can be sent again")
        effect = await self._journal.get(finding.key)
        connector, action = self._find_action(effect.action)
        probe = await look_up(connector, action, effect)
        if isinstance(probe, CannotTell):
            raise InvalidInput(
                f"finding {finding.id}: whether {finding.connector} has {effect.key} cannot be told now: {probe.why}. Sent "
                "again it could be there twice, so nothing is proposed. Look at the target, and repair again when the "
                f"look-up can tell, or accept: `perdure connectors repair {finding.id} --how accept`"
            )
        # Facts of something missing are those of what is there and no longer in force.
        if isinstance(probe, Found) and not finding.facts:
            raise InvalidInput(
                f"finding {finding.id}: the target has {effect.key} by now, as {probe.executed.remote_ref}. "
                f"Compare again: `perdure connectors reconcile {finding.connector}`"
            )
        later = await self._journal.later_generations(effect)
        call = EffectCall(
            step=effect.step,
            action=effect.action,
            args=effect.args,
            item=effect.item,
            generation=max(each.generation for each in (effect, *later)) + 1,
            instead_of=effect.key,
        )
        what = _describe(action, effect.args)
        return self._make_proposal(
            finding, "send again", f"Send again what {finding.connector} has lost: {what}?", action, call
        )

    async def _propose_removing(self, finding: Finding) -> Proposal:
        if finding.kind not in ("duplicate", "unknown"):
            raise InvalidInput(f"finding {finding.id} is {finding.kind}: there is nothing at the target to take away")
        _, action = self._find_action(finding.action)
        undo = action.remove or action.undo
        if undo is None:
            raise InvalidInput(
                f"{action.name} declares neither `remove` nor `undo`, so {finding.remote_ref} cannot be taken away from "
                f"here. Do it at {finding.connector}, and accept: `perdure connectors repair {finding.id} --how accept`"
            )
        effect = await self._journal.find(finding.key) if finding.key else None
        args = _undo_argument(finding, action, undo, effect)
        remover = self._find_action(undo.action.name)[1]
        # One key for each time that the finding was opened, however often a repair of it is started: it happens once.
        lineage = Lineage(namespace=REPAIRING, workflow_id=finding.id, first_execution_run_id=finding.id)
        step = StepRef(lineage=lineage, name=undo.action.name, workflow_type="perdure.repair")
        call = EffectCall(step=step, action=remover.name, args=args.model_dump(mode="json"), generation=finding.openings)
        what = _describe(remover, call.args)
        question = f"Take away {finding.remote_ref}, {finding.kind} at {finding.connector} ({finding.detail}): {what}?"
        return self._make_proposal(finding, "remove", question, remover, call)

    def _make_proposal(self, finding: Finding, how: How, question: str, action: AnyAction, call: EffectCall) -> Proposal:
        return Proposal(
            finding=finding.id,
            kind=finding.kind,
            how=how,
            question=question,
            detail=finding.detail,
            risk=action.risk,
            reversibility=action.reversibility,
            call=call,
            takes=action.target.deadline + timedelta(seconds=30),
        )

    def _find_action(self, name: str) -> tuple[Connector, AnyAction]:
        connector = self._connectors.get(name.partition(".")[0])
        action = connector.actions.get(name) if connector else None
        if connector is None or action is None:
            raise UnknownAction(f"this worker has no action {name!r}, so nothing can be repaired with it")
        return connector, action


def _undo_argument(
    finding: Finding, action: AnyAction, undo: Undo[BaseModel, BaseModel], effect: Effect | None
) -> BaseModel:
    # What was asked for is known of an effect of ours. Of a stranger only what the target tells is known.
    asked: dict[str, JsonValue] = effect.args if effect else finding.facts
    asked = {name: value for name, value in asked.items() if effect or name in action.input.model_fields}
    try:
        return undo.argue(parse_args(action, asked), action.output.model_validate(finding.facts))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise InvalidInput(
            f"finding {finding.id}: the target does not tell enough of {finding.remote_ref} to take it away: {wrong}"
        ) from None


def _describe(action: AnyAction, args: dict[str, JsonValue]) -> str:
    return action.describe(parse_args(action, args)) if action.describe else action.name

"""What matters in what perdure's own activities were asked and answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, JsonValue, ValidationError

from perdure.connectors.contracts import Receipt
from perdure.governance.contracts import ApprovalRequest, Decision
from perdure.memory.contracts import RecallReceipt, RememberResult
from perdure.routing.contracts import ModelRecord
from perdure.timetravel.contracts import Step, StepKind
from perdure.workflows.conversation_model import TurnRecord, base_name, task_name
from perdure.workflows.effect_model import ActResult

M = TypeVar("M", bound=BaseModel)

KINDS: dict[str, StepKind] = {
    "perdure.generate": "generate",
    "perdure.converse": "generate",
    "perdure.summarise": "generate",
    "perdure.look": "act",
    "perdure.keep": "remember",
    "perdure.recall": "recall",
    "perdure.remember": "remember",
    "perdure.act": "act",
    "perdure.undo": "undo",
    "perdure.ask": "ask",
    "perdure.record_decision": "decision",
    "perdure.check_plan": "check",
}


@dataclass
class StepCall:
    """What an activity was called with: its step's name, what is left without the step, and what matters of it."""

    inputs: JsonValue
    name: str = ""
    namespace: str = ""
    request: ApprovalRequest | None = None
    decision: Decision | None = None
    outcome: str = ""


def decode_call(activity: str, values: list[JsonValue]) -> StepCall:
    """Return what ACTIVITY was called with, given its decoded argument VALUES."""
    if activity not in KINDS or len(values) != 1 or not isinstance(values[0], dict):
        return StepCall(inputs=values[0] if len(values) == 1 else (values or None))
    call = values[0]
    step = _as_dict(call.get("step"))
    found = StepCall(
        inputs={name: value for name, value in call.items() if name not in ("step", "namespace")},
        name=str(step.get("name", "")),
        namespace=str(call.get("namespace") or _as_dict(step.get("lineage")).get("namespace", "")),
    )
    if activity == "perdure.ask":
        found.request = _parse_as(ApprovalRequest, call.get("request"))
    if activity == "perdure.record_decision":
        found.decision = _parse_as(Decision, call.get("decision"))
        found.outcome = str(call.get("ended", ""))
    return found


@dataclass
class StepResult:
    """What matters of what a step came back with."""

    model: ModelRecord | None = None
    confidence: float | None = None
    memory: RecallReceipt | None = None
    remembered: RememberResult | None = None
    receipt: Receipt | None = None
    outcome: str = ""


def decode_result(step: Step) -> StepResult:
    """Return what matters of the result of STEP. Results of an older or newer format give nothing: they stay as JSON."""
    result = _as_dict(step.result)
    match step.kind:
        case "generate":
            confidence = result.get("confidence")
            record = result.get("record")
            turn = _parse_as(TurnRecord, record)
            return StepResult(
                model=turn.to_record(str(_as_dict(step.inputs).get("task") or task_name(step.name)), result.get("value"))
                if turn
                else _parse_as(ModelRecord, record),
                confidence=float(confidence) if isinstance(confidence, int | float) else None,
            )
        case "recall":
            return StepResult(memory=_parse_as(RecallReceipt, result.get("receipt")))
        case "remember":
            return StepResult(remembered=_parse_as(RememberResult, result))
        case "act":
            short = _parse_as(ActResult, step.result)
            return StepResult(
                receipt=short.receipt(str(_as_dict(step.inputs).get("action") or base_name(step.name))) if short else None
            )
        case "undo":
            return StepResult(receipt=_parse_as(Receipt, result.get("receipt")), outcome=str(result.get("outcome", "")))
        case "decision":
            return StepResult(outcome=str(result.get("ended", "")) or step.outcome)
    return StepResult()


def _parse_as(model: type[M], value: JsonValue) -> M | None:
    try:
        return model.model_validate(value) if value is not None else None
    except ValidationError:
        return None


def _as_dict(value: JsonValue) -> dict[str, JsonValue]:
    return value if isinstance(value, dict) else {}

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
from perdure.workflows.conversation_model import TurnRecord, named_by, task_of
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
class Argued:
    """What an activity was called with: its step's name, what is left without the step, and what matters of it."""

    inputs: JsonValue
    name: str = ""
    namespace: str = ""
    request: ApprovalRequest | None = None
    decision: Decision | None = None
    outcome: str = ""


def argued(activity: str, values: list[JsonValue]) -> Argued:
    """Return what ACTIVITY was called with, given its decoded argument VALUES."""
    if activity not in KINDS or len(values) != 1 or not isinstance(values[0], dict):
        return Argued(inputs=values[0] if len(values) == 1 else (values or None))
    call = values[0]
    step = _dict(call.get("step"))
    found = Argued(
        inputs={name: value for name, value in call.items() if name not in ("step", "namespace")},
        name=str(step.get("name", "")),
        namespace=str(call.get("namespace") or _dict(step.get("lineage")).get("namespace", "")),
    )
    if activity == "perdure.ask":
        found.request = _as(ApprovalRequest, call.get("request"))
    if activity == "perdure.record_decision":
        found.decision = _as(Decision, call.get("decision"))
        found.outcome = str(call.get("ended", ""))
    return found


@dataclass
class Answered:
    """What matters of what a step came back with."""

    model: ModelRecord | None = None
    confidence: float | None = None
    memory: RecallReceipt | None = None
    remembered: RememberResult | None = None
    receipt: Receipt | None = None
    outcome: str = ""


def answered(step: Step) -> Answered:
    """Return what matters of the result of STEP. Results of an older or newer format give nothing: they stay as JSON."""
    result = _dict(step.result)
    match step.kind:
        case "generate":
            confidence = result.get("confidence")
            record = result.get("record")
            turn = _as(TurnRecord, record)
            return Answered(
                model=turn.to_record(str(_dict(step.inputs).get("task") or task_of(step.name)), result.get("value"))
                if turn
                else _as(ModelRecord, record),
                confidence=float(confidence) if isinstance(confidence, int | float) else None,
            )
        case "recall":
            return Answered(memory=_as(RecallReceipt, result.get("receipt")))
        case "remember":
            return Answered(remembered=_as(RememberResult, result))
        case "act":
            short = _as(ActResult, step.result)
            return Answered(
                receipt=short.receipt(str(_dict(step.inputs).get("action") or named_by(step.name))) if short else None
            )
        case "undo":
            return Answered(receipt=_as(Receipt, result.get("receipt")), outcome=str(result.get("outcome", "")))
        case "decision":
            return Answered(outcome=str(result.get("ended", "")) or step.outcome)
    return Answered()


def _as(model: type[M], value: JsonValue) -> M | None:
    try:
        return model.model_validate(value) if value is not None else None
    except ValidationError:
        return None


def _dict(value: JsonValue) -> dict[str, JsonValue]:
    return value if isinstance(value, dict) else {}

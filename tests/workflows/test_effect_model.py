"""Tests of workflows/effect_model.py: short on the wire, at length for the ledger and for whoever wrote the workflow."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from perdure.connectors.contracts import EffectCall, EffectResult, Receipt
from perdure.lineage import Lineage, StepRef
from perdure.workflows.effect_model import ActCall, ActResult

RUNNING = StepRef(
    lineage=Lineage(namespace="default", workflow_id="w", first_execution_run_id="r"), name="till.pay#2", run_id="r"
)
RECEIPT = Receipt(
    key="pe-" + "0f" * 20,
    action="till.pay",
    remote_ref="re_1",
    response_digest="sha256:" + "e0" * 32,
    confirmed_at=datetime(2026, 11, 23, 10, 9, 53, 945029, tzinfo=UTC),
    confirmed_by="probe",
    sent=3,
)


@pytest.mark.parametrize(
    ("call", "wire"),
    [
        (EffectCall(step=RUNNING, action="till.pay", args={"amount": 5}), {"args": {"amount": 5}}),
        (EffectCall(step=RUNNING, action="till.void", args={}), {"args": {}, "action": "till.void"}),
        (
            EffectCall(step=RUNNING, action="till.pay", args={}, item="line 1", generation=1, must=True, instead_of="pe-1"),
            {"args": {}, "item": "line 1", "generation": 1, "must": True, "instead_of": "pe-1"},
        ),
    ],
)
def test_a_call_says_what_its_step_does_not(call: EffectCall, wire: dict[str, object]) -> None:
    """On the wire is what follows neither from the step nor from the defaults, and the activity has it all."""
    sent = ActCall.model_validate(wire)

    assert wire == json.loads(sent.model_dump_json())
    assert call == sent.to_effect_call(RUNNING)


def test_a_call_for_the_step_of_another_run_names_it() -> None:
    """What repairs an effect is done under the step that it belongs to."""
    other = RUNNING.model_copy(update={"name": "pay", "run_id": "other"})
    call = EffectCall(step=other, action="till.pay", args={}, generation=1)

    sent = ActCall(**dict(call))

    assert call == ActCall.model_validate_json(sent.model_dump_json()).to_effect_call(RUNNING)


@pytest.mark.parametrize(
    "receipt", [RECEIPT, Receipt(key="", action="till.pay"), RECEIPT.model_copy(update={"confirmed_by": "response"})]
)
def test_a_receipt_is_whole_again(receipt: Receipt) -> None:
    """Nothing of a receipt gets lost on the way, to the microsecond."""
    wire = ActResult.from_receipt(receipt).model_dump_json()

    assert receipt == ActResult.model_validate_json(wire).receipt("till.pay")


def test_an_answer_at_length_is_understood() -> None:
    """Histories of before hold the result with the whole receipt."""
    done = EffectResult(value={"id": "re_1"}, receipt=RECEIPT)

    result = ActResult.model_validate_json(done.model_dump_json())

    assert (done.value, done.receipt) == (result.value, result.receipt("till.pay"))

"""Which step runs, from what its call and Temporal say."""

from __future__ import annotations

from temporalio import activity

from perdure.lineage import Lineage, StepRef
from perdure.workflows.conversation_model import RunCall


def current_step(call: RunCall) -> StepRef:
    """Return the step that runs with CALL."""
    info = activity.info()
    run = info.workflow_run_id or ""
    return StepRef(
        lineage=Lineage(
            namespace=info.namespace,
            workflow_id=info.workflow_id or "",
            first_execution_run_id=call.first_run or run,
        ),
        name=info.activity_id,
        run_id=run,
        workflow_type=call.plan or info.workflow_type or "",
    )

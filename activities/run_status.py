"""Whether a run can still ask for its effects, as far as Temporal knows."""

from __future__ import annotations

from temporalio import activity
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import WorkflowExecutionStatus
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionRequest
from temporalio.service import RPCError, RPCStatusCode

from perdure.lineage import Lineage


async def is_running(lineage: Lineage) -> bool | None:
    """Say whether a run of LINEAGE is running, None if Temporal has no such namespace. Call it from an activity.

    Without the first run's id any run with its workflow id will do.
    """
    # A reset ends a run and goes on under another id, so it is the newest one that counts.
    asked = DescribeWorkflowExecutionRequest(
        namespace=lineage.namespace, execution=WorkflowExecution(workflow_id=lineage.workflow_id)
    )
    try:
        found = await activity.client().workflow_service.describe_workflow_execution(asked)
    except RPCError as error:
        if error.status == RPCStatusCode.NOT_FOUND:
            return None if "amespace" in error.message else False
        if error.status in (RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.INVALID_ARGUMENT):
            return None
        raise
    info = found.workflow_execution_info
    ours = lineage.first_execution_run_id in ("", info.first_run_id)
    return ours and info.status == WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING

"""Whether a run can still ask for its effects, as far as Temporal knows."""

from __future__ import annotations

from temporalio import activity
from temporalio.api.common.v1 import Payload, WorkflowExecution
from temporalio.api.enums.v1 import WorkflowExecutionStatus
from temporalio.api.workflow.v1 import WorkflowExecutionInfo
from temporalio.api.workflowservice.v1 import (
    DescribeWorkflowExecutionRequest,
    GetWorkflowExecutionHistoryRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from perdure.lineage import Continues, Lineage, RunStart, first_run_of_lineage
from perdure.workflows.run import CARRIED, CONTINUES, OWN_LINEAGE


async def is_running(lineage: Lineage) -> bool | None:
    """Say whether a run of LINEAGE is running, None if Temporal has no such namespace. Call it from an activity.

    Without the first run's id any run with its workflow id will do.
    """
    # A reset ends a run and goes on under another id, so it is the newest one that counts.
    client = activity.client()
    asked = DescribeWorkflowExecutionRequest(
        namespace=lineage.namespace, execution=WorkflowExecution(workflow_id=lineage.workflow_id)
    )
    try:
        info = (await client.workflow_service.describe_workflow_execution(asked)).workflow_execution_info
        if info.status != WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING:
            return False
        if lineage.first_execution_run_id in ("", info.execution.run_id):
            return True
        return lineage.first_execution_run_id == await _first_run(client, lineage.namespace, info)
    except RPCError as error:
        if error.status == RPCStatusCode.NOT_FOUND:
            return None if "amespace" in error.message else False
        if error.status in (RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.INVALID_ARGUMENT):
            return None
        raise


async def _first_run(client: Client, namespace: str, info: WorkflowExecutionInfo) -> str:
    """Return the id of the run with which the lineage of the run of INFO begins, as that run itself finds it."""
    asked = GetWorkflowExecutionHistoryRequest(namespace=namespace, execution=info.execution, maximum_page_size=1)
    history = (await client.workflow_service.get_workflow_execution_history(asked)).history
    started = history.events[0].workflow_execution_started_event_attributes
    start = RunStart(
        first_run=started.first_execution_run_id,
        run=started.original_execution_run_id,
        after=started.continued_execution_run_id,
        attempt=started.attempt,
        cron=bool(started.cron_schedule),
    )
    headers = started.header.fields
    said = Continues.model_validate_json(await _decode(client, headers[CONTINUES])) if CONTINUES in headers else None
    # Temporal notes there which patches a run has taken.
    attributes = info.search_attributes.indexed_fields
    patches = attributes["TemporalChangeVersion"].data if "TemporalChangeVersion" in attributes else b""
    return first_run_of_lineage(
        start, said, carried=CARRIED in headers, by_chain_before=lambda: OWN_LINEAGE.encode() not in patches
    )


async def _decode(client: Client, header: Payload) -> bytes:
    codec = client.data_converter.payload_codec
    if codec is not None and header.metadata["encoding"] != b"json/plain":
        (header,) = await codec.decode([header])
    return header.data

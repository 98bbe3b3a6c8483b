"""Which task queue an effect waits in: the run's own, or the one of its connector."""

from __future__ import annotations

from collections.abc import Mapping

from temporalio import workflow
from temporalio.worker import (
    Interceptor,
    StartActivityInput,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)

from perdure.connectors.contracts import UndoCall
from perdure.workflows.effect_model import ActCall

EFFECTS = ("perdure.act", "perdure.undo", "perdure.settle")
"""The activities that a connector's queue serves."""


class ConnectorQueues(Interceptor):
    """The worker interceptor that sends effects to the QUEUES of their connectors.

    A replay does not look at queues, so they may change while runs are on their way.
    """

    def __init__(self, queues: Mapping[str, str]) -> None:
        self._queues = queues

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor] | None:
        """Return the interceptor that Temporal creates once per run, if there is a queue at all."""
        queues = self._queues
        if not queues:
            return None

        class Outbound(WorkflowOutboundInterceptor):
            def start_activity(self, input: StartActivityInput) -> workflow.ActivityHandle[object]:
                call = input.args[0] if input.args else None
                if input.activity in EFFECTS and isinstance(call, ActCall | UndoCall):
                    # An action that its call does not name has its step named after it.
                    connector = (call.action or input.activity_id or "").partition(".")[0]
                    input.task_queue = queues.get(connector, input.task_queue)
                return super().start_activity(input)

        class Inbound(WorkflowInboundInterceptor):
            def init(self, outbound: WorkflowOutboundInterceptor) -> None:
                super().init(Outbound(outbound))

        return Inbound

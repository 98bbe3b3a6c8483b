"""What every run gets from the plugin: reviewers' handlers, its state in the list, step names that stay unique."""

from __future__ import annotations

import asyncio
import inspect
from typing import NoReturn

from pydantic import ValidationError
from temporalio import workflow
from temporalio.exceptions import is_cancelled_exception
from temporalio.worker import (
    ContinueAsNewInput,
    ExecuteWorkflowInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)

from perdure.errors import InvalidInput, PartiallyCompensated
from perdure.workflows import (
    approvals,
    attributes,
    batches,
    parked,
)
from perdure.workflows.run import CARRIED, Continuation, current_run


class GovernedRuns(Interceptor):
    """The worker interceptor that makes a plain `@workflow.defn` class a governed run."""

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        """Return the interceptor that Temporal creates once per run."""
        return _Inbound


class _Inbound(WorkflowInboundInterceptor):
    def init(self, outbound: WorkflowOutboundInterceptor) -> None:
        super().init(_Outbound(outbound))

    async def execute_workflow(self, input: ExecuteWorkflowInput) -> object:
        run = current_run()
        if CARRIED in input.headers:
            run.take_over(Continuation.model_validate_json(input.headers[CARRIED].data))
        approvals.install_handlers(run)
        parked.install_handlers(run)
        batches.install_handlers(run)
        if workflow.info().typed_search_attributes.get(attributes.STATE) is None:
            # Started by another client than ours, e.g. the temporal CLI.
            workflow.upsert_search_attributes(
                [attributes.STATE.value_set("running"), attributes.PLAN.value_set(run.plan or run.workflow_type)]
            )
        try:
            _check_argument_count(input)
            result = await super().execute_workflow(input)
        except workflow.ContinueAsNewError:
            raise
        except (Exception, asyncio.CancelledError) as error:
            # Whatever else is raised means that this worker lets go of the run, which goes on elsewhere.
            self._record_state(_final_state(error))
            if isinstance(error, ValidationError):
                # What does not fit never will, and a failed task is tried for ever. No values: they may be secret.
                raise InvalidInput(_describe_misfit(error)) from None
            raise
        await workflow.wait_condition(workflow.all_handlers_finished)
        self._record_state("completed")
        return result

    def _record_state(self, state: str) -> None:
        workflow.upsert_search_attributes([attributes.STATE.value_set(state), *current_run().cost_update()])


def _final_state(error: BaseException) -> str:
    if isinstance(error, PartiallyCompensated):
        return "partially_compensated"
    return "cancelled" if isinstance(error, asyncio.CancelledError) or is_cancelled_exception(error) else "failed"


def _check_argument_count(input: ExecuteWorkflowInput) -> None:
    """Raise `InvalidInput` if the run was started with more or fewer inputs than it takes, which would retry for ever."""
    signature = inspect.signature(input.run_fn)
    try:
        signature.bind(None, *input.args)
    except TypeError:
        takes = ", ".join(list(signature.parameters)[1:]) or "none"
        raise InvalidInput(
            f"{workflow.info().workflow_type} was started with {len(input.args)} inputs; it takes {takes}"
        ) from None


def _describe_misfit(error: ValidationError) -> str:
    wrong = error.errors(include_input=False)
    said = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'the value'}: {each['msg']}" for each in wrong)
    return f"{error.title} does not fit: {said}"


class _Outbound(WorkflowOutboundInterceptor):
    def continue_as_new(self, input: ContinueAsNewInput) -> NoReturn:
        may_be_retried = bool(input.retry_policy or workflow.info().retry_policy)
        input.headers = {**input.headers, **current_run().headers(may_be_retried=may_be_retried)}
        super().continue_as_new(input)

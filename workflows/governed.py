"""What every run gets from the plugin: reviewers' handlers, its state in the list, step names that stay unique."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any, NoReturn

from pydantic import ValidationError
from temporalio import workflow
from temporalio.common import RawValue, TypedSearchAttributes
from temporalio.exceptions import is_cancelled_exception
from temporalio.worker import (
    ContinueAsNewInput,
    ExecuteWorkflowInput,
    Interceptor,
    StartChildWorkflowInput,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)
from temporalio.workflow import ChildWorkflowHandle

from perdure.errors import InvalidInput, PartiallyCompensated
from perdure.workflows import (
    approvals,
    attributes,
    batches,
    parked,
)
from perdure.workflows.beginnings import Beginnings
from perdure.workflows.run import CARRIED, Continuation, Run, current_run


class GovernedRuns(Interceptor):
    """The worker interceptor that makes a plain `@workflow.defn` class a governed run.

    What commands a run gives is what its history is held to, so this adds none to a run that perdure has no part in: one
    that a client without the plugin has started, and that takes no step of perdure's.
    """

    def __init__(self) -> None:
        self.beginnings = Beginnings()
        self.private = False
        """Whether what is recorded is encoded in the client's own way, which headers are not."""

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        """Return the interceptor that Temporal creates once per run."""
        return type("_GovernedInbound", (_Inbound,), {"of": self})


class _Inbound(WorkflowInboundInterceptor):
    of: GovernedRuns

    def init(self, outbound: WorkflowOutboundInterceptor) -> None:
        super().init(_Outbound(outbound, self.of))

    async def execute_workflow(self, input: ExecuteWorkflowInput) -> object:
        run = current_run()
        if carried := _carried(input):
            run.take_over(carried)
        approvals.install_handlers(run)
        parked.install_handlers(run)
        batches.install_handlers(run)
        # What the plugin's client starts has its state from the start, and so has what continues or comes from such a run.
        run.listed = workflow.info().typed_search_attributes.get(attributes.STATE) is not None
        if not run.listed and (carried or run.workflow_type.startswith("perdure.") or self._was_listed_at_once()):
            run.list_it()
        try:
            _check_argument_count(input)
            result = await super().execute_workflow(input)
        except workflow.ContinueAsNewError:
            raise
        except (Exception, asyncio.CancelledError) as error:
            # Whatever else is raised means that this worker lets go of the run, which goes on elsewhere.
            _record_state(run, _final_state(error))
            if isinstance(error, ValidationError):
                # What does not fit never will, and a failed task is tried for ever. No values: they may be secret.
                raise InvalidInput(_describe_misfit(error)) from None
            raise
        # Before, all handlers were waited for. Remove the question after 2027-06.
        if run.listed and not workflow.all_handlers_finished() and not workflow.patched("perdure.handlers"):
            await workflow.wait_condition(workflow.all_handlers_finished)
        _record_state(run, "completed")
        return result

    def _was_listed_at_once(self) -> bool:
        return workflow.unsafe.is_replaying() and self.of.beginnings.has_state()


def _carried(input: ExecuteWorkflowInput) -> Continuation | None:
    if CARRIED in input.headers:
        return Continuation.model_validate_json(input.headers[CARRIED].data)
    return workflow.memo_value(CARRIED, None, type_hint=Continuation)


def _record_state(run: Run, state: str) -> None:
    if run.listed:
        workflow.upsert_search_attributes([attributes.STATE.value_set(state), *run.cost_update()])


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
    def __init__(self, next: WorkflowOutboundInterceptor, of: GovernedRuns) -> None:
        super().__init__(next)
        self._of = of

    async def start_child_workflow(self, input: StartChildWorkflowInput) -> ChildWorkflowHandle[Any, Any]:
        given = input.search_attributes
        if current_run().listed and (given is None or isinstance(given, TypedSearchAttributes)):
            input.search_attributes = attributes.listed_from_the_start(input.workflow, given)
        return await super().start_child_workflow(input)

    def continue_as_new(self, input: ContinueAsNewInput) -> NoReturn:
        run = current_run()
        continuation = run.continuation()
        # Otherwise perdure has no part in it.
        if run.listed or continuation != Continuation():
            may_be_retried = bool(input.retry_policy or workflow.info().retry_policy)
            headers = run.headers(may_be_retried=may_be_retried)
            if self._of.private:
                del headers[CARRIED]
                memo = _raw_memo() if input.memo is None else input.memo
                input.memo = {**memo, CARRIED: continuation}
            input.headers = {**input.headers, **headers}
        super().continue_as_new(input)


def _raw_memo() -> dict[str, object]:
    return {name: RawValue(payload) for name, payload in workflow.info().raw_memo.items()}

"""What stands around every activity: log context, heartbeats, and one place where errors become failures."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta

import structlog
from pydantic import ValidationError
from temporalio import activity
from temporalio.api.common.v1 import Payloads
from temporalio.api.workflowservice.v1 import RecordActivityTaskHeartbeatRequest
from temporalio.exceptions import ApplicationError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from perdure.connectors.wire import whole_text
from perdure.errors import EffectError, ModelError, PerdureError
from perdure.lineage import StepRef

log = structlog.get_logger(__name__)

_LONGEST_DELAY = timedelta(hours=1)
"""A step is tried again after this at the latest, whatever a target says: it may say so again."""

_told: ContextVar[list[object]] = ContextVar("what the attempt in progress has told the server")


async def tell_next_attempts(fact: str) -> None:
    """Have the server keep FACT for the next attempts of this activity, as their `heartbeat_details`; return when it has.

    The SDK's own heartbeats are sent some time or other: too late for what must be known of a worker that is killed.
    """
    info, client = activity.info(), activity.client()
    details = await client.data_converter.encode([fact])
    await client.workflow_service.record_activity_task_heartbeat(
        RecordActivityTaskHeartbeatRequest(
            namespace=info.namespace,
            task_token=info.task_token,
            details=Payloads(payloads=details),
            identity=client.identity,
        )
    )
    if (told := _told.get(None)) is not None:
        told[:] = [fact]


class Boundary(Interceptor):
    """The worker interceptor around activities."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """Put the boundary around NEXT."""
        return _Boundary(next)


class _Boundary(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> object:
        info = activity.info()
        context = {"workflow_id": info.workflow_id, "run_id": info.workflow_run_id, "activity": info.activity_type}
        step = getattr(input.args[0], "step", None) if input.args else None
        if isinstance(step, StepRef):
            context["step"] = step.name
        elif info.activity_type.startswith("perdure."):
            context["step"] = info.activity_id
        with structlog.contextvars.bound_contextvars(**context):
            try:
                if info.activity_type.startswith("perdure.") and info.heartbeat_timeout:
                    with _heartbeats(info.heartbeat_timeout.total_seconds() / 3):
                        return await super().execute_activity(input)
                return await super().execute_activity(input)
            except PerdureError as error:
                log.warning("step failed", error=type(error).__name__, attempt=info.attempt, retryable=error.retryable)
                raise to_failure(error) from None
            except ValidationError as error:
                raise to_input_failure(error) from None


def to_failure(error: PerdureError) -> ApplicationError:
    """Return ERROR as what Temporal records: its class is the type, and a known delay is Temporal's retry delay."""
    # Which effect a person has to resolve: the run waits for that. Or which models were asked, at what price.
    details: list[object] = [error.effect] if isinstance(error, EffectError) and error.effect else []
    if isinstance(error, ModelError) and error.facts:
        details = [dict(error.facts)]
    return ApplicationError(
        # A target's words may hold what no UTF-8 can, and a failure that cannot be recorded is tried again for ever.
        whole_text(error.message),
        *details,
        type=type(error).__name__,
        non_retryable=not error.retryable,
        next_retry_delay=None if error.retry_after is None else min(error.retry_after, _LONGEST_DELAY),
    )


def to_input_failure(error: ValidationError) -> ApplicationError:
    """Return a validation error without the values it quotes, which may be secret."""
    where = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors(include_input=False))
    return ApplicationError(f"{error.title} does not fit: {where}", type="InvalidInput", non_retryable=True)


@contextmanager
def _heartbeats(every: float) -> Iterator[None]:
    """Tell the server each EVERY seconds that this activity is alive, so that a killed worker's steps go to another soon.

    A short activity never gets to the first one: a heartbeat is a call to the server.
    """
    loop = asyncio.get_running_loop()
    waiting: list[asyncio.TimerHandle] = []

    def beat() -> None:
        activity.heartbeat(*told)  # each heartbeat replaces what the last one said
        waiting[0] = loop.call_later(every, beat)

    told: list[object] = list(activity.info().heartbeat_details)
    token = _told.set(told)
    waiting.append(loop.call_later(every, beat))
    try:
        yield
    finally:
        waiting[0].cancel()
        _told.reset(token)

"""How a step becomes an activity, and how what it failed with becomes an error of perdure's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import NoReturn, TypeVar

from pydantic import BaseModel, JsonValue, TypeAdapter
from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

from perdure.errors import EffectError, ModelError, by_name
from perdure.memory.contracts import Recall
from perdure.workflows.run import current_run

R = TypeVar("R", bound=BaseModel)

Value = BaseModel | JsonValue | Sequence[BaseModel] | Mapping[str, BaseModel | JsonValue]
"""What may stand in a prompt or before a reviewer: anything that pydantic turns into JSON."""

HEARTBEAT = timedelta(seconds=4)
"""How long a worker may be silent before its running steps are given to another: what a kill -9 costs."""

LOOKUP_RETRIES = RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=10))
# Eight, and one that a canary may take.
MODEL_RETRIES = RetryPolicy(
    initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=1), maximum_attempts=9
)
# An effect is retried until it is known what became of it: the ledger parks what cannot be known.
EFFECT_RETRIES = RetryPolicy(initial_interval=timedelta(milliseconds=500), maximum_interval=timedelta(minutes=1))


async def execute(
    activity: str,
    call: BaseModel,
    result: type[R],
    *,
    id: str,
    summary: str,
    timeout: timedelta,
    retries: RetryPolicy,
    cancellation: workflow.ActivityCancellationType = workflow.ActivityCancellationType.TRY_CANCEL,
) -> R:
    """Run one of perdure's activities and raise what it failed with as an error of `perdure.errors`."""
    run = current_run()
    run.list_it()
    try:
        done: R = await workflow.execute_activity(
            activity,
            call,
            result_type=result,
            # The step's name: a replay finds code that takes other steps, and the Web UI shows it.
            activity_id=id,
            summary=one_line(summary),
            start_to_close_timeout=timeout,
            heartbeat_timeout=HEARTBEAT,
            retry_policy=retries,
            cancellation_type=cancellation,
        )
    except ActivityError as error:
        raise_translated(error)
    run.note_done(one_line(summary))
    return done


def as_json(value: Value) -> JsonValue:
    """Return VALUE as it goes into a prompt or an action: a recall gives its contents."""
    if isinstance(value, Recall):
        return list(value.texts)
    plain: JsonValue = _JSON.dump_python(value, mode="json")
    return plain


def raise_translated(error: ActivityError) -> NoReturn:
    """Raise the error of `perdure.errors` that ERROR carries, or ERROR itself."""
    cause = error.cause
    if isinstance(cause, ApplicationError) and cause.type:
        known = by_name(cause.type)
        if known is not None and issubclass(known, EffectError):
            raise known(cause.message, effect=str(cause.details[0]) if cause.details else "") from error
        if known is not None and issubclass(known, ModelError):
            facts = cause.details[0] if cause.details and isinstance(cause.details[0], dict) else {}
            raise known(cause.message, facts=facts) from error
        if known is not None:
            raise known(cause.message) from error
    raise error


def one_line(summary: str, limit: int = 200) -> str:
    """Return SUMMARY as one line of at most LIMIT characters: the server takes 400 bytes, and the Web UI shows far less."""
    line = " ".join(summary.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


_JSON: TypeAdapter[object] = TypeAdapter(object)

"""What a history's payloads say, as JSON that can be shown."""

from __future__ import annotations

import json
from collections.abc import Mapping

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from pydantic import JsonValue
from pydantic_core import to_jsonable_python
from temporalio import exceptions
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.api.failure.v1 import Failure as RecordedFailure
from temporalio.converter import DataConverter
from temporalio.exceptions import ActivityError, ApplicationError, ChildWorkflowError, FailureError, TimeoutType

from perdure.timetravel.contracts import Failure

_TIMEOUTS = {
    TimeoutType.HEARTBEAT: "heartbeat timeout: the worker was killed, stopped or stuck",
    TimeoutType.START_TO_CLOSE: "start-to-close timeout: one attempt took longer than it may",
    TimeoutType.SCHEDULE_TO_START: "schedule-to-start timeout: no worker took it in time",
    TimeoutType.SCHEDULE_TO_CLOSE: "schedule-to-close timeout: it did not end in time, retries included",
}


class Decoder:
    """Decodes with CONVERTER: codec, external storage, converter, in this order, as a worker does."""

    def __init__(self, converter: DataConverter) -> None:
        self._converter = converter

    async def values(self, payloads: Payloads) -> list[JsonValue]:
        """Return each of PAYLOADS as JSON. One that cannot be read becomes a sentence that says so."""
        return [await self.value(payload) for payload in payloads.payloads]

    async def value(self, payload: Payload) -> JsonValue:
        """Return PAYLOAD as JSON, or a sentence that says why it cannot be read."""
        copy = Payload()
        copy.CopyFrom(payload)
        try:
            [value] = await self._converter.decode([copy])
        except Exception as error:  # noqa: BLE001
            # Codecs and storage are other people's code; one value that cannot be read must not hide all the others.
            return f"<{len(payload.data):,} bytes that cannot be read: {_first_line(error)}>"
        return to_json(value)

    async def text(self, payload: Payload) -> str:
        """Return what PAYLOAD says if it is a text, else nothing."""
        value = await self.value(payload) if payload.ByteSize() else ""
        return value if isinstance(value, str) else ""

    async def failure(self, recorded: RecordedFailure) -> Failure:
        """Return RECORDED with its causes, decoded."""
        copy = RecordedFailure()
        copy.CopyFrom(recorded)
        try:
            return _to_failure(await self._converter.decode_failure(copy))
        except Exception as error:  # noqa: BLE001  # as above
            return Failure(type="Failure", message=f"{recorded.message} (details cannot be read: {_first_line(error)})")


def unwrap_single(values: list[JsonValue]) -> JsonValue:
    """Return the one value of VALUES as it is, none as null, several as a list."""
    return values[0] if len(values) == 1 else (values or None)


def to_json(value: object) -> JsonValue:
    """Return VALUE as JSON, whatever it is."""
    if isinstance(value, Message):
        found: JsonValue = MessageToDict(value)
        return found
    plain: JsonValue = to_jsonable_python(value, bytes_mode="base64", inf_nan_mode="strings", fallback=str)
    return plain


def decode_search_attributes(fields: Mapping[str, Payload]) -> dict[str, JsonValue]:
    """Return search attributes; the server reads them, so they are never encoded. None: taken away."""
    return {name: json.loads(payload.data) if payload.data else None for name, payload in fields.items()}


def _to_failure(error: BaseException) -> Failure:
    cause = error.cause if isinstance(error, FailureError) else error.__cause__
    below = _to_failure(cause) if cause is not None else None
    if isinstance(error, ActivityError | ChildWorkflowError) and below is not None:
        # Only says that an activity or a child failed; what failed is below, and which one is the step.
        return below
    if isinstance(error, ApplicationError):
        kind = error.type or "Error"
        if below is not None and (below.type, below.message) == (kind, error.message):
            # A step's failure that the workflow raised again as its own.
            return below
        return Failure(type=kind, message=error.message, cause=below)
    if isinstance(error, exceptions.TimeoutError):
        said = _TIMEOUTS.get(error.type, error.message) if error.type else error.message
        return Failure(type="Timeout", message=said, cause=below)
    if isinstance(error, exceptions.CancelledError | exceptions.TerminatedError):
        return Failure(type=type(error).__name__.removesuffix("Error"), message=error.message, cause=below)
    if isinstance(error, FailureError):
        return Failure(type="Failure", message=error.message, cause=below)
    return Failure(type=type(error).__name__, message=str(error), cause=below)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]

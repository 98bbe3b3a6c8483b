"""How a command ends: its exit code, and the one message that a user reads."""

from __future__ import annotations

import os
import traceback
from enum import IntEnum

from perdure.commands.output import say
from perdure.errors import (
    ChangesRequested,
    InvalidInput,
    NotAllowed,
    PerdureError,
    PlanError,
    Rejected,
    Unreachable,
    WrongSetting,
)


class Exit(IntEnum):
    """What scripts can tell apart."""

    OK = 0
    ERROR = 1
    USAGE = 2
    """What was typed or set is wrong: an option, JSON, a plan, an input that does not fit, a setting."""
    UNREACHABLE = 3
    NOT_ALLOWED = 4
    RUN_FAILED = 5
    REJECTED = 6
    """A reviewer said no or wants changes."""
    WAITING = 8
    """The run goes on; it waits for a person, a timer or a worker."""
    NONDETERMINISTIC = 9
    INTERRUPTED = 130


def explain(error: BaseException) -> int:
    """Tell the user on stderr what ERROR means for them, in one message without a traceback; return the exit code."""
    if os.environ.get("PERDURE_DEBUG"):
        traceback.print_exception(error)
    code, message = classify(error)
    say(f"perdure: {message}")
    return code


def classify(error: BaseException) -> tuple[Exit, str]:
    """Return the exit code and the message for ERROR."""
    if isinstance(error, KeyboardInterrupt):
        return Exit.INTERRUPTED, "interrupted"
    if isinstance(error, PerdureError):
        return _code(error), error.message
    if type(error).__module__.startswith("temporalio"):
        return _temporal(error)
    said = str(error).splitlines()[0] if str(error) else "no details"
    return Exit.ERROR, f"{type(error).__name__}: {said}. Run it again with PERDURE_DEBUG=1 for the traceback."


def _code(error: PerdureError) -> Exit:
    match error:
        case Unreachable():
            return Exit.UNREACHABLE
        case NotAllowed():
            return Exit.NOT_ALLOWED
        case InvalidInput() | PlanError() | WrongSetting():
            return Exit.USAGE
        case Rejected() | ChangesRequested():
            return Exit.REJECTED
    return Exit.ERROR


def _temporal(error: BaseException) -> tuple[Exit, str]:
    from temporalio.service import RPCError, RPCStatusCode

    if not isinstance(error, RPCError):
        return Exit.ERROR, f"Temporal: {error}"
    match error.status:
        case RPCStatusCode.UNAVAILABLE | RPCStatusCode.DEADLINE_EXCEEDED | RPCStatusCode.CANCELLED:
            return Exit.UNREACHABLE, f"Temporal does not answer: {error.message}. Look at `perdure doctor`."
        case RPCStatusCode.UNAUTHENTICATED | RPCStatusCode.PERMISSION_DENIED:
            return Exit.NOT_ALLOWED, f"Temporal does not let us do that: {error.message}"
        case RPCStatusCode.INVALID_ARGUMENT if "search attribute" in error.message.lower():
            return Exit.ERROR, f"Temporal: {error.message}. Register perdure's with `perdure doctor --fix`."
        case RPCStatusCode.INVALID_ARGUMENT:
            return Exit.USAGE, f"Temporal refuses it: {error.message}"
        case RPCStatusCode.NOT_FOUND:
            return Exit.ERROR, f"Temporal does not know it: {error.message}"
    return Exit.ERROR, f"Temporal: {error.message or error.status.name}"

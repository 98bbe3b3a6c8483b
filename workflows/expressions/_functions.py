"""The functions of expressions: those of CEL's specification, and `day`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

import re2  # type: ignore[import-untyped]  # it has no types

from perdure.workflows.expressions._values import (
    MAX_INT,
    Duration,
    EvaluationProblem,
    Timestamp,
    Type,
    UInt,
    Work,
    double_as_text,
    name_of_type,
)

__all__ = ["FUNCTIONS", "METHODS", "TYPES", "check_int", "no_such"]

Function = Callable[..., object]


def no_such(operation: str, *args: object) -> EvaluationProblem:
    """Return the error that OPERATION does not take ARGS; it names their types and never their values."""
    return EvaluationProblem(f"{operation} does not take {' and '.join(name_of_type(each) for each in args)}")


def check_int(value: int) -> int:
    """Return VALUE, an int to CEL. Raises `EvaluationProblem` if it has more than 64 bits."""
    if not -MAX_INT - 1 <= value <= MAX_INT:
        raise EvaluationProblem("the integer has more than 64 bits, which CEL does not calculate with")
    return value


def _check_uint(value: int) -> UInt:
    if not 0 <= value <= 2 * MAX_INT + 1:
        raise EvaluationProblem("the unsigned integer is negative or has more than 64 bits")
    return UInt(value)


# --- conversions


def _int(value: object, _: Work) -> int:
    match value:
        case bool():
            raise no_such("int()", value)
        case int():
            return check_int(int(value))
        case float():
            # The floats next to the limits are outside already, so these are exact.
            if not -(2.0**63) < value < 2.0**63:
                raise EvaluationProblem("the double has no integer of 64 bits")
            return int(value)
        case str() if len(value) < 100 and re.fullmatch(r"[+-]?[0-9]+", value):
            return check_int(int(value))
        case str():
            raise EvaluationProblem("int() takes a text of digits only")
        case Timestamp():
            return value.seconds
    raise no_such("int()", value)


def _uint(value: object, _: Work) -> UInt:
    match value:
        case bool():
            raise no_such("uint()", value)
        case int():
            return _check_uint(value)
        case float():
            if not 0 <= value < 2.0**64:
                raise EvaluationProblem("the double has no unsigned integer of 64 bits")
            return UInt(int(value))
        case str() if len(value) < 100 and re.fullmatch(r"[0-9]+", value):
            return _check_uint(int(value))
        case str():
            raise EvaluationProblem("uint() takes a text of digits only")
    raise no_such("uint()", value)


_DOUBLE: Final = re.compile(
    r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?(?:inf|infinity)|nan", re.IGNORECASE
)


def _double(value: object, _: Work) -> float:
    match value:
        case bool():
            raise no_such("double()", value)
        case float():
            return value
        case int():
            return float(value if isinstance(value, UInt) else check_int(value))
        case str() if _DOUBLE.fullmatch(value):
            return float(value)
        case str():
            raise EvaluationProblem("double() takes a text that is a number")
    raise no_such("double()", value)


def _string(value: object, _: Work) -> str:
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(int(value))
        case float():
            return double_as_text(value)
        case bytes():
            try:
                return value.decode()
            except UnicodeDecodeError:
                raise EvaluationProblem("the bytes are no UTF-8") from None
        case Timestamp() | Duration():
            return value.as_text()
    raise no_such("string()", value)


def _bytes(value: object, _: Work) -> bytes:
    match value:
        case bytes():
            return value
        case str():
            return value.encode("utf-8", "surrogatepass")
    raise no_such("bytes()", value)


_WORDS: Final = {
    **dict.fromkeys(("1", "t", "true", "TRUE", "True"), True),
    **dict.fromkeys(("0", "f", "false", "FALSE", "False"), False),
}


def _bool(value: object, _: Work) -> bool:
    match value:
        case bool():
            return value
        case str() if value in _WORDS:
            return _WORDS[value]
        case str():
            raise EvaluationProblem("bool() takes the texts true and false")
    raise no_such("bool()", value)


def _timestamp(value: object, _: Work) -> Timestamp:
    match value:
        case Timestamp():
            return value
        case str():
            return Timestamp.parse(value)
        case int() if type(value) is int:
            return Timestamp(check_int(value) * 1_000_000_000)
    raise no_such("timestamp()", value)


def _duration(value: object, _: Work) -> Duration:
    match value:
        case Duration():
            return value
        case str():
            return Duration.parse(value)
    raise no_such("duration()", value)


def _day(value: object, _: Work) -> Timestamp:
    if not isinstance(value, str):
        raise no_such("day()", value)
    if not re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?![0-9])", value, re.ASCII):
        raise EvaluationProblem("day() takes a text that begins with a date such as 2026-11-23")
    return Timestamp.parse(f"{value[:10]}T00:00:00Z")


def _type(value: object, _: Work) -> Type:
    if type(value) is int:
        check_int(value)
    return Type(name_of_type(value))


# --- texts


def _size(value: object, _: Work) -> int:
    if isinstance(value, str | bytes | list | Mapping):
        return len(value)
    raise no_such("size()", value)


def _of_texts(name: str, holds: Callable[[str, str], bool]) -> Function:
    def check(text: object, part: object, _: Work) -> bool:
        if not isinstance(text, str) or not isinstance(part, str):
            raise no_such(f"{name}()", text, part)
        return holds(text, part)

    return check


def _matches(text: object, pattern: object, work: Work) -> bool:
    if not isinstance(text, str) or not isinstance(pattern, str):
        raise no_such("matches()", text, pattern)
    search, size = _regex(pattern)
    # What RE2 does at worst; some 20 nanoseconds each.
    work.spend(10 + len(text) * size // 250)
    try:
        return search(text)
    except UnicodeEncodeError:
        raise EvaluationProblem("the text has half a surrogate pair in it, which is no character") from None


@lru_cache(maxsize=256)
def _regex(pattern: str) -> tuple[Callable[[str], bool], int]:
    """Return the search for PATTERN by RE2, which never goes back in a text, and the size of its program."""
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 1 << 20
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        said = error.args[0].decode() if isinstance(error.args[0], bytes) else error.args[0]
        raise EvaluationProblem(f"it is no regular expression of RE2: {said}") from None
    except UnicodeEncodeError:
        raise EvaluationProblem("the pattern has half a surrogate pair in it, which is no character") from None
    return lambda text: compiled.search(text) is not None, int(compiled.programsize)


# --- times


_OFFSET: Final = re.compile(r"([+-]?)(\d\d?):(\d\d)", re.ASCII)


def _clock(moment: Timestamp, zone: object) -> datetime:
    """Return what the clocks of ZONE, `Europe/Berlin` or `+01:00`, show at MOMENT."""
    if not isinstance(zone, str):
        raise no_such("a getter of timestamps", moment, zone)
    if match := _OFFSET.fullmatch(zone):
        offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
        if offset < timedelta(days=1):
            return moment.at(-offset if match[1] == "-" else offset)
    elif zone in ("", "UTC"):
        return moment.at(timedelta(0))
    else:
        try:
            return moment.at(_utc_offset(zone, moment.seconds))
        except (KeyError, ValueError, OSError):  # KeyError: ZoneInfoNotFoundError
            pass
    raise EvaluationProblem("there is no such time zone: a name as `Europe/Berlin` or an offset as `+01:00` is one")


def _utc_offset(zone: str, seconds: int) -> timedelta:
    utc = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    try:
        return utc.astimezone(ZoneInfo(zone)).utcoffset() or timedelta(0)
    except OverflowError:
        raise EvaluationProblem("the time is not in the years 1 to 9999 there") from None


def _of_clock(name: str, read: Callable[[datetime], int], of_duration: Callable[[Duration], int] | None = None) -> Function:
    def get(value: object, *more: object) -> int:
        *zone, work = more
        if zone and isinstance(work, Work):
            work.spend(50)  # a zone that is not known is looked for on the disk
        if isinstance(value, Timestamp) and len(zone) <= 1:
            return read(_clock(value, zone[0] if zone else "UTC"))
        if isinstance(value, Duration) and of_duration and not zone:
            return of_duration(value)
        raise no_such(f"{name}()", value, *zone)

    return get


def _whole(unit: int) -> Callable[[Duration], int]:
    return lambda value: abs(value.nanos) // unit * (-1 if value.nanos < 0 else 1)


def _milliseconds(value: object, *more: object) -> int:
    match value, more[:-1]:
        case Timestamp(), () | (str(),):
            return value.nanos % 1_000_000_000 // 1_000_000
        case Duration(), ():
            # Of the second, as for a timestamp: not all of it in milliseconds.
            return abs(value.nanos) % 1_000_000_000 // 1_000_000 * (-1 if value.nanos < 0 else 1)
    raise no_such("getMilliseconds()", value, *more[:-1])


FUNCTIONS: Final[Mapping[str, tuple[int, Function]]] = {
    "bool": (1, _bool),
    "bytes": (1, _bytes),
    "day": (1, _day),
    "double": (1, _double),
    "duration": (1, _duration),
    "dyn": (1, lambda value, _: value),
    "int": (1, _int),
    "matches": (2, _matches),
    "size": (1, _size),
    "string": (1, _string),
    "timestamp": (1, _timestamp),
    "type": (1, _type),
    "uint": (1, _uint),
}
"""By name: how many arguments it takes, and what does it. The work to spend on comes as one more argument."""

METHODS: Final[Mapping[str, tuple[tuple[int, ...], Function]]] = {
    "contains": ((1,), _of_texts("contains", lambda text, part: part in text)),
    "endsWith": ((1,), _of_texts("endsWith", str.endswith)),
    "getDate": ((0, 1), _of_clock("getDate", lambda at: at.day)),
    "getDayOfMonth": ((0, 1), _of_clock("getDayOfMonth", lambda at: at.day - 1)),
    "getDayOfWeek": ((0, 1), _of_clock("getDayOfWeek", lambda at: at.isoweekday() % 7)),
    "getDayOfYear": ((0, 1), _of_clock("getDayOfYear", lambda at: at.timetuple().tm_yday - 1)),
    "getFullYear": ((0, 1), _of_clock("getFullYear", lambda at: at.year)),
    "getHours": ((0, 1), _of_clock("getHours", lambda at: at.hour, _whole(3600 * 1_000_000_000))),
    "getMilliseconds": ((0, 1), _milliseconds),
    "getMinutes": ((0, 1), _of_clock("getMinutes", lambda at: at.minute, _whole(60 * 1_000_000_000))),
    "getMonth": ((0, 1), _of_clock("getMonth", lambda at: at.month - 1)),
    "getSeconds": ((0, 1), _of_clock("getSeconds", lambda at: at.second, _whole(1_000_000_000))),
    "matches": ((1,), _matches),
    "size": ((0,), _size),
    "startsWith": ((1,), _of_texts("startsWith", str.startswith)),
}
"""By name: how many arguments it takes besides what stands before the dot, and what does it."""

TYPES: Final[Mapping[str, Type]] = {
    name: Type(name)
    for name in (
        *("bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"),
        *("google.protobuf.Duration", "google.protobuf.Timestamp"),
    )
}
"""What `type(x)` is compared with."""

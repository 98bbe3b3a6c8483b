"""What an expression works on: CEL's types, what they are made of out of JSON, and what becomes of them in JSON."""

from __future__ import annotations

import base64
import operator
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import total_ordering
from math import isfinite
from typing import Final

from pydantic import JsonValue

__all__ = [
    "MAX_INT",
    "MAX_VALUES",
    "Duration",
    "EvaluationProblem",
    "MixedMap",
    "Timestamp",
    "Type",
    "UInt",
    "Work",
    "as_numbers",
    "double_as_text",
    "name_of_type",
    "same",
    "to_json",
]

MAX_INT: Final = 2**63 - 1
_NANOS: Final = 1_000_000_000
MAX_STEPS: Final = 200_000
MAX_VALUES: Final = 200_000


class EvaluationProblem(Exception):
    """An expression has no value over the names that it was given."""


class Work:
    """Counts what an evaluation does, since a workflow that computes for long is taken for a stuck one."""

    __slots__ = ("_left",)

    def __init__(self, limit: int = MAX_STEPS) -> None:
        self._left = limit

    def spend(self, units: int) -> None:
        """Take UNITS from what is left. Raises `EvaluationProblem` if that is too little."""
        self._left -= units
        if self._left < 0:
            raise EvaluationProblem("it takes too many steps: shorten what it goes through")


class UInt(int):
    """An unsigned integer; JSON has none, so only `uint()` and `1u` make one."""

    __slots__ = ()


class Type:
    """What `type(x)` gives."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Type) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)


@total_ordering
class _Nanos:
    __slots__ = ("nanos",)

    def __init__(self, nanos: int) -> None:
        self.nanos = nanos

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.nanos == self.nanos

    def __lt__(self, other: _Nanos) -> bool:
        return self.nanos < other.nanos

    def __hash__(self) -> int:
        return hash(self.nanos)


def _fraction(nanos: int) -> str:
    """Return the part of a second as protobuf's JSON has it: none, or 3, 6 or 9 digits."""
    if not nanos:
        return ""
    digits = f"{nanos:09d}"
    return "." + (digits[:3] if digits[3:] == "000000" else digits[:6] if digits[6:] == "000" else digits)


_UNITS: Final = {"h": 3600 * _NANOS, "m": 60 * _NANOS, "s": _NANOS, "ms": 1_000_000, "us": 1000, "µs": 1000, "ns": 1}
_DURATION_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(h|ms|m|s|us|µs|ns)")


class Duration(_Nanos):
    """A length of time in nanoseconds, at most 10,000 years either way (google.protobuf.Duration)."""

    __slots__ = ()

    def __init__(self, nanos: int) -> None:
        if abs(nanos) > 315_576_000_000 * _NANOS:
            raise EvaluationProblem("the duration is longer than 10,000 years")
        super().__init__(nanos)

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Return what TEXT says, such as `1h30m` or `-1.5s`. Raises `EvaluationProblem`."""
        body = text[1:] if text[:1] in ("-", "+") else text
        nanos = 0
        position = 0
        while match := _DURATION_PART.match(body, position):
            whole, _, part = match[1].partition(".")
            if len(whole) > 30:
                break
            unit = _UNITS[match[2]]
            nanos += int(whole or "0") * unit + int(f"{part[:18]:0<18}") * unit // 10**18
            position = match.end()
        if body != "0" and (position < len(body) or not body):
            raise EvaluationProblem("a duration is a text such as '1h30m', '90s' or '-1.5s'")
        return cls(-nanos if text.startswith("-") else nanos)

    def as_text(self) -> str:
        """Return it in seconds, as protobuf's JSON has it."""
        seconds, nanos = divmod(abs(self.nanos), _NANOS)
        return f"{'-' if self.nanos < 0 else ''}{seconds}{_fraction(nanos)}s"


_RFC3339: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST: Final = -62_135_596_800 * _NANOS
_LAST: Final = 253_402_300_800 * _NANOS - 1


class Timestamp(_Nanos):
    """A point in time, in nanoseconds since 1970, from year 1 to 9999 (google.protobuf.Timestamp)."""

    __slots__ = ()

    def __init__(self, nanos: int) -> None:
        if not _FIRST <= nanos <= _LAST:
            raise EvaluationProblem("the time is not in the years 1 to 9999")
        super().__init__(nanos)

    @classmethod
    def of(cls, moment: datetime) -> Timestamp:
        """Return the aware MOMENT."""
        since = moment - _EPOCH
        return cls((since // timedelta(microseconds=1)) * 1000)

    @classmethod
    def parse(cls, text: str) -> Timestamp:
        """Return what TEXT says (RFC 3339). Raises `EvaluationProblem`."""
        match = _RFC3339.fullmatch(text)
        if match is None:
            raise EvaluationProblem("a timestamp is a text such as '2026-11-23T10:00:00Z' (RFC 3339)")
        year, month, day, hour, minute, second = map(int, match.groups()[:6])
        part, sign, hours, minutes = match.groups()[6:]
        try:
            moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        except ValueError as error:
            raise EvaluationProblem(f"there is no such time: {error}") from None
        if hours is not None and (int(hours) > 23 or int(minutes) > 59):
            raise EvaluationProblem("there is no such offset from UTC")
        offset = (int(hours or 0) * 3600 + int(minutes or 0) * 60) * (-1 if sign == "-" else 1)
        seconds = (moment - _EPOCH) // timedelta(seconds=1) - offset
        return cls(seconds * _NANOS + int(f"{(part or '')[:9]:0<9}"))

    @property
    def seconds(self) -> int:
        """Whole seconds since 1970."""
        return self.nanos // _NANOS

    def at(self, offset: timedelta) -> datetime:
        """Return it as the clock of OFFSET shows it, without a zone."""
        try:
            return datetime(1970, 1, 1) + timedelta(seconds=self.seconds) + offset  # noqa: DTZ001  said above
        except OverflowError:
            raise EvaluationProblem("the time is not in the years 1 to 9999 there") from None

    def as_text(self) -> str:
        """Return it in UTC, as RFC 3339 has it."""
        moment = _EPOCH + timedelta(seconds=self.seconds)
        return f"{moment:%Y-%m-%dT%H:%M:%S}".rjust(19, "0") + f"{_fraction(self.nanos % _NANOS)}Z"


class MixedMap(Mapping[object, object]):
    """A map with keys other than texts. A number is found whatever its type; true is no number."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: dict[tuple[bool, object], tuple[object, object]] = {}

    def add(self, key: object, value: object) -> None:
        """Add an entry. Raises `EvaluationProblem` if KEY is there."""
        if (hidden := (type(key) is bool, key)) in self._entries:
            raise EvaluationProblem(f"the map has the key {_key_as_text(key)} twice")
        self._entries[hidden] = (key, value)

    def __getitem__(self, key: object) -> object:
        return self._entries[type(key) is bool, key][1]

    def __contains__(self, key: object) -> bool:
        return (type(key) is bool, key) in self._entries

    def __iter__(self) -> Iterator[object]:
        return (key for key, _ in self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)


def name_of_type(value: object) -> str:
    """Return the name of VALUE's type, as `type()` has it."""
    match value:
        case None:
            return "null_type"
        case bool():
            return "bool"
        case UInt():
            return "uint"
        case int():
            return "int"
        case float():
            return "double"
        case str():
            return "string"
        case bytes():
            return "bytes"
        case list():
            return "list"
        case Mapping():
            return "map"
        case Timestamp():
            return "google.protobuf.Timestamp"
        case Duration():
            return "google.protobuf.Duration"
    return "type"


def same(left: object, right: object, work: Work) -> bool:
    """Return whether LEFT and RIGHT are equal: numbers by their value, whatever their types, others only of one type."""
    work.spend(1 + len(left) // 10_000 if isinstance(left, str | bytes) else 1)
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, int | float):
        return isinstance(right, int | float) and operator.eq(*as_numbers(left, right))
    if isinstance(left, list):
        return (
            isinstance(right, list)
            and len(left) == len(right)
            and all(same(one, other, work) for one, other in zip(left, right, strict=True))
        )
    if isinstance(left, Mapping):
        return (
            isinstance(right, Mapping)
            and len(left) == len(right)
            and all(key in right and same(value, right[key], work) for key, value in left.items())
        )
    return type(left) is type(right) and left == right


def as_numbers(left: int | float, right: int | float) -> tuple[int | float, int | float]:
    """Return LEFT and RIGHT as they are compared: as doubles if one is a double, though that loses digits of the other."""
    if isinstance(left, float) is isinstance(right, float):
        return left, right
    try:
        return float(left), float(right)
    except OverflowError:  # an integer that JSON brought along
        return left, right


def to_json(value: object, work: Work) -> JsonValue:
    """Return VALUE as JSON has it, after protobuf's mapping: times and durations as text, bytes as Base64."""
    work.spend(1)
    match value:
        case None | bool() | str():
            return value
        case int():
            return int(value)
        case float() if isfinite(value):
            return value
        case bytes():
            return base64.b64encode(value).decode()
        case Timestamp() | Duration():
            return value.as_text()
        case list():
            return [to_json(each, work) for each in value]
        case Mapping():
            found = {_key_as_text(key): to_json(each, work) for key, each in value.items()}
            if len(found) < len(value):
                raise EvaluationProblem("two keys of the map it gives are the same text in JSON")
            return found
    said = "a type" if isinstance(value, Type) else double_as_text(value) if isinstance(value, float) else "what it gives"
    raise EvaluationProblem(f"JSON has no value for {said}")


def _key_as_text(key: object) -> str:
    return ("true" if key else "false") if isinstance(key, bool) else str(key)


def double_as_text(value: float) -> str:
    """Return VALUE as the other implementations of CEL write it: the shortest digits, from 1e+06 on with an exponent."""
    text = repr(value)
    if not isfinite(value):
        return text
    digits = text.lstrip("-").partition("e")[0].replace(".", "").strip("0")
    power = Decimal(text).adjusted()  # of the shortest digits: 1e-06 lies a little below a millionth
    if value and not -5 < power < 6:
        lead = digits[0] + (f".{digits[1:]}" if len(digits) > 1 else "")
        return f"{'-' if text[0] == '-' else ''}{lead}e{power:+03d}"
    return text.removesuffix(".0")

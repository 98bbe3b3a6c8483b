"""What a provider says of an error, wherever it says it: status, headers, codes and words of its body."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from perdure.routing.prompts import holds_secret
from perdure.routing.providers._vocabulary import CODES, OPEN, WORDS, Meaning

LONGEST_WAIT = timedelta(hours=1)
"""So long at most a provider is left alone because it says so. Then it is worth another try."""

_CODE_KEYS = ("code", "type", "status", "reason", "__type", "error_code", "errorCode", "error_type", "name")
_WORD_KEYS = ("message", "detail", "error", "msg", "title", "error_description", "errorMessage", "reason", "Message")
_INSIDE = ("error", "errors", "innererror", "inner_error", "details", "detail", "metadata", "cause", "raw", "body", "fault")
_DEEPEST = 5
_HEARD = 300
"""So many characters of a message are heard: it begins with what is wrong, and goes on, perhaps, with what was asked."""

_CODE = re.compile(r"[A-Za-z][\w.:-]{0,63}")

_SPOKEN_WAIT = re.compile(
    r"(?:try|retry|again|wait|available)\b[^.\n]{0,40}?\b(?:in|after|for)\s+"
    r"((?:\d+(?:\.\d+)?\s*(?:ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hours?)(?![a-z])\s*)+|\d+(?:\.\d+)?\b)",
    re.IGNORECASE,
)
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE)
_UNITS = {"ms": 0.001, "millisecond": 0.001, "s": 1, "sec": 1, "second": 1, "": 1, "m": 60, "min": 60, "minute": 60}
_UNITS |= {"h": 3600, "hour": 3600}


@dataclass(frozen=True)
class Statement:
    """What an error says: STATUS, the CODES that it states, the beginnings of its messages, and how long to WAIT."""

    status: int
    codes: tuple[str, ...] = ()
    words: str = ""
    wait: timedelta | None = None
    per_minute: bool = False
    """Whether the limit that it tells of is one for a short time, in whatever words it does so."""

    @property
    def meaning(self) -> Meaning:
        """Why the provider does not serve."""
        if self.status == 402:
            return "no credit"
        if self.status == 413:
            return "too long"
        stated = {_plain(code) for code in self.codes}
        # Google tells of a limit a minute in the words that others have for an empty account.
        by_code = _meaning_of(stated)
        if by_code in ("no credit", "too long", "withheld"):
            return by_code
        for meaning in OPEN.get(self.status, ()):
            if WORDS[meaning].search(self.words) and not (meaning == "no credit" and self.per_minute):
                return meaning
        if self.status in (401, 403, 404):
            return "not this deployment"
        return by_code if self.status < 500 and self.status not in (408, 409, 425, 429, 499) else ""

    @property
    def code(self) -> str:
        """The code that says most, empty if none is stated."""
        known = frozenset().union(*CODES.values())
        # A body may say the kind of error before the error: `invalid_request_error`, then `context_length_exceeded`.
        loud: tuple[Meaning, ...] = ("no credit", "too long", "withheld")
        for meaning in loud:
            if found := next((code for code in self.codes if _plain(code) in CODES[meaning]), ""):
                return found
        if spoken := {"no credit": "insufficient_quota", "too long": "context_length_exceeded"}.get(self.meaning, ""):
            return spoken if self.status not in (402, 413) else ""
        if self.meaning == "withheld":
            return "content_filter"
        return next((code for code in self.codes if _plain(code) in known), self.codes[0] if self.codes else "")


def read_statement(status: int, headers: Mapping[str, str], body: bytes) -> Statement:
    """Return what an answer of STATUS with HEADERS, in lower case, and BODY says. STATUS 200 takes that of its body."""
    told = _load(body)
    codes: list[str] = []
    words: list[str] = []
    waits: list[timedelta] = []
    quotas: list[str] = []
    if kind := headers.get("x-amzn-errortype"):
        codes.append(kind.partition(":")[0])
    for mapping in _mappings(told, 0):
        codes += [str(mapping[key]) for key in _CODE_KEYS if isinstance(mapping.get(key), str | int)]
        words += [str(mapping[key])[:_HEARD] for key in _WORD_KEYS if isinstance(mapping.get(key), str)]
        if isinstance(delay := mapping.get("retryDelay") or mapping.get("retry_after"), str | int | float):
            waits += filter(None, [_duration(str(delay))])
        quotas += [str(mapping[key]) for key in ("quotaId", "quota_id", "quotaMetric") if key in mapping]
    if isinstance(told, str):
        words.append(told[:_HEARD])
    numbers = [int(code) for code in codes if code.isdecimal() and len(code) == 3 and 400 <= int(code) <= 599]
    stated = tuple(code for each in codes if _CODE.fullmatch(code := each.rpartition("#")[2]) and not holds_secret(code))
    said = " | ".join(words)
    if status < 300:
        status = numbers[0] if numbers else _status_of(stated, said)
    wait = _header_wait(headers)
    if wait is None and waits:
        wait = waits[0]
    if wait is None and status in (408, 409, 425, 429, 500, 503, 529):
        wait = _spoken_wait(said)
    exhausted = "RESOURCE_EXHAUSTED" in stated and not any("PerDay" in quota for quota in quotas)
    return Statement(status, stated, said, None if wait is None else min(wait, LONGEST_WAIT), exhausted)


def holds_error(body: bytes) -> bool:
    """Return whether an answer that came as a success is an error by its BODY."""
    told = _load(body)
    if isinstance(told, list) and len(told) == 1:
        told = told[0]
    if not isinstance(told, dict):
        return False
    if told.get("error") or told.get("errors"):
        return True
    return told.get("type") == "error" or (told.get("object") == "error")


def holds_usage(body: bytes) -> bool:
    """Return whether an error in BODY says besides that something was charged."""
    told = _load(body)
    usage = told.get("usage") or told.get("usageMetadata") if isinstance(told, dict) else None
    numbers = usage.values() if isinstance(usage, dict) else ()
    return any(isinstance(number, int) and number > 0 for number in numbers)


def _load(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _mappings(told: object, depth: int) -> Iterator[Mapping[str, object]]:
    """Return the objects of an error's body, the inner ones after those that they stand in."""
    if depth > _DEEPEST:
        return
    if isinstance(told, list):
        for each in told[:8]:
            yield from _mappings(each, depth + 1)
    elif isinstance(told, str) and told.lstrip().startswith("{"):  # what another provider has said, passed on
        yield from _mappings(_load(told.encode("utf-8", "replace")), depth + 1)
    elif isinstance(told, dict):
        yield told
        for key in _INSIDE:
            if isinstance(told.get(key), dict | list) or key == "raw":
                yield from _mappings(told.get(key), depth + 1)
        # Google counts what was exceeded, and Anthropic says it beside its own kind.
        if isinstance(told.get("violations"), list):
            yield from _mappings(told["violations"], depth + 1)


def _plain(code: str) -> str:
    return code.lower().replace("-", "_")


def _status_of(codes: tuple[str, ...], words: str) -> int:
    """Return the status that an error would have come with that came as a success."""
    statuses: Mapping[Meaning, int] = {
        "no credit": 429,
        "too long": 400,
        "withheld": 400,
        "not this deployment": 403,
        "busy": 503,
    }
    plain = {_plain(code) for code in codes}
    for meaning, known in CODES.items():
        if plain & known:
            return statuses[meaning]
    if "invalid_request_error" in plain or "invalid_argument" in plain:
        return 400
    for meaning, pattern in WORDS.items():
        if pattern.search(words):
            return statuses[meaning]
    return 500


def _header_wait(headers: Mapping[str, str]) -> timedelta | None:
    milliseconds = headers.get("retry-after-ms") or headers.get("x-ms-retry-after-ms")
    if milliseconds is not None and re.fullmatch(r"\d{1,9}(\.\d{1,9})?", milliseconds):
        return timedelta(milliseconds=float(milliseconds))
    return _retry_after(headers.get("retry-after"))


def _retry_after(value: str | None) -> timedelta | None:
    """Read a Retry-After header, RFC 9110 section 10.2.3: seconds or a date."""
    if value is None:
        return None
    if re.fullmatch(r"\d{1,12}(\.\d{1,9})?", value):
        return timedelta(seconds=min(float(value), LONGEST_WAIT.total_seconds()))
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return max(timedelta(), (when if when.tzinfo else when.replace(tzinfo=UTC)) - datetime.now(UTC))


def _spoken_wait(words: str) -> timedelta | None:
    found = _SPOKEN_WAIT.search(words)
    return _duration(found[1]) if found else None


def _duration(text: str) -> timedelta | None:
    """Read "34.07s", "6m0s", "20 seconds" or "20"."""
    seconds = 0.0
    parts = _PART.findall(text)
    for number, unit in parts:
        name = unit.lower()
        factor = _UNITS.get(name, _UNITS.get(name.rstrip("s")))
        if factor is None:
            return None
        seconds += float(number) * factor
    return timedelta(seconds=min(seconds, LONGEST_WAIT.total_seconds())) if parts else None


def _meaning_of(codes: Collection[str]) -> Meaning:
    """Return what the first known of CODES means; empty: none is known."""
    for meaning, known in CODES.items():
        if not known.isdisjoint(codes):
            return meaning
    return ""

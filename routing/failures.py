"""What a failed provider call means: try again, try elsewhere or give up, and whether it may have cost money.

Classified by HTTP status and the code in the body, not by exception class: classes differ between versions of the clients.
What a provider wrote is never repeated, since it may echo the prompt or the key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Literal

Verdict = Literal["again", "elsewhere", "never"]

_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_ELSEWHERE_CODES = {"insufficient_quota", "billing_hard_limit_reached", "context_length_exceeded"}
_ELSEWHERE_STATUS = {402, 413}

# A call whose answer did not arrive may still be charged, except when no connection came about.
_NOT_SENT = {
    "ConnectError",
    "ConnectTimeout",
    "ClientConnectorError",
    "ClientConnectorDNSError",
    "ConnectionRefusedError",
    "gaierror",
}
_TIMED_OUT = {"APITimeoutError", "TimeoutError", "ReadTimeout", "Timeout", "SocketTimeoutError"}


@dataclass(frozen=True)
class ProviderFailure:
    """One failed call: what to do about it and what may be told."""

    verdict: Verdict
    what: str
    """What happened, in words that hold neither prompt nor key."""
    kind: str
    """One word for the record: `429`, `time-out`, `connection`..., with the body's code if it states one."""
    status: int | None = None
    ambiguous: bool = False
    """Whether the provider may have answered, and charged, without our knowing."""
    retry_after: timedelta | None = None


def classify(error: BaseException, *, timeout: float) -> ProviderFailure:
    """Return what ERROR of a call that had TIMEOUT seconds means."""
    chain = list(_chain(error))
    # An HTTP answer is told by its response headers: LiteLLM puts status 500 or 408 on a lost connection as well.
    answered = any(getattr(one, "litellm_response_headers", None) is not None for one in chain)
    status = next((status for one in chain if (status := _status(one)) is not None), None)
    if status is not None and (answered or not _is_connection(chain)):
        return _by_status(status, _code(chain), _retry_after(chain), truncated=not answered and status == 500)
    names = {name.__name__ for one in chain for name in type(one).__mro__}
    if names & _NOT_SENT:
        return ProviderFailure("again", "could not be reached", "unreachable")
    if names & _TIMED_OUT:
        return ProviderFailure("again", f"did not answer within {timeout:g} s", "time-out", ambiguous=True)
    if _is_connection(chain):
        return ProviderFailure(
            "again", "dropped the connection before the answer was complete", "connection", ambiguous=True
        )
    return ProviderFailure("never", f"could not be called ({type(error).__name__})", type(error).__name__, ambiguous=True)


def _by_status(status: int, code: str, retry_after: timedelta | None, *, truncated: bool) -> ProviderFailure:
    if truncated:
        return ProviderFailure("again", "sent an answer that cannot be read", "unreadable", ambiguous=True)
    kind = f"{status} {code}" if code else str(status)
    verdict: Verdict = "never"
    if code in _ELSEWHERE_CODES or status in _ELSEWHERE_STATUS:
        verdict = "elsewhere"
    elif status in _AGAIN or status >= 500:
        verdict = "again"
    return ProviderFailure(verdict, f"answered {kind}", kind, status, retry_after=retry_after)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__


def _is_connection(chain: list[BaseException]) -> bool:
    names = {name.__name__ for one in chain for name in type(one).__mro__}
    return bool(names & ({"APIConnectionError", "TransportError", "ClientConnectionError", "OSError"} | _TIMED_OUT))


def _status(error: BaseException) -> int | None:
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) and 400 <= status <= 599 else None


def _code(chain: list[BaseException]) -> str:
    for one in chain:
        body = getattr(one, "body", None)
        inner = body.get("error", body) if isinstance(body, Mapping) else {}
        for code in (
            getattr(one, "code", None),
            *(inner.get(key) for key in ("code", "type", "status") if isinstance(inner, Mapping)),
        ):
            if isinstance(code, str) and re.fullmatch(r"[A-Za-z][\w.-]{0,63}", code):
                return code
    return ""


def _retry_after(chain: list[BaseException]) -> timedelta | None:
    for one in chain:
        for headers in (
            getattr(one, "litellm_response_headers", None),
            getattr(getattr(one, "response", None), "headers", None),
        ):
            if headers is None:
                continue
            found = _milliseconds(headers.get("retry-after-ms")) or _wait(headers.get("retry-after"))
            if found is not None:
                return found
    return None


def _milliseconds(value: str | None) -> timedelta | None:
    return timedelta(milliseconds=int(value)) if value is not None and re.fullmatch(r"\d{1,9}", value) else None


def _wait(value: str | None) -> timedelta | None:
    """Read a Retry-After header, RFC 9110 section 10.2.3: seconds or a date."""
    if value is None:
        return None
    if re.fullmatch(r"\d{1,7}(\.\d+)?", value):
        return timedelta(seconds=float(value))
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(timedelta(), (when if when.tzinfo else when.replace(tzinfo=UTC)) - datetime.now(UTC))

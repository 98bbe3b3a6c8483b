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

from perdure.routing.providers.breakers import QUOTA

Verdict = Literal["again", "elsewhere", "never"]

_AGAIN = {408, 409, 425, 429, 499, 500, 502, 503, 504, 529}
_NO_CREDIT = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "billing_error", "402"}
_TOO_LONG = {"context_length_exceeded", "string_above_max_length", "request_too_large", "exceed_context_size_error", "413"}
_WITHHELD = {"content_policy_violation", "content_filter", "moderation_blocked", "ResponsibleAIPolicyViolation"}
# Several providers say these in words only, which LiteLLM reads and turns into classes of its own.
_CLASSES = {
    "ContextWindowExceededError": "context_length_exceeded",
    "ContentPolicyViolationError": "content_policy_violation",
}

# And some have no code for an empty account. Elsewhere in the message may stand what was asked, so it is these words only.
_NO_CREDIT_WORDS = re.compile(
    r"credit balance is too low|exceeded your current quota|insufficient (?:balance|credits?|funds)|billing hard limit",
    re.IGNORECASE,
)
_TOO_LONG_WORDS = re.compile(r"maximum context length|prompt is too long|context (?:window|length) exceeded", re.IGNORECASE)

_LOST = {499, 504, 520, 524}
"""Whoever stood between gave up waiting. The provider may have gone on."""

LONGEST = timedelta(hours=1)
"""So long at most a provider is left alone because it says so. Then it is worth another try."""

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
    out_of_credit: bool = False

    @property
    def outcome(self) -> Literal["ambiguous", "unavailable", "refused"]:
        """How the call counts in the record."""
        if self.ambiguous:
            return "ambiguous"
        return "unavailable" if self.verdict == "again" else "refused"

    @property
    def cooldown(self) -> timedelta | None:
        """How long the provider is not to be called by anybody, if it says so or needs a person first."""
        return QUOTA if self.out_of_credit else self.retry_after

    @property
    def remedy(self) -> str:
        """What a person can do about it."""
        if self.status in {401, 403}:
            return "Check the variable that `api_key` names in models.toml, and what the key may do."
        if self.status is not None and self.status < 400:
            return "It says to ask elsewhere, which is not done: the prompt would go there too. Correct `api_base`."
        if self.status == 404:
            return "Check `model` and `api_base` in models.toml."
        if self.status in {400, 422} and self.verdict == "never":
            return (
                "The same request would be refused again: check the deployment in models.toml and the inputs. A server "
                'that makes no grammar of the output\'s schema takes `structured = "json"`.'
            )
        if self.verdict == "elsewhere":
            return "Add a deployment to the tier: another provider, or one with a larger `context`."
        return "The same request would be refused again: check the deployment in models.toml and the inputs."


def classify(error: BaseException, *, timeout: float) -> ProviderFailure:
    """Return what ERROR of a call that had TIMEOUT seconds means."""
    chain = list(_chain(error))
    # An HTTP answer is told by its response headers: LiteLLM puts status 500 or 408 on a lost connection as well.
    answered = any(getattr(one, "litellm_response_headers", None) is not None for one in chain)
    names = {name.__name__ for one in chain for name in type(one).__mro__}
    status = next((status for one in chain if (status := _status(one)) is not None), None)
    if status is not None and (answered or not _is_connection(chain)):
        return _by_status(
            status, _code(chain, names, status), _retry_after(chain), truncated=not answered and status == 500
        )
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
    out_of_credit = bool({code, str(status)} & _NO_CREDIT)
    if out_of_credit or {code, str(status)} & (_TOO_LONG | _WITHHELD):
        verdict = "elsewhere"
    elif status in _AGAIN or status >= 500 or status < 400:
        verdict = "again"
    return ProviderFailure(
        verdict,
        f"answered {kind}",
        kind,
        status,
        ambiguous=status in _LOST,
        retry_after=retry_after,
        out_of_credit=out_of_credit,
    )


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
    return status if isinstance(status, int) and 300 <= status <= 599 else None


def _code(chain: list[BaseException], names: set[str], status: int) -> str:
    stated = _code_in_body(chain)
    known = _NO_CREDIT | _TOO_LONG | _WITHHELD
    if stated in known:
        return stated
    said = _message_of(chain)
    # With this code Google tells of a limit per minute, in the words that others have for an empty account.
    if status in {400, 403, 429} and stated != "RESOURCE_EXHAUSTED" and _NO_CREDIT_WORDS.search(said):
        return "insufficient_quota"
    if status in {400, 422} and _TOO_LONG_WORDS.search(said):
        return "context_length_exceeded"
    return next((code for name, code in _CLASSES.items() if name in names), stated)


def _message_of(chain: list[BaseException]) -> str:
    """Return the beginning of the provider's message, which is where it says what is wrong."""
    for one in chain:
        inner = _inner(getattr(one, "body", None))
        if isinstance(message := inner.get("message"), str):
            return message[:200]
    return ""


def _inner(body: object) -> Mapping[str, object]:
    inner = body.get("error", body) if isinstance(body, Mapping) else None
    return inner if isinstance(inner, Mapping) else {}


def _code_in_body(chain: list[BaseException]) -> str:
    codes: list[str] = []
    for one in chain:
        inner = _inner(getattr(one, "body", None))
        stated = [getattr(one, "code", None), *(inner.get(key) for key in ("code", "type", "status"))]
        codes += [code for code in stated if isinstance(code, str) and re.fullmatch(r"[A-Za-z][\w.-]{0,63}", code)]
    # A body may say the kind of error before the error: `invalid_request_error`, then `context_length_exceeded`.
    known = _NO_CREDIT | _TOO_LONG | _WITHHELD
    return next((code for code in codes if code in known), codes[0] if codes else "")


def _retry_after(chain: list[BaseException]) -> timedelta | None:
    for one in chain:
        for headers in (
            getattr(one, "litellm_response_headers", None),
            getattr(getattr(one, "response", None), "headers", None),
        ):
            if headers is None:
                continue
            found = _milliseconds(headers.get("retry-after-ms")) or _parse_retry_after(headers.get("retry-after"))
            if found is not None:
                return min(found, LONGEST)
    return None


def _milliseconds(value: str | None) -> timedelta | None:
    return timedelta(milliseconds=int(value)) if value is not None and re.fullmatch(r"\d{1,9}", value) else None


def _parse_retry_after(value: str | None) -> timedelta | None:
    """Read a Retry-After header, RFC 9110 section 10.2.3: seconds or a date."""
    if value is None:
        return None
    if re.fullmatch(r"\d{1,12}(\.\d{1,9})?", value):
        return timedelta(seconds=min(float(value), LONGEST.total_seconds()))
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return max(timedelta(), (when if when.tzinfo else when.replace(tzinfo=UTC)) - datetime.now(UTC))

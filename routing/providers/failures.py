"""What a failed provider call means: try again, try elsewhere or give up, and whether it may have cost money.

Told by what was on the wire, and not by exception classes: these differ between providers and versions of the clients.
What a provider wrote is never repeated, since it may echo the prompt or the key.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from perdure.routing.providers._statements import Statement, holds_error, holds_usage, read_statement
from perdure.routing.providers.breakers import QUOTA
from perdure.routing.providers.wire import Wire

Verdict = Literal["again", "elsewhere", "never"]

_AGAIN = {408, 409, 424, 425, 429, 499}

_LOST = {499, 504, 520, 524}
"""Whoever stood between gave up waiting. The provider may have gone on."""

# Where nothing was seen on the wire, because a provider's own client was used, names have to do.
_NOT_SENT = {
    "ConnectError",
    "ConnectTimeout",
    "ClientConnectorError",
    "ClientConnectorDNSError",
    "ConnectionRefusedError",
    "gaierror",
}
_TIMED_OUT = {"APITimeoutError", "TimeoutError", "ReadTimeout", "Timeout", "SocketTimeoutError"}
_CONNECTION = {"APIConnectionError", "TransportError", "ClientConnectionError", "OSError"} | _TIMED_OUT


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
    misconfigured: bool = False
    """Whether a person has to mend the deployment: its key, its model, or what it may do."""

    @property
    def outcome(self) -> Literal["ambiguous", "unavailable", "refused"]:
        """How the call counts in the record."""
        if self.ambiguous:
            return "ambiguous"
        return "unavailable" if self.verdict == "again" else "refused"

    @property
    def about_deployment(self) -> bool:
        """Whether it says something of the deployment and not only of the request."""
        return self.verdict == "again" or self.out_of_credit or self.misconfigured

    @property
    def cooldown(self) -> timedelta | None:
        """How long the provider is not to be called by anybody, if it says so or needs a person first."""
        return QUOTA if self.out_of_credit or self.misconfigured else self.retry_after

    @property
    def remedy(self) -> str:
        """What a person can do about it."""
        if self.status in {401, 403}:
            return "Check the variable that `api_key` names in models.toml, and what the key may do."
        if self.status is not None and self.status < 400:
            return "It says to ask elsewhere, which is not done: the prompt would go there too. Correct `api_base`."
        if self.status == 404 or self.misconfigured:
            return "Check `model`, `api_base` and `api_key` in models.toml."
        if self.status in {400, 422} and self.verdict == "never":
            return (
                "The same request would be refused again: check the deployment in models.toml and the inputs. A server "
                'that makes no grammar of the output\'s schema takes `structured = "json"`.'
            )
        if self.verdict == "elsewhere":
            return "Add a deployment to the tier: another provider, or one with a larger `context`."
        return "The same request would be refused again: check the deployment in models.toml and the inputs."


def classify(error: BaseException, wire: Wire, *, timeout: float) -> ProviderFailure:
    """Return what ERROR of a call that was watched on WIRE, and had TIMEOUT seconds, means."""
    names = {name.__name__ for one in _chain(error) for name in type(one).__mro__}
    if wire.status is not None:
        return _by_answer(wire, names, timeout)
    causes = list(_chain(error))
    tried = bool(wire.requests) or bool(names & _CONNECTION)
    if not wire.sent and (not tried or isinstance(causes[-1], ValueError | TypeError)):
        # LiteLLM lacks something, knows no such provider, or has a key that no header can hold.
        kind = type(causes[-1]).__name__
        return ProviderFailure("elsewhere", f"could not be called ({kind})", kind, misconfigured=True)
    if not wire.sent and (wire.requests or names & _NOT_SENT):
        return ProviderFailure("again", "could not be reached", "unreachable")
    if names & _TIMED_OUT:
        return ProviderFailure("again", f"did not answer within {timeout:g} s", "time-out", ambiguous=True)
    return _dropped()


def error_in_answer(wire: Wire) -> ProviderFailure | None:
    """Return what an error means that came as a success on WIRE; None: it holds none."""
    if wire.status is None or wire.status >= 300 or not holds_error(wire.body):
        return None
    return _by_statement(read_statement(wire.status, wire.headers, wire.body), ambiguous=holds_usage(wire.body))


def _by_answer(wire: Wire, names: set[str], timeout: float) -> ProviderFailure:
    assert wire.status is not None
    if wire.status >= 300:
        statement = read_statement(wire.status, wire.headers, wire.body)
        return _by_statement(statement, ambiguous=wire.status in _LOST)
    if not wire.complete:
        if names & _TIMED_OUT:
            return ProviderFailure("again", f"did not answer within {timeout:g} s", "time-out", ambiguous=True)
        return _dropped()
    if (failure := error_in_answer(wire)) is not None:
        return failure
    return ProviderFailure("again", "sent an answer that cannot be read", "unreadable", ambiguous=True)


def _dropped() -> ProviderFailure:
    what = "dropped the connection before the answer was complete"
    return ProviderFailure("again", what, "connection", ambiguous=True)


def _by_statement(statement: Statement, *, ambiguous: bool) -> ProviderFailure:
    status, meaning = statement.status, statement.meaning
    kind = f"{status} {statement.code}".rstrip()
    verdict: Verdict = "never"
    if meaning in ("no credit", "too long", "withheld", "not this deployment"):
        verdict = "elsewhere"
    elif meaning == "busy" or status in _AGAIN or status >= 500 or status < 400:
        verdict = "again"
    return ProviderFailure(
        verdict,
        f"answered {kind}",
        kind,
        status,
        ambiguous=ambiguous,
        retry_after=statement.wait,
        out_of_credit=meaning == "no credit",
        misconfigured=meaning == "not this deployment",
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__

"""What failures mean, by what was on the wire when they came."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure.routing.providers import ProviderFailure, Wire, classify

OUT: dict[str, Any] = {"requests": 1}
"""A request that found nobody."""
SENT: dict[str, Any] = {"requests": 1, "sent": True}
CUT: dict[str, Any] = {**SENT, "status": 200, "body": b'{"id": 1'}
WHOLE: dict[str, Any] = {**SENT, "status": 200, "complete": True}


@pytest.mark.parametrize(
    ("error", "seen", "verdict", "outcome", "kind"),
    [
        # Before anything was sent nothing can have been charged, whatever a client calls it.
        (ConnectionResetError("canary"), OUT, "again", "unavailable", "unreachable"),
        (TimeoutError("canary"), OUT, "again", "unavailable", "unreachable"),
        (asyncio.CancelledError("canary"), OUT, "again", "unavailable", "unreachable"),
        # Afterwards it may have been, whatever a client calls it.
        (ConnectionRefusedError("canary"), {}, "again", "unavailable", "unreachable"),
        (ConnectionResetError("canary"), SENT, "again", "ambiguous", "connection"),
        (TimeoutError("canary"), SENT, "again", "ambiguous", "time-out"),
        (ValueError("canary"), SENT, "again", "ambiguous", "connection"),
        (ConnectionResetError("canary"), CUT, "again", "ambiguous", "connection"),
        (TimeoutError("canary"), CUT, "again", "ambiguous", "time-out"),
        (ValueError("canary"), {**WHOLE, "body": b"canary"}, "again", "ambiguous", "unreadable"),
        # LiteLLM has not even tried.
        (ValueError("canary"), {}, "elsewhere", "refused", "ValueError"),
        # Without a transport of ours names have to do.
        (TimeoutError("canary"), {}, "again", "ambiguous", "time-out"),
        (ConnectionResetError("canary"), {}, "again", "ambiguous", "connection"),
        # What was answered counts, and not what a client makes of it.
        (ConnectionResetError("canary"), {**SENT, "status": 503}, "again", "unavailable", "503"),
        (ValueError("canary"), {**SENT, "status": 418}, "never", "refused", "418"),
        (ValueError("canary"), {**SENT, "status": 599}, "again", "unavailable", "599"),
        (ValueError("canary"), {**SENT, "status": 504}, "again", "ambiguous", "504"),
        (ValueError("canary"), {**SENT, "status": 307}, "again", "unavailable", "307"),
        (
            ValueError("canary"),
            {**SENT, "status": 429, "body": b'{"code": "canary: a sentence"}'},
            "again",
            "unavailable",
            "429",
        ),
    ],
)
def test_classified(error: BaseException, seen: dict[str, Any], verdict: str, outcome: str, kind: str) -> None:
    """Only what failed before the request was sent is unreachable (case 40: resets); what was written is not repeated."""
    failure = classify(error, Wire(**seen), timeout=1)

    assert (verdict, outcome, kind) == (failure.verdict, failure.outcome, failure.kind)
    assert "canary" not in repr(failure)


def test_cause_in_a_circle() -> None:
    """A chain of causes that bites its own tail is read once."""
    first, second = ValueError(), TimeoutError()
    first.__cause__, second.__cause__ = second, first

    assert isinstance(classify(first, Wire(), timeout=1), ProviderFailure)

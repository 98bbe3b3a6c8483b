"""What failures mean that no provider on loopback can be made to send."""

from __future__ import annotations

import pytest

from perdure.routing.providers import ProviderFailure, classify


class Stated(Exception):
    """An error with what clients put on theirs."""

    def __init__(self, **facts: object) -> None:
        super().__init__("canary")
        self.__dict__.update(facts)


@pytest.mark.parametrize(
    ("error", "verdict", "ambiguous"),
    [
        (TimeoutError("canary"), "again", True),
        (ConnectionRefusedError("canary"), "again", False),
        (ConnectionResetError("canary"), "again", True),
        (Stated(status_code=418), "never", False),
        (Stated(status_code=599), "again", False),
        (Stated(status_code=429, body={"error": {"code": "insufficient_quota"}}), "elsewhere", False),
        (Stated(status_code=429, body={"code": "rate_limit"}), "again", False),
        (Stated(status_code=402), "elsewhere", False),
        (
            Stated(status_code=400, body={"error": {"type": "invalid_request_error", "code": "context_length_exceeded"}}),
            "elsewhere",
            False,
        ),
        (Stated(status_code=400, body={"error": {"code": "content_policy_violation"}}), "elsewhere", False),
        (type("ContextWindowExceededError", (Stated,), {})(status_code=400), "elsewhere", False),
        (Stated(status_code=400, body="canary"), "never", False),
        (Stated(status_code=400, code="canary or not: a sentence"), "never", False),
        (ValueError("canary"), "never", True),
    ],
)
def test_classified(error: Exception, verdict: str, ambiguous: bool) -> None:
    """A failure is told by status, code and connection; what the provider wrote is not repeated."""
    failure = classify(error, timeout=1)

    assert (verdict, ambiguous) == (failure.verdict, failure.ambiguous)
    assert "canary" not in repr(failure)


def test_cause_in_a_circle() -> None:
    """A chain of causes that bites its own tail is read once."""
    first, second = Stated(), Stated(status_code=500)
    first.__cause__, second.__cause__ = second, first

    assert isinstance(classify(first, timeout=1), ProviderFailure)

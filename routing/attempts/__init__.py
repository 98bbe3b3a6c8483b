"""One attempt: whom it asks, what it may cost, what came of it, and what happens next.

Read `attempt` from top to bottom. Must not break: one attempt is one provider call, written down before it, and whom it
asks is a function of its number, of what is recorded, and of the circuit breakers. Who comes next after which outcome
goes into `ladder`, what an error means to whoever asks into `attempt`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.lazy import lazy

if TYPE_CHECKING:
    from perdure.routing.attempts.attempt import Attempts, ModelAttempt, digest_of
    from perdure.routing.attempts.ladder import Choice, Ladder
    from perdure.routing.attempts.question import Question, Questions
else:
    __getattr__ = lazy(
        __name__,
        {
            "attempt": ["Attempts", "ModelAttempt", "digest_of"],
            "ladder": ["Choice", "Ladder"],
            "question": ["Question", "Questions"],
        },
    )

__all__ = ["Attempts", "Choice", "Ladder", "ModelAttempt", "Question", "Questions", "digest_of"]

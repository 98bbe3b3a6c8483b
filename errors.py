"""What can go wrong, as one class per decision that a caller can take.

    PerdureError
    ├── InvalidSettings         configuration is wrong: fix the file or variable it names
    │   └── WrongSetting        a setting has a wrong name or value, which is found out before anything is done
    ├── InvalidInput            a value does not fit its model
    │   ├── Malformed           a text is not the JSON or YAML that it should be, or says what has two meanings
    │   └── PayloadTooLarge     a value is too large to be recorded
    ├── NotFound                no such run, approval, record, plan or file
    │   └── Erased              what a conversation said was erased; it can be begun anew, or the run can end
    │       └── ErasedMeanwhile  a record was erased while a model was shown it; it is asked again without (retryable)
    ├── NotAllowed              a service does not let us in
    ├── Unreachable             a service does not answer (retryable)
    ├── NoRoute                 no route serves this task
    ├── ModelError              a model was asked, or was not to be
    │   ├── ModelUnavailable    the provider failed, and the next attempt may not (retryable)
    │   ├── ModelRefused        the provider said no for good
    │   ├── InvalidAnswer       the model's answer does not fit the output model, after repair
    │   │   └── AskAgain        it does not fit yet: the next attempt asks again or asks a larger model (retryable)
    │   └── BudgetSpent         the call might cost more than a budget has left
    │       └── BudgetReserved  it might while calls in progress hold the rest (retryable)
    ├── IndexOwned              another process owns the vector index
    ├── OnHold                  a legal hold keeps what was to be erased
    ├── UnknownAction           no connector on this worker has this action
    ├── EffectError
    │   ├── EffectBusy          another attempt holds the effect's claim (retryable)
    │   ├── EffectUnknown       the target may have acted; looked up again later (retryable)
    │   │   ├── UnusableAnswer  it answered, and what it said does not tell whether it acted (retryable)
    │   │   └── AlreadyThere    it refused because it has such a thing already: perhaps ours (retryable)
    │   ├── TargetUnavailable   the target did not take the request (retryable)
    │   │   └── ContractDrifted   the target's contract has changed; nothing is sent until a person accepts it (retryable)
    │   ├── WrongDatabase       the run's effects are in another database than the worker's (retryable)
    │   ├── EffectRejected      the target said no; nothing happened there
    │   ├── EffectConflict      the same key came with other arguments; a person has to say what holds
    │   ├── EffectParked        nobody can tell what happened; a person has to
    │   ├── NotParked           a person resolves an effect in a way that it does not call for
    │   └── PartiallyCompensated  a saga failed and some of its effects could not be undone
    ├── ApprovalError
    │   ├── Rejected            a reviewer said no
    │   ├── ChangesRequested    a reviewer wants something changed first
    │   └── ApprovalExpired     nobody decided before the deadline
    └── PlanError               a plan is not well formed, or a step of it cannot be evaluated

`retryable` says whether the same call may succeed later. `retry_after` is how long to wait before that, when it is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import ClassVar, TypeGuard


class PerdureError(Exception):
    """Say what happened, to what, and what to do next."""

    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after


class InvalidSettings(PerdureError):
    """Configuration is wrong; the message names the file or variable to change."""


class WrongSetting(InvalidSettings):
    """A setting has a wrong name or value; nothing was done yet."""


class InvalidInput(PerdureError):
    """A value does not fit its model; the message names the field."""


class Malformed(InvalidInput):
    """A text is not JSON or YAML, or says something that its readers would not agree on.

    LINE and COLUMN count from 1; they are 0 if no one place is to blame. PATH leads to the mapping that it stands in, and
    INSIDE is what had been read of that. SYNTAX says that the text is not of its format at all.
    """

    def __init__(
        self,
        problem: str,
        *,
        line: int = 0,
        column: int = 0,
        path: Sequence[str | int] = (),
        inside: Mapping[str, object] | None = None,
        syntax: bool = False,
    ) -> None:
        place = f"line {line}, column {column}"
        super().__init__(problem if not line else f"{problem} at {place}" if syntax else f"{place}: {problem}")
        self.problem = problem
        self.line = line
        self.column = column
        self.path = tuple(path)
        self.inside = inside or {}
        self.syntax = syntax


class PayloadTooLarge(InvalidInput):
    """A value is larger than what may be recorded in one payload."""


class NotFound(PerdureError):
    """Nothing has this name or id."""


class Erased(NotFound):
    """What was said in a conversation has been erased; whoever wants to go on begins it anew."""


class ErasedMeanwhile(Erased):
    """A record was erased while a model was shown it, so its answer is not kept; the next attempt goes without."""

    retryable = True


class NotAllowed(PerdureError):
    """A service does not let us in: wrong or missing credentials."""


class Unreachable(PerdureError):
    """A service that is needed does not answer."""

    retryable = True


class NoRoute(PerdureError):
    """No route serves this task."""


class ModelError(PerdureError):
    """A model was asked and did not serve, or was not asked.

    FACTS go into the history with the failure: under `attempts` who was asked, what came of it and what it cost.
    """

    def __init__(
        self, message: str, *, retry_after: timedelta | None = None, facts: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.facts = facts or {}

    @property
    def spent_nano_usd(self) -> int:
        """What the attempts have cost together."""
        attempts = self.facts.get("attempts")
        costs = [each.get("cost_nano_usd") for each in attempts if isinstance(each, Mapping)] if _list(attempts) else []
        return sum(cost for cost in costs if isinstance(cost, int))


class ModelUnavailable(ModelError):
    """The provider failed in a way that passes, or that another one need not: rate limit, overload, dropped connection."""

    retryable = True


class ModelRefused(ModelError):
    """The provider said no for good: bad request, wrong key, no permission."""


class InvalidAnswer(ModelError):
    """The model's answer does not fit the output model, also after repair, one re-ask and the larger tiers of the task."""


class AskAgain(InvalidAnswer):
    """The model's answer does not fit, or it is unsure; the next attempt asks again, or asks a larger model."""

    retryable = True


class BudgetSpent(ModelError):
    """The call was not made: it might cost more than a budget has left. The message names the budget."""


class BudgetReserved(BudgetSpent):
    """The call was not made: calls in progress hold what the budget has left. Try again when they have ended."""

    retryable = True


class IndexOwned(PerdureError):
    """Another process owns the vector index on disk."""


class OnHold(PerdureError):
    """A legal hold keeps what was to be erased; nothing was."""


class UnknownAction(PerdureError):
    """No connector registered on this worker has this action."""


class EffectError(PerdureError):
    """An effect did not come to a confirmed end. EFFECT is its key, where a person can do something about it."""

    def __init__(self, message: str, *, retry_after: timedelta | None = None, effect: str = "") -> None:
        super().__init__(message, retry_after=retry_after)
        self.effect = effect


class EffectBusy(EffectError):
    """Another attempt holds the effect's claim; try again after its lease."""

    retryable = True


class EffectUnknown(EffectError):
    """The target may have acted; it is asked again after the settle time."""

    retryable = True


class UnusableAnswer(EffectUnknown):
    """The target answered, and what it said does not tell whether it acted. After a few of these a person is asked."""


class AlreadyThere(EffectUnknown):
    """The target refused because it has such a thing already, which an earlier attempt may have made: look it up again."""


class TargetUnavailable(EffectError):
    """The target did not take the request, so nothing happened there."""

    retryable = True


class ContractDrifted(TargetUnavailable):
    """The target's contract has changed in a way that breaks the action; nothing is sent until a person accepts it."""


class WrongDatabase(EffectError):
    """The run's effects are in another database than this worker's; nothing is sent until a worker with theirs comes."""

    retryable = True


class EffectRejected(EffectError):
    """The target said no; nothing happened there."""


class EffectConflict(EffectError):
    """The same effect key came with other arguments; nothing was sent, and the changed intent waits for a person."""


class EffectParked(EffectError):
    """Nobody can tell whether the target acted; a person has to resolve it."""


class NotParked(EffectError):
    """A person resolves an effect that is not parked, or says of it what it does not call for."""


class PartiallyCompensated(EffectError):
    """A saga failed and some of its effects could not be undone; a person has to."""


class ApprovalError(PerdureError):
    """An approval ended without a grant."""


class Rejected(ApprovalError):
    """A reviewer said no."""


class ChangesRequested(ApprovalError):
    """A reviewer wants something changed first."""


class ApprovalExpired(ApprovalError):
    """Nobody decided before the deadline."""


class PlanError(PerdureError):
    """A plan is not well formed, or one of its expressions cannot be evaluated."""


def by_name(name: str) -> type[PerdureError] | None:
    """Return the error class called NAME, as it stands in a failure's `type` on the wire."""
    return _CLASSES.get(name)


def _list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, list | tuple)


def _tree(root: type[PerdureError]) -> dict[str, type[PerdureError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found |= _tree(child)
    return found


_CLASSES = _tree(PerdureError)

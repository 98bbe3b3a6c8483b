"""Whether one share is lower than another by more than is allowed, asked after every call and wrong as seldom as promised.

For each arm the likelihood of what came, averaged over all shares by Jeffreys' prior, divided by its likelihood under the
true share, is a martingale that begins at 1; so is the product of both arms', whatever decides which arm is next. By
Ville's inequality it ever exceeds 1/a with probability a at most. The evidence divides by the likelihood under those
shares, among all that are allowed, which explain best what came. If the true ones are allowed, it is at most that
martingale, so it may be looked at after every call. (Robbins 1970; Wasserman, Ramdas, Balakrishnan 2020, PNAS 117.)

It is assumed that an arm's calls have one chance each, whatever came before. Many calls of one run can be alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, lgamma, log


@dataclass(frozen=True)
class Tally:
    """How many there were, and how many of them were GOOD."""

    good: int
    of: int

    @property
    def bad(self) -> int:
        """How many were not."""
        return self.of - self.good

    @property
    def share(self) -> float | None:
        """The share of good ones; None: there was none."""
        return self.good / self.of if self.of else None


def log_evidence(canary: Tally, control: Tally, *, drop: float) -> float:
    """Return the logarithm of the evidence that CANARY's share is lower than CONTROL's by more than DROP.

    It exceeds log(1/a) ever, however often it is looked at, with probability a at most if the share is not so much lower.
    """
    if canary.share is None or control.share is None or canary.share >= control.share - drop:
        return -inf
    likeliest = _likeliest_share(canary, control, drop)
    return (
        _average_likelihood(canary)
        + _average_likelihood(control)
        - _likelihood(canary, likeliest - drop)
        - _likelihood(control, likeliest)
    )


def _likeliest_share(canary: Tally, control: Tally, drop: float) -> float:
    """Return the share of CONTROL that explains both best if CANARY's is lower by exactly DROP. There is one maximum."""
    low, high = drop, 1.0
    for _ in range(45):
        share = (low + high) / 2
        slope = control.good / share - control.bad / (1 - share)
        slope += (canary.good / (share - drop) if canary.good else 0.0) - canary.bad / (1 - share + drop)
        low, high = (share, high) if slope > 0 else (low, share)
    return (low + high) / 2


def _average_likelihood(tally: Tally) -> float:
    return _log_beta(tally.good + 0.5, tally.bad + 0.5) - _log_beta(0.5, 0.5)


def _likelihood(tally: Tally, share: float) -> float:
    # The search for the maximum ends a little beside it, so that a share may be 0 or 1 where nothing speaks against it.
    good = tally.good * log(share) if tally.good else 0.0
    return good + (tally.bad * log(1 - share) if tally.bad else 0.0)


def _log_beta(one: float, other: float) -> float:
    return lgamma(one) + lgamma(other) - lgamma(one + other)

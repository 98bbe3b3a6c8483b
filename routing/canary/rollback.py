"""When a canary is rolled back: what its arms have done, and the rule that judges it."""

from __future__ import annotations

from math import exp, log

from perdure.lineage import Frozen
from perdure.routing.canary._evidence import Tally, log_evidence


class Rule(Frozen):
    """What a canary may be worse by. See `CanaryTable`."""

    max_drop: float
    false_rollback: float
    min_calls: int
    max_latency_ratio: float | None
    max_cost_ratio: float | None

    @property
    def needed(self) -> float:
        """The logarithm of the evidence that rolls a canary back. Three shares are looked at, so each has a third."""
        return log(3 / self.false_rollback)


class Counts(Frozen):
    """What came of the calls that an arm is compared by."""

    calls: int = 0
    failed: int = 0
    valid: int = 0
    unsure: int = 0
    judged: int = 0
    overridden: int = 0
    log_milliseconds: float = 0.0
    cost_nano_usd: int = 0

    @property
    def answers(self) -> int:
        """Calls that brought an answer."""
        return self.calls - self.failed

    @property
    def invalid(self) -> int:
        """Answers that did not fit."""
        return self.answers - self.valid - self.unsure

    @property
    def milliseconds(self) -> float | None:
        """What an answer takes, as the geometric mean, which a few slow ones move little."""
        return exp(self.log_milliseconds / self.answers) if self.answers else None

    @property
    def cost(self) -> float | None:
        """What an answer costs, in nano-USD, on average."""
        return self.cost_nano_usd / self.answers if self.answers else None


class Comparison(Frozen):
    """One share in both arms, and how strong the evidence is that the canary's is lower by more than is allowed."""

    of: str
    canary: float | None
    control: float | None
    log_evidence: float | None
    """None: it is not lower."""
    needed: float
    """The logarithm of the evidence that it is rolled back by."""

    @property
    def reason(self) -> str:
        """Why it is rolled back by this; empty: it is not."""
        if self.log_evidence is None or self.log_evidence < self.needed or self.canary is None or self.control is None:
            return ""
        odds = f"by chance once in {exp(min(self.log_evidence, 50)):,.0f} times at most"
        return f"{self.of}: {self.canary:.1%}, and {self.control:.1%} of control's; {odds}"


def compare_shares(rule: Rule, canary: Counts, control: Counts) -> list[Comparison]:
    """Return the shares that RULE looks at, in both arms."""
    shares = {
        "valid answers": [Tally(each.valid, each.answers) for each in (canary, control)],
        "calls that brought an answer": [Tally(each.answers, each.calls) for each in (canary, control)],
        "judged answers that were right": [Tally(each.judged - each.overridden, each.judged) for each in (canary, control)],
    }
    found = []
    for name, (tried, other) in shares.items():
        evidence = log_evidence(tried, other, drop=rule.max_drop)
        known = evidence if evidence > float("-inf") else None
        found.append(Comparison(of=name, canary=tried.share, control=other.share, log_evidence=known, needed=rule.needed))
    return found


def problem(rule: Rule, canary: Counts, control: Counts) -> str:
    """Return why RULE rolls a canary back; empty: it does not."""
    for each in compare_shares(rule, canary, control):
        if each.reason:
            return each.reason
    if min(canary.answers, control.answers) < rule.min_calls:
        return ""
    slow = _exceeds("its answers take", canary.milliseconds, control.milliseconds, rule.max_latency_ratio)
    return slow or _exceeds("its answers cost", canary.cost, control.cost, rule.max_cost_ratio)


def _exceeds(what: str, canary: float | None, control: float | None, most: float | None) -> str:
    # Where control costs nothing there is no ratio.
    if most is None or not canary or not control or canary <= most * control:
        return ""
    return f"{what} {canary / control:.1f} times what control's do, and {most:g} times is allowed"

"""What became of the operations of bench/chaos.py, counted in the books of the targets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields

from bench.chaos_plan import Operation

from perdure.connectors import EffectState

OPEN: frozenset[EffectState] = frozenset({"claimed", "in flight", "unknown"})
"""States in which the ledger does not know whether the target has acted."""


@dataclass
class Tally:
    """What became of OPERATIONS, each wanted once."""

    operations: int = 0
    duplicates: int = 0
    """Things at the target beyond the one that was wanted."""
    lost: int = 0
    """Not at the target, and neither parked nor reported as failed or cancelled to who asked."""
    unknown_unparked: int = 0
    """Nobody knows, or whoever asked believes the wrong thing, and nobody was told to look."""
    parked: int = 0
    """Put before a person, because nobody can know."""

    def add(self, other: Tally) -> None:
        """Add OTHER to it."""
        for name in (each.name for each in fields(self)):
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(frozen=True)
class Outcome:
    """What is known of one operation in the end."""

    made: int
    """How often it is in the target's books."""
    endings: Sequence[str]
    """What those who asked were told."""
    states: Sequence[EffectState] = ()
    """In which states the ledger has it; empty for the client that has none, and where nothing was ever begun."""
    ledgered: bool = True


def judged(outcome: Outcome) -> Tally:
    """Return the tally of one operation that ended as OUTCOME."""
    tally = Tally(operations=1, duplicates=max(0, outcome.made - 1))
    if "parked" in outcome.states:
        tally.parked = 1
        return tally
    told_done = "done" in outcome.endings or "succeeded" in outcome.states
    told_not = bool({"refused", "given up", "cancelled"} & set(outcome.endings)) and not told_done
    if not outcome.made and not told_not:
        tally.lost = 1
    no_end = not outcome.endings or "unknown" in outcome.endings
    knows = "succeeded" in outcome.states if outcome.ledgered else told_done
    if no_end or OPEN & set(outcome.states) or (outcome.made and not knows):
        tally.unknown_unparked = 1
    return tally


@dataclass
class Count:
    """The tallies of one client: of all operations, and by what they have in common."""

    total: Tally
    by_target: dict[str, Tally]
    by_fault: dict[str, Tally]
    by_cell: dict[tuple[str, str], Tally]
    by_lane: dict[str, Tally]
    wrong: list[str]
    """Up to ten operations that are not as they should be, in words."""

    @property
    def holds(self) -> bool:
        """Whether nothing was done twice, lost, or is unknown to everybody."""
        return not (self.total.duplicates or self.total.lost or self.total.unknown_unparked)


def count(operations: Iterable[Operation], outcomes: Mapping[str, Outcome]) -> Count:
    """Return the tallies of OPERATIONS, by what OUTCOMES say."""
    found = Count(Tally(), {}, {}, {}, {}, [])
    for each in operations:
        tally = judged(outcomes[each.name])
        found.total.add(tally)
        found.by_target.setdefault(each.target, Tally()).add(tally)
        found.by_fault.setdefault(each.fault, Tally()).add(tally)
        found.by_cell.setdefault((each.target, each.fault), Tally()).add(tally)
        found.by_lane.setdefault(each.lane, Tally()).add(tally)
        if tally.duplicates or tally.lost or tally.unknown_unparked:
            found.wrong.append(f"{each.name}: {each.fault} at {each.target}, {outcomes[each.name]}, {each}")
    return found


def as_json(found: Count) -> dict[str, int]:
    """Return the sums of FOUND as the bench prints them."""
    return asdict(found.total)


def made(rows: Iterable[str]) -> Counter[str]:
    """Return how often each operation is in the books with ROWS."""
    return Counter(rows)

"""What memory has to answer, said in plain Python: a list of what was said and when, and nothing clever."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime

from perdure.memory import Scope


@dataclass(frozen=True)
class Said:
    """One version: what was said, from when it is known, and when it holds."""

    content: str
    recorded_at: datetime
    valid_from: datetime
    valid_to: datetime | None = None
    expires_at: datetime | None = None
    forgotten_at: datetime | None = None
    erased: bool = False
    derived_from: tuple[str, ...] = ()

    def applies(self, valid_at: datetime, known_at: datetime) -> bool:
        """Whether it says something about VALID_AT that was known at KNOWN_AT."""
        begun = self.recorded_at <= known_at and self.valid_from <= valid_at
        return begun and (self.valid_to is None or valid_at < self.valid_to)

    def standing(self, known_at: datetime) -> bool:
        """Whether it was neither expired nor forgotten at KNOWN_AT."""
        ends = [end for end in (self.expires_at, self.forgotten_at) if end is not None]
        return not self.erased and all(known_at < end for end in ends)


@dataclass
class Oracle:
    """Who was told what, by scope and memory, in the order in which it was said."""

    told: dict[tuple[Scope, str], list[Said]] = field(default_factory=dict)

    def say(self, scope: Scope, memory: str, said: Said) -> None:
        """Add what was SAID of MEMORY."""
        self.told.setdefault((scope, memory), []).append(said)

    def forget(self, scope: Scope, memory: str, at: datetime) -> None:
        """End what was said of MEMORY so far."""
        versions = self.told.get((scope, memory), [])
        versions[:] = [each if each.forgotten_at else replace(each, forgotten_at=at) for each in versions]

    def erase(self, scope: Scope, memory: str) -> None:
        """Forget that MEMORY, and what was made from it, was ever known; only that something was said there stays."""
        gone = {each.content for each in self.told.get((scope, memory), ()) if not each.erased}
        size = -1
        while size != len(gone):
            size = len(gone)
            gone |= {each.content for said in self.told.values() for each in said if gone & set(each.derived_from)}
        for versions in self.told.values():
            versions[:] = [replace(each, erased=True) if each.content in gone else each for each in versions]

    def holds(self, scope: Scope, memory: str, valid_at: datetime, known_at: datetime) -> str | None:
        """Return what held of MEMORY: the last thing said that applies, unless its time was over."""
        applying = [each for each in self.told.get((scope, memory), ()) if each.applies(valid_at, known_at)]
        return applying[-1].content if applying and applying[-1].standing(known_at) else None

    def live(self, scope: Scope, valid_at: datetime, known_at: datetime) -> set[str]:
        """Return everything that held in SCOPE."""
        held = (self.holds(scope, memory, valid_at, known_at) for owner, memory in self.told if owner == scope)
        return {content for content in held if content is not None}

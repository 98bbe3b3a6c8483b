"""Which states an effect goes through, and what an attempt may do with one that it finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from perdure.connectors.contracts import Effect, EffectState, Target

TRANSITIONS: Final[Mapping[EffectState | None, frozenset[EffectState]]] = {
    # The intent and the claim are one write with the send that follows, so a new effect is in flight at once. `failed` is
    # how an undo closes the key of an effect that never began, and `parked` how a changed intent waits for a person.
    None: frozenset({"in flight", "failed", "parked"}),
    # Nothing of it can be at the target.
    "proposed": frozenset({"in flight", "failed", "parked"}),
    # An attempt holds it and looks it up before anything is sent. `proposed` if it is absent and no run asks for it now.
    "claimed": frozenset({"claimed", "in flight", "succeeded", "failed", "proposed", "unknown", "parked"}),
    # A request is on its way; `claimed` and `in flight` when the attempt that sent it is gone.
    "in flight": frozenset({"succeeded", "failed", "proposed", "unknown", "claimed", "in flight", "parked"}),
    # The target may have acted and nobody is looking at the moment.
    "unknown": frozenset({"claimed", "in flight", "parked"}),
    "succeeded": frozenset({"compensated"}),
    "failed": frozenset(),
    # By a person only; and an undo closes a changed intent that nobody approved.
    "parked": frozenset({"succeeded", "failed", "proposed"}),
    "compensated": frozenset(),
}
"""From each state to those that may follow; None is where an effect begins."""

FINAL_STATES: Final[frozenset[EffectState]] = frozenset({"succeeded", "failed", "parked", "compensated"})
"""States that no attempt leaves by itself."""

SKEW: Final = timedelta(seconds=1)
"""How far the clocks of two workers may be apart."""

STALL: Final = timedelta(seconds=1)
"""How long a process may stand still between taking an effect and sending it. After that it sends nothing."""


@dataclass(frozen=True)
class Move:
    """What to do next with an effect, and for the two that wait, how long."""

    kind: Literal["answer", "busy", "settle", "send", "look", "park"]
    after: timedelta = timedelta()
    why: str = ""


def next_move(effect: Effect, target: Target, at: datetime, *, undoing: bool = False) -> Move:
    """Return what an attempt may do at AT with EFFECT as it stands in the ledger.

    `answer` with what is recorded; wait while it is `busy` in another attempt's hands or has to `settle`; `send` where that
    cannot make a second one; `look` it up; or `park` it for a person. Who is UNDOING it never sends it again to find out.
    """
    if effect.state in FINAL_STATES:
        return Move("answer")
    if effect.state == "proposed":
        return Move("send")
    if effect.lease_until is not None and at < effect.lease_until:
        return Move("busy", after=effect.lease_until - at)
    if target.mechanism == "none":
        return Move("park", why="the answer was lost, and the target can neither be asked nor be sent the same again")
    if (
        target.mechanism == "header"
        and not undoing
        and key_is_honoured(effect, target, at)
        and not _replay_is_used_up(effect, target)
    ):
        return Move("send")
    if effect.doubt_until is not None and at < effect.doubt_until:
        return Move("settle", after=effect.doubt_until - at)
    return Move("look")


def key_is_honoured(effect: Effect, target: Target, at: datetime) -> bool:
    """Say whether a request sent at AT lands while the target still knows EFFECT's key, however late that is."""
    if target.key_lifetime is None or effect.first_sent_at is None:
        return True
    return at + doubt_duration(target) < effect.first_sent_at + target.key_lifetime


def _replay_is_used_up(effect: Effect, target: Target) -> bool:
    # One repeat fetches an answer that was lost on the way. If that is lost too, the stored answer is an error.
    return target.replays_errors and effect.looks >= 2


def doubt_duration(target: Target) -> timedelta:
    """Return for how long a request may land at TARGET after it was decided to send it, by anybody's clock."""
    return STALL + target.deadline + target.settle + SKEW


def lease_duration(target: Target) -> timedelta:
    """Return for how long an attempt holds an effect: longer than TARGET's deadline in any case.

    Where a lost effect is looked up, the lease covers the settle time as well, so that who comes after it may look at once.
    """
    return doubt_duration(target) if target.mechanism == "natural-key" else STALL + target.deadline

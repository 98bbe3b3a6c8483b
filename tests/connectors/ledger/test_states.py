"""What may be done with an effect, by its state."""

from __future__ import annotations

from datetime import timedelta
from typing import get_args

import pytest
from kits.connectors import step

from perdure.connectors import Effect, EffectState, Target
from perdure.connectors.ledger import lease_duration
from perdure.connectors.ledger.states import FINAL_STATES, TRANSITIONS, next_move
from perdure.storage import now

NOW = now()
SECOND = timedelta(seconds=1)
KEYED = Target(mechanism="header", key_lifetime=timedelta(minutes=1))
LOOKED_UP = Target(mechanism="natural-key", settle=SECOND)


def effect(state: EffectState, *, lease_until: float = 0, doubt_until: float = 0, first_sent: float = -1) -> Effect:
    """Return an effect whose times are in seconds from now."""
    return Effect(
        key="pe-1",
        action="bank.pay",
        args={},
        args_digest="",
        step=step(),
        state=state,
        fence=1,
        lease_until=NOW + lease_until * SECOND,
        doubt_until=NOW + doubt_until * SECOND,
        first_sent_at=NOW + first_sent * SECOND,
        created_at=NOW,
        updated_at=NOW,
    )


def test_every_state_has_its_transitions() -> None:
    """Each state of the contract is in the table, and each but the first can be reached."""
    reached = set().union(*TRANSITIONS.values())

    assert set(get_args(EffectState)) == set(TRANSITIONS) - {None} == reached


@pytest.mark.parametrize("state", sorted(FINAL_STATES))
def test_ended_effect_is_answered_from_the_ledger(state: EffectState) -> None:
    """What has ended is never sent or looked up again, whatever the target can do."""
    for target in (KEYED, LOOKED_UP, Target()):
        assert "answer" == next_move(effect(state), target, NOW).kind


@pytest.mark.parametrize("state", ["claimed", "in flight"])
def test_held_effect_is_left_alone(state: EffectState) -> None:
    """Until its lease is over nobody touches what another attempt holds."""
    move = next_move(effect(state, lease_until=3), KEYED, NOW)

    assert ("busy", timedelta(seconds=3)) == (move.kind, move.after)


@pytest.mark.parametrize(
    ("target", "found", "kind"),
    [
        (Target(mechanism="none"), effect("in flight"), "park"),
        (KEYED, effect("in flight"), "send"),
        (KEYED, effect("unknown", first_sent=-60), "look"),
        (KEYED, effect("unknown", first_sent=-60, doubt_until=2), "settle"),
        (LOOKED_UP, effect("in flight", doubt_until=2), "settle"),
        (LOOKED_UP, effect("unknown"), "look"),
        (LOOKED_UP, effect("claimed"), "look"),
        (LOOKED_UP, effect("proposed"), "send"),
    ],
)
def test_open_effect_goes_on_as_the_target_allows(target: Target, found: Effect, kind: str) -> None:
    """What nobody holds is sent, looked up, waited for or parked by what the target declares."""
    assert kind == next_move(found, target, NOW).kind


def test_undo_never_sends_in_order_to_find_out() -> None:
    """Who wants to undo a lost effect looks it up, also where sending again would be safe."""
    assert "look" == next_move(effect("unknown"), KEYED, NOW, undoing=True).kind


@pytest.mark.parametrize("target", [KEYED, LOOKED_UP, Target(), Target(deadline=SECOND, settle=timedelta(minutes=5))])
def test_lease_is_longer_than_the_deadline(target: Target) -> None:
    """No attempt can still be waiting for its answer when its lease is over."""
    assert lease_duration(target) > target.deadline

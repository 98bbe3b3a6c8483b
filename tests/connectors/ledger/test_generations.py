"""What becomes of a step that asks for something else than it asked for before."""

from __future__ import annotations

import asyncio

import pytest
from kits.connectors import Bank, call, key_of, persist, undo

from perdure.connectors import EffectCall, Resolution, effect_key
from perdure.connectors.ledger import Ledger
from perdure.errors import (
    EffectConflict,
    EffectParked,
    EffectRejected,
    NotParked,
    TargetUnavailable,
)

FIRST, OTHER, THIRD = call(amount=5), call(amount=6), call(amount=7)


async def test_a_changed_intent_waits_as_the_next_generation(any_ledger: Ledger, bank: Bank) -> None:
    """It is written down once, with what it contradicts, and nothing of it is sent."""
    await any_ledger.perform(FIRST)
    conflicts = await asyncio.gather(*(any_ledger.perform(OTHER) for _ in range(2)), return_exceptions=True)

    waits = await any_ledger.get(_key(OTHER, 1))
    assert [waits.key] * 2 == [each.effect for each in conflicts if isinstance(each, EffectConflict)]
    assert ("parked", 1, key_of(FIRST), {"amount": 6}) == (waits.state, waits.generation, waits.contradicts, waits.args)
    assert 2 == len(await any_ledger.list())
    assert 1 == len(bank.paid)


async def test_an_approved_changed_intent_is_done(any_ledger: Ledger, bank: Bank) -> None:
    """Once a person has approved it, the step that asks again gets it, once; the first intent keeps its own receipt."""
    first = await any_ledger.perform(FIRST)
    await _contradict(any_ledger, OTHER)

    await any_ledger.resolve(_said(_key(OTHER, 1), "new generation"))
    second = await any_ledger.perform(OTHER)

    assert (second, first) == (await any_ledger.perform(OTHER), await any_ledger.perform(FIRST))
    assert [key_of(FIRST), _key(OTHER, 1)] == bank.paid
    said = next(event for event in await any_ledger.events(_key(OTHER, 1)) if event.by)
    assert ("mara", False, "parked", "proposed") == (said.by, said.verified, said.before, said.after)


async def test_each_other_intent_needs_its_own_word(any_ledger: Ledger, bank: Bank) -> None:
    """The approval of one changed intent does not cover a third."""
    await any_ledger.perform(FIRST)
    await _contradict(any_ledger, OTHER)
    await any_ledger.resolve(_said(_key(OTHER, 1), "new generation"))
    await any_ledger.perform(OTHER)

    await _contradict(any_ledger, THIRD)

    assert 2 == (await any_ledger.get(_key(THIRD, 2))).generation
    assert 2 == len(bank.paid)


async def test_a_refused_changed_intent_fails_the_step(any_ledger: Ledger, bank: Bank) -> None:
    """A person who says no is what the step fails with."""
    await any_ledger.perform(FIRST)
    await _contradict(any_ledger, OTHER)

    await any_ledger.resolve(_said(_key(OTHER, 1), "did not happen"))

    with pytest.raises(EffectRejected, match="mara says"):
        await any_ledger.perform(OTHER)
    assert 1 == len(bank.paid)


async def test_nothing_is_approved_beside_what_is_open(any_ledger: Ledger, bank: Bank) -> None:
    """As long as it is not known what became of the first intent, the other one cannot be approved."""
    bank.sends = [TargetUnavailable("closed")]
    with pytest.raises(TargetUnavailable):
        await any_ledger.perform(FIRST)
    await _contradict(any_ledger, OTHER)
    with pytest.raises(EffectParked):
        await any_ledger.perform(FIRST)

    with pytest.raises(NotParked, match="resolve that first"):
        await any_ledger.resolve(_said(_key(OTHER, 1), "new generation"))
    await any_ledger.resolve(_said(key_of(FIRST), "did not happen"))
    await any_ledger.resolve(_said(_key(OTHER, 1), "new generation"))
    await any_ledger.perform(OTHER)

    assert [_key(OTHER, 1)] == bank.paid


async def test_undo_takes_back_every_generation(any_ledger: Ledger, bank: Bank) -> None:
    """What a step did under all its intents is undone, the latest first; what nobody approved is closed."""
    await any_ledger.perform(FIRST)
    await _contradict(any_ledger, OTHER)
    await any_ledger.resolve(_said(_key(OTHER, 1), "new generation"))
    await any_ledger.perform(OTHER)
    await _contradict(any_ledger, THIRD)

    undone = await persist(lambda: any_ledger.undo(undo(FIRST)))

    states = [(await any_ledger.get(_key(FIRST, generation))).state for generation in range(3)]
    assert ("compensated", ["compensated", "compensated", "failed"]) == (undone.outcome, states)
    assert (2, 2) == (len(bank.paid), len(bank.returned))


async def _contradict(ledger: Ledger, other: EffectCall) -> None:
    with pytest.raises(EffectConflict):
        await ledger.perform(other)


def _key(effect: EffectCall, generation: int) -> str:
    return effect_key(effect.step, generation=generation)


def _said(key: str, verdict: str) -> Resolution:
    return Resolution.model_validate({"effect": key, "verdict": verdict, "by": "mara", "comment": "I asked the customer"})

"""What undoing does, and what it never does."""

from __future__ import annotations

import asyncio

import pytest
from kits.connectors import AT_ONCE, Bank, call, key_of, persist, undo

from perdure.connectors import Absent, CannotTell, undo_key
from perdure.connectors.ledger import Ledger
from perdure.errors import (
    EffectBusy,
    EffectParked,
    EffectRejected,
    EffectUnknown,
    TargetUnavailable,
)


async def test_undo_is_an_effect_of_its_own(any_ledger: Ledger, bank: Bank) -> None:
    """An effect that happened is undone by the declared action, under a key made from the effect's."""
    await any_ledger.perform(call())

    undone = await any_ledger.undo(undo(call()))

    by = await any_ledger.get(undo_key(key_of(call())))
    assert ("compensated", by.receipt) == (undone.outcome, undone.receipt)
    assert ("bank.give_back", key_of(call()), "succeeded", "undo:pay") == (by.action, by.undo_of, by.state, by.step.name)
    assert "compensated" == (await any_ledger.get(key_of(call()))).state
    assert [by.key] == bank.returned


async def test_undo_happens_once(ledger: Ledger, bank: Bank) -> None:
    """Undoing again returns the same receipt and does nothing."""
    await ledger.perform(call())
    first = await ledger.undo(undo(call()))
    second = await ledger.undo(undo(call()))

    assert (first, 1) == (second, len(bank.returned))


async def test_what_was_undone_is_not_done_again(ledger: Ledger, bank: Bank) -> None:
    """A late attempt of an effect that was undone does nothing and is told so."""
    await ledger.perform(call())
    await ledger.undo(undo(call()))

    with pytest.raises(EffectRejected, match="undone"):
        await ledger.perform(call())

    assert 1 == len(bank.paid)


async def test_undo_before_the_intent_closes_the_key(any_ledger: Ledger, bank: Bank) -> None:
    """An effect that was announced and not begun is closed: an attempt of it that comes later sends nothing."""
    undone = await any_ledger.undo(undo(call()))

    with pytest.raises(EffectRejected, match="undone"):
        await any_ledger.perform(call())

    assert ("nothing to undo", []) == (undone.outcome, bank.attempts)


async def test_undo_closes_what_the_target_did_not_take(ledger: Ledger, bank: Bank) -> None:
    """An effect that was not taken is closed by its undo."""
    bank.sends = [TargetUnavailable("closed")]
    with pytest.raises(TargetUnavailable):
        await ledger.perform(call())

    undone = await ledger.undo(undo(call()))

    with pytest.raises(EffectRejected):
        await ledger.perform(call())
    assert ("nothing to undo", []) == (undone.outcome, bank.paid)


async def test_undo_of_a_refused_effect_is_nothing(ledger: Ledger, bank: Bank) -> None:
    """What the target refused needs no undo."""
    bank.sends = [EffectRejected("no")]
    with pytest.raises(EffectRejected):
        await ledger.perform(call())

    assert "nothing to undo" == (await ledger.undo(undo(call()))).outcome


async def test_undo_finds_out_first(ledger: Ledger, bank: Bank) -> None:
    """An effect whose answer was lost is looked up after the settle time, found, and then undone."""
    bank.sends, bank.lands_anyway = [EffectUnknown("gone")], True
    with pytest.raises(EffectUnknown):
        await ledger.perform(call())

    with pytest.raises(EffectUnknown):
        await ledger.undo(undo(call()))
    undone = await persist(lambda: ledger.undo(undo(call())))

    assert ("compensated", 1, 1) == (undone.outcome, len(bank.paid), len(bank.returned))


async def test_undo_of_a_lost_request_closes_it(ledger: Ledger, bank: Bank) -> None:
    """An effect that was sent and never landed is closed once that is proven."""
    bank.sends = [EffectUnknown("gone")]
    with pytest.raises(EffectUnknown):
        await ledger.perform(call())

    undone = await persist(lambda: ledger.undo(undo(call())))

    with pytest.raises(EffectRejected):
        await ledger.perform(call())
    assert ("nothing to undo", []) == (undone.outcome, bank.paid)


async def test_undo_waits_for_a_request_in_flight(ledger: Ledger, bank: Bank) -> None:
    """An undo that comes while the request is in flight is sent away; it neither undoes nor closes anything."""
    bank.gate = asyncio.Event()
    attempt = asyncio.create_task(ledger.perform(call()))
    await bank.on_the_way.wait()
    with pytest.raises(EffectBusy):
        await ledger.undo(undo(call()))
    bank.gate.set()
    await attempt

    assert "compensated" == (await ledger.undo(undo(call()))).outcome


async def test_undo_without_a_way_back_says_that_it_stands(ledger: Ledger) -> None:
    """What happened and declares no undo stands, and its own receipt says so."""
    done = await ledger.perform(call("bank.wire"))

    undone = await ledger.undo(undo(call("bank.wire")))

    assert ("stands", done.receipt) == (undone.outcome, undone.receipt)


async def test_undo_of_a_parked_effect_needs_a_person(ledger: Ledger, bank: Bank) -> None:
    """Where nobody can tell whether it happened, nothing is undone either."""
    bank.target = AT_ONCE
    bank.sends, bank.looks = [EffectUnknown("gone")], [CannotTell("two")] * 3
    with pytest.raises(EffectParked):
        await persist(lambda: ledger.perform(call()))

    with pytest.raises(EffectParked, match="two"):
        await ledger.undo(undo(call()))

    assert [] == bank.returned


async def test_lost_undo_is_found(ledger: Ledger, bank: Bank) -> None:
    """An undo whose answer was lost is looked up like any other effect, and happens once."""
    await ledger.perform(call())
    bank.sends, bank.lands_anyway = [EffectUnknown("gone")], True

    undone = await persist(lambda: ledger.undo(undo(call())))

    assert ("compensated", 1) == (undone.outcome, len(bank.returned))


async def test_undo_and_late_attempt_at_once_agree(any_ledger: Ledger, bank: Bank) -> None:
    """Whichever of an undo and a late attempt comes first, the target ends without the effect."""
    results = await asyncio.gather(
        persist(lambda: any_ledger.undo(undo(call()))), any_ledger.perform(call()), return_exceptions=True
    )

    assert len(bank.paid) == len(bank.returned), results


async def test_undo_of_a_look_up_is_nothing(ledger: Ledger, bank: Bank) -> None:
    """There is nothing to undo about looking."""
    bank.looks = [Absent()]

    assert "nothing to undo" == (await ledger.undo(undo(call("bank.balance")))).outcome
    assert [] == bank.probes

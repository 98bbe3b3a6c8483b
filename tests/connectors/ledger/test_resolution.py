"""What people say about parked effects, and what follows."""

from __future__ import annotations

from datetime import timedelta

import pytest
from kits.effects import Till, bill, key_of, lost, said, undo

from perdure.connectors import EffectCall, Target, undo_key
from perdure.connectors.ledger import Ledger
from perdure.connectors.ledger.contracts import Verdict
from perdure.errors import (
    EffectParked,
    EffectRejected,
    EffectUnknown,
    InvalidInput,
    NotFound,
    NotParked,
)
from perdure.storage import Database, now

NO_WAY = Target(mechanism="none", settle=timedelta(milliseconds=1), deadline=timedelta(milliseconds=50))
CALL = bill()
KEY = key_of(CALL)


@pytest.fixture
def till() -> Till:
    """A target that drops no repeats and can tell nobody what it has done."""
    return Till(target=NO_WAY)


@pytest.fixture
def ledger(database: Database, till: Till) -> Ledger:
    """A ledger in front of the till."""
    return Ledger(database, {"till": till})


@pytest.fixture
async def parked(ledger: Ledger, till: Till) -> Ledger:
    """The ledger, with an effect that is parked, although it happened, and as long ago as it has to be."""
    till.sends, till.lands_anyway = [lost()], True
    with pytest.raises(EffectParked):
        await ledger.perform(CALL)
    till.lands_anyway = False
    return _later(ledger)


async def test_it_happened(parked: Ledger, till: Till) -> None:
    """The step gets what was asked under the target's reference, confirmed by a person; nothing is sent."""
    await parked.resolve(said(KEY, "happened", remote_ref="t-1"))

    result = await parked.perform(CALL)

    assert {"id": "t-1", "amount": 5} == result.value
    assert ("t-1", "person", 1) == (result.receipt.remote_ref, result.receipt.confirmed_by, till.stands)


async def test_what_happened_can_be_undone(parked: Ledger, till: Till) -> None:
    """What a person found at the target is undone like anything else."""
    await parked.resolve(said(KEY, "happened", remote_ref="t-1"))

    assert "compensated" == (await parked.undo(undo(CALL))).outcome
    assert 0 == till.stands


async def test_what_happened_has_a_reference_and_an_answer(parked: Ledger) -> None:
    """Without a reference, or with an answer that is none of the action's, nothing is written."""
    with pytest.raises(InvalidInput, match="remote reference"):
        await parked.resolve(said(KEY, "happened"))
    with pytest.raises(InvalidInput, match="does not fit Paid"):
        await parked.resolve(said(KEY, "happened", remote_ref="t-1").model_copy(update={"answer": {"id": "t-1"}}))

    assert "parked" == (await parked.get(KEY)).state


async def test_it_did_not_happen(parked: Ledger, till: Till) -> None:
    """The step fails with who says so and why, and nothing is sent."""
    await parked.resolve(said(KEY, "did not happen", by="ole", comment="not in the books"))

    with pytest.raises(EffectRejected, match="ole says that it did not happen: not in the books"):
        await parked.perform(CALL)

    assert 1 == len(till.done)


async def test_it_is_sent_again(ledger: Ledger, till: Till) -> None:
    """It is sent once more, under the same key; if that is lost too, it is parked again."""
    till.sends = [lost(), lost()]
    with pytest.raises(EffectParked):
        await ledger.perform(CALL)
    await _later(ledger).resolve(said(KEY, "send again"))
    with pytest.raises(EffectParked):
        await ledger.perform(CALL)
    await _later(ledger).resolve(said(KEY, "send again", comment="still not there"))

    result = await ledger.perform(CALL)

    assert (1, 3, KEY) == (till.stands, result.receipt.sent, result.receipt.key)


@pytest.mark.parametrize("verdict", ["did not happen", "send again"])
async def test_absence_is_believed_once_it_can_no_longer_land(ledger: Ledger, till: Till, verdict: Verdict) -> None:
    """A person who looked too early is told until when it may still land."""
    till.target = NO_WAY.model_copy(update={"settle": timedelta(hours=1)})
    till.sends = [lost()]
    with pytest.raises(EffectParked):
        await ledger.perform(CALL)

    with pytest.raises(EffectUnknown, match="may still land until"):
        await ledger.resolve(said(KEY, verdict))


async def test_who_said_it_and_why_is_kept(parked: Ledger) -> None:
    """Each resolution is an event with the person, whether the name was verified, and the reason."""
    await parked.resolve(said(KEY, "send again", by="ole", comment="the bank has nothing"))

    last = (await parked.events(KEY))[-1]
    assert ("ole", False, "parked", "proposed", "send again: the bank has nothing") == (
        last.by,
        last.verified,
        last.before,
        last.after,
        last.note,
    )


async def test_the_same_again_changes_nothing(parked: Ledger) -> None:
    """Saying the same twice is saying it once; saying something else comes too late."""
    first = await parked.resolve(said(KEY, "did not happen"))
    second = await parked.resolve(said(KEY, "did not happen"))

    assert first == second
    with pytest.raises(NotParked, match="mara said"):
        await parked.resolve(said(KEY, "send again"))


async def test_only_what_is_parked_is_resolved(ledger: Ledger) -> None:
    """What has ended, or goes on by itself, takes nobody's word."""
    await ledger.perform(CALL)

    with pytest.raises(NotParked, match="is succeeded"):
        await ledger.resolve(said(KEY, "did not happen"))
    with pytest.raises(NotFound):
        await ledger.resolve(said("pe-none", "did not happen"))


async def test_an_approval_is_for_a_changed_intent(parked: Ledger) -> None:
    """An effect that is merely unknown cannot be made another one."""
    with pytest.raises(NotParked, match="no new intent"):
        await parked.resolve(said(KEY, "new generation"))


async def test_a_refused_undo_is_parked(ledger: Ledger, till: Till) -> None:
    """An undo that the target refuses is no end: it waits for a person."""
    await ledger.perform(CALL)
    till.sends = [EffectRejected("it has been collected")]
    with pytest.raises(EffectParked, match="refuses it: it has been collected") as parked:
        await ledger.undo(undo(CALL))
    undoing = undo_key(KEY)

    resolved = await ledger.resolve(said(undoing, "happened", remote_ref="by hand"))

    assert (undoing, "succeeded") == (parked.value.effect, resolved.state)
    assert "compensated" == (await ledger.get(KEY)).state
    assert "compensated" == (await ledger.undo(undo(CALL))).outcome


async def test_a_refused_undo_can_be_sent_again_or_left(ledger: Ledger, till: Till) -> None:
    """A person has it sent again, or says that it stands."""
    for name, verdict in (("again", "send again"), ("left", "did not happen")):
        call = bill(order=name, name=name)
        await ledger.perform(call)
        till.sends = [EffectRejected("not now")]
        with pytest.raises(EffectParked):
            await ledger.undo(undo(call))
        await ledger.resolve(said(undo_key(key_of(call)), verdict))  # type: ignore[arg-type]  # two of them

    again = await ledger.undo(undo(bill(order="again", name="again")))
    with pytest.raises(EffectRejected, match="mara says"):
        await ledger.undo(undo(bill(order="left", name="left")))

    assert ("compensated", 1) == (again.outcome, till.stands)


async def test_past_the_point_of_no_return_a_refusal_is_parked(ledger: Ledger, till: Till) -> None:
    """A step that must be done is not failed by a refusal."""
    till.sends = [EffectRejected("not now")]
    must = EffectCall(step=CALL.step, action=CALL.action, args=CALL.args, must=True)
    with pytest.raises(EffectParked, match="not now"):
        await ledger.perform(must)
    await ledger.resolve(said(KEY, "send again"))

    await ledger.perform(must)

    assert 1 == till.stands


async def test_a_key_is_found_by_its_beginning(parked: Ledger) -> None:
    """Enough of a key to be unique names the effect; what names none or several is refused."""
    await parked.perform(bill(order="o-2", name="other"))

    assert KEY == (await parked.find(KEY[:12])).key
    for prefix in ("pe-", "pe-%", "x"):
        with pytest.raises(NotFound):
            await parked.find(prefix)


def _later(ledger: Ledger) -> Ledger:
    """Return LEDGER a minute later: what may still have landed has."""
    return Ledger(ledger._journal._database, ledger._connectors, clock=lambda: now() + timedelta(minutes=1))

"""What happens once in the world, whatever run asks."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from kits.connectors import persist
from kits.effects import Till, bill, key_of, lost, said, undo

from perdure.connectors import Action, EffectResult
from perdure.connectors.ledger import Dependents, Ledger
from perdure.connectors.reconciliation import Sweeper
from perdure.connectors.reconciliation.contracts import SettleOrphans
from perdure.errors import (
    EffectBusy,
    EffectConflict,
    EffectError,
    EffectParked,
    EffectRejected,
)
from perdure.lineage import Frozen, Lineage
from perdure.storage import Database, now


@pytest.fixture
def till() -> Till:
    """A target that pays each line of an order once."""
    return Till()


@pytest.fixture
def ledger(database: Database, till: Till) -> Ledger:
    """A ledger in front of the till, on SQLite and on PostgreSQL."""
    return Ledger(database, {"till": till})


async def test_a_second_run_gets_the_first_runs_receipt(ledger: Ledger, till: Till) -> None:
    """Another run that asks for the same gets what is recorded, and nothing is sent."""
    first = await ledger.perform(bill("w-1"))
    second = await ledger.perform(bill("w-2"))

    assert first == second
    assert ["till.pay"] == till.done
    assert ["w-2"] == [asker.workflow_id for asker in await ledger.dependents(first.receipt.key)]


async def test_what_a_run_was_about_to_undo(database: Database, ledger: Ledger, till: Till) -> None:
    """A run that ended when it had taken an effect back and not begun to undo it keeps nobody out for ever."""
    first = await ledger.perform(bill("w-1"))
    await Dependents(database, now).give_up(first.receipt.key)
    with pytest.raises(EffectBusy):
        await ledger.perform(bill("w-2"))
    runs = {"w-1": True}

    async def alive(lineage: Lineage) -> bool | None:
        return runs.get(lineage.workflow_id, False)

    sweeper = Sweeper(database, {"till": till})
    while_it_runs = await sweeper.sweep(SettleOrphans(), alive)
    runs["w-1"] = False
    after, once_more = await sweeper.sweep(SettleOrphans(), alive), await sweeper.sweep(SettleOrphans(), alive)

    assert ({}, {"stands": 1}, {}) == (while_it_runs.counts, after.counts, once_more.counts)
    assert first == await ledger.perform(bill("w-2"))
    assert 1 == till.stands


async def test_what_is_being_undone_does_not_stand(database: Database, ledger: Ledger, till: Till) -> None:
    """An undo that has begun is gone on with; a sweep does not let the effect stand meanwhile."""
    first = await ledger.perform(bill("w-1"))
    till.sends = [lost()]
    with pytest.raises(EffectError):
        await ledger.undo(undo(bill("w-1")))

    assert not await Dependents(database, now).reinstate(first.receipt.key)


async def test_other_lines_are_other_effects(ledger: Ledger, till: Till) -> None:
    """What differs in the declared fields is done for itself."""
    await ledger.perform(bill("w-1", order="o-1"))
    await ledger.perform(bill("w-2", order="o-2"))

    assert 2 == till.stands


async def test_processes_that_ask_at_once_pay_once(database: Database, till: Till) -> None:
    """Ledgers of several processes that are asked by many runs at the same moment make one effect."""
    ledgers = [Ledger(database, {"till": till}) for _ in range(3)]

    results = await asyncio.gather(
        *(persist(partial(one.perform, bill(f"w-{run}"))) for run in range(4) for one in ledgers)
    )

    assert 1 == till.stands
    assert 1 == len({result.receipt.key for result in results})


async def test_a_run_finishes_what_another_left_behind(ledger: Ledger, till: Till) -> None:
    """When the run that asked first is gone with the answer, the next that asks finds out and gets it."""
    till.sends, till.lands_anyway = [lost()], True
    with pytest.raises(Exception, match="may have happened"):
        await ledger.perform(bill("w-1"))

    result: EffectResult = await persist(lambda: ledger.perform(bill("w-2")))

    assert (1, "probe", key_of(bill("w-1"))) == (till.stands, result.receipt.confirmed_by, result.receipt.key)


async def test_other_arguments_wait_for_a_person(ledger: Ledger, till: Till) -> None:
    """Another run that asks for something else under the same business key is parked, and the first stands."""
    await ledger.perform(bill("w-1", amount=5))

    conflicts = await asyncio.gather(*(ledger.perform(bill("w-2", amount=6)) for _ in range(2)), return_exceptions=True)

    waits = await ledger.get(key_of(bill("w-2")))
    assert [waits.key] * 2 == [each.effect for each in conflicts if isinstance(each, EffectConflict)]
    assert ("parked", key_of(bill("w-1")), 0) == (waits.state, waits.contradicts, waits.sent)
    assert 1 == till.stands


async def test_a_person_may_let_it_happen_twice(ledger: Ledger, till: Till) -> None:
    """Once a person has approved the other run's intent, it is done beside the first; others still get the first."""
    first = await ledger.perform(bill("w-1", amount=5))
    with pytest.raises(EffectConflict):
        await ledger.perform(bill("w-2", amount=6))
    await ledger.resolve(said(key_of(bill("w-2")), "new generation"))

    second = await ledger.perform(bill("w-2", amount=6))
    again = await ledger.perform(bill("w-3", amount=5))

    assert {"id": "t-2", "amount": 6} == second.value
    assert (first, 2) == (again, till.stands)


async def test_an_undone_effect_may_be_done_again(ledger: Ledger, till: Till) -> None:
    """Undoing frees the business key, for the next run and with its own arguments."""
    await ledger.perform(bill("w-1", amount=5))
    await ledger.undo(undo(bill("w-1")))

    await ledger.perform(bill("w-2", amount=6))

    assert ["till.pay", "till.back", "till.pay"] == till.done


async def test_a_refused_effect_may_be_tried_by_another(ledger: Ledger, till: Till) -> None:
    """What the target refused has not happened, so it frees the business key."""
    till.sends = [EffectRejected("closed today")]
    with pytest.raises(EffectRejected):
        await ledger.perform(bill("w-1"))

    await ledger.perform(bill("w-2"))

    assert 1 == till.stands


async def test_what_another_run_relies_on_is_not_undone(ledger: Ledger, till: Till) -> None:
    """The run that made it takes it back in vain; when the other does so too, it is undone."""
    await ledger.perform(bill("w-1"))
    await ledger.perform(bill("w-2"))

    kept = await ledger.undo(undo(bill("w-1")))
    standing = till.stands
    undone = await ledger.undo(undo(bill("w-2")))

    assert ("kept", 1) == (kept.outcome, standing)
    assert ("compensated", 0) == (undone.outcome, till.stands)
    assert ["till.pay", "till.back"] == till.done


async def test_what_was_lost_is_sent_again_in_its_place(ledger: Ledger, till: Till) -> None:
    """A repair sends again what had happened once; others get that one from then on, and an undo takes back only that."""
    first = await ledger.perform(bill("w-1"))
    till.books.clear()
    repair = bill("w-1").model_copy(update={"generation": 1, "instead_of": first.receipt.key})

    second = await ledger.perform(repair)
    again = await ledger.perform(repair)
    other = await ledger.perform(bill("w-2"))
    retry = await ledger.perform(bill("w-1"))

    assert ("t-2", second, second, first) == (second.receipt.remote_ref, again, other, retry)
    assert ["till.pay", "till.pay"] == till.done
    await ledger.undo(undo(bill("w-2")))
    assert "compensated" == (await ledger.undo(undo(bill("w-1")))).outcome
    assert ["t-2"] == [effect.args["id"] for effect in await ledger.list() if effect.undo_of]


async def test_a_changed_intent_comes_after_a_repair(ledger: Ledger, till: Till) -> None:
    """A step that asks for something else after a repair of its effect gets a generation that nobody has used."""
    first = await ledger.perform(bill("w-1", amount=5))
    await ledger.perform(bill("w-1").model_copy(update={"generation": 1, "instead_of": first.receipt.key}))

    with pytest.raises(EffectConflict) as conflict:
        await ledger.perform(bill("w-1", amount=6))

    assert key_of(bill("w-1"), generation=2) == conflict.value.effect
    assert 2 == till.stands


async def test_who_only_asked_leaves_it_to_the_run_that_made_it(ledger: Ledger, till: Till) -> None:
    """A run that got another's effect and is undone leaves it standing; a late attempt of it does not come back."""
    await ledger.perform(bill("w-1"))
    await ledger.perform(bill("w-2"))

    left = await ledger.undo(undo(bill("w-2")))

    assert ("kept", 1) == (left.outcome, till.stands)
    with pytest.raises(EffectRejected, match="undone"):
        await ledger.perform(bill("w-2"))
    assert "compensated" == (await ledger.undo(undo(bill("w-1")))).outcome


async def test_nobody_relies_on_what_is_being_undone(ledger: Ledger, till: Till) -> None:
    """While an undo is not known to have ended, other runs are told to come again; then they do it anew."""
    await ledger.perform(bill("w-1"))
    till.sends = [lost()]
    with pytest.raises(Exception, match="may have happened"):
        await ledger.undo(undo(bill("w-1")))

    with pytest.raises(EffectBusy):
        await ledger.perform(bill("w-2"))
    await persist(lambda: ledger.undo(undo(bill("w-1"))))
    await ledger.perform(bill("w-2"))

    assert ["till.pay", "till.back", "till.pay"] == till.done


async def test_undo_and_another_run_at_once_agree(ledger: Ledger, till: Till) -> None:
    """Whichever comes first, the other run ends with an effect that stands."""
    await ledger.perform(bill("w-1"))

    _, result = await asyncio.gather(ledger.undo(undo(bill("w-1"))), persist(lambda: ledger.perform(bill("w-2"))))

    assert 1 == till.stands
    assert "succeeded" == (await ledger.get(result.receipt.key)).state


async def test_a_parked_effect_is_parked_for_all(ledger: Ledger, till: Till) -> None:
    """While nobody can tell what became of it, nobody does it again; a person's word serves all."""
    till.sends, till.blind = [lost()], True
    for run in ("w-1", "w-2"):
        with pytest.raises(EffectParked) as parked:
            await persist(partial(ledger.perform, bill(run)))
        assert key_of(bill("w-1")) == parked.value.effect
    await ledger.resolve(said(key_of(bill("w-1")), "happened", remote_ref="t-7"))

    result = await ledger.perform(bill("w-2"))

    assert ({"id": "t-7", "amount": 5}, "person") == (result.value, result.receipt.confirmed_by)
    assert 0 == till.stands


def test_business_key_is_of_fields_there_are() -> None:
    """A field that the input does not have is named when the action is declared."""

    class Empty(Frozen):
        pass

    with pytest.raises(ValueError, match="no field order"):
        Action("till.pay", Empty, Empty, once_per=("order",))

"""What became of effects that ended runs have left open."""

from __future__ import annotations

from datetime import timedelta

import pytest
from kits.connectors import AT_ONCE, Bank, call, key_of, undo
from kits.effects import Till, bill, lost
from kits.effects import key_of as key_of_bill

from perdure.connectors import CannotTell
from perdure.connectors.contracts import Mechanism
from perdure.connectors.ledger import Ledger
from perdure.connectors.reconciliation import Sweeper
from perdure.connectors.reconciliation.contracts import SettledOrphans, SettleOrphans
from perdure.errors import EffectError, EffectUnknown, TargetUnavailable
from perdure.lineage import Lineage
from perdure.storage import Database, now


@pytest.fixture
def bank() -> Bank:
    """A bank that settles at once."""
    return Bank(target=AT_ONCE)


class Died(BaseException):
    """The process has died: nothing is written any more."""


async def left_open(ledger: Ledger, bank: Bank, *, lands: bool, name: str = "pay") -> str:
    """Have an effect's answer be lost, and return its key."""
    bank.sends, bank.lands_anyway = [lost()], lands
    with pytest.raises(EffectError):
        await ledger.perform(call(name=name))
    bank.lands_anyway = False
    return key_of(call(name=name))


async def sweep(database: Database, bank: Bank | Till, *, alive: bool | None = False, **given: object) -> SettledOrphans:
    """Sweep a minute later, when everything has settled; every run is ALIVE or not."""
    sweeper = Sweeper(database, {bank.name: bank}, clock=lambda: now() + timedelta(minutes=1))

    async def said(lineage: Lineage) -> bool | None:
        return alive

    return await sweeper.sweep(SettleOrphans.model_validate(given), said)


async def test_what_landed_is_found(database: Database, any_ledger: Ledger, bank: Bank) -> None:
    """An effect whose run ended before the answer came is found at the target; nothing is sent."""
    key = await left_open(any_ledger, bank, lands=True)

    swept = await sweep(database, bank)

    assert ({"found": 1}, {"found": (key,)}) == (swept.counts, swept.keys)
    assert ("succeeded", "probe", 1) == ((e := await any_ledger.get(key)).state, e.confirmed_by, len(bank.attempts))


async def test_what_is_absent_is_proposed_again(database: Database, any_ledger: Ledger, bank: Bank) -> None:
    """Nothing of it is at the target, and that is written down; a run that is reset to before it sends it."""
    key = await left_open(any_ledger, bank, lands=False)

    first, second = await sweep(database, bank), await sweep(database, bank)

    assert ({"absent": 1}, {"absent": 1}) == (first.counts, second.counts)
    assert ("proposed", 1) == ((await any_ledger.get(key)).state, len(bank.probes))
    assert {"proposed": 1, "claimed": 0, "in flight": 0, "unknown": 0, "parked": 0} == second.open
    await any_ledger.perform(call())
    assert [key] == bank.paid


async def test_what_cannot_be_told_is_parked(database: Database, any_ledger: Ledger, bank: Bank) -> None:
    """One look-up that cannot tell is enough: no run comes again, so a person is asked."""
    key = await left_open(any_ledger, bank, lands=True)
    bank.looks = [CannotTell("the books are closed")]

    swept = await sweep(database, bank)

    assert ({"parked": (key,)}, "parked") == (swept.keys, (await any_ledger.get(key)).state)


@pytest.mark.parametrize(("mechanism", "parked"), [("none", True), ("header", False)])
async def test_a_crash_is_found_out(
    database: Database, any_ledger: Ledger, bank: Bank, mechanism: Mechanism, parked: bool
) -> None:
    """What was in flight when its process and its run ended is parked if it cannot be asked for, and never sent again."""
    bank.target = AT_ONCE.model_copy(update={"mechanism": mechanism})
    bank.sends = [Died()]  # type: ignore[list-item]  # the process ends here
    with pytest.raises(Died):
        await any_ledger.perform(call())

    swept = await sweep(database, bank)

    assert {"parked" if parked else "absent": 1} == swept.counts
    assert 1 == len(bank.attempts)


async def test_a_target_that_is_down_is_asked_the_next_time(database: Database, any_ledger: Ledger, bank: Bank) -> None:
    """What cannot be asked for now stays unknown, is named, and does not count against it."""
    key = await left_open(any_ledger, bank, lands=True)
    bank.looks = [TargetUnavailable("closed"), EffectUnknown("gone")]

    first, second, third = [await sweep(database, bank) for _ in range(3)]

    assert [{"unknown": (key,)}, {"unknown": (key,)}, {"found": (key,)}] == [first.keys, second.keys, third.keys]


async def test_what_a_run_asks_for_is_left_alone(database: Database, any_ledger: Ledger, bank: Bank) -> None:
    """A run finds out by itself, so nothing is looked up for one that is alive, or may be as far as anybody knows."""
    await left_open(any_ledger, bank, lands=True)

    alive = await sweep(database, bank, alive=True)
    perhaps = await sweep(database, bank, alive=None)
    others = await sweep(database, bank, connector="post")
    long_ago = await sweep(database, bank, alive=None, quiet=timedelta(0))

    assert ({"alive": 1}, {"alive": 1}, {}) == (alive.counts, perhaps.counts, others.counts)
    assert {"found": 1} == long_ago.counts


async def test_what_another_run_asks_for_is_left_alone(database: Database) -> None:
    """An effect of a run that has ended is another's to find out, if that relies on it by the business key."""
    till = Till(sends=[lost(), lost()])
    ledger = Ledger(database, {"till": till})
    for run in ("w-1", "w-2"):
        with pytest.raises(EffectError):
            await ledger.perform(bill(run))

    async def second_only(lineage: Lineage) -> bool:
        return lineage.workflow_id == "w-2"

    sweeper = Sweeper(database, {"till": till}, clock=lambda: now() + timedelta(minutes=1))
    assert {"alive": 1} == (await sweeper.sweep(SettleOrphans(), second_only)).counts
    assert {"absent": 1} == (await sweep(database, till)).counts
    assert "proposed" == (await ledger.get(key_of_bill(bill("w-1")))).state


@pytest.mark.parametrize("lands", [True, False])
async def test_an_undo_that_was_left(database: Database, any_ledger: Ledger, bank: Bank, lands: bool) -> None:
    """An undo that landed makes its effect compensated; one that did not is parked, as what it was to take back stands."""
    await any_ledger.perform(call())
    bank.sends, bank.lands_anyway = [lost()], lands
    with pytest.raises(EffectError):
        await any_ledger.undo(undo(call()))

    swept = await sweep(database, bank)

    assert {"found" if lands else "parked": 1} == swept.counts
    assert ("compensated" if lands else "succeeded") == (await any_ledger.get(key_of(call()))).state


async def test_what_this_worker_does_not_serve_is_named(database: Database, any_ledger: Ledger, bank: Bank) -> None:
    """An effect of a connector that the worker lacks stays as it is and is counted as such."""
    key = await left_open(any_ledger, bank, lands=True)

    swept = await sweep(database, Till())

    assert ({"unserved": (key,)}, "unknown") == (swept.keys, (await any_ledger.get(key)).state)

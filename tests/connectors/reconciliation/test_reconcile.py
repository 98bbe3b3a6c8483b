"""Tests of connectors/reconciliation/reconcile.py, compare.py, findings.py and repair.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from kits.connectors import AT_ONCE, Bank, ShopProcess, call, key_of, persist, step, undo
from kits.watch import ListedBank, ListedInventory, ListedPayments, everything, reserve_directly

from perdure.connectors import (
    Absent,
    CannotTell,
    EffectCall,
    UndoCall,
    effect_key,
)
from perdure.connectors.events import Stream
from perdure.connectors.ledger import Ledger, lease_duration
from perdure.connectors.reconciliation import Reconciler, Repairs
from perdure.connectors.reconciliation.contracts import (
    CloseCall,
    Finding,
    ProposeCall,
    ReconcileCall,
)
from perdure.errors import (
    EffectUnknown,
    InvalidInput,
    NotFound,
    TargetUnavailable,
)
from perdure.storage import Database, now


@pytest.fixture
async def payments(shop: ShopProcess) -> AsyncIterator[ListedPayments]:
    """The connector of the shop's refunds, with its list."""
    payments = ListedPayments().with_options({"url": shop.url})
    yield payments
    await payments.close()


@pytest.fixture
async def inventory(shop: ShopProcess) -> AsyncIterator[ListedInventory]:
    """The connector of the shop's stock, with its list."""
    inventory = ListedInventory().with_options({"url": shop.url})
    yield inventory
    await inventory.close()


@pytest.fixture
def bank() -> ListedBank:
    """A bank whose list a test writes, and which settles at once."""
    return ListedBank(target=AT_ONCE)


def refund(order: str, amount: int = 4990) -> EffectCall:
    """Return the call that refunds ORDER."""
    return EffectCall(step=step(order), action="payments.refund", args={"order": order, "amount": amount})


def reserve(order: str, name: str = "") -> EffectCall:
    """Return the call that reserves a slot for ORDER."""
    return EffectCall(step=step(name or order), action="inventory.reserve", args={"order": order})


def settled(reconciler: Reconciler, connector: str) -> None:
    """Have RECONCILER compare at a time when nothing that was sent so far is too young for that."""
    _, _, actions = reconciler._require_listable(connector)
    later = max(lease_duration(action.target) + action.target.settle for action in actions.values())
    reconciler.clock = lambda: now() + later


def told(findings: tuple[Finding, ...]) -> list[tuple[str, str, str]]:
    """Return kind, key and reference of FINDINGS."""
    return [(each.kind, each.key, each.remote_ref) for each in findings]


# Against the shop


async def test_books_that_agree(sqlite_database: Database, payments: ListedPayments, shop: ShopProcess) -> None:
    """After lost requests, lost answers and late landings there is one refund each, and nothing is found."""
    ledger, reconciler = (
        Ledger(sqlite_database, {"payments": payments}),
        Reconciler(sqlite_database, {"payments": payments}),
    )
    await shop.faults(next=["lose request", "lose response", "land late"], late=0.15)
    for order in ("R-1001", "R-1002", "R-1003", "R-1004"):
        await persist(lambda order=order: ledger.perform(refund(order)))  # type: ignore[misc]  # bound at once
    settled(reconciler, "payments")

    report = await reconciler.reconcile(everything("payments"))

    assert (4, 4, ()) == (report.effects, report.listed, report.findings)


async def test_all_four_kinds(sqlite_database: Database, inventory: ListedInventory, shop: ShopProcess) -> None:
    """What is missing, there twice, changed or unknown at the target is found, each with what it is about."""
    connectors = {"inventory": inventory}
    ledger, reconciler = Ledger(sqlite_database, connectors), Reconciler(sqlite_database, connectors)
    for order in ("R-1001", "R-1002", "R-1003"):
        await ledger.perform(reserve(order))
    lost, twice, fine = (effect_key(reserve(order).step) for order in ("R-1001", "R-1002", "R-1003"))
    slot = (await ledger.get(lost)).remote_ref
    await shop.ask("POST", f"/reservations/{slot}/release", {"released_by": "somebody"})
    extra = await reserve_directly(shop, "R-1002", twice)
    foreign = await reserve_directly(shop, "R-1009", "typed in by hand")
    same = await reserve_directly(shop, "R-1003", "")
    settled(reconciler, "inventory")

    report = await reconciler.reconcile(everything("inventory"))

    expected = [
        ("missing", lost, slot),
        ("duplicate", twice, extra),
        ("unknown", "typed in by hand", foreign),
        ("duplicate", fine, same),
    ]
    assert sorted(expected) == sorted(told(report.findings))
    assert [False] == [each.certain for each in report.findings if each.remote_ref == same]


# Against a list that the test writes


async def test_missing_is_looked_up_before_it_is_said(database: Database, bank: ListedBank) -> None:
    """What the list lacks is asked for by its key: a list with gaps makes nothing look missing."""
    ledger, reconciler = Ledger(database, {"bank": bank}), Reconciler(database, {"bank": bank})
    await ledger.perform(call(name="a"))
    await ledger.perform(call(name="b"))
    await ledger.perform(call(name="c"))
    bank.paid.remove(key_of(call(name="b")))
    settled(reconciler, "bank")

    bank.looks = [Absent(), CannotTell("no index")]
    report = await reconciler.reconcile(everything("bank"))

    assert [(key_of(call(name="a")), True), (key_of(call(name="b")), False)] == [
        (each.key, each.certain) for each in report.findings
    ]
    assert {"missing"} == {each.kind for each in report.findings}


async def test_what_changed_is_said_field_by_field(database: Database, bank: ListedBank) -> None:
    """A field that is not what was recorded is a finding, and a further change is another one."""
    ledger, reconciler = Ledger(database, {"bank": bank}), Reconciler(database, {"bank": bank})
    await ledger.perform(call(amount=5))
    bank.lists(key_of(call()), amount=50)
    first = await reconciler.reconcile(everything("bank"))
    bank.listed.clear()
    bank.lists(key_of(call()), amount=500)
    second = await reconciler.reconcile(everything("bank"))

    assert ["changed"] == [each.kind for each in first.findings]
    assert "amount is 50, recorded was 5" == first.findings[0].detail
    assert first.findings[0].id != second.findings[0].id
    assert (first.findings[0].id,) == second.gone


async def test_what_failed_and_is_there(database: Database, bank: ListedBank) -> None:
    """Something at the target of which the ledger says that it failed is unknown."""
    ledger, reconciler = Ledger(database, {"bank": bank}), Reconciler(database, {"bank": bank})
    await ledger.undo(UndoCall(step=step("undo"), effect=key_of(call()), action="bank.pay", args={"amount": 5}))
    bank.lists(key_of(call()))

    report = await reconciler.reconcile(everything("bank"))

    assert [("unknown", key_of(call()), "b-1")] == told(report.findings)
    assert "says that it failed" in report.findings[0].detail


async def test_what_was_undone_is_no_finding(database: Database, bank: ListedBank) -> None:
    """What was undone may still be listed, unless the target says that it stands."""
    ledger, reconciler = Ledger(database, {"bank": bank}), Reconciler(database, {"bank": bank})
    await ledger.perform(call())
    await ledger.undo(undo(call()))
    bank.lists(key_of(call()))
    silent = await reconciler.reconcile(everything("bank"))
    bank.listed = [each.model_copy(update={"stands": True}) for each in bank.listed]
    told_so = await reconciler.reconcile(everything("bank"))

    assert () == silent.findings
    assert ["unknown"] == [each.kind for each in told_so.findings]


async def test_what_is_still_open_is_not_judged(database: Database, bank: ListedBank) -> None:
    """An effect whose outcome nobody knows yet is counted and not judged; two of it are two all the same."""
    ledger, reconciler = Ledger(database, {"bank": bank}), Reconciler(database, {"bank": bank})
    bank.sends = [EffectUnknown("the line went dead")]
    with pytest.raises(EffectUnknown):
        await ledger.perform(call())
    settled(reconciler, "bank")
    before = await reconciler.reconcile(everything("bank"))
    bank.lists(key_of(call()), ref="b-1")
    bank.lists(key_of(call()), ref="b-2")
    after = await reconciler.reconcile(everything("bank"))

    assert (1, ()) == (before.unsettled, before.findings)
    assert [("duplicate", key_of(call()), "b-2")] == told(after.findings)


async def test_what_is_too_young_is_not_judged(database: Database, bank: ListedBank) -> None:
    """What was sent a moment ago may still land, so nobody says that it is missing."""
    ledger, reconciler = Ledger(database, {"bank": bank}), Reconciler(database, {"bank": bank})
    await ledger.perform(call())
    bank.looks = [Absent()]

    assert () == (await reconciler.reconcile(everything("bank"))).findings


async def test_a_late_landing_is_found_by_a_later_comparison(database: Database, bank: ListedBank) -> None:
    """Each comparison looks again at what the one before it saw: what lands after that is found as a duplicate."""
    ledger, reconciler = Ledger(database, {"bank": bank}), Reconciler(database, {"bank": bank})
    await ledger.perform(call())
    bank.lists(key_of(call()), at=now())
    first = await reconciler.reconcile(ReconcileCall(connector="bank"))
    bank.lists(key_of(call()), ref="b-2", at=now())
    second = await reconciler.reconcile(ReconcileCall(connector="bank"))

    assert () == first.findings
    assert [("duplicate", key_of(call()), "b-2")] == told(second.findings)
    assert timedelta(hours=24) == first.until - second.since


async def test_a_target_that_does_not_answer_finds_nothing(database: Database, bank: ListedBank) -> None:
    """A list that cannot be read is an error, and no report is written."""
    reconciler = Reconciler(database, {"bank": bank})
    bank.down = True

    with pytest.raises(TargetUnavailable):
        await reconciler.reconcile(everything("bank"))
    assert [] == list(await reconciler.findings.reports())


async def test_no_list_to_compare_with(sqlite_database: Database) -> None:
    """A connector without a list says what to declare, and an unknown one which there are."""
    reconciler = Reconciler(sqlite_database, {"bank": Bank()})

    with pytest.raises(InvalidInput, match="Give its actions a `listing`"):
        await reconciler.reconcile(everything("bank"))
    with pytest.raises(NotFound, match="it has: bank"):
        await reconciler.reconcile(everything("shop"))


async def test_a_finding_is_opened_once(database: Database, bank: ListedBank) -> None:
    """The same difference is one finding over all reports; it goes when it is gone and comes back when it is back."""
    reconciler, stream = Reconciler(database, {"bank": bank}), Stream(database)
    bank.lists("somebody's")
    first = await reconciler.reconcile(everything("bank"))
    second = await reconciler.reconcile(everything("bank"))
    kept, bank.listed = bank.listed, []
    third = await reconciler.reconcile(everything("bank"))
    bank.listed = kept
    fourth = await reconciler.reconcile(everything("bank"))

    [finding] = first.findings
    assert [(finding.id,), (), (), (finding.id,)] == [each.opened for each in (first, second, third, fourth)]
    assert (finding.id,) == third.gone
    assert first.id == fourth.findings[0].first_report
    events = [event.type for event in await stream.events() if event.type.startswith("finding.")]
    assert ["finding.opened", "finding.gone", "finding.opened"] == events


async def test_two_comparisons_at_once(database: Database, bank: ListedBank) -> None:
    """Two at the same time open a finding once."""
    bank.lists("somebody's")
    reconcilers = [Reconciler(database, {"bank": bank}) for _ in range(4)]

    reports = await asyncio.gather(*(each.reconcile(everything("bank")) for each in reconcilers))

    assert 1 == sum(len(report.opened) for report in reports)
    assert 1 == len(await reconcilers[0].findings.findings())


# Repairs


async def test_what_is_missing_is_sent_again_under_the_next_generation(database: Database, bank: ListedBank) -> None:
    """The proposal names exactly what would be sent; done, it is another effect, and the finding stays repaired."""
    connectors = {"bank": bank}
    ledger, reconciler, repairs = (
        Ledger(database, connectors),
        Reconciler(database, connectors),
        Repairs(database, connectors),
    )
    await ledger.perform(call())
    bank.paid.clear()
    settled(reconciler, "bank")
    [finding] = (await reconciler.reconcile(everything("bank"))).findings

    proposal = await repairs.propose(ProposeCall(step=step("propose"), finding=finding.id))
    assert proposal.call is not None
    done = await ledger.perform(proposal.call)
    closing = CloseCall(step=step("c"), finding=finding.id, how=proposal.how, by="mara", effect=done.receipt.key)
    repaired = await repairs.close(closing)
    again = await reconciler.reconcile(everything("bank"))

    assert ("send again", 1, call().args) == (proposal.how, proposal.call.generation, proposal.call.args)
    assert [effect_key(step("pay"), generation=1)] == bank.paid
    assert ("repaired", "mara", done.receipt.key) == (repaired.state, repaired.by, repaired.effect)
    assert (("repaired",), ()) == (tuple(each.state for each in again.findings), again.opened)
    assert "send again, approved by mara" in (await ledger.events(key_of(call())))[-1].note


async def test_what_has_come_is_not_sent_again(database: Database, bank: ListedBank) -> None:
    """If the target has it by now, nothing is proposed."""
    connectors = {"bank": bank}
    reconciler, repairs = Reconciler(database, connectors), Repairs(database, connectors)
    await Ledger(database, connectors).perform(call())
    settled(reconciler, "bank")
    bank.looks = [Absent()]
    [finding] = (await reconciler.reconcile(everything("bank"))).findings

    with pytest.raises(InvalidInput, match=r"the target has pe-.* by now"):
        await repairs.propose(ProposeCall(step=step("propose"), finding=finding.id))


async def test_nothing_is_sent_again_while_nobody_can_tell(database: Database, bank: ListedBank) -> None:
    """A list with a gap, and a look-up that finds two: to send it again would make a third, so it is refused (case 70)."""
    connectors = {"bank": bank}
    reconciler, repairs = Reconciler(database, connectors), Repairs(database, connectors)
    await Ledger(database, connectors).perform(call())
    settled(reconciler, "bank")
    bank.looks = [CannotTell("2 have this key")] * 2
    bank.paid.clear()
    [finding] = (await reconciler.reconcile(everything("bank"))).findings

    with pytest.raises(InvalidInput, match=r"cannot be told now: 2 have this key\. .* nothing is proposed"):
        await repairs.propose(ProposeCall(step=step("propose"), finding=finding.id))

    assert ("missing", False) == (finding.kind, finding.certain)


async def test_an_extra_one_is_taken_away_by_the_undo(
    sqlite_database: Database, inventory: ListedInventory, shop: ShopProcess
) -> None:
    """The extra one is released, the first one stands, and however often the repair comes it happens once."""
    connectors = {"inventory": inventory}
    ledger, reconciler = Ledger(sqlite_database, connectors), Reconciler(sqlite_database, connectors)
    repairs = Repairs(sqlite_database, connectors)
    await ledger.perform(reserve("R-1002"))
    extra = await reserve_directly(shop, "R-1002", effect_key(reserve("R-1002").step))
    [finding] = (await reconciler.reconcile(everything("inventory"))).findings

    first = await repairs.propose(ProposeCall(step=step("one"), finding=f"r-1/{finding.id}"))
    second = await repairs.propose(ProposeCall(step=step("two"), finding=finding.id))
    assert first.call is not None
    done = [await ledger.perform(first.call) for _ in range(2)]
    await repairs.close(CloseCall(step=step("c"), finding=finding.id, how="remove", by="mara", effect=done[0].receipt.key))
    after = await reconciler.reconcile(everything("inventory"))

    assert first.digest == second.digest
    assert ("inventory.release", {"id": extra}) == (first.call.action, first.call.args)
    assert done[0].receipt.key == done[1].receipt.key
    assert () == after.findings


async def test_what_has_no_undo_is_accepted_only(
    sqlite_database: Database, payments: ListedPayments, shop: ShopProcess
) -> None:
    """A refund that somebody made by hand cannot be taken away from here; it can be accepted, and stays so."""
    connectors = {"payments": payments}
    reconciler, repairs = Reconciler(sqlite_database, connectors), Repairs(sqlite_database, connectors)
    await shop.ask("POST", "/refunds", {"order": "R-1001", "amount": 100, "reference": "by hand"})
    [finding] = (await reconciler.reconcile(everything("payments"))).findings

    with pytest.raises(InvalidInput, match="declares neither `remove` nor `undo`"):
        await repairs.propose(ProposeCall(step=step("one"), finding=finding.id))
    proposal = await repairs.propose(ProposeCall(step=step("one"), finding=finding.id, how="accept"))
    await repairs.close(CloseCall(step=step("c"), finding=finding.id, how="accept", by="mara"))
    after = await reconciler.reconcile(everything("payments"))

    assert proposal.call is None
    assert (["accepted"], ()) == ([each.state for each in after.findings], after.opened)
    assert [] == list(await reconciler.findings.findings())


async def test_a_repair_that_did_not_help(database: Database, bank: ListedBank) -> None:
    """Something that was taken away and is there again is open again."""
    connectors = {"bank": bank}
    reconciler, repairs = Reconciler(database, connectors), Repairs(database, connectors)
    bank.lists("somebody's")
    [finding] = (await reconciler.reconcile(everything("bank"))).findings
    await repairs.close(CloseCall(step=step("c"), finding=finding.id, how="remove", by="mara"))

    again = await reconciler.reconcile(everything("bank"))

    assert (finding.id,) == again.opened


async def test_what_cannot_be_repaired_that_way(database: Database, bank: ListedBank) -> None:
    """A way that does not fit the kind is refused, and so is a finding that is closed or not there."""
    connectors = {"bank": bank}
    reconciler, repairs = Reconciler(database, connectors), Repairs(database, connectors)
    bank.lists("somebody's")
    [finding] = (await reconciler.reconcile(everything("bank"))).findings

    with pytest.raises(InvalidInput, match="only what is missing can be sent again"):
        await repairs.propose(ProposeCall(step=step("one"), finding=finding.id, how="send again"))
    with pytest.raises(NotFound, match="no finding 'f-1'"):
        await repairs.propose(ProposeCall(step=step("one"), finding="f-1"))
    await repairs.close(CloseCall(step=step("c"), finding=finding.id, how="accept", by="mara"))
    with pytest.raises(InvalidInput, match="is accepted"):
        await repairs.propose(ProposeCall(step=step("one"), finding=finding.id))


async def test_many_at_once(database: Database, bank: ListedBank) -> None:
    """A list of thousands is compared by key and by reference without one look-up each."""
    ledger, reconciler = Ledger(database, {"bank": bank}), Reconciler(database, {"bank": bank})
    await asyncio.gather(*(ledger.perform(call(name=f"p-{number}")) for number in range(40)))
    for number in range(40):
        bank.lists(key_of(call(name=f"p-{number}")), ref=f"x-{number}", at=now())
    for number in range(2000):
        bank.lists(f"foreign-{number}", ref=f"y-{number}", at=now() - timedelta(hours=1), amount=number + 100)

    report = await reconciler.reconcile(everything("bank"))

    assert 2000 == report.counts["unknown"] == len(report.findings)
    assert 40 == report.effects
    assert not bank.probes
